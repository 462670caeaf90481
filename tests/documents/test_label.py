import json
import random

import numpy as np
import pytest
from sklearn.metrics import f1_score

from reprise.documents.label import stage as topics
from reprise.documents.label.calibration import choose_temperature, hold_out, measure
from reprise.documents.label.glossary import read_glossary
from reprise.documents.label.linear import LinearClassifier
from reprise.documents.label.report import read_report, show_report
from reprise.documents.label.subjects import CMMLU, MMLU
from reprise.documents.label.training_set import Labelled
from reprise.documents.table import DOCUMENTS, read_table, write_part
from reprise.errors import UserError
from reprise.recipe.documents import Input, Topics
from reprise.recipe.languages.packs import load_pack

WORDS = {
    "Law": ["court", "judge", "statute", "appeal", "contract", "clause", "verdict", "plaintiff"],
    "Health": ["patient", "fever", "vaccine", "nurse", "blood", "clinic", "dose", "symptom"],
    "Others": ["garden", "river", "song", "bread", "window", "summer", "bicycle", "chair"],
}
LISTS = {"en": list(WORDS), "zh": ["法律", "其他"]}

ENGLISH_TOPICS, CHINESE_TOPICS = load_pack("en").topics, load_pack("zh").topics


def make_text(rng, topic, noise=0.3):
    every = [word for words in WORDS.values() for word in words]
    return " ".join(rng.choice(every if rng.random() < noise else WORDS[topic]) for _ in range(30))


def row(number, text, topic=None, **more):
    values = {"id": str(number), "text": text, "lang": "en", "source": "web", "split": "train", "topic": topic}
    return {**values, "origin": f"a.jsonl:{number}", **more}


@pytest.fixture
def run(make_work, tmp_path):
    """Label rows; returns the work, the rows and the report."""

    def run(rows, split_sources=("web",), **settings):
        write_part(tmp_path / "before" / DOCUMENTS / "part-00000.parquet", rows)
        work = make_work("label", decontaminate=tmp_path / "before")
        settings = {"lists": LISTS, **settings}
        topics.run(work, topics=Topics(**settings), split_sources=list(split_sources), seed=1, engine="native")
        labelled = [row for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]
        assert len(labelled) == len(rows)
        return work, labelled, read_report(work.output)

    return run


def test_carried_topics_stay_and_the_others_are_learned(run):
    rng = random.Random(1)
    names = list(WORDS)
    rows = [row(n, make_text(rng, names[n % 3]), names[n % 3]) for n in range(90)]
    rows += [row(100 + n, make_text(rng, names[n % 3])) for n in range(30)]
    rows += [row(200, make_text(rng, "Law"), "Law", source="book"), row(201, "x", source="book")]
    work, labelled, report = run(rows)
    assert [r["topic"] for r in labelled[:90]] == [r["topic"] for r in rows[:90]]
    assert {r["topic_confidence"] for r in labelled[:90]} == {None}
    answers = [r["topic"] for r in labelled[90:120]]
    assert sum(answer == names[n % 3] for n, answer in enumerate(answers)) >= 29
    assert all(0.3 < r["topic_confidence"] <= 1 for r in labelled[90:120])
    assert [r["topic"] for r in labelled[120:]] == [None, None]
    assert report["en"]["held_out"]["labels"] == 91
    assert report["en"]["held_out"]["accuracy"] > 0.95
    assert report["en"]["documents"]["carried"] == dict.fromkeys(names, 30)
    assert sum(report["en"]["documents"]["classified"].values()) == 30
    assert work.counts["unlabelled"] == {"en": 30}


def test_the_report_is_shown(run, capsys):
    rng = random.Random(6)
    rows = [row(n, make_text(rng, name), name if n < 30 else None) for n, name in enumerate(list(WORDS) * 12)]
    show_report(run(rows)[2])
    shown = capsys.readouterr().out
    assert all(name in shown for name in WORDS)


def test_unsure_documents_go_to_the_last_topic(run):
    rng = random.Random(2)
    rows = [row(n, make_text(rng, name), name) for n, name in enumerate(["Law", "Health"] * 40)]
    rows += [row(100, "court judge statute appeal contract"), row(101, "zzz qqq")]
    _, labelled, report = run(rows, min_confidence=0.9)
    assert [r["topic"] for r in labelled[-2:]] == ["Law", "Others"]
    assert report["en"]["documents"]["unsure"] == {"Others": 1}
    assert labelled[-1]["topic_confidence"] < 0.9


def test_held_out_documents_are_not_learned_from(run):
    rows = [row(1, "court judge", "Law"), row(2, "fever dose", "Health", split="valid"), row(3, "fever dose clinic")]
    _, labelled, report = run(rows)
    assert report["en"]["labels"] == {"Law": 1}
    assert labelled[2]["topic"] == "Law"


def test_labelled_files_teach(run, tmp_path):
    rng = random.Random(3)
    lines = [{"body": make_text(rng, name), "label": name} for name in list(WORDS) * 20]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    entry = Input(path=str(path), fields={"text": "body", "topic": "label"}, constants={"lang": "en"})
    _, labelled, _ = run([row(n, make_text(rng, name)) for n, name in enumerate(WORDS)], labelled=[entry])
    assert [r["topic"] for r in labelled] == list(WORDS)


def test_what_is_missing_is_explained(run, tmp_path):
    with pytest.raises(UserError, match="no label to learn from"):
        run([row(1, "text")])
    with pytest.raises(UserError, match="no label to learn from"):  # of the default list: none is needed in a recipe
        run([row(1, "texte", lang="fr")])
    with pytest.raises(UserError, match=r"a\.jsonl:1: 'Cooking' is no topic .* Law, Health, Others"):
        run([row(1, "text", "Cooking")])
    assert run([row(1, "text", "Cooking", source="book")])[1][0]["topic"] is None
    path = tmp_path / "labelled.jsonl"
    for line, message in [
        ('{"text": "x"}', "no topic"),
        ("broken", "not json"),
        ('{"text": "x", "topic": "Y"}', "'Y' is no"),
    ]:
        path.write_text('{"text": "x", "topic": "Law"}\n' + line, encoding="utf-8")
        with pytest.raises(UserError, match=message) as error:
            run([row(1, "text")], labelled=[Input(path=str(path), constants={"lang": "en"})])
        assert error.value.where == f"{path}:2"
    with pytest.raises(UserError, match="no report"):
        read_report(tmp_path / "nowhere")


def test_a_saved_classifier_answers_the_same(tmp_path):
    rng = random.Random(4)
    names = [*WORDS, "Unused"]
    labels = list(WORDS) * 30
    classifier = LinearClassifier.fit([make_text(rng, name) for name in labels], labels, names, seed=0)
    classifier.scale(0.5)
    classifier.save(tmp_path)
    texts = [make_text(rng, name) for name in labels] + ["", "法律 text", "x" * 20_000]
    before, after = classifier.probabilities(texts), LinearClassifier.load(tmp_path).probabilities(texts)
    assert np.allclose(before, after, atol=1e-5)
    assert np.allclose(before.sum(axis=1), 1)
    assert (before[:, 3] == 0).all()
    one = [classifier.probabilities([text])[0] for text in texts]
    assert np.allclose(before, one)


def test_figures_equal_those_of_sklearn():
    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(300, 4)), rng.integers(0, 4, 300)
    scores[np.arange(300), gold] += 1
    quality = measure(scores, gold, ["a", "b", "c", "d"])
    assert quality["macro_f1"] == pytest.approx(f1_score(gold, scores.argmax(1), average="macro"))
    assert quality["accuracy"] == pytest.approx((scores.argmax(1) == gold).mean())
    assert np.array(quality["confusion"]).sum() == 300
    assert sum(entry["documents"] for entry in quality["calibration"]) == 300
    overconfident = measure(scores * 10, gold, ["a", "b", "c", "d"])
    assert overconfident["calibration_error"] > quality["calibration_error"]
    assert 8 < choose_temperature(scores * 4, gold) / choose_temperature(scores / 3, gold) < 16


def test_each_label_is_held_out_once():
    rng = random.Random(5)
    labels = list(WORDS) * 20
    known = Labelled([make_text(rng, name) for name in labels], labels)
    seen = []

    def fit(texts, of_them):
        seen.append(set(texts))
        return LinearClassifier.fit(texts, of_them, list(WORDS), seed=0)

    scores, gold = hold_out(known.texts, known.labels, list(WORDS), fit)
    assert len(scores) == len(gold) == 60
    assert sum(60 - len(texts) for texts in seen) == 60


def test_the_map_covers_all_subjects_and_all_topics():
    assert (len(MMLU), len(CMMLU)) == (57, 67)
    assert set(MMLU.values()) == set(ENGLISH_TOPICS)
    assert set(CMMLU.values()) == set(CHINESE_TOPICS)


def test_terms_teach_what_no_label_shows():
    labels = ["Law and Policy", "Medicine and Health"] * 20
    texts = [f"{'court' if label.startswith('Law') else 'fever'} number {n}" for n, label in enumerate(labels)]
    for topics_of_lang, text, topic in [
        (ENGLISH_TOPICS, "Stars and galaxies were seen with a telescope near a black hole.", "Mathematics and Physics"),
        (ENGLISH_TOPICS, "The plaintiff sued for breach of contract and claimed damages.", "Law and Policy"),
        (CHINESE_TOPICS, "水稻和小麦的施肥与灌溉提高了产量，病虫害减少。", "Biology and Chemistry"),
        (CHINESE_TOPICS, "皇帝派遣使节，王朝与匈奴议和，都城迁往洛阳。", "History and Geography"),
    ]:
        fitted, report = topics.fit_classifier(Labelled(texts, labels), topics_of_lang, 0, Topics())
        assert topics_of_lang[fitted.probabilities([text]).argmax()] == topic
        assert report["held_out"]["accuracy"] == 1
        without, _ = topics.fit_classifier(Labelled(texts, labels), topics_of_lang, 0, Topics(glossary=0))
        assert set(np.flatnonzero(without.probabilities([text])[0])) <= {
            topics_of_lang.index(label) for label in labels
        }


def test_terms_are_used_where_they_cover_the_list():
    for topics_of_lang in (ENGLISH_TOPICS, CHINESE_TOPICS):
        lines = read_glossary(topics_of_lang)
        assert {topic for _, topic in lines} == set(topics_of_lang)
        assert len({line for line, _ in lines}) == len(lines)
    assert read_glossary(["Law and Policy", "Medicine and Health"])
    assert read_glossary(["Law and Policy", "Cooking"]) == []
