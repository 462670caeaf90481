"""Propose a recipe from a sample of the user's text, the model and the machine."""
