"""Stage `clean`: repair the text, mask personal data if configured, drop documents unfit for training."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from reprise.documents.clean.heuristics import find_broken
from reprise.documents.clean.personal_data import mask_personal_data
from reprise.documents.engine import Engine
from reprise.documents.part_step import Drop, Outcome, RowsOrigin, StepCounts, Tally, pass_through, run_step
from reprise.model.conversation import Message, dump_messages, load_messages, text_of
from reprise.recipe.documents import Clean
from reprise.records import record
from reprise.workspace import Work

_BATCH_CHARS = 400_000
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
"""Control characters except tab and line ends, byte order marks, and code points that are not characters."""
_MAY_BE_MOJIBAKE = re.compile("[\x80-\u200f\u2020\u2021\u2030\u20a0-\u2dff\uf8ff\ufb01\ufb02\ufffd]")
"""Every sign of a wrong decoding contains at least one of these; they are cheaper to search for than the signs."""
_LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85")


_REPAIRED, _MASKED = ("repaired",), "masked"


@record
class CleanCounts(StepCounts):
    """Counts of the stage `clean`, for its manifest."""

    repaired: int
    """Documents whose text was changed by the repair of Unicode."""
    masked: dict[str, int]
    """Kind of personal data -> occurrences that were masked."""


def run(work: Work, *, clean: Clean, engine: Engine) -> None:
    """Write `documents/` and `dropped/` of the stage."""
    if not clean.enabled:
        passed: CleanCounts = {**pass_through(work, "read"), "repaired": 0, "masked": {}}
        work.counts.update(passed)
        return
    step, tally = run_step(work, "read", functools.partial(clean_rows, clean), engine=engine, what="clean")
    masked = {key[1]: count for key, count in sorted(tally.items()) if key[0] == _MASKED}
    counts: CleanCounts = {**step, "repaired": tally[_REPAIRED], "masked": masked}
    work.counts.update(counts)


def clean_rows(clean: Clean, rows: pa.Table, origin: RowsOrigin) -> Outcome:
    """Repair the texts of some rows and decide which rows are dropped.

    The messages of a conversation are repaired one by one. `min_chars` and the heuristics do not apply to
    conversations: they are made for pages.
    """
    conversations = [None if one is None else load_messages(one) for one in rows["messages"].to_pylist()]
    before = [
        [text] if messages is None else [message["content"] for message in messages]
        for text, messages in zip(rows["text"].to_pylist(), conversations, strict=True)
    ]
    parts = [[repair(part) for part in one] for one in before] if clean.fix_unicode else before
    tally: Tally = Counter({_REPAIRED: sum(old != new for old, new in zip(before, parts, strict=True))})
    if clean.mask_personal_data:
        patterns = {lang: clean.personal_data_of(lang) for lang in set(rows["lang"].to_pylist())}
        masked = [
            [mask_personal_data(part, patterns[lang]) for part in one]
            for one, lang in zip(parts, rows["lang"].to_pylist(), strict=True)
        ]
        parts = [[text for text, _ in one] for one in masked]
        for _, kinds in (part for one in masked for part in one):
            tally.update({(_MASKED, kind): count for kind, count in kinds.items()})
    changed, drops = _put_back(conversations, parts)
    texts = [one[0] if messages is None else text_of(messages) for one, messages in zip(parts, changed, strict=True)]
    for row, text in enumerate(texts):
        if changed[row] is None and len(text) < clean.min_chars:
            drops.append((row, "too_short", f"{len(text)} characters, at least {clean.min_chars} needed"))
    gone = {row for row, _, _ in drops}
    langs, sources = rows["lang"].to_pylist(), rows["source"].to_pylist()
    for lang in sorted(set(langs)):
        judged = [
            row
            for row in range(rows.num_rows)
            if langs[row] == lang and sources[row] in clean.heuristics_sources and row not in gone
            if changed[row] is None
        ]
        drops += _judge(clean, lang, judged, texts)
    columns: dict[str, list[str | None]] = {"text": list(texts)}
    if any(messages is not None for messages in changed):
        columns["messages"] = [None if messages is None else dump_messages(messages) for messages in changed]
    return Outcome(columns=columns, drops=drops, tally=tally)


def _put_back(
    conversations: Sequence[list[Message] | None], parts: Sequence[Sequence[str]]
) -> tuple[list[list[Message] | None], list[Drop]]:
    """Conversations with repaired contents; those in which a message is now empty are dropped."""
    changed: list[list[Message] | None] = []
    drops: list[Drop] = []
    for row, (messages, contents) in enumerate(zip(conversations, parts, strict=True)):
        if messages is None:
            changed.append(None)
            continue
        changed.append(
            [{"role": old["role"], "content": content} for old, content in zip(messages, contents, strict=True)]
        )
        if not all(contents):
            drops.append((row, "empty_message", "nothing is left of a message once control characters are out"))
    return changed, drops


def _judge(clean: Clean, lang: str, rows: Sequence[int], texts: Sequence[str]) -> Iterator[Drop]:
    """Drops by the heuristics, among rows of one language."""
    rules = clean.rules_of(lang)
    for start, batch in batch_texts([texts[row] for row in rows]):
        for index, broken in enumerate(find_broken(batch, rules), start):
            if broken:
                yield (rows[index], *broken)


def batch_texts(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (index of the first text, texts): runs of texts with a bounded total length."""
    first, num_chars = 0, 0
    for index, text in enumerate(texts):
        num_chars += len(text)
        if num_chars >= _BATCH_CHARS or index == len(texts) - 1:
            yield first, list(texts[first : index + 1])
            first, num_chars = index + 1, 0


def repair(text: str) -> str:
    """Repair mojibake, normalise to NFC and one kind of line end, and strip control characters and outer white space.

    Full-width punctuation, ligatures and quotation marks are unchanged: the author chose them.
    """
    if not text.isascii():
        text = _repair_mojibake(text)
    text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    return unicodedata.normalize("NFC", text).strip()


def _repair_mojibake(text: str) -> str:
    """Undo wrong decodings line by line. Lines without a suspect sequence, nearly all, are not examined further."""
    import ftfy
    from ftfy.badness import is_bad

    lines = text.split("\n")
    repaired = [ftfy.fix_encoding(line) if _MAY_BE_MOJIBAKE.search(line) and is_bad(line) else line for line in lines]
    return "\n".join(repaired)
