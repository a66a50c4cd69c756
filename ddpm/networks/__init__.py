"""Networks that predict eps, x0 or v, and the file that a trained model is stored in.

May import `core`, `data` and `diffusion`.
"""
