"""Text in, text out: read, clean, deduplicate, decontaminate, topics, perplexity."""

import os

# Daft reports each import to its makers; nobody asked our users. It looks at this when it is imported.
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
# One bar of ours stands for its own.
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
