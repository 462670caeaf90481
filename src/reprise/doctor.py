"""`reprise doctor`: preflight, then read and clean a sample of each input, without writing anything."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
from rich.table import Table
from typing_extensions import TypedDict

from reprise.documents.clean.stage import clean_rows
from reprise.documents.language import detect_languages
from reprise.documents.part_step import RowsOrigin
from reprise.documents.read.files import SourceFile, find_files
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.record import Item, Record
from reprise.documents.read.records import read_records
from reprise.errors import Finding, UserError
from reprise.preflight.checks import inspect
from reprise.recipe import Recipe
from reprise.recipe.documents import Input
from reprise.records import record

SAMPLE_DOCUMENTS = 200
"""Documents of each input that are examined."""


@record
class SampledBucket(TypedDict):
    """Documents of one language and source in the sample of an input, and what `clean` would drop."""

    input: int
    """Position in `documents.inputs`, from 0."""
    language: str
    source: str
    documents: int
    dropped: dict[str, int]
    """Rule of the `clean` stage -> documents that it would drop."""


@record
class SampledInput(TypedDict):
    """A sample of one input."""

    input: int
    path: str
    documents: int
    """Documents that could be read."""
    rejects: dict[str, int]
    """Reason -> documents that could not be read."""
    errors: list[str]
    """Unreadable files, or why there are no files; any of these stops a run."""


def diagnose(
    recipe: Recipe, limit: int = SAMPLE_DOCUMENTS
) -> tuple[list[Finding], list[SampledInput], list[SampledBucket]]:
    """Run preflight, then read and clean the first documents of each input.

    Args:
        recipe: the run.
        limit: documents per input, divided among its files.

    Returns:
        Findings of preflight, including unreadable files; one entry per input; one per language and source of an input.
    """
    findings = inspect(recipe)
    inputs: list[SampledInput] = []
    buckets: list[SampledBucket] = []
    for index, entry in enumerate(recipe.documents.inputs):
        records: list[Record] = []
        rejects: Counter[str] = Counter()
        errors: list[UserError] = []
        for item in sample_records(entry, f"documents.inputs.{index}.path", limit):
            if isinstance(item, UserError):
                errors.append(item)
            elif isinstance(item, Record):
                records.append(item)
            else:
                rejects[item.reason] += 1
        known = {str(finding) for finding in findings}
        findings += [Finding.of(error) for error in errors if str(error) not in known]
        inputs.append(
            {
                "input": index,
                "path": entry.path,
                "documents": len(records),
                "rejects": dict(rejects.most_common()),
                "errors": [str(error) for error in errors],
            }
        )
        buckets += _clean_sample(recipe, index, records)
    return findings, inputs, buckets


def sample_records(entry: Input, where: str, limit: int) -> Iterator[Item | UserError]:
    """Yield the first records of an input, about equally many per file; an error for a file that cannot be read.

    Args:
        entry: input to sample.
        where: name of its setting, for errors.
        limit: how many records in total.
    """
    try:
        files: list[SourceFile] = find_files(entry, where)[:limit]
    except UserError as error:
        yield error
        return
    each, more = divmod(limit, len(files))
    with PageParser() as parser:
        for index, file in enumerate(files):
            try:
                yield from islice(read_records(file, entry, None, parser), each + (index < more))
            except UserError as error:
                yield error


def _clean_sample(recipe: Recipe, index: int, records: list[Record]) -> Iterator[SampledBucket]:
    """What the `clean` stage would drop from the records of one input."""
    if not records:
        return
    texts = [str(record.fields["text"]) for record in records]
    languages = [record.fields["lang"] for record in records]
    if None in languages:
        detected = detect_languages(texts, recipe.documents.inputs[index].language_identifier)
        languages = [known or guess for known, guess in zip(languages, detected, strict=True)]
    sources = [record.fields["source"] for record in records]
    messages = pa.array([record.fields.get("messages") for record in records], pa.string())
    table = pa.table({"text": texts, "lang": languages, "source": sources, "messages": messages})
    pairs = [(str(language), str(source)) for language, source in zip(languages, sources, strict=True)]
    dropped: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    if recipe.documents.clean.enabled:
        for row, reason, _ in clean_rows(recipe.documents.clean, table, RowsOrigin("sample", 0)).drops:
            dropped[pairs[row]][reason] += 1
    for pair, documents in sorted(Counter(pairs).items()):
        yield {
            "input": index,
            "language": pair[0],
            "source": pair[1],
            "documents": documents,
            "dropped": dict(dropped[pair].most_common()),
        }


def diagnosis_tables(inputs: list[SampledInput], buckets: list[SampledBucket]) -> Iterator[Table]:
    """Format the sample as tables for the terminal."""
    table = Table("input", "documents", "cannot be read", title="a sample of each input")
    for entry in inputs:
        trouble = [f"{reason} {count}" for reason, count in entry["rejects"].items()]
        trouble += [f"files {len(entry['errors'])}"] if entry["errors"] else []
        table.add_row(Path(entry["path"]).name or entry["path"], f"{entry['documents']:,}", ", ".join(trouble))
    yield table
    table = Table("language", "source", "documents", "clean drops", "by rule", title="what clean would drop")
    for bucket in buckets:
        lost = sum(bucket["dropped"].values())
        rules = ", ".join(f"{rule} {count / bucket['documents']:.0%}" for rule, count in bucket["dropped"].items())
        share = f"{lost / bucket['documents']:.0%}"
        table.add_row(bucket["language"], bucket["source"], f"{bucket['documents']:,}", share, rules)
    yield table
