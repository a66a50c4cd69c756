"""Studies of models and samplers against the exact distribution: one module for each question.

May import every room but `plots`.
"""
