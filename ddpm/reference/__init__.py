"""The exact distribution of the data, distances between point sets, and the model under test.

May import `core`, `data`, `diffusion`, `flow`, `networks` and `training`.
"""
