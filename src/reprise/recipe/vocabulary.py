"""A larger vocabulary for the base model."""

from typing import Annotated

from pydantic import Field

from reprise.recipe.fields import Count, Settings
from reprise.recipe.languages.codes import LanguageCode


class Vocabulary(Settings):
    """Tokens that are learned from the run's own text before it is tokenized: the stage `vocabulary`."""

    tokens: Annotated[Count, Field(ge=1)] = 4096
    """Most tokens to add; every old token keeps its id."""
    languages: list[LanguageCode] = []
    """Languages whose text tokens are learned from; none: all of the mixture. Text is taken by the mixture's shares."""
    min_count: Annotated[int, Field(ge=1)] = 20
    """Occurrences in that text below which a token is not added."""
    megabytes: Annotated[float, Field(gt=0.0, le=100_000.0)] = 20.0
    """UTF-8 text to learn from, of all languages, in 10^6 bytes; in memory while tokens are learned."""
