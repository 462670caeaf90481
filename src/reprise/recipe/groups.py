"""Groups of held-out documents: which documents `en`, `law` or `law/cases` names, and their tolerances.

The training guard, the evaluation, its headline and its exit code interpret names in the same way:

- A name is an entry of the mixture, or else a language.
- An entry with a `language` contains the documents of that language from the entry's sources. An entry with the name of
  its language contains the rest of that language. A language that is not an entry contains all of its documents.
- `NAME/SOURCE` is one source of it.
- A source has the tolerance of its entry, and an entry that of its language, unless it is named itself.
"""

from collections.abc import Iterable, Mapping, Sequence

from reprise.recipe.fields import Settings, Share
from reprise.recipe.mixture import DEFAULT_TOLERANCE, Stage

MIN_DOCUMENTS = 5
"""A group with fewer documents gets no interval, so it gets no verdict."""


class Group(Settings):
    """Held-out documents that get one verdict together."""

    path: str
    """`en`, `law`, or with a source `en/paper`."""
    language: str
    """Language of the documents."""
    sources: list[str] | None = None
    """Only these sources; null: all of the language except `without`."""
    without: list[str] = []
    """Sources that belong to other entries."""
    tolerance: Share | None = None
    """Largest relative increase of its bits per byte that still counts as kept; null: there is none."""

    @property
    def entry(self) -> str:
        """The first part of the path."""
        return self.path.split("/", 1)[0]

    @property
    def source(self) -> str | None:
        """The second part of the path; None for a whole entry or language."""
        return self.path.split("/", 1)[1] if "/" in self.path else None

    def contains(self, language: str, source: str) -> bool:
        """Whether documents of this language and source belong to the group."""
        if language != self.language or source in self.without:
            return False
        return self.sources is None or source in self.sources

    def narrowed(self, source: str, tolerance: float | None) -> "Group":
        """The group of one source in this group."""
        sources = [source] if self.contains(self.language, source) else []
        return Group(path=f"{self.path}/{source}", language=self.language, sources=sources, tolerance=tolerance)


class Groups(Settings):
    """The groups that a recipe names, and the tolerances of languages that it does not name."""

    named: list[Group] = []
    """Entries of the mixtures in their order, followed by the names that only `evaluation.tolerance` contains."""
    other_languages: dict[str, Share] = {}
    """Language without a named group -> tolerance; ignored if no text in this language is held out."""

    def entry_of(self, language: str, source: str) -> str:
        """The entry that documents belong to, or their language if there is none."""
        owners = [group for group in self.named if group.source is None and group.contains(language, source)]
        owners.sort(key=lambda group: group.sources is None)  # an entry before a language that only has a tolerance
        return owners[0].path if owners else language

    def over(self, held_out: Iterable[tuple[str, str]]) -> list[Group]:
        """The groups that get a verdict: each entry and language, followed by its sources if it has several.

        Args:
            held_out: (language, source) pairs of the held-out documents.

        Returns:
            The groups, including named groups without any held-out document.
        """
        pairs = sorted(set(held_out))
        wholes = [group for group in self.named if group.source is None]
        for language, source in pairs:
            if not any(group.contains(language, source) for group in wholes):
                wholes.append(Group(path=language, language=language, tolerance=self.other_languages.get(language)))
        judged = []
        for whole in wholes:
            named = {group.source: group for group in self.named if group.source and group.entry == whole.path}
            own = [source for language, source in pairs if self.entry_of(language, source) == whole.path]
            several = sum(whole.contains(language, source) for language, source in pairs) > 1
            sources = [*(own if several else []), *named]
            judged.append(whole)
            judged += [
                named.get(source) or whole.narrowed(source, whole.tolerance) for source in dict.fromkeys(sources)
            ]
        return judged

    def kept(self) -> "Groups":
        """Only the groups that have a tolerance."""
        named = [group for group in self.named if group.tolerance is not None]
        return Groups(named=named, other_languages=self.other_languages)


def find_groups(stages: Sequence[Stage], tolerance: Mapping[str, float] | None) -> Groups:
    """The groups of a recipe.

    Args:
        stages: the training stages; empty if there is no recipe.
        tolerance: `evaluation.tolerance`; None if it is not set.

    Raises:
        ValueError: two settings contradict each other about a group, or a name has more than two parts.
    """
    entries = _entries(stages)
    allowed = {name: keep for stage in stages for name, keep in _kept(stage).items()}
    for stage in stages:
        for name, keep in _kept(stage).items():
            if allowed[name] != keep:
                raise ValueError(f"the entry {name!r} has two tolerances, {allowed[name]:g} and {keep:g}")
    others: dict[str, float] = {}
    if tolerance is None:
        others = {} if allowed else {"en": DEFAULT_TOLERANCE}
    for path, keep in (tolerance or {}).items():
        if path.count("/") > 1 or not all(path.split("/")):
            raise ValueError(f"evaluation.tolerance: {path!r} is neither NAME nor NAME/SOURCE")
        if allowed.setdefault(path, keep) != keep:
            raise ValueError(f"{path!r} has two tolerances, evaluation.tolerance and that of the entry; keep one")
    inherited = others | allowed
    claimed = {
        language: sorted({source for _, (other, own) in entries.items() if other == language for source in own or ()})
        for language, _ in entries.values()
    }
    named = [
        Group(
            path=name,
            language=language,
            sources=None if own is None else sorted(own),
            without=claimed[language] if own is None else [],
            tolerance=inherited.get(name, inherited.get(language)),
        )
        for name, (language, own) in entries.items()
    ]
    asked = dict.fromkeys(path.split("/", 1)[0] for path in allowed if path.split("/", 1)[0] not in entries)
    named += [Group(path=name, language=name, tolerance=inherited.get(name)) for name in asked]
    wholes = {group.path: group for group in named}
    for path, keep in allowed.items():
        name, slash, source = path.partition("/")
        named += [wholes[name].narrowed(source, keep)] if slash else []
    return Groups(named=named, other_languages=others)


def _entries(stages: Sequence[Stage]) -> dict[str, tuple[str, set[str] | None]]:
    """Entry of the mixtures -> its language, and its sources unless it has the name of its language."""
    entries: dict[str, tuple[str, set[str] | None]] = {}
    for stage in stages:
        for name, part in stage.mixture.items():
            language = part.language or name
            known, sources = entries.get(name, (language, None if language == name else set()))
            if known != language:
                raise ValueError(f"the entry {name!r} has two languages, {known!r} and {language!r}")
            entries[name] = (language, None if sources is None else sources | set(part.sources))
    return entries


def _kept(stage: Stage) -> dict[str, float]:
    """Entry that a stage keeps -> its tolerance."""
    return {
        name: DEFAULT_TOLERANCE if part.tolerance is None else part.tolerance
        for name, part in stage.mixture.items()
        if part.keep
    }
