"""Samplers, the loop that runs them, and the spacings of their times.

May import `core`, `data`, `diffusion`, `flow`, `networks` and `training`.
"""
