"""Preflight: problems that can be found in seconds, before the first stage runs."""
