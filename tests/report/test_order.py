from dataclasses import replace

import numpy as np
import pytest

from reprise.manifest import write_manifest
from reprise.recipe import Recipe
from reprise.report.facts import gather
from reprise.report.order import BINS, perplexity_along
from reprise.workspace import Workspace

Run = tuple[Workspace, Recipe]


def test_the_curve_is_the_median_of_each_part_of_the_epoch() -> None:
    rng = np.random.default_rng(3)
    ppl = np.sort(rng.lognormal(3, 0.5, 1000)).astype(np.float32)
    lengths = np.full(1000, 7, dtype=np.int64)
    assert perplexity_along([(ppl, lengths)]) == pytest.approx([np.median(part) for part in np.split(ppl, BINS)])


def test_a_part_without_a_document_of_its_own_has_no_value() -> None:
    found = perplexity_along([(np.float32([5, 9]), np.array([1000, 1000]))])
    assert [value for value in found if value is not None] == [5.0, 9.0]
    assert found.index(5.0) == BINS // 4


def test_what_was_not_scored_has_no_value() -> None:
    assert perplexity_along([(np.float32([np.nan]), np.array([10]))]) == [None] * BINS


def test_an_ascending_curriculum_rises(unchanged: Run) -> None:
    found = {(row["stage"], row["entry"], row["source"]): row["median_ppl"] for row in gather(*unchanged)["curriculum"]}
    assert {key[1] for key in found} == {"zh"}
    assert {key[2] for key in found} == {"web", "encyclopedia", "book", "qa_forum"}
    for key, curve in found.items():
        values = [value for value in curve if value is not None]
        assert len(values) > 10
        if key[2] != "web":  # its topics go side by side, each in its own order
            assert values == sorted(values)


def test_a_damaged_store_is_said_on_the_page(finished: Run) -> None:
    workspace, recipe = finished
    victim = next(path for path in (workspace.folder("tokenize") / "train").rglob("*") if path.is_file())
    victim.write_bytes(b"")
    manifest = workspace.manifest("tokenize")
    assert manifest is not None
    write_manifest(workspace.folder("tokenize"), replace(manifest, fingerprint="damaged"))
    facts = gather(workspace, recipe)
    assert facts["curriculum"] == []
    assert str(victim) in facts["problems"][0]
