"""Propose a recipe for a base model and folders of text: `reprise init FILE --model MODEL --data FOLDER`.

Files are sampled, never read completely: the first records of some files represent the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reprise.errors import UserError
from reprise.proposal.budget import ModelFacts
from reprise.proposal.entries import make_entries, tell_apart
from reprise.proposal.sampling import Group, find_groups, sample
from reprise.proposal.writer import RecipeWriter
from reprise.recipe.model import Model


@dataclass
class Proposal:
    """A proposed recipe and its assumptions."""

    recipe: str
    """Commented YAML."""
    assumptions: list[str]


def propose(
    model: Model,
    data: Sequence[str],
    keep: Sequence[str],
    *,
    name: str,
    workspace: str,
    tokens: int | None = None,
) -> Proposal:
    """Sample the files, open the model, and write a recipe that runs.

    Args:
        model: the base model.
        data: files and folders of the new text.
        keep: files and folders of the kind of text that the model must not lose.
        name: name of the run.
        workspace: folder of the run.
        tokens: training tokens; None: as many as the text and the machine allow.

    Raises:
        UserError: no file can be read, none contains text, or the model cannot be opened.
    """
    notes: list[str] = []
    groups = [group for path in data for group in find_groups(path, keep=False, notes=notes)]
    kept = [group for path in keep for group in find_groups(path, keep=True, notes=notes)]
    groups, kept = _readable(groups, notes), _readable(kept, notes)
    tell_apart(groups, kept, notes)
    facts = ModelFacts.of(model, [*groups, *kept])
    entries = make_entries(groups, kept, notes)
    writer = RecipeWriter(model, groups + kept, entries, facts, notes, tokens)
    return Proposal(writer.write(name, workspace), notes)


def _readable(groups: Sequence[Group], notes: list[str]) -> list[Group]:
    """Sample the groups; those without readable text are noted and left out.

    Raises:
        UserError: no group contains text.
    """
    readable, refused = [], []
    for group in groups:
        try:
            sample(group, notes)
            readable.append(group)
        except UserError as error:
            refused.append(error)
    if refused and not readable:
        raise refused[0]
    notes += [f"left out: {error}" for error in refused]
    return readable
