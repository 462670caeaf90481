"""The interface of every generator: requests in, answers or failures out."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from typing_extensions import TypedDict

from reprise.recipe.generator import Generator as GeneratorSettings
from reprise.records import record
from reprise.storage import digest


@record
class ModelIdentity(TypedDict, total=False):
    """What identifies the model of a generator, wherever its files or its server are."""

    name: str | None
    """Name at a server or on the Hub."""
    revision: str | None
    """Revision on the Hub."""
    content: str
    """Hash of names, sizes, first and last bytes of its files."""
    dtype: str
    """Compute dtype of transformers."""
    engine: str
    """`vllm`, if that computes it."""


@dataclass(frozen=True)
class Request:
    """One question to a model. Equal requests to the same model are the same request, which is sent once."""

    messages: tuple[tuple[str, str], ...]
    """(role, text) of each message of the chat."""
    max_tokens: int
    temperature: float
    top_p: float
    begin: str = ""
    """First characters of the answer, which generators in this process insert for the model."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not included in it."""
    sample: int = 0
    """Index of the answer, if several are sampled for the same prompt."""

    def key(self, model: ModelIdentity) -> str:
        """Hash of everything that determines the answer: prompt, model and sampling."""
        return digest({"model": model, **vars(self)})


@dataclass(frozen=True)
class Answer:
    """The text that a model generated, including the given beginning."""

    text: str
    finish: Literal["stop", "length"]
    """`length`: truncated at max_tokens."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Failure:
    """A request without an answer. It is not saved: the next run sends the request again."""

    reason: str


Outcome = Answer | Failure


class Generator(Protocol):
    """A model that answers requests."""

    @property
    def identity(self) -> ModelIdentity:
        """What identifies the model, for the keys of requests."""

    def answer(
        self, requests: Sequence[Request], keys: Sequence[str], budget: float = math.inf
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Yield (index of the request, outcome) in groups, as answers arrive; each index exactly once.

        Args:
            requests: the requests to send.
            keys: key of each request, from which its random numbers are derived.
            budget: most that the answers may cost, in the currency of the recipe's prices, if they have a price.

        Raises:
            UserError: the model cannot be reached, or the server refuses the key.
        """

    def close(self) -> None:
        """Free the model, or close the connections."""


def random_seed(key: str) -> int:
    """Random seed of a request, 0 to 2^31 - 1, derived from its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def price(prompt_tokens: int, completion_tokens: int, settings: GeneratorSettings) -> float:
    """Cost of tokens, in the currency of the recipe's prices."""
    return (prompt_tokens * settings.input_price + completion_tokens * settings.output_price) / 1e6
