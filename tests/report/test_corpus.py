import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from reprise.recipe import Recipe
from reprise.report import corpus
from reprise.workspace import Workspace

Run = tuple[Workspace, Recipe]


def test_the_flow_balances(unchanged: Run) -> None:
    flow = corpus.corpus_facts(unchanged[0])["flow"]
    assert [row["stage"] for row in flow] == ["read", "clean", "deduplicate", "decontaminate", "label", "score"]
    for before, after in itertools.pairwise(flow):
        assert before["documents"] == after["documents"] + after["dropped"]
    assert sum(row["dropped"] for row in flow) > 0


def test_drops_are_counted_by_reason_with_examples(unchanged: Run) -> None:
    workspace, _ = unchanged
    drops = corpus.corpus_facts(workspace)["drops"]
    for stage in ("clean", "deduplicate", "decontaminate"):
        table = pq.read_table(workspace.folder(stage) / "dropped").to_pylist()
        reasons = {row["reason"] for row in table}
        found = {drop["reason"]: drop for drop in drops if drop["stage"] == stage}
        assert found.keys() == reasons
        for reason, drop in found.items():
            rows = [row for row in table if row["reason"] == reason]
            assert drop["documents"] == len(rows) == sum(drop["languages"].values())
            assert [example["id"] for example in drop["examples"]] == [row["id"] for row in rows[: corpus.EXAMPLES]]


def test_rejects_are_shown_with_file_and_line(tmp_path: Path) -> None:
    rejects = [{"file": "a.jsonl", "line": i, "reason": "not_utf8", "excerpt": "x" * 900} for i in range(5)]
    text = "".join(json.dumps(reject) + "\n" for reject in rejects)
    (tmp_path / "rejects.jsonl").write_text(text + '{"file": "cut', encoding="utf-8")
    (found,) = corpus._rejects(tmp_path / "rejects.jsonl")
    assert (found["reason"], found["documents"], len(found["examples"])) == ("not_utf8", 5, corpus.EXAMPLES)
    assert found["examples"][1]["line"] == 1
    assert len(found["examples"][0]["excerpt"]) <= corpus.EXCERPT_CHARS + 4


def test_the_perplexity_distribution_holds_every_scored_training_document(unchanged: Run) -> None:
    workspace, _ = unchanged
    rows = pq.read_table(workspace.folder("score") / "documents").to_pylist()
    for found in corpus.corpus_facts(workspace)["perplexity"]:
        key = (found["language"], found["source"])
        ppl = [r["ppl"] for r in rows if (r["lang"], r["source"]) == key and r["split"] == "train" and r["ppl"]]
        assert found["documents"] == len(ppl) == sum(found["bin_documents"])
        assert np.isclose(found["quantiles"]["0.5"], np.median(np.float32(ppl)), rtol=1e-6)
        assert found["language"] == "zh"  # the recipe scores no other


def test_one_document_is_a_distribution() -> None:
    found = corpus._distribution(("zh", "web"), np.float32([17.0]))
    assert sum(found["bin_documents"]) == 1


def test_buckets_count_training_and_held_out(unchanged: Run) -> None:
    workspace, _ = unchanged
    rows = [row for stage in ("score", "synthesize") for row in _documents(workspace, stage)]
    buckets = corpus.corpus_facts(workspace)["buckets"]
    assert sum(bucket["train"] for bucket in buckets) == sum(row["split"] == "train" for row in rows)
    assert sum(bucket["valid"] for bucket in buckets) == sum(row["split"] == "valid" for row in rows)


def test_a_changed_part_is_read_anew(run_until: Callable[[str], Run]) -> None:
    workspace, _ = run_until("clean")
    before = corpus.corpus_facts(workspace)["drops"]
    part = workspace.folder("clean") / "dropped" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).slice(0, 1), part)
    after = corpus.corpus_facts(workspace)["drops"]
    assert sum(drop["documents"] for drop in before) > 1
    assert sum(drop["documents"] for drop in after) == 1


def _documents(workspace: Workspace, stage: str) -> list[dict[str, object]]:
    return pq.read_table(workspace.folder(stage) / "documents").to_pylist()
