"""The proposed mixture: new text in proportion to its size, and a share of replayed text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reprise.mixture.apportion import apportion
from reprise.proposal.sampling import Group

SMALLEST_LANGUAGE = 0.02
"""Languages below this share of the bytes are not in the mixture, as most are detection errors; a few conversations are
none."""
REPLAY_NEW_LANGUAGE, REPLAY_SAME_LANGUAGE = 0.25, 0.05
"""Share of replayed text: about 25 % for a strong shift, 1 to 5 % for a weak one (Ibrahim et al., arXiv 2403.08763)."""

MIN_CHAT_SHARE, MAX_CHAT_SHARE = 0.05, 0.1
"""Share of conversations in an entry that has other text too, whatever their size: enough to show the form of answers,
and most tokens left for the text. Our runs showed no effect of 5 % or 20 % (docs/results/smollm2-instruct.md)."""


@dataclass
class Entry:
    """An entry of the mixture."""

    name: str
    language: str
    share: float
    sources: dict[str, float]
    """Source -> share; they sum to 1."""
    num_bytes: float
    documents: float
    keep: bool
    chat: list[str]
    """Its sources that hold conversations."""


def tell_apart(groups: Sequence[Group], kept: Sequence[Group], notes: list[str]) -> None:
    """Rename the sources of kept text in a language that the new text teaches, so that they can be distinguished."""
    subject = _largest_language(groups)
    for group in kept:
        if group.language == subject:
            group.rename_source(f"general_{group.source}")
            notes.append(f"{group.path}: is in the language of the new text, so its source is called {group.source}")


def _largest_language(groups: Sequence[Group]) -> str | None:
    """The language of most of the new text: the only one that is taught even if it is also kept."""
    sizes: Counter[str] = Counter()
    for group in groups:
        sizes.update(group.language_bytes)
    return next((language for language, _ in sizes.most_common(1)), None)


def make_entries(groups: Sequence[Group], kept: Sequence[Group], notes: list[str]) -> list[Entry]:
    """Make the entries of the mixture: new text in proportion to its size, and a share of kept text.

    Args:
        groups: the sampled new text.
        kept: the sampled text that the model must not lose.
        notes: a line about each assumption is added.
    """
    new, old = _by_language(groups, notes), _by_language(kept, notes)
    chat = {source for group in [*groups, *kept] if group.holds_chat for source in group.source_bytes}
    subject = _largest_language(groups)
    for language in [name for name in new if name in old and name != subject]:
        counts, documents = new.pop(language)
        notes.append(
            f"{counts.total() / 1e6:,.1f} MB of the new text are in {language}, which is kept: counted as kept text "
            "(if it is to be learned, give it an entry of its own)"
        )
        old[language] = old[language][0] + counts, old[language][1] + documents
    if old:
        sizes = {language: counts.total() for language, (counts, _) in new.items()}
        strong = 2 * sum(size for language, size in sizes.items() if language not in old) >= sum(sizes.values())
        replay = REPLAY_NEW_LANGUAGE if strong else REPLAY_SAME_LANGUAGE
        kind = "another language: a strong shift" if strong else "the same language: a weak shift"
        notes.append(
            f"{replay:.0%} of the tokens replay the kept text, as the new text is in {kind} (arXiv 2403.08763)"
        )
    else:
        replay = 0.0
        notes.append(
            "nothing is kept: name text that the model must not lose with --keep, or forgetting is not measured"
        )
    names = {language: _name_of_new(language, list(counts), set(old)) for language, (counts, _) in new.items()}
    entries = _share_out(new, names, chat, 1.0 - replay, keep=False)
    names = {language: f"general-{language}" if language in new else language for language in old}
    return entries + _share_out(old, names, chat, replay, keep=True)


def _name_of_new(language: str, sources: Sequence[str], kept: set[str]) -> str:
    """The language; if it is also kept, the subject, so that a verdict says which of the two it is about."""
    if language not in kept:
        return language
    return sources[0] if len(sources) == 1 and sources[0] != "web" else f"new-{language}"


def _by_language(groups: Sequence[Group], notes: list[str]) -> dict[str, tuple[Counter[str], float]]:
    """Language -> (source -> bytes, documents)."""
    languages: dict[str, tuple[Counter[str], float]] = {}
    everything = sum(group.language_bytes.total() for group in groups)
    for group in groups:
        total = group.language_bytes.total()
        for language, count in group.language_bytes.items():
            if group.language is not None and language != group.language:
                continue
            counts, documents = languages.get(language, (Counter(), 0.0))
            share = 1.0 if group.language is not None else count / total
            counts.update({source: int(size * share) for source, size in group.source_bytes.items()})
            languages[language] = counts, documents + group.documents * share
    spoken = {group.language for group in groups if group.holds_chat}
    small = [
        language
        for language, (counts, _) in languages.items()
        if counts.total() < SMALLEST_LANGUAGE * everything and language not in spoken
    ]
    for language in small:
        counts, _ = languages.pop(language)
        notes.append(
            f"{counts.total() / 1e6:,.2f} MB seem to be in {language}: under {SMALLEST_LANGUAGE:.0%} of the text, so it"
            " is no entry of the mixture and is not trained on"
        )
    return languages


def _share_out(
    languages: dict[str, tuple[Counter[str], float]], names: dict[str, str], chat: set[str], share: float, *, keep: bool
) -> list[Entry]:
    shares = shares_by_size({language: counts.total() for language, (counts, _) in languages.items()}, share)
    return [
        Entry(
            name=names[language],
            language=language,
            share=shares[language],
            sources=_shares_of_sources(counts, chat),
            num_bytes=counts.total(),
            documents=documents,
            keep=keep,
            chat=[source for source in counts if source in chat],
        )
        for language, (counts, documents) in sorted(languages.items())
    ]


def _shares_of_sources(sizes: Counter[str], chat: set[str]) -> dict[str, float]:
    """Source -> share, in proportion to size; conversations beside other text have a small share of their own."""
    spoken = {source: size for source, size in sizes.items() if source in chat}
    written = {source: size for source, size in sizes.items() if source not in chat}
    if not spoken or not written:
        return shares_by_size(dict(sizes), 1.0)
    by_size = sum(spoken.values()) / max(1, sizes.total())
    share = round(min(MAX_CHAT_SHARE, max(MIN_CHAT_SHARE, by_size)), 3)
    return shares_by_size(written, 1.0 - share) | shares_by_size(spoken, share)


def shares_by_size(sizes: dict[str, int], total: float) -> dict[str, float]:
    """Shares in proportion to sizes, in thousandths that sum to `total` (largest remainder method); no share is 0."""
    thousandths = apportion(round(total * 1000) - len(sizes), [max(1, size) for size in sizes.values()])
    return {name: (count + 1) / 1000 for name, count in zip(sizes, thousandths, strict=True)}
