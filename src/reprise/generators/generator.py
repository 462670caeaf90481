"""What every generator takes and gives: requests in, answers or failures out."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from reprise.recipe.generator import Generator as GeneratorSettings
from reprise.storage import Json, digest


@dataclass(frozen=True)
class Request:
    """One question to a model. Equal requests to the same model are the same request, and asked once."""

    messages: tuple[tuple[str, str], ...]
    """(role, text) of the chat."""
    max_tokens: int
    temperature: float
    top_p: float
    begin: str = ""
    """First characters of the answer, which the generators in this process write for the model."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    sample: int = 0
    """Which of several answers to the same prompt."""

    def key(self, model: Json) -> str:
        """Hash of all that makes the answer: prompt, model and sampling."""
        return digest({"model": model, **vars(self)})


@dataclass(frozen=True)
class Answer:
    """What a model wrote, with the beginning that was written for it."""

    text: str
    finish: Literal["stop", "length"]
    """`length`: cut off at max_tokens."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Failure:
    """A request without an answer. It is not kept: the next run asks again."""

    reason: str


Outcome = Answer | Failure


class Generator(Protocol):
    """A model that answers requests."""

    @property
    def identity(self) -> Json:
        """What tells the model from others, for the key of a request."""

    def answer(
        self, requests: Sequence[Request], keys: Sequence[str], budget: float = math.inf
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Yield (index of the request, outcome) in groups, as they come; each index exactly once.

        Args:
            requests: what to ask.
            keys: key of each request; its randomness follows from it.
            budget: what the answers may cost at most, where they cost anything.

        Raises:
            UserError: the model cannot be reached or refuses the user.
        """

    def close(self) -> None:
        """Let go of the model or the connections."""


def random_seed(key: str) -> int:
    """Seed of a request's randomness, 0 to 2^31 - 1, from its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def price(prompt_tokens: int, completion_tokens: int, settings: GeneratorSettings) -> float:
    """Cost of tokens, in the currency of the recipe's prices."""
    return (prompt_tokens * settings.input_price + completion_tokens * settings.output_price) / 1e6
