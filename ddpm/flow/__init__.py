"""The probability flow: an ODE solver, deterministic samples, and the likelihood of a point.

May import `core`, `data` and `diffusion`. It is separate from `diffusion` so that a change to the
solver does not retrain the model.
"""
