"""Documents to a token store, and rows of one length over it."""
