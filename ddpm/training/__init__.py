"""What a network learns (times, noise, averaged targets), the loop that trains it, and checkpoints.

May import `core`, `data` and `diffusion`.
"""
