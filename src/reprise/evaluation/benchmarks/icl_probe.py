"""A probe of in-context learning that needs no knowledge: patterns that occur in the prompt only.

Leaving a language out of continual training can damage in-context learning while the loss looks fine (arXiv
2506.00288); this is a cheap guard against it. Three kinds of questions are generated from a fixed seed:

- recall: made-up words with made-up names, one of which must be recalled (chance 1 in 5);
- rule: words of two categories with two made-up labels; a new word must be labelled (chance 1 in 2);
- cycle: a repeating sequence must be continued (chance 1 in 3).
"""

import random
from typing import TypedDict

QUESTIONS_OF_A_KIND = 100

_CATEGORIES = (
    ("dog", "horse", "sheep", "lion", "rabbit", "tiger", "goat", "wolf", "monkey", "bear"),
    ("hammer", "chair", "knife", "table", "spoon", "ladder", "bottle", "pencil", "basket", "mirror"),
    ("red", "blue", "green", "yellow", "white", "black", "brown", "purple", "pink", "orange"),
    ("Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Lisbon", "Athens", "Dublin", "Oslo"),
)
_ONSETS = "bdfgklmnprstvz"
_RIMES = ("ab", "ek", "im", "op", "ul", "an", "ev", "ost", "ird", "umb")


class Pattern(TypedDict):
    """A pattern without its last word."""

    query: str
    choices: list[str]
    gold: int
    """Index of the right choice."""


class ProbeQuestion(Pattern):
    """A question of the probe."""

    kind: str


def probe_questions(seed: int = 0) -> list[ProbeQuestion]:
    """Questions of all kinds, determined by the seed."""
    dice = random.Random(seed)
    makers = {"recall": _recall, "rule": _rule, "cycle": _cycle}
    return [{"kind": kind, **make(dice)} for kind, make in makers.items() for _ in range(QUESTIONS_OF_A_KIND)]


def _words(dice: random.Random, count: int) -> list[str]:
    every = [onset + rime for onset in _ONSETS for rime in _RIMES]
    return dice.sample(every, count)


def _recall(dice: random.Random) -> Pattern:
    words = _words(dice, 10)
    pairs = list(zip(words[:5], words[5:], strict=True))
    gold = dice.randrange(5)
    lines = [f"The {thing} is called {name}." for thing, name in pairs]
    dice.shuffle(lines)
    return {"query": " ".join([*lines, f"The {pairs[gold][0]} is called"]), "choices": words[5:], "gold": gold}


def _rule(dice: random.Random) -> Pattern:
    labels = _words(dice, 2)
    categories = [list(words) for words in dice.sample(_CATEGORIES, 2)]
    for words in categories:
        dice.shuffle(words)
    gold = dice.randrange(2)
    asked = categories[gold].pop()
    lines = [f"{word} -> {label}" for words, label in zip(categories, labels, strict=True) for word in words[:6]]
    dice.shuffle(lines)
    return {"query": "\n".join([*lines, f"{asked} ->"]), "choices": labels, "gold": gold}


def _cycle(dice: random.Random) -> Pattern:
    words = _words(dice, 3)
    length = dice.randrange(8, 14)
    return {"query": " ".join(words[position % 3] for position in range(length)), "choices": words, "gold": length % 3}
