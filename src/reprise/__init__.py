"""Reprise: continual pre-training of language models, from raw text to a better model and the proof of it."""

__version__ = "0.1.0"
