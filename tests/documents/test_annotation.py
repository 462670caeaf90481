"""Labels by hand: the sample, the file, the keys, and the agreement."""

import io
import json
import multiprocessing
import os
import random
import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import cohen_kappa_score
from tests.documents.test_label import LISTS, WORDS, make_text, row

from reprise.documents.label.agreement import measure_agreement, say_agreement
from reprise.documents.label.annotation import AnnotationFile, classifier_answers, draw_sample
from reprise.documents.label.annotation_screen import TOPIC_KEYS, annotate, printable, read_keys
from reprise.documents.label.llm_labels import Asked
from reprise.documents.label.stage import make_fit
from reprise.documents.label.training_set import Labelled, collect_labels
from reprise.documents.table import hash_text, write_part
from reprise.errors import UserError
from reprise.recipe.documents import Input, Topics

TOPICS = Topics(lists=LISTS)


def press(keys):
    yield from keys


def quiet():
    return Console(file=io.StringIO(), width=100)


def some(count, lang="en"):
    texts = [f"document {number}" for number in range(count)]
    return [Asked(hash_text(text), text, lang, "web", f"a.jsonl:{number}") for number, text in enumerate(texts)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
def test_kappa_is_that_of_sklearn(pairs):
    ours = {str(key): one for key, (one, _) in enumerate(pairs)}
    theirs = {str(key): other for key, (_, other) in enumerate(pairs)} | {"elsewhere": "a"}
    found = measure_agreement(ours, theirs)
    assert found["documents"] == len(pairs)
    if len({topic for pair in pairs for topic in pair}) == 1:
        assert found["kappa"] is None
        assert "not defined" in say_agreement("x", found)
        return
    assert found["kappa"] == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
    low, high = found["interval"]
    assert (low <= found["kappa"] + 1e-9 and found["kappa"] <= high + 1e-9) or len(pairs) < 30
    apart = Counter(pair for pair in pairs if pair[0] != pair[1])
    assert sum(entry["documents"] for entry in found["apart"]) <= apart.total()
    if apart:
        assert found["apart"][0]["documents"] == max(apart.values())


def test_nothing_in_common_is_said():
    assert say_agreement("x", measure_agreement({"a": "1"}, {"b": "1"})) == "x: no document is labelled by both"


def test_the_sample_is_spread_and_every_beginning_of_it_too(tmp_path):
    rng = random.Random(0)
    rare = [row(n, make_text(rng, "Law", noise=0)) for n in range(6)]
    common = [row(100 + n, make_text(rng, "Health", noise=0)) for n in range(180)]
    chinese = [row(300 + n, f"法院判决上诉人第{n}号案件", lang="zh", source="news") for n in range(3)]
    left = [row(400, "carried", "Law"), row(401, "x", source="book"), row(402, "held out", split="valid")]
    rows = [*common, *rare, *chinese, *left]
    write_part(tmp_path / "part-00000.parquet", rows)
    sample = draw_sample(tmp_path, ["web", "news"], TOPICS.list_of, 24, seed=1)
    assert len({entry.hash for entry in sample}) == 24
    assert Counter(entry.lang for entry in sample) == {"en": 21, "zh": 3}
    assert Counter(entry.lang for entry in sample[:6]) == {"en": 3, "zh": 3}
    law = {one["text"] for one in rare}
    assert sum(entry.text in law for entry in sample) >= 4  # of 6 among 186; by chance it would be one
    (tmp_path / "part-00000.parquet").rename(tmp_path / "old")
    write_part(tmp_path / "part-00000.parquet", rows[::-1])
    assert draw_sample(tmp_path, ["web", "news"], TOPICS.list_of, 40, seed=1)[:24] == sample
    only = draw_sample(tmp_path, ["web", "news"], TOPICS.list_of, 40, seed=1, language="zh")
    assert {entry.lang for entry in only} == {"zh"}


def test_each_key_is_saved_and_undone_and_the_next_session_goes_on(tmp_path):
    path, sample = tmp_path / "labels.jsonl", some(5)
    labels = AnnotationFile.open(path)
    saved = []

    def keys():
        for key in "1x2su3q":
            yield key
            saved.append([json.loads(line)["topic"] for line in path.read_text().splitlines()])

    # 1: Law; x: no topic; 2: Health; s: third passed over; u: takes Health back, asked again; 3: Others
    assert annotate(sample, labels, TOPICS.list_of, keys=keys(), console=quiet()) == 2
    assert saved[:6] == [["Law"], ["Law"], ["Law", "Health"], ["Law", "Health"], ["Law"], ["Law", "Others"]]
    with path.open("ab") as file:
        file.write(b'{"text": "cut o')
    again = AnnotationFile.open(path)
    assert [line["text"] for line in again.lines] == ["document 0", "document 1"]
    console = quiet()
    assert annotate(sample, again, TOPICS.list_of, keys=press("123"), console=console) == 3
    assert "3 of 5" in console.file.getvalue() and "document 2" in console.file.getvalue()
    assert "document 1\n" not in console.file.getvalue()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["topic"] for line in lines] == ["Law", "Others", "Law", "Health", "Others"]
    assert annotate(sample, AnnotationFile.open(path), TOPICS.list_of, keys=press("1"), console=quiet()) == 0


def test_the_file_teaches_the_classifier(tmp_path):
    labels = AnnotationFile.open(tmp_path / "labels.jsonl")
    annotate(some(3), labels, TOPICS.list_of, keys=press("123"), console=quiet())
    entry = Input(path=str(labels.path))
    (tmp_path / "documents").mkdir()
    known = collect_labels(tmp_path / "documents", [entry], TOPICS.list_of, ["web"])
    assert sorted(known["en"].labels) == ["Health", "Law", "Others"]


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "labels.jsonl"
    for bad in (b"[1]\n", b'{"text": "x"}\n', b'{"text": 1, "topic": "Law"}\n', b"\xff\n", b"null\n"):
        path.write_bytes(b'{"text": "x", "topic": "Law"}\n' + bad)
        with pytest.raises(UserError, match="not a line") as error:
            AnnotationFile.open(path)
        assert error.value.where == f"{path}:2"
        assert path.read_bytes().endswith(bad)
    with pytest.raises(UserError, match="cannot be read"):
        AnnotationFile.read(tmp_path / "nowhere")


def test_more_text_is_shown_and_nothing_of_it_reaches_the_terminal():
    assert printable("a\x1b[31mb\x07\u202ec\tд\n") == "a\ufffd[31mb\ufffd\ufffdc\tд\n"
    text = "\x1b[2J" + "word " * 20_000
    sample = [Asked(hash_text(text), text, "en", "web", "\x1b]0;x\x07:1")]
    shown = []
    for keys in ("q", "mq"):
        console = quiet()
        annotate(sample, AnnotationFile(None), TOPICS.list_of, keys=press(keys), console=console)
        shown.append(console.file.getvalue())
        assert "\x1b" not in shown[-1] and "\x07" not in shown[-1]
        assert all(topic in shown[-1] for topic in LISTS["en"])
    assert shown[1].count("word") > 2 * shown[0].count("word")


def test_more_topics_than_keys_are_refused(tmp_path):
    many = Topics(lists={"en": [f"topic {number}" for number in range(len(TOPIC_KEYS) + 1)]})
    with pytest.raises(UserError, match="more than the 32 keys"):
        annotate(some(1), AnnotationFile(tmp_path / "x"), many.list_of, keys=press("1"), console=quiet())


def test_keys_come_one_by_one_from_a_terminal():
    leader, follower = os.openpty()
    with os.fdopen(follower, "r") as stream:
        keys = read_keys(stream)
        threading.Timer(0.5, os.write, (leader, b"1")).start()  # what was typed before it asks is discarded
        assert next(keys) == "1"  # without a line end
        os.write(leader, b"\x1b[A")
        os.write(leader, b"s2")
        assert [next(keys), next(keys)] == ["s", "2"]
        keys.close()
    os.close(leader)
    assert list(read_keys(io.StringIO("1\n2 s\n"))) == ["1", "2", "s"]


def test_the_classifier_is_compared_on_documents_that_it_did_not_see():
    rng = random.Random(3)
    labels = AnnotationFile(None)
    for name in list(WORDS) * 20:
        text = make_text(rng, name)
        labels.lines.append(
            {"id": hash_text(text), "text": text, "lang": "en", "topic": name, "source": "web", "origin": ""}
        )
    seen = []

    def fit(texts, topics):
        seen.append(set(texts))
        return make_fit(LISTS["en"], 0, TOPICS)(texts, topics)

    # Elsewhere the same documents are labelled too: they must not teach what is asked about them.
    other = {"en": Labelled([line["text"] for line in labels.lines], [line["topic"] for line in labels.lines])}
    answers = classifier_answers(labels.lines, other, {"en": fit}, once=False)
    assert answers.keys() == labels.labels().keys()
    texts = {line["text"] for line in labels.lines}
    assert all(any(text not in fitted for fitted in seen) for text in texts)
    assert sum(len(texts - fitted) for fitted in seen) == len(texts)
    assert measure_agreement(labels.labels(), answers)["kappa"] > 0.8
    assert classifier_answers(labels.lines[:19], {}, {"en": fit}, once=False) == {}


def _label_until_killed(path, pressed):
    def keys():
        while True:
            yield "1"
            pressed.value += 1
            time.sleep(0.002)

    annotate(some(100_000), AnnotationFile.open(path), TOPICS.list_of, keys=keys(), console=quiet())


def test_a_kill_loses_no_label(tmp_path):
    path = tmp_path / "labels.jsonl"
    context = multiprocessing.get_context("fork")
    pressed = context.Value("i", 0, lock=False)  # a process killed while it holds a lock would block us for ever
    process = context.Process(target=_label_until_killed, args=(path, pressed))
    process.start()
    while pressed.value < 20:
        time.sleep(0.01)
    process.kill()
    process.join()
    labels = AnnotationFile.open(path)
    assert len(labels.lines) >= pressed.value
    assert [line["text"] for line in labels.lines] == [f"document {n}" for n in range(len(labels.lines))]
