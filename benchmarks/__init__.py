"""Timings and wider measurements, by hand; no test asserts a time."""

import stages  # noqa: F401 - before torch: it pins the arithmetic
