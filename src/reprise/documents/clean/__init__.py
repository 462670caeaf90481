"""Repair text, mask personal data, and drop documents that the heuristics reject."""
