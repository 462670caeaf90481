"""Drop exact copies, then near copies by MinHash with locality-sensitive hashing, across all sources.

Which copy is kept depends only on the documents: a held-out document before a training document, then the smallest
(hash of the text, origin, source, id). Near copies are processed in that order: a document is dropped if it is similar
enough to one that was kept, so every drop names a document that is kept.

Every step is a shuffle: each part of the table writes records sorted by a hash into a file of its own, and each range
of the hash is then read from all files, by one worker. The memory limit determines only the size of the ranges.
"""
