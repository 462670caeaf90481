"""A recipe proposed from a look at the user's text, model and machine."""
