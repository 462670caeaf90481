"""JSON Schema files of what a run writes for programs, generated from the types of the code.

`python -m reprise.schemas` (`make docs`) writes `NAME.schema.json` beside this file and docs/formats.md; a test
compares both with the types, and others validate what real runs wrote. To add a format, decorate its TypedDict with
`reprise.records.record` and list it in `FORMATS`.
"""

import importlib.resources
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from reprise.documents.clean.stage import CleanCounts
from reprise.documents.decontaminate.stage import DecontaminateCounts
from reprise.documents.deduplicate.stage import DeduplicateCounts
from reprise.documents.label.records import GradeReport, LabelCounts, TopicReport
from reprise.documents.read.stage import ReadCounts
from reprise.documents.score import ScoreCounts
from reprise.evaluation.results import EvaluateCounts, ModelResults, Results
from reprise.generators.journal import AnswerLine
from reprise.manifest import Manifest
from reprise.mixture.shares_file import AppliedShares
from reprise.model.new_tokens import NewTokens
from reprise.plan.records import Plan
from reprise.publish.origin import Origin
from reprise.report.records import Report, ReportCounts, RunComparison
from reprise.report.study_records import StudyResult
from reprise.synthesis.records import Funnel, Provenance, SynthesisCounts, SyntheticSamples
from reprise.tokens.stage import TokenizeCounts
from reprise.tokens.store import StoreDescription
from reprise.training.checkpoint_facts import CheckpointFacts
from reprise.training.events import Event
from reprise.training.stage import TrainCounts
from reprise.verification import Verification
from reprise.vocabulary.records import VocabularyCounts

Schema = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    name: str
    """Name of the schema file."""
    file: str
    """Where a run writes it."""
    type: Any
    """The TypedDict of the whole file, or of one line of a JSON Lines file."""
    about: str
    """One or two sentences for docs/formats.md."""

    def schema(self) -> Schema:
        """The JSON Schema (draft 2020-12)."""
        schema = TypeAdapter(self.type).json_schema(mode="serialization")
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    def check(self, value: Any) -> None:
        """Raise pydantic's ValidationError unless a parsed JSON value has the format, without any conversion."""
        TypeAdapter(self.type).validate_json(json.dumps(value), strict=True)


StageCounts = (
    ReadCounts
    | CleanCounts
    | DeduplicateCounts
    | DecontaminateCounts
    | LabelCounts
    | VocabularyCounts
    | ScoreCounts
    | SynthesisCounts
    | TokenizeCounts
    | TrainCounts
    | EvaluateCounts
    | ReportCounts
)

FORMATS: tuple[Format, ...] = (
    Format("results", "WORKSPACE/evaluate/results.json", Results, "What the stage `evaluate` measured and judged."),
    Format("model-results", "reprise evaluate MODEL --json", ModelResults, "What that command prints of one model."),
    Format("report", "WORKSPACE/report.json", Report, "The numbers of the report, at any moment of the run."),
    Format("comparison", "comparison.json", RunComparison, "The numbers of `reprise report --compare`."),
    Format("study", "WORKSPACE of a study/study.json", StudyResult, "What `reprise study` compared."),
    Format("plan", "reprise plan RECIPE --json", Plan, "What that command prints."),
    Format(
        "metrics",
        "WORKSPACE/train-N/metrics.jsonl",
        Event,
        "One line per event of a training stage. After a kill, lines after the checkpoint that training resumed from "
        "are repeated; a reader keeps the last of each step.",
    ),
    Format("manifest", "WORKSPACE/STAGE/manifest.json", Manifest, "Written last: its presence means complete."),
    Format("counts", "WORKSPACE/STAGE/manifest.json, key `counts`", StageCounts, "The numbers of each stage."),
    Format(
        "new-tokens",
        "WORKSPACE/vocabulary/new_tokens.json",
        NewTokens,
        "The tokens that the stage `vocabulary` added.",
    ),
    Format("store", "WORKSPACE/tokenize/store.json", StoreDescription, "The token store; its arrays: ARCHITECTURE.md."),
    Format(
        "checkpoint",
        "WORKSPACE/train-N/state/checkpoint.json",
        CheckpointFacts,
        "Everything that resumes besides the tensors, which torch.distributed.checkpoint writes beside it.",
    ),
    Format(
        "shares",
        "WORKSPACE/train-N.partial/shares.json",
        dict[str, float],
        "What the user may write while training: path, such as `zh/web/Others` -> share of its parent.",
    ),
    Format(
        "shares-applied",
        "WORKSPACE/train-N/shares-applied.json",
        list[AppliedShares],
        "The shares of that file that were applied, oldest first.",
    ),
    Format(
        "topics",
        "WORKSPACE/label/report.json",
        dict[str, TopicReport],
        "Language -> how its documents got their topics, and how good the classifier is.",
    ),
    Format("grades", "WORKSPACE/label/grades.json", dict[str, GradeReport], "Language -> the same of quality grades."),
    Format(
        "answers",
        "WORKSPACE/cache/STAGE/answers.jsonl",
        AnswerLine,
        "One line per answer of a language model; it outlives changes of the recipe.",
    ),
    Format("funnel", "WORKSPACE/synthesize/funnel.json", Funnel, "Counts of the stage `synthesize`."),
    Format("samples", "WORKSPACE/synthesize/samples.json", SyntheticSamples, "A few documents and drops."),
    Format("provenance", "WORKSPACE/synthesize/provenance.jsonl", Provenance, "One line per request."),
    Format(
        "origin",
        "WORKSPACE/exports/NAME/origin.json",
        Origin,
        "How a model that `merge` or `export` wrote was made from the trained one; its card is written from it.",
    ),
    Format(
        "verification",
        "WORKSPACE/verified.json",
        Verification,
        "What `reprise verify` read, and what was damaged: the key `value` of that file, beside its `checksum`.",
    ),
)


def shipped_schema(name: str) -> Schema:
    """The schema file of a format, as it is in the package."""
    text = (importlib.resources.files("reprise.schemas") / f"{name}.schema.json").read_text(encoding="utf-8")
    schema: Schema = json.loads(text)
    return schema


def write(schemas: Path, page: Path) -> None:
    """Write the schema files and the page of docs."""
    for one in FORMATS:
        text = json.dumps(one.schema(), indent=2, ensure_ascii=False) + "\n"
        (schemas / f"{one.name}.schema.json").write_text(text, encoding="utf-8")
    page.write_text(formats_page(), encoding="utf-8")


def formats_page() -> str:
    """docs/formats.md: each format with its records, fields, types and meanings."""
    lines = [
        "# Formats",
        "",
        "Printed by `make docs` from the types of the code; do not edit. The JSON Schema files are in the package, "
        "`reprise/schemas/NAME.schema.json`.",
    ]
    for one in FORMATS:
        lines += ["", f"## {one.name}", "", f"`{one.file}`. {one.about}"]
        schema = one.schema()
        records = {one.name: schema, **schema.get("$defs", {})}
        for name, part in records.items():
            lines += _record(name if part is not schema else "", part)
    return "\n".join(lines) + "\n"


def _record(name: str, schema: Schema) -> Iterator[str]:
    """The lines of one record; alternatives (a union) are listed with the records that they are."""
    if name:
        yield from ("", f"### {name}")
    if about := schema.get("description"):
        yield from ("", " ".join(about.split()))
    if "properties" not in schema:
        yield from ("", _type(schema))
        return
    required = schema.get("required", [])
    yield from ("", "| field | type | meaning |", "|---|---|---|")
    for field, part in schema["properties"].items():
        optional = "" if field in required else " (may be absent)"
        meaning = " ".join(str(part.get("description", "")).split()).replace("|", "\\|")
        yield f"| `{field}` | {_type(part)}{optional} | {meaning} |"


def _type(schema: Schema) -> str:
    """A JSON Schema type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(_type(part) for part in schema.get("anyOf") or schema["oneOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(item) for item in schema['prefixItems'])}]"
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object: name to {_type(values)}" if isinstance(values, dict) else "object"
    return str(kind) if kind else "any JSON value"
