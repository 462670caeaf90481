"""The settings of a run: each with its default, its one-line doc and its check."""

from reprise.recipe.loading import load_recipe, presets, read_preset
from reprise.recipe.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "presets", "read_preset"]
