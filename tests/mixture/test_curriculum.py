from pathlib import Path

import numpy as np
import pytest
import xxhash
from tests.tokens.stores import build_store, document, random_documents

from reprise.errors import UserError
from reprise.mixture.curriculum import DocumentOrder
from reprise.recipe.mixture import Curriculum
from reprise.tokens.rows import DocumentSet

PPL = [30.0, 10.0, 20.0, 10.0, 40.0, 50.0]


def documents(tmp_path: Path, ppl: list[float | None]) -> DocumentSet:
    store = build_store(tmp_path, [document(f"d{i:02d}", [5 + i], ppl=value) for i, value in enumerate(ppl)])
    return DocumentSet(list(store.train.values()))


def order(tmp_path: Path, epoch: int = 0, ppl: list[float | None] | None = None, **curriculum: object) -> list[int]:
    settings = Curriculum.model_validate(curriculum)
    return DocumentOrder(documents(tmp_path, ppl or list(PPL)), settings, 17, "zh/web").of_epoch(epoch).tolist()


def test_orders_by_perplexity_ties_by_id(tmp_path: Path) -> None:
    assert order(tmp_path / "a", order="ascending") == [1, 3, 2, 0, 4, 5]
    assert order(tmp_path / "d", order="descending") == [5, 4, 0, 2, 3, 1]
    assert order(tmp_path / "c", order="cyclic", segments=2) == [1, 2, 4, 3, 0, 5]
    assert order(tmp_path / "e", epoch=3, order="ascending") == [1, 3, 2, 0, 4, 5]


def test_segments_are_in_order_and_shuffled_inside(tmp_path: Path) -> None:
    ppl: list[float | None] = [float(i) for i in range(60)]
    first = order(tmp_path / "1", order="segments", segments=3, ppl=ppl)
    second = order(tmp_path / "2", order="segments", segments=3, ppl=ppl, epoch=1)
    for found in (first, second):
        for k in range(3):
            part = found[20 * k : 20 * k + 20]
            assert sorted(part) == list(range(20 * k, 20 * k + 20))
            assert part != sorted(part)
    assert first != second
    assert order(tmp_path / "3", order="segments", segments=3, ppl=ppl) == first


def test_random_is_a_new_seeded_order_in_each_epoch_and_needs_no_scores(tmp_path: Path) -> None:
    ppl: list[float | None] = [None] * 50
    orders = [order(tmp_path / str(i), epoch=epoch, ppl=ppl) for i, epoch in enumerate([0, 1, 0])]
    assert all(sorted(found) == list(range(50)) for found in orders)
    assert orders[0] == orders[2] != orders[1]
    unlike = DocumentOrder(documents(tmp_path / "x", ppl), Curriculum(), 17, "en/web").of_epoch(0).tolist()
    assert unlike != orders[0], "two buckets are not shuffled alike"


def test_the_shuffle_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """SplitMix64 in whole numbers of Python; and the order itself, so that no change of it passes unseen."""

    def noise(seed: int, index: int) -> int:
        mask = 2**64 - 1
        z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    seed = xxhash.xxh3_64_intdigest(b"17/zh/web/0/0")
    expected = sorted(range(8), key=lambda i: noise(seed, i))
    assert order(tmp_path, ppl=[None] * 8) == expected == [2, 5, 3, 0, 7, 6, 4, 1]


def test_outliers_are_cut_by_rank(tmp_path: Path) -> None:
    assert order(tmp_path / "a", order="ascending", drop_below=0.2, drop_above=0.8) == [3, 2, 0, 4]
    assert sorted(order(tmp_path / "b", order="random", drop_above=0.5)) == [1, 2, 3]
    found = DocumentOrder(documents(tmp_path / "c", list(PPL)), Curriculum(drop_below=0.2, drop_above=0.8), 1, "x")
    assert (found.num_cut, found.num_unscored) == (2, 0)


def test_documents_without_a_perplexity_come_last(tmp_path: Path) -> None:
    assert order(tmp_path / "a", order="descending", ppl=[None, 1.0, 3.0, None]) == [2, 1, 0, 3]
    with pytest.raises(UserError, match="no document of zh/web has a perplexity"):
        order(tmp_path / "b", order="ascending", ppl=[None, None])


def test_order_of_files_and_workers_does_not_matter(tmp_path: Path) -> None:
    texts = random_documents(3, 80, 10, topic="Law")
    shuffled = [texts[i] for i in np.random.default_rng(1).permutation(len(texts))]
    for name in ("ascending", "descending", "random", "segments", "cyclic"):
        found = []
        for part, some in enumerate((texts, shuffled)):
            store = build_store(tmp_path / f"{name}{part}", some)
            bucket = next(iter(store.train.values()))
            curriculum = Curriculum.model_validate({"order": name, "segments": 4, "drop_above": 0.9})
            indices = DocumentOrder(DocumentSet([bucket]), curriculum, 5, "en/web/Law").of_epoch(1)
            found.append([bucket.doc_ids[i] for i in indices])
        assert found[0] == found[1]
        assert len(found[0]) == 72
