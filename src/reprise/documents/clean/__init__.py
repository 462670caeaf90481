"""Repair text, mask personal data, drop what the heuristics reject."""
