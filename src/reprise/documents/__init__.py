"""Text in, text out: read, clean, deduplicate, decontaminate, topics, perplexity."""

import os

# Daft sends usage data to its makers on import unless this is set; it is read when Daft is imported.
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
# Our own progress bar replaces Daft's.
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
