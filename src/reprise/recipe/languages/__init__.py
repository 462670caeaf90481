"""Language codes, and a pack of settings for each language."""
