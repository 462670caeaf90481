"""Tokenizes documents into a token store, and builds rows of equal length over it."""
