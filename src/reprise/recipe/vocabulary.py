"""Settings of a larger vocabulary for the base model."""

from typing import Annotated

from pydantic import Field

from reprise.recipe.fields import Count, Settings
from reprise.recipe.languages.codes import LanguageCode


class Vocabulary(Settings):
    """Tokens that are learned from the run's own text before it is tokenized: the stage `vocabulary`."""

    tokens: Annotated[Count, Field(ge=1)] = 4096
    """Most tokens to add; existing tokens keep their ids."""
    languages: list[LanguageCode] = []
    """Languages from whose text tokens are learned, with the mixture's shares; empty: all languages of the mixture."""
    min_count: Annotated[int, Field(ge=1)] = 20
    """Fewest occurrences in that text with which a token is added."""
    megabytes: Annotated[float, Field(gt=0.0, le=100_000.0)] = 20.0
    """UTF-8 text to learn from, in 10^6 bytes for all languages together; it is in memory while tokens are learned."""
