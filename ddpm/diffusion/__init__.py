"""The diffusion process: noise schedules, forward process, posterior, predictions, denoisers.

May import `core`.
"""
