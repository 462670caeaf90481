"""Passage documents in, checked question-answer documents out.

passages -> prompts -> generator (behind a journal) -> parsing -> checks -> documents, each with where it came from.
"""
