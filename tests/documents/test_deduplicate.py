import itertools
import random
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.documents.deduplicate import stage as deduplicate
from reprise.documents.deduplicate.lines import without_lines
from reprise.documents.deduplicate.near import choose_copies
from reprise.documents.deduplicate.records import EDGE
from reprise.documents.deduplicate.shingles import normalise_texts, split_shingle_words
from reprise.documents.deduplicate.signatures import choose_bands
from reprise.documents.rejects import read_rejects
from reprise.documents.table import DOCUMENTS, DROPPED, REMOVED, read_table, write_part
from reprise.recipe.documents import Deduplicate
from reprise.workspace import Work


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
        rows += [row(" ".join(change(rng, words, 0.01)), f"{number}-train"), row(" ".join(words), f"{number}-same")]
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
    for _ in range(300):
        count = int(rng.integers(2, 14))
        priority = rng.permutation(count)
        pairs = {tuple(sorted(rng.choice(count, 2, replace=False).tolist(), key=priority.__getitem__))
                 for _ in range(rng.integers(1, 24))}  # fmt: skip
        edges = np.zeros(len(pairs), EDGE)
        for edge, (kept, key) in zip(edges, sorted(pairs), strict=True):
            edge["key"], edge["kept_key"] = key, kept
            edge["priority"], edge["kept_priority"] = priority[key], priority[kept]
            edge["similarity"] = rng.integers(80, 84) / 100
        plain = plain_choice(
            [{"kept": int(e["kept_key"]), "key": int(e["key"]), "first": int(e["kept_priority"]),
              "priority": int(e["priority"]), "similarity": float(e["similarity"])} for e in edges]
        )  # fmt: skip
        is_dropped = np.zeros(count, bool)
        chosen = {}
        cut = sorted({0, *rng.integers(0, count, int(rng.integers(0, 3))).tolist(), count})  # blocks of the order
        for first, end in itertools.pairwise(cut):
            block = edges[(edges["priority"] >= first) & (edges["priority"] < end)]
            drops = choose_copies(block, is_dropped)
            is_dropped[drops["key"]] = True
            chosen |= {int(d["key"]): (int(d["kept_key"]), float(d["similarity"])) for d in drops}
        assert chosen == plain


TEXT = st.text(
    st.sampled_from("aB ßﬁ½İΣς你，！Ａ\u3000가ᄀ각ᆨeé\u0301ガカﾞ_-\n\t9²Ⅳ\U00020000\U0001f600\U0002f800\ud7a3ǅ\u0345"),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(TEXT | st.text(max_size=20), max_size=6))
def test_arrays_normalise_as_two_lines_of_python_do(texts):
    normal = normalise_texts(texts)
    assert normal == [unicodedata.normalize("NFKC", text).casefold() for text in texts]
    words = [re.sub(r"[\W_]+", " ", text).strip() for text in normal]
    assert split_shingle_words(normal, by_char=False) == words
    assert split_shingle_words(normal, by_char=True) == [" ".join(text.replace(" ", "")) for text in words]


def test_each_code_point_is_normalised_as_python_does():
    texts = [f"a{chr(code)}b" for code in range(0x31000) if not 0xD800 <= code < 0xE000]
    assert normalise_texts(texts) == [unicodedata.normalize("NFKC", text).casefold() for text in texts]
    pairs = [f"{chr(code)}{mark}" for code in range(0x3200) for mark in "\u0301\u3099\u1161\u11a8\u0345"]
    assert normalise_texts(pairs) == [unicodedata.normalize("NFKC", text).casefold() for text in pairs]


@pytest.mark.slow
def test_the_same_documents_go_at_every_limit_and_number_of_workers(run, monkeypatch):
    rng = random.Random(11)
    rows = []
    for group in range(250):
        words = make_text(rng, words=60)
        for copy in range(rng.choice([1, 1, 2, 4, 30 if group % 50 == 0 else 3])):
            text = " ".join(words if copy % 3 == 1 else change(rng, words, 0.02 * (copy % 4)))
            rows.append(row(text, f"{group}-{copy}", split="valid" if rng.random() < 0.1 else "train"))
    rng.shuffle(rows)
    parts = [rows[start : start + 97] for start in range(0, len(rows), 97)]
    expected = run(*parts)
    reasons = Counter(drop["reason"] for drop in expected[1])
    assert min(reasons["exact_duplicate"], reasons["near_duplicate"]) > 50
    monkeypatch.setattr("reprise.documents.engine.IN_PROCESS_BYTES", 0)
    monkeypatch.setattr("reprise.documents.deduplicate.near._COMPARED_ROWS", 13)
    for workers, memory_gb in ((1, 1e-3), (3, 1e-2)):
        monkeypatch.setattr("reprise.documents.engine.num_workers", lambda workers=workers: workers)
        monkeypatch.setattr("reprise.documents.deduplicate.stage.num_workers", lambda workers=workers: workers)
        assert run(*parts, memory_gb=memory_gb) == expected


def test_bands_reach_their_probability():
    for threshold in (0.5, 0.7, 0.8, 0.9):
        chosen = Deduplicate(threshold=threshold)
        bands, rows = choose_bands(chosen)
        assert bands * rows <= chosen.permutations
        assert 1 - (1 - threshold**rows) ** bands >= 0.99
    assert choose_bands(Deduplicate(bands=16)) == (16, 8)


def test_of_large_clusters_some_copies_stay_but_none_of_held_out_text(run):
    rng = random.Random(11)
    rows, cluster_of, chosen = [], {}, set()

    def add(cluster, words, count, exact=0, **more):
        for copy in range(count + exact):
            text = " ".join(words if copy < exact else change(rng, words, 0.01))
            rows.append(row(text, f"{cluster}-{copy}", **(more if copy == 0 else {})))
            cluster_of[f"{cluster}-{copy}"] = cluster

    for number in range(6):
        add(f"alone{number}", make_text(rng), 1)
        add(f"pair{number}", make_text(rng), 2)
        add(f"five{number}", make_text(rng), 3, exact=2)
        add(f"many{number}", make_text(rng), 0, exact=12)
        add(f"held{number}", make_text(rng), 3, exact=3, split="valid")
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        kept, _ = run(rows[:50], rows[50:], repeats={5: 2, 10: 4})
        stays = Counter(cluster_of[r["id"]] for r in kept)
        assert {stays[f"{name}{n}"] for n in range(6) for name in ("alone", "pair", "held")} == {1}
        assert {stays[f"five{n}"] for n in range(6)} == {2}
        assert {stays[f"many{n}"] for n in range(6)} == {4}
        assert all(r["split"] == "valid" for r in kept if cluster_of[r["id"]].startswith("held"))
        chosen.add(tuple(sorted(r["id"] for r in kept)))
    assert len(chosen) == 1  # whatever the order of the files
    assert len(run(rows)[0]) == 30
    with pytest.raises(ValueError, match="of 3 documents 4 cannot stay"):
        Deduplicate(repeats={3: 4})


def plain_lines(rows, dropped, max_documents, min_chars, min_chars_left):
    """What `lines` does, one line at a time: id -> text, None if the document is dropped."""
    alive = [one for one in rows if one["id"] not in dropped and one["source"] == "web"]
    alive.sort(key=lambda one: (one["split"] != "valid", xxhash.xxh3_128_hexdigest(one["text"].encode())))
    owners = {}
    for one in alive:
        for line in one["text"].split("\n"):
            if sum(char.isalnum() for char in line) >= min_chars:
                normal = "".join(unicodedata.normalize("NFKC", line).casefold().split())
                owners.setdefault(normal, dict.fromkeys([]))[one["id"]] = None
    result = {}
    for one in alive:
        kept, lost = [], False
        for line in one["text"].split("\n"):
            documents = list(owners.get("".join(unicodedata.normalize("NFKC", line).casefold().split()), [one["id"]]))
            long = sum(char.isalnum() for char in line) >= min_chars
            if long and one["split"] != "valid" and len(documents) > max_documents and documents[0] != one["id"]:
                lost = True
            else:
                kept.append(line)
        text = "\n".join(kept)
        result[one["id"]] = None if lost and len(text) < max(1, min_chars_left) else text
    return result


LINES = [f"line {letter * 6} of some words" for letter in "abcdefgh"] + [
    "SHORT",
    "-" * 30,
    "LINE bbbbbb  of some words",
]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), max_documents=st.integers(1, 3), min_left=st.sampled_from([0, 30]))
def test_repeated_lines_go_as_in_the_plain_form(data, max_documents, min_left, tmp_path_factory):
    texts = data.draw(st.lists(st.lists(st.sampled_from(LINES), min_size=1, max_size=5), max_size=9))
    rows = [
        row(
            "\n".join([f"own line of document {number}", *lines]),
            number,
            split=data.draw(st.sampled_from(["train", "train", "valid"])),
            source=data.draw(st.sampled_from(["web", "web", "code"])),
        )
        for number, lines in enumerate(texts)
    ]
    folder = tmp_path_factory.mktemp("lines")
    for number in range(2):
        write_part(folder / "clean" / DOCUMENTS / f"part-{number:05d}.parquet", rows[number::2])
    work = Work(output=folder / "deduplicate", inputs={"clean": folder / "clean"}, cache=folder / "cache")
    work.output.mkdir()
    lines = {"max_documents": max_documents, "min_chars": 12, "min_chars_left": min_left}
    deduplicate.run(work, deduplicate=Deduplicate(lines=lines, threshold=1.0), engine="native")
    kept, dropped, removed = (
        {each["id"]: each for batch in read_table(work.output / name) for each in batch.to_pylist()}
        for name in (DOCUMENTS, DROPPED, REMOVED)
    )
    copies = {name for name, each in dropped.items() if each["reason"] != "repeated_lines"}
    expected = plain_lines(rows, copies, max_documents, 12, min_left)
    for one in rows:
        if one["id"] in copies:
            continue
        text = expected.get(one["id"], one["text"])
        assert (kept[one["id"]]["text"] if one["id"] in kept else None) == text
        if one["id"] in removed:
            together = Counter(text.split("\n")) + Counter(removed[one["id"]]["text"].split("\n"))
            assert together == Counter(one["text"].split("\n")), "every line is kept or can be read back"
        else:
            assert text is None or text == one["text"]
    assert work.counts["documents_shortened"] == len(removed)
    assert work.counts["lines_removed"] == sum(each["text"].count("\n") + 1 for each in removed.values())


@pytest.mark.slow
def test_the_same_lines_go_at_every_limit_and_number_of_workers(run, monkeypatch):
    rng = random.Random(5)
    notices = [" ".join(make_text(rng, words=12)) for _ in range(40)]
    rows = []
    for number in range(400):
        lines = [" ".join(make_text(rng, words=30)) for _ in range(3)] + rng.sample(notices, 2)
        rng.shuffle(lines)
        rows.append(row("\n".join(lines), number, split="valid" if rng.random() < 0.1 else "train"))
    parts = [rows[start : start + 61] for start in range(0, len(rows), 61)]
    expected = run(*parts, lines={"max_documents": 1})
    occurrences = Counter(line for one in expected[0] if one["split"] == "train" for line in one["text"].split("\n"))
    assert max(occurrences.values()) == 1, "a training document has what no other has"
    monkeypatch.setattr("reprise.documents.engine.IN_PROCESS_BYTES", 0)
    for workers, memory_gb in ((1, 1e-4), (3, 1e-3)):
        monkeypatch.setattr("reprise.documents.engine.num_workers", lambda workers=workers: workers)
        monkeypatch.setattr("reprise.documents.deduplicate.stage.num_workers", lambda workers=workers: workers)
        assert run(*parts, lines={"max_documents": 1}, memory_gb=memory_gb) == expected


@pytest.mark.parametrize(
    ("text", "removed", "left"),
    [
        ("a\nx\nb", {1}, "a\nb"),
        ("a\n\nx\n\nb", {2}, "a\n\nb"),
        ("a\n\n\nb\nx", {4}, "a\n\n\nb"),
        ("x\n\na", {0}, "a"),
        ("a\n\nx\n\ny\n", {2, 4}, "a"),
        ("x", {0}, ""),
    ],
)
def test_empty_lines_around_a_removed_line_become_one(text, removed, left):
    assert without_lines(text, removed)[0] == left


def test_what_a_document_lost_can_be_read_back(run, tmp_path):
    menu = "Home | News | Sport | Weather | Travel | Culture | Contact"
    rows = [row(f"{' '.join(make_text(random.Random(n), words=60))}\n{menu}", n) for n in range(6)]
    rows.append(row(f"few words\n{menu}", 9))
    kept, dropped = run(rows, lines={})
    stays = [one for one in kept if menu in one["text"]]
    assert len(stays) == 1 and len(kept) + len(dropped) == 7
    workspace = tmp_path / "workspace"
    (workspace / "deduplicate1").rename(workspace / "deduplicate")
    found = list(read_rejects(workspace, "deduplicate"))
    lost = [one for one in found if one["reason"] == "removed_lines"]
    assert lost and all(one["text"] == menu and one["detail"].startswith("1 of 2 lines") for one in lost)
    short = [one for one in found if one["reason"] == "repeated_lines"]
    assert all(one["text"].startswith("few words") for one in short)
    assert len(lost) + len(short) == 6


def test_copies_that_stay_and_lines_exclude_each_other():
    with pytest.raises(ValueError, match="set one of them"):
        Deduplicate(repeats={3: 2}, lines={})
