"""Checks of the inputs: they have files, and the text that the settings and the mixture name."""

import glob
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reprise.documents.read.files import find_files
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.records import Record, read_records
from reprise.documents.read.remote import is_remote
from reprise.errors import Finding, UserError
from reprise.recipe import Recipe
from reprise.recipe.documents import Input
from reprise.recipe.names import Corpus, check_names
from reprise.storage import printable
from reprise.workspace import Workspace

if TYPE_CHECKING:
    from reprise.documents.read.stage import ReadCounts

SAMPLED_FILES, SAMPLED_RECORDS = 20, 200
"""Files per input, and records per file, that are read to determine languages and sources."""


def check_inputs(recipe: Recipe) -> Iterator[Finding]:
    """Check that each input has files, and none that the run itself writes."""
    documents = recipe.documents
    if not documents.inputs:
        yield Finding("there is no input", "documents.inputs=[]", "name at least one file or folder", "missing")
    for setting, entries in (
        ("documents.inputs", documents.inputs),
        ("documents.topics.labelled", documents.topics.labelled),
        ("documents.quality.labelled", documents.quality.labelled if documents.quality is not None else []),
    ):
        for index, entry in enumerate(entries):
            if is_remote(entry.path):
                continue  # listing an object store can take minutes; the stage `read` does it first
            try:
                find_files(entry, f"{setting}.{index}.path")
            except UserError as error:
                yield Finding.of(error, "missing")
            if _holds(entry.path, Path(recipe.workspace)):
                yield Finding(
                    "the workspace is in this folder, so the run would read its own output",
                    f"{setting}.{index}.path={printable(entry.path)}",
                    f"name a workspace elsewhere (workspace={recipe.workspace}), or the folders of the text alone",
                )


def _holds(path: str, workspace: Path) -> bool:
    """Whether a folder or pattern of an input reaches into the workspace; hidden files are not read."""
    if path.startswith("package:"):
        return False
    root, target = Path(path).expanduser(), workspace.resolve()
    if root.is_dir():
        folders = [root]
    elif "**" in root.parts:
        folders = [Path(*root.parts[: root.parts.index("**")])]
    else:
        folders = [Path(match) for match in glob.glob(str(root))] if glob.has_magic(path) else []  # noqa: PTH207
    for folder in (one.resolve() for one in folders if one.is_dir()):
        if target.is_relative_to(folder):
            return not any(part.startswith(".") for part in target.relative_to(folder).parts)
    return False


def sample_corpus(recipe: Recipe, *splits: str) -> Corpus:
    """Languages and sources of the text: as counted by the stage `read`, else from the first records of each input.

    Args:
        recipe: the run.
        splits: only documents in these splits, once they are counted; none given: in any.
    """
    manifest = Workspace(recipe.workspace).manifest("read")
    if manifest is not None:
        buckets = [
            entry for entry in cast("ReadCounts", manifest.counts)["buckets"] if not splits or entry["split"] in splits
        ]
        return Corpus(frozenset((entry["language"], entry["source"]) for entry in buckets), complete=True)
    pairs: set[tuple[str, str]] = set()
    complete = True
    for entry in recipe.documents.inputs:
        constant = (entry.constants.get("lang"), entry.constants.get("source"))
        complete = complete and None not in constant
        pairs |= {constant} if None not in constant else set(_sampled_pairs(entry))  # type: ignore[arg-type]
    return Corpus(frozenset(pairs), complete)


def _tells_buckets(entry: Input) -> bool:
    """Whether an input's first records give language and source; else these are detected later, or are remote."""
    return {"lang", "source"} <= entry.constants.keys() or any(_sampled_pairs(entry))


def _sampled_pairs(entry: Input) -> Iterator[tuple[str, str]]:
    for record in sampled_records(entry):
        if record.fields["lang"] and record.fields["source"]:
            yield record.fields["lang"], record.fields["source"]


def sampled_records(entry: Input, formats: Collection[str] | None = None) -> Iterator[Record]:
    """Yield the first records of the first files of a local input; `formats`: of files in these formats only."""
    if is_remote(entry.path):
        return
    try:
        files = [file for file in find_files(entry, "documents.inputs") if formats is None or file.format in formats]
        with PageParser() as parser:
            for file in files[:SAMPLED_FILES]:
                for item in islice(read_records(file, entry, None, parser), SAMPLED_RECORDS):
                    if isinstance(item, Record):
                        yield item
    except UserError:
        return  # `check_inputs` or the stage `read` reports it


def check_setting_names(recipe: Recipe) -> Iterator[Finding]:
    """Check languages, sources and topics in settings against the mixture and the inputs."""
    return check_names(recipe, sample_corpus(recipe))


def check_text_for_mixture(recipe: Recipe) -> Iterator[Finding]:
    """Report a share above 0 for text that no input, or none of the examined records, contains."""
    if not recipe.documents.inputs:
        return  # `check_inputs` says so once
    corpus = sample_corpus(recipe, "train")
    if not corpus.complete and not all(_tells_buckets(entry) for entry in recipe.documents.inputs):
        return
    for index, stage in enumerate(recipe.stages):
        for name, entry in stage.mixture.items():
            for source, share in entry.sources.items():
                language = entry.language
                made = recipe.synthesis.enabled and source == "synthetic"
                if not share or not entry.share or made or (language, source) in corpus.pairs:
                    continue
                what = f"there is no training document of the language {language!r} and the source {source!r}"
                if not corpus.complete:
                    what += f" among the first {SAMPLED_RECORDS} records of each file"
                known = ", ".join(f"{lang}/{one}" for lang, one in sorted(corpus.pairs)) or "none"
                yield Finding(
                    what,
                    f"stages.{index}.mixture.{name}.sources.{source} = {share:g}",
                    f"add such text, or set the share to 0; there is {known}",
                    "missing" if corpus.complete else "warning",
                )
