"""Timings by hand; no test asserts a time."""
