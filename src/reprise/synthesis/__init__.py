"""Turn passages of documents into checked question-answer documents.

passages -> prompts -> generator (with a journal) -> parsing -> checks -> documents, each with its provenance.
"""
