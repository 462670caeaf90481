"""The user's files to one document table."""
