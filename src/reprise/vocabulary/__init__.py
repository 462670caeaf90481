"""A larger vocabulary for a model: tokens learned from the user's text, and rows for them."""
