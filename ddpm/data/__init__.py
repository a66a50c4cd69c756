"""Data sets whose distribution is known: curves, data sets by name, the scaling to model units.

May import `core`.
"""
