"""docs/tour.md: one document followed through all stages of a finished run.

    python docs/tour.py RUN > docs/tour.md

RUN is the folder of a run. The document is the first one of the order of `train-1` that has a topic and a perplexity.
Every value is read from the run's files; the functions that are named are checked by a test.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reprise.documents.table import DOCUMENTS, read_table
from reprise.mixture.preview import PreviewRow, preview
from reprise.model.loading import load_tokenizer
from reprise.recipe import Recipe, load_recipe
from reprise.tokens.store import Bucket, TokenStore
from reprise.workspace import Workspace

TEXT_CHARS = 180

HAND_OVERS = {
    "read": ("documents/read/stage.py", "run"),
    "clean": ("documents/clean/stage.py", "clean_rows"),
    "deduplicate": ("documents/deduplicate/stage.py", "run"),
    "decontaminate": ("documents/decontaminate/stage.py", "run"),
    "label": ("documents/label/stage.py", "run"),
    "score": ("documents/score.py", "run"),
    "tokenize": ("tokens/stage.py", "run"),
    "order": ("mixture/sampler.py", "next_batch"),
    "train-1": ("training/trainer.py", "step"),
    "evaluate": ("evaluation/stage.py", "compare_models"),
}
"""Stage -> file under src/reprise, and the function that takes the document there."""


def find_row(recipe: Recipe, store: TokenStore, labelled: dict[str, Any]) -> tuple[PreviewRow, str]:
    """The first row of `train-1` with a document that has a topic and a perplexity, and the id of that document."""
    for row in preview(recipe, store, lambda ids: ""):
        for name in row.documents:
            if name in labelled:
                return row, name
    raise SystemExit("no document of this run has a topic and a perplexity")


PACKAGE = re.compile(r".*/reprise/(?=demo/)")


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The documents of a stage; where Reprise is installed on this machine is nobody's business."""
    for batch in read_table(folder / DOCUMENTS):
        for row in batch.to_pylist():
            yield {**row, "origin": PACKAGE.sub("package:reprise/", row["origin"])}


def find(folder: Path, name: str) -> dict[str, Any]:
    """The document with an id."""
    return next(row for row in rows_of(folder) if row["id"] == name)


def in_store(store: TokenStore, name: str) -> tuple[Bucket, int]:
    """The bucket of a document, and its number there."""
    for bucket in store.train.values():
        for number, known in enumerate(bucket.doc_ids):
            if known == name:
                return bucket, number
    raise SystemExit(f"{name} is not in the token store")


def tour(run: Path) -> str:
    """The page."""
    recipe, workspace = load_recipe(run / "recipe.yaml"), Workspace(run)
    store = TokenStore.open(workspace.folder("tokenize"))
    scored = rows_of(workspace.folder("score"))
    labelled = {row["id"]: row for row in scored if row["topic"] is not None and row["ppl"] is not None}
    row, name = find_row(recipe, store, labelled)
    document, bucket_and_number = labelled[name], in_store(store, name)
    bucket, number = bucket_and_number
    ids = bucket.tokens[bucket.offsets[number] : bucket.offsets[number + 1]].tolist()
    text = load_tokenizer(recipe.model).convert_ids_to_tokens(ids[:8])
    lines = [
        _HEAD.format(name=recipe.name),
        _section("read", f"A line of `{document['origin']}` becomes a row of the document table."),
        _fields(find(workspace.folder("read"), name), "id", "lang", "source", "split", "origin"),
        _quote(document["text"]),
        _section("clean", _changed(workspace, name) + " " + _flow(workspace, "clean")),
        _section("deduplicate", f"No document that stays is a copy of it: kept. {_flow(workspace, 'deduplicate')}"),
        _section("decontaminate", f"It contains no benchmark question: kept. {_flow(workspace, 'decontaminate')}"),
        _section("label", "The classifier gives it a topic; null confidence means that the topic came with the file."),
        _fields(find(workspace.folder("label"), name), "topic", "topic_confidence"),
        _section("score", "The base model reads it; the sum of its negative log-likelihood is in nats."),
        _fields(document, "nll", "num_tokens", "ppl", "bits_per_byte"),
        _section("tokenize", f"It is document {number} of the bucket `{bucket.key}`: {len(ids)} ids, EOS last."),
        f"    {ids[:8]} ...  {text} ...",
        _section(
            "order", f"The sampler puts it into row {row.row}, which is dealt to `{row.bucket}`, epoch {row.epoch}."
        ),
        _section("train-1", f"Row {row.row} is trained on in step {row.step}:"),
        _step(workspace, row.step),
        _section(
            "evaluate", f"Training text is never measured. The held-out documents of its language, {document['lang']}:"
        ),
        _verdicts(workspace, document["lang"]),
    ]
    return "\n\n".join(lines) + "\n"


_HEAD = """# A tour: one document through a run

This page is written by `python docs/tour.py RUN` from the files of a finished run (here: {name}). Paths are relative to
`src/reprise/`; folders are those of the run."""


def _section(stage: str, sentence: str) -> str:
    file, function = HAND_OVERS[stage]
    return f"## {stage}\n\n`{file}`, `{function}`. {sentence.strip()}"


def _fields(row: dict[str, Any], *names: str) -> str:
    values = {name: round(value, 4) if isinstance(value := row[name], float) else value for name in names}
    return "\n".join(f"    {name:<17} {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def _quote(text: str) -> str:
    return "> " + " ".join(text[:TEXT_CHARS].split()) + (" ..." if len(text) > TEXT_CHARS else "")


def _flow(workspace: Workspace, stage: str) -> str:
    manifest = workspace.manifest(stage)
    assert manifest is not None
    return f"Of {manifest.counts['documents_in']} documents {manifest.counts['documents_out']} stay."


def _changed(workspace: Workspace, name: str) -> str:
    before, after = (find(workspace.folder(stage), name)["text"] for stage in ("read", "clean"))
    return "The text is unchanged: kept." if before == after else f"{len(before)} characters become {len(after)}: kept."


def _step(workspace: Workspace, step: int) -> str:
    for line in (workspace.folder("train-1") / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["kind"] == "step" and event["step"] == step:
            return _fields(event, "step", "tokens", "loss", "lr", "grad_norm")
    raise SystemExit(f"train-1 has no step {step}")


def _verdicts(workspace: Workspace, lang: str) -> str:
    results = json.loads((workspace.folder("evaluate") / "results.json").read_text(encoding="utf-8"))
    total = next(row for row in results["bits_per_byte"] if row["language"] == lang and row["source"] is None)
    return _fields(total, "before", "after", "change", "verdict") + f"\n\n{results['headline']}"


def main() -> None:
    """Print the page."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(tour(Path(sys.argv[1])), end="")


if __name__ == "__main__":
    main()
