"""Held-out bits per byte, benchmarks, and what was gained and kept."""
