"""Text in, text out: read, clean, deduplicate, decontaminate, topics, perplexity."""
