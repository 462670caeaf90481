import itertools
import random

import numpy as np
import pytest

from reprise.documents import deduplicate
from reprise.documents.table import DOCUMENTS, DROPPED, read_table, write_part
from reprise.recipe.documents import Deduplicate


def row(text, number=0, **more):
    values = {"id": str(number), "text": text, "lang": "en", "source": "web", "split": "train"}
    return {**values, "origin": f"d{number}.txt:1", **more}


@pytest.fixture
def run(make_work, tmp_path):
    """Deduplicate rows, given as parts; returns the kept rows and the dropped ones."""
    runs = 0

    def run(*parts, **settings):
        nonlocal runs
        runs += 1
        before = tmp_path / f"clean{runs}"
        for number, rows in enumerate(parts):
            write_part(before / DOCUMENTS / f"part-{number:05d}.parquet", rows)
        work = make_work(f"deduplicate{runs}", clean=before)
        deduplicate.run(work, deduplicate=Deduplicate(**settings), engine="native")
        kept = [row for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]
        dropped = [row for batch in read_table(work.output / DROPPED) for row in batch.to_pylist()]
        assert not (work.output / "scratch").exists()
        assert work.counts["documents_in"] == len(kept) + len(dropped) == sum(map(len, parts))
        return kept, dropped

    return run


def make_text(rng, words=200, vocabulary=5000):
    return [f"w{rng.randrange(vocabulary)}" for _ in range(words)]


def change(rng, words, share):
    """Replace a run of words in the middle: the Jaccard similarity of the shingles nears (1 - share) / (1 + share)."""
    count = round(len(words) * share)
    start = rng.randrange(len(words) - count + 1)
    return [*words[:start], *make_text(rng, count), *words[start + count :]]


def true_jaccard(one, other, size=5):
    left, right = ({tuple(w[i : i + size]) for i in range(len(w) - size + 1)} for w in (one, other))
    return len(left & right) / len(left | right)


def test_exact_copies_whatever_their_white_space_case_and_width(run):
    rows = [
        row("The same text, twice: ABC 12.", 1),
        row("the  same\ttext,\ntwice： ＡＢＣ 12.", 2),
        row("The same text, twice; ABC 12.", 3),
        row("一段文字。", 4, lang="zh"),
        row(" 一段 文字 。", 5, lang="zh", source="book"),
    ]
    _, dropped = run(rows, threshold=1.0)
    exact = [drop for drop in dropped if drop["reason"] == "exact_duplicate"]
    assert len(exact) == 2
    assert {drop["detail"] for drop in exact} <= {f"copy of d{number}.txt:1" for number in range(1, 6)}


def test_which_copy_stays_does_not_depend_on_files_or_their_order(run):
    rng = random.Random(3)
    rows = []
    for group in range(30):
        words = make_text(rng)
        for copy in range(rng.randrange(1, 5)):
            text = " ".join(words if copy == 1 else change(rng, words, 0.04))
            rows.append(row(text, f"{group}-{copy}", source=rng.choice(["web", "book"])))
        rows.append(row(" ".join(words), f"{group}-again"))
    expected = None
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        cut = [0, len(rows)] if seed == 0 else sorted([0, *rng.sample(range(len(rows)), seed), len(rows)])
        kept, dropped = run(*[rows[a:b] for a, b in itertools.pairwise(cut)])
        outcome = sorted(r["id"] for r in kept), sorted((r["id"], r["reason"], r["detail"]) for r in dropped)
        assert outcome == (expected := expected or outcome)
    assert 20 < len(expected[0]) < 45
    assert {reason for _, reason, _ in expected[1]} == {"exact_duplicate", "near_duplicate"}


def test_the_held_out_copy_stays(run):
    rng = random.Random(5)
    rows, valid = [], set()
    for number in range(20):
        words = make_text(rng)
        rows += [row(" ".join(change(rng, words, 0.03)), f"{number}-train"), row(" ".join(words), f"{number}-same")]
        rows.append(row(" ".join(words), f"{number}-valid", split="valid"))
        valid.add(f"{number}-valid")
    kept, dropped = run(rows)
    assert {r["id"] for r in kept} == valid
    assert len(dropped) == 40


def test_recall_and_precision_on_planted_copies(run):
    """The table in docs/documents.md comes from benchmarks/duplicates.py; here the ends of the curve are held."""
    rng = random.Random(7)
    rows, similarity = [], {}
    for number in range(300):
        words = make_text(rng)
        copy = change(rng, words, [0.02, 0.3][number % 2])
        rows += [row(" ".join(words), f"{number}-a"), row(" ".join(copy), f"{number}-b")]
        similarity[str(number)] = true_jaccard(words, copy)
    _, dropped = run(rows, threshold=0.8)
    found = {drop["id"].split("-")[0] for drop in dropped}
    close = {number for number, value in similarity.items() if value > 0.9}
    far = {number for number, value in similarity.items() if value < 0.65}
    assert len(close) > 140
    assert len(far) > 140
    assert close <= found
    assert not far & found


def test_chinese_goes_by_characters(run):
    text = (
        "大熊猫主要栖息在四川、陕西和甘肃的山区，以竹子为食，每天要吃掉十几公斤的竹叶和竹笋，剩下的时间大多在睡觉。" * 2
    )
    rows = [row(text, 1, lang="zh"), row(text.replace("睡觉", "休息", 1), 2, lang="zh"), row(text[::-1], 3, lang="zh")]
    kept, dropped = run(rows, threshold=0.6)
    assert len(kept) == 2
    assert [drop["reason"] for drop in dropped] == ["near_duplicate"]


def test_texts_without_words_are_no_copies_of_each_other(run):
    kept, dropped = run([row("!!! ???", 1), row("--- +++", 2), row("***", 3)])
    assert len(kept) == 3
    assert not dropped


def test_no_documents(run):
    assert run([]) == ([], [])
    assert run([row("one", 1)], enabled=False)[1] == []


def plain_choice(edges):
    """The rule, written plainly: the first document of the order stays, what is similar to it goes, and so on."""
    order = sorted({(e["first"], e["kept"]) for e in edges} | {(e["priority"], e["key"]) for e in edges})
    near = {frozenset([e["kept"], e["key"]]): e["similarity"] for e in edges}
    kept, dropped = [], {}
    for _, key in order:
        found = [
            (-near[frozenset([key, other])], place)
            for place, other in enumerate(kept)
            if frozenset([key, other]) in near
        ]
        if found:
            distance, place = min(found)
            dropped[key] = (kept[place], -distance)
        else:
            kept.append(key)
    return dropped


def test_the_choice_equals_its_plain_form():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(2, 12))
        priority = rng.permutation(count)
        pairs = {tuple(sorted(rng.choice(count, 2, replace=False).tolist())) for _ in range(rng.integers(1, 20))}
        edges = [
            {"kept": a, "key": b, "first": int(priority[a]), "priority": int(priority[b]),
             "similarity": float(rng.integers(80, 100)) / 100}
            for a, b in pairs
        ]  # fmt: skip
        assert deduplicate.choose_copies(edges) == plain_choice(edges)


def test_bands_reach_their_probability():
    for threshold in (0.5, 0.7, 0.8, 0.9):
        settings = Deduplicate(threshold=threshold)
        bands, rows = deduplicate.choose_bands(settings)
        assert bands * rows <= settings.permutations
        assert 1 - (1 - threshold**rows) ** bands >= 0.99
    assert deduplicate.choose_bands(Deduplicate(bands=16)) == (16, 8)
