"""The training loop, and the checkpoints from which it resumes.

May import `core`, `data` and `diffusion`.
"""
