"""Seed documents in, checked question-answer documents out.

seeds -> prompts -> generator (behind a journal) -> parsing -> checks -> documents, each with where it came from.
"""
