"""Text in, text out: read, clean, deduplicate, decontaminate, topics, perplexity."""

import os

# Daft reports each import to its makers; nobody asked our users. It looks at this when it is imported.
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
