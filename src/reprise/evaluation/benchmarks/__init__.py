"""Benchmarks: which tasks there are, how they are run, how answers are judged."""
