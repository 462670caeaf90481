"""Quality grades: asked of a language model, learned, applied, and used as filter, topic and order."""

import json
import random
import re

import numpy as np
import pytest
from pydantic import ValidationError
from tests.documents.test_label import LISTS, row
from tests.tokens.stores import build_store, document

from reprise.documents.label import stage as labels
from reprise.documents.label.grades import fit_grades
from reprise.documents.label.llm_labels import GRADED, GRADES, load_prompt, parse_grade
from reprise.documents.label.report import GRADE_REPORT, show_grades
from reprise.documents.label.stage import make_fit
from reprise.documents.label.training_set import Labelled
from reprise.documents.rejects import read_rejects
from reprise.documents.table import DOCUMENTS, DROPPED, read_table, write_part
from reprise.errors import UserError
from reprise.generators.generator import Answer, Failure
from reprise.mixture.curriculum import DocumentOrder
from reprise.recipe.documents import Quality, Topics
from reprise.recipe.loading import check
from reprise.recipe.mixture import Curriculum
from reprise.recipe.model import Model
from reprise.recipe.recipe import Recipe
from reprise.report.corpus import _grades
from reprise.tokens.rows import DocumentSet
from reprise.workspace import Workspace

GOOD = ["theorem", "evidence", "chapter", "method", "history", "structure", "argument", "theory"]
BAD = ["click", "cookie", "login", "subscribe", "discount", "menu", "cart", "accept"]
ARTICLE = re.compile(r"-{10}\n(.*)\n-{10}", re.DOTALL)


def page(rng, grade):
    """Forty words, of which so many fifths are of a good page."""
    words = [rng.choice(GOOD if rng.random() < grade / 5 else BAD) for _ in range(40)]
    return " ".join(words)


def judge(prompt, seed):
    """The share of good words; nonsense for an article with `riddle`."""
    words = ARTICLE.search(prompt)[1].split()
    if "riddle" in words:
        return "It depends."
    return f"Grade: {round(5 * sum(word in GOOD for word in words) / len(words))}/5"


@pytest.fixture
def run(make_work, tmp_path, server):
    server.answer = judge

    def run(rows, *, split=(), topics=None, llm=(), **quality):
        write_part(tmp_path / "before" / DOCUMENTS / "part-00000.parquet", rows)
        work = make_work("label", decontaminate=tmp_path / "before")
        if llm is not None:
            generator = {"kind": "openai", "base_url": server.url, "model": "m", "batch_size": 4, "input_price": 1.0}
            quality["llm"] = {"generator": generator, **dict(llm)}
        labels.run(
            work,
            topics=Topics.model_validate(topics or {"lists": LISTS}),
            split_sources=list(split),
            seed=1,
            engine="native",
            model=Model(path="none"),
            quality=Quality.model_validate(quality),
        )
        table = [row for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]
        return work, table, json.loads((work.output / GRADE_REPORT).read_text())

    return run


def graded_rows(count=300, **more):
    rng = random.Random(1)
    return [row(n, f"{page(rng, n % 6)} {n}", **more) for n in range(count)]


def test_a_sample_is_graded_and_the_rest_learned_and_filtered(run, server, tmp_path, capsys):
    rows = [*graded_rows(), row(900, "riddle"), row(901, "x", source="book"), row(902, "click cookie", split="valid")]
    work, table, report = run(rows, llm={"sample_per_source": 200}, min_grade=2.5)
    asked = [json.loads(line) for line in (work.output / GRADED).read_text().splitlines()]
    assert len(asked) == 200 == sum(server.answered.values())
    true = {r["text"]: judge(f"{'-' * 10}\n{r['text']}\n{'-' * 10}", 0) for r in rows[:300]}
    dropped = [r for batch in read_table(work.output / DROPPED) for r in batch.to_pylist()]
    assert len(table) + len(dropped) == len(rows)
    assert {r["reason"] for r in dropped} == {"low_grade"} and "902" in {r["id"] for r in dropped}
    assert all(r["grade"] >= 2.5 for r in table if r["source"] == "web")
    assert [r["grade"] for r in table if r["source"] == "book"] == [None]
    wrong = [r for r in table if r["text"] in true and int(true[r["text"]][7]) < 2]
    assert not wrong
    figures = report["en"]
    assert figures["asked"]["documents"] == 200 and figures["asked"]["unusable"] in ({}, {"no_grade": 1})
    assert sum(sum(counts.values()) for counts in figures["documents"].values()) == len(rows) - 1
    measured = figures["figures"]
    assert measured["mean_error"] < 0.6 * measured["error_of_mean"]
    assert measured["rank_correlation"] > 0.8 and measured["precision"] > 0.8 and measured["recall"] > 0.8
    assert work.counts["asked_grades"]["prompt_tokens"] > 0
    stored = list(read_rejects(tmp_path / "workspace", "label"))
    assert len(stored) == len(dropped) and "least 2.5" in stored[0]["detail"]
    show_grades(work.output)
    assert "held-out documents: mean error" in capsys.readouterr().out
    (shown,) = _grades(Workspace(tmp_path / "workspace"))
    assert shown["language"] == "en" and shown["figures"]["calibration"]


def test_grades_become_topics_and_other_sources_keep_theirs(run):
    rows = [*graded_rows(120, topic="Law"), *[row(500 + n, f"court judge {n}", "Law", source="news") for n in range(3)]]
    _, table, _ = run(rows, split=("web", "news"), as_topic=True)
    web = [r for r in table if r["source"] == "web"]
    assert {r["topic"] for r in web} == {f"Grade {round(r['grade'])}" for r in web} >= {"Grade 0", "Grade 5"}
    assert {r["topic"] for r in table if r["source"] == "news"} == {"Law"}


def test_grades_of_a_file_teach_in_any_language(run, tmp_path):
    rng = random.Random(4)
    path = tmp_path / "grades.jsonl"
    lines = [{"text": f"{page(rng, n % 6)} {n}", "grade": str(n % 6), "lang": "tur_Latn"} for n in range(120)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    given = {"llm": None, "labelled": [{"path": str(path), "fields": {"topic": "grade"}}]}
    _, table, report = run(graded_rows(24, lang="tr"), **given)
    assert report["tr"]["figures"]["labels"] == dict.fromkeys(GRADES, 20)
    good = [r["grade"] for n, r in enumerate(table) if n % 6 >= 4]
    bad = [r["grade"] for n, r in enumerate(table) if n % 6 <= 1]
    assert min(good) > max(bad)
    with pytest.raises(UserError, match="'en' need a grade"):
        run(graded_rows(3), **given)
    path.write_text('{"text": "x", "grade": "7", "lang": "tr"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="'7' is no"):
        run(graded_rows(3, lang="tr"), **given)


def test_what_an_answer_must_be():
    for text, grade in [
        ("4", "4"), ("**3**", "3"), ("Grade: 5/5", "5"), ("2 / 5.", "2"), ("评分：0", "0"), (" 1\n", "1"),
    ]:  # fmt: skip
        assert parse_grade(Answer(text, "stop", 1, 1)) == (grade, ""), text
    for text in ("6", "45", "3 or 4", "It is a 4", "", "Grade 3: good", "-", "4.5"):
        assert parse_grade(Answer(text, "stop", 1, 1)) == (None, "no_grade"), text
    assert parse_grade(Answer("The", "length", 1, 1)) == (None, "cut_off")
    assert parse_grade(Failure("x")) == (None, "failed")


def test_prompts_of_the_recipe_go_first():
    own = {"version": 2, "messages": [{"role": "user", "text": "Not ver: {text}"}]}
    llm = {"generator": {"kind": "openai", "base_url": "http://127.0.0.1:1", "model": "m"}}
    quality = Quality.model_validate({"llm": llm, "prompts": {"tur_Latn": {"grade": own}}})
    assert [load_prompt("grade", lang, quality).name for lang in ("tr", "zh", "sw")] == [
        "grade.tr@2", "grade.zh@1", "grade.en@1",
    ]  # fmt: skip
    del own["messages"][0]["text"]
    own["messages"][0]["text"] = "no place"
    with pytest.raises(UserError, match=r"no \{text\}") as error:
        load_prompt("grade", "tr", Quality.model_validate({"llm": llm, "prompts": {"tr": {"grade": own}}}))
    assert error.value.where == "documents.quality.prompts.tr.grade"


def test_a_classifier_that_learns_nothing_is_seen_in_its_figures():
    rng = random.Random(2)
    texts, grades = [page(rng, 3) + f" {n}" for n in range(200)], [str(rng.randrange(6)) for _ in range(200)]
    fit = make_fit(GRADES, 0, Topics(glossary=0))
    _, figures = fit_grades(Labelled(texts, grades), fit, kind="linear", min_grade=3, once=False)
    assert abs(figures["rank_correlation"]) < 0.25
    assert figures["mean_error"] > 0.85 * figures["error_of_mean"]
    assert figures["held_out"] == 200 == sum(entry["documents"] for entry in figures["calibration"])
    one, figures = fit_grades(Labelled(["a b", "c d"], ["2", "2"]), fit, kind="linear", min_grade=0, once=False)
    assert figures["rank_correlation"] is None
    assert labels.expected_grades(one, ["x"]).tolist() == [2.0]


def test_documents_come_in_the_order_of_their_grades(tmp_path):
    grades = [3.0, None, 0.5, 4.5, 2.0, 4.0]
    documents = [document(f"d{n}", [n + 2] * 5, grade=grade, ppl=9.0 - n) for n, grade in enumerate(grades)]
    store = build_store(tmp_path, documents, ())
    (bucket,) = store.train.values()
    assert np.array_equal(bucket.grade, np.array(grades, np.float32), equal_nan=True)
    for order, expected in [("ascending", [2, 4, 0, 5, 3, 1]), ("descending", [3, 5, 0, 4, 2, 1])]:
        curriculum = Curriculum(order=order, by="grade")
        assert not curriculum.needs_perplexity
        assert DocumentOrder(DocumentSet([bucket]), curriculum, 0, "x").of_epoch(0).tolist() == expected
    cut = DocumentOrder(DocumentSet([bucket]), Curriculum(by="grade", drop_below=0.4), 0, "x")
    assert sorted(cut.kept.tolist()) == [0, 1, 3, 5] and cut.num_cut == 2
    bare = build_store(tmp_path / "bare", [document("a", [2, 3])], ())
    with pytest.raises(UserError, match="no document of x has a grade"):
        DocumentOrder(DocumentSet(list(bare.train.values())), Curriculum(by="grade", order="ascending"), 0, "x")


def test_the_recipe_refuses_what_cannot_work():
    with pytest.raises(ValidationError, match="learned from `llm` or from files"):
        Quality()
    stage = {
        "name": "one", "tokens": 1000, "curriculum": {"tr": {"order": "ascending", "by": "grade"}},
        "mixture": {"tr": {"share": 1.0, "sources": {"web": 0.5, "book": 0.5}}},
    }  # fmt: skip
    recipe = {"name": "x", "workspace": "x", "model": {"path": "x"}, "stages": [stage]}
    with pytest.raises(UserError, match="orders tr/web by grade"):
        check(Recipe, recipe, "recipe.yaml")
    quality = {"sources": ["web", "book"], "labelled": [{"path": "x.jsonl"}]}
    loaded = check(Recipe, {**recipe, "documents": {"quality": quality}}, "recipe.yaml")
    assert not loaded.curriculum_selects("tr", "web")  # grades cost no forward pass
