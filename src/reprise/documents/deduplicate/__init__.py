"""Exact copies, then near copies by MinHash with locality-sensitive hashing, across all sources.

Which copy stays depends on the documents alone: one that is held out before one to train on, then the smallest
(hash of the text, origin, source, id). Near copies are taken in that order: a document is dropped if it is similar
enough to one that was kept, so every drop names a document that is still there.

Every step is a shuffle: each part of the table writes records sorted by a hash into a file of its own, and each range
of the hash is then read from all files, by one worker. The memory limit decides how small the ranges are, and nothing
else.
"""
