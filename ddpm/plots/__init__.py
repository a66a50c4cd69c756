"""Figures and animations: the style, and one module for each group of figures.

May import `core`; it is the only room that imports matplotlib.
"""
