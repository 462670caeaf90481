"""Write what the studies of the five claims read besides the corpus: generated questions, and Chinese documents.

    python examples/studies/claims/make_inputs.py CORPUS FOLDER

CORPUS holds `train-zh-KIND.jsonl.zst` files with an `id` and a `text` per line. FOLDER gets

- `wrong-N.jsonl` (N = 0, 30, 50, 70): the same questions in the same order, N per cent of them with a wrong answer;
- `gold.jsonl`: each fact asked in wordings that no training question has, with the right answer, as conversations;
- `arithmetic.jsonl`: the same questions with four choices, in the format of question files;
- `order.jsonl` and `scorer.jsonl`: beginnings of Chinese documents, no document in both;
- `topics.jsonl` and `topics-held-out.jsonl`: topics of unequal difficulty: four kinds of Chinese text (documents that
  are in neither of the above; pieces of held-out ones), sums, which are learned soon, and shuffled characters, which
  cannot be learned.
"""

import io
import itertools
import json
import random
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

WRONG_PERCENT = (0, 30, 50, 70)
NUM_QUESTIONS = 4000
SLIPS = (-2, -1, 1, 2)
"""A wrong answer differs from the right one by one of these."""
KINDS = ("web", "encyclopedia", "book", "qa_forum")
ORDER_BYTES, SCORER_BYTES, TOPIC_BYTES = 25_000, 60_000, 150_000
"""UTF-8 bytes of each kind of Chinese text in order.jsonl, scorer.jsonl and topics.jsonl."""
HELD_OUT_BYTES = {"sums": 6_000, "shuffled": 6_000}
HELD_OUT_KIND_BYTES = 24_000
"""Bytes of a topic in topics-held-out.jsonl: the kinds of text, which are what counts, have nine tenths."""
DOCUMENT_CHARS, TOPIC_CHARS = 600, 200
LETTERS = "ABCD"

WORDINGS = {
    "double": [
        "What is the double of {n}?",
        "How much is the double of {n}?",
        "Tell me the double of {n}.",
        "{n} has which double?",
        "Anna has {n} apples and Ben has the double. How many apples does Ben have?",
    ],
    "triple": [
        "What is the triple of {n}?",
        "How much is the triple of {n}?",
        "Tell me the triple of {n}.",
        "{n} has which triple?",
        "Anna has {n} apples and Ben has the triple. How many apples does Ben have?",
    ],
}
HELD_OUT = [
    "Which number is the {operation} of {n}?",
    "Give the {operation} of {n}.",
    "Can you say the {operation} of {n}?",
]


class Fact(NamedTuple):
    """The double or the triple of a number."""

    operation: str
    n: int

    @property
    def answer(self) -> int:
        """The right answer."""
        return self.n * {"double": 2, "triple": 3}[self.operation]


FACTS = [Fact(operation, n) for operation in WORDINGS for n in range(2, 18)]


def write_questions(folder: Path) -> None:
    """The training questions, with right and with wrong answers; what is wrong at 30 % is also wrong at 50 %."""
    random_state = random.Random(0)
    lines: dict[int, list[dict[str, str]]] = {percent: [] for percent in WRONG_PERCENT}
    for number in range(NUM_QUESTIONS):
        fact = random_state.choice(FACTS)
        question = random_state.choice(WORDINGS[fact.operation]).format(n=fact.n)
        wrong, rank = fact.answer + random_state.choice(SLIPS), random_state.random()
        for percent in WRONG_PERCENT:
            answer = wrong if 100 * rank < percent else fact.answer
            text = f"Q: {question}\nA: {answer}"
            # The same ids, so that the sampler shuffles them alike whatever the answers are.
            lines[percent].append({"id": f"question-{number}", "text": text, "lang": "en", "source": "questions"})
    for percent, records in lines.items():
        write_lines(folder / f"wrong-{percent}.jsonl", records)


def write_held_out(folder: Path) -> None:
    """Each fact in every wording that no training question has."""
    random_state = random.Random(1)
    gold, choices = [], []
    for fact, wording in itertools.product(FACTS, HELD_OUT):
        question = wording.format(operation=fact.operation, n=fact.n)
        gold.append({"id": f"gold-{len(gold)}", "prompt": question, "response": str(fact.answer)})
        numbers = [fact.answer, *(fact.answer + slip for slip in random_state.sample(SLIPS, 3))]
        random_state.shuffle(numbers)
        letter = LETTERS[numbers.index(fact.answer)]
        choices.append({"question": question, "choices": [str(one) for one in numbers], "answer": letter, "lang": "en"})
    write_lines(folder / "gold.jsonl", gold)
    write_lines(folder / "arithmetic.jsonl", choices)


def write_chinese(corpus: Path, folder: Path) -> None:
    """Sets of beginnings of documents, of every kind as many bytes; then the topics that are not text."""
    chosen: dict[str, list[dict[str, str]]] = {"order": [], "scorer": [], "topics": []}
    for kind in KINDS:
        documents = iter(
            sorted(read(corpus / f"train-zh-{kind}.jsonl.zst"), key=lambda one: zlib.crc32(one[0].encode()))
        )
        for name, limit in (("order", ORDER_BYTES), ("scorer", SCORER_BYTES), ("topics", TOPIC_BYTES)):
            size = 0
            while size < limit and (document := next(documents, None)) is not None:
                text = document[1][:DOCUMENT_CHARS]
                size += len(text.encode())
                record = {"id": document[0], "text": text, "lang": "zh", "source": "web"}
                chosen[name].append(record | ({"topic": kind} if name == "topics" else {}))
    chosen["topics"] += [*sums("sum", TOPIC_BYTES, 2), *shuffled("shuffled", chosen["topics"], TOPIC_BYTES, 3)]
    held_out = chosen["topics-held-out"] = []
    for kind in KINDS:
        size = 0
        for name, text in read(corpus / f"valid-zh-{kind}.jsonl.zst"):
            for start in range(0, len(text), TOPIC_CHARS):
                if size < HELD_OUT_KIND_BYTES:
                    piece = {"id": f"{name}-{start}", "text": text[start : start + TOPIC_CHARS], "topic": kind}
                    held_out.append({**piece, "lang": "zh", "source": "web"})
                    size += len(piece["text"].encode())
    held_out += sums("held-out-sum", HELD_OUT_BYTES["sums"], 4)
    held_out += shuffled("held-out-shuffled", held_out, HELD_OUT_BYTES["shuffled"], 5)
    for name, records in chosen.items():
        write_lines(folder / f"{name}.jsonl", records)


def sums(name: str, num_bytes: int, seed: int) -> Iterator[dict[str, str]]:
    """Documents of eight sums each."""
    random_state = random.Random(seed)
    size = 0
    for number in itertools.count():
        if size >= num_bytes:
            return
        pairs = [(random_state.randrange(100), random_state.randrange(100)) for _ in range(8)]
        text = "".join(f"{one} 加 {other} 等于 {one + other}。\n" for one, other in pairs)
        size += len(text.encode())
        yield {"id": f"{name}-{number}", "text": text, "lang": "zh", "source": "web", "topic": "sums"}


def shuffled(name: str, records: Iterable[dict[str, str]], num_bytes: int, seed: int) -> Iterator[dict[str, str]]:
    """The characters of the Chinese texts in an order drawn at random, as documents of `TOPIC_CHARS` characters."""
    chars = [char for record in records if record["topic"] in KINDS for char in record["text"]]
    random.Random(seed).shuffle(chars)
    size = 0
    for start in range(0, len(chars), TOPIC_CHARS):
        if size >= num_bytes:
            return
        text = "".join(chars[start : start + TOPIC_CHARS])
        size += len(text.encode())
        yield {"id": f"{name}-{start}", "text": text, "lang": "zh", "source": "web", "topic": "shuffled"}


def read(path: Path) -> Iterator[tuple[str, str]]:
    """The id and the text of each document."""
    with zstandard.open(path, "rb") as raw:
        for line in io.TextIOWrapper(raw, encoding="utf-8"):
            document = json.loads(line)
            yield document["id"], document["text"]


def write_lines(path: Path, records: Iterable[dict[str, object]] | Iterable[dict[str, str]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Write all files."""
    corpus, folder = map(Path, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    write_questions(folder)
    write_held_out(folder)
    write_chinese(corpus, folder)
    print(f"{NUM_QUESTIONS} questions about {len(FACTS)} facts: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
