import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reprise.documents.drop_limit import check_drop_share, dropped_share
from reprise.documents.rejects import read_rejects
from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.recipe import load_recipe


def flow(documents_in, *, language="ko", source="web", split="train", **dropped):
    return {"language": language, "source": source, "split": split, "documents_in": documents_in, "dropped": dropped}


def check(make_work, flows, limit=0.3, needed=()):
    work = make_work("clean")
    work.counts["buckets"] = flows
    check_drop_share("clean", work, limit, needed)


def test_the_message_names_the_rule_its_cost_and_the_setting(make_work):
    check(make_work, [flow(104, max_short_lines=20), flow(104, split="valid")])
    lost = flow(104, max_short_lines=40, min_stop_words=17)
    with pytest.raises(UserError) as error:
        check(make_work, [flow(1000, language="en"), lost, flow(50, split="valid", max_short_lines=40)])
    text = str(error.value)
    assert "clean drops 57 of 104 documents of ko/web to train on (55%: max_short_lines 40, min_stop_words 17)" in text
    assert "40 of 50 documents of ko/web held out" in text
    assert "documents.clean.heuristics.ko.max_short_lines" in text
    assert "reprise rejects RECIPE --stage clean --reason max_short_lines" in text
    assert "documents.max_drop_share=0.8" in text
    check(make_work, [lost], limit=1.0)


def test_small_counts_stop_only_where_they_say_something(make_work):
    for documents_in, dropped, stops in ((1, 1, False), (2, 1, False), (3, 2, False), (3, 3, True), (20, 7, False),
                                         (20, 12, True), (1000, 310, False), (1000, 330, True)):  # fmt: skip
        try:
            check(make_work, [flow(documents_in, too_short=dropped)])
            assert not stops
        except UserError:
            assert stops


@given(st.integers(1, 10_000), st.data())
def test_the_bound_is_a_share_below_the_observed_one(documents_in, data):
    dropped = data.draw(st.integers(0, documents_in))
    bound = dropped_share(flow(documents_in, rule=dropped))
    assert 0.0 <= bound <= dropped / documents_in
    assert dropped / documents_in - bound < 2 / documents_in**0.5


def test_the_last_text_of_a_source_is_missed_by_the_stage_that_drops_it(make_work):
    flows = [flow(2, too_short=2), flow(5, language="en")]
    check(make_work, flows, limit=1.0)
    with pytest.raises(UserError, match="leaves no training document of ko/web: it drops 2 of 2"):
        check(make_work, flows, limit=1.0, needed={("ko", "web")})


def test_a_run_stops_and_shows_what_it_dropped(tmp_path):
    texts = [f"word {number} " * (30 if number % 2 else 2) for number in range(40)]
    lines = [json.dumps({"text": text, "lang": "en", "source": "book"}) + "\n" for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    mixture = {"en": {"share": 1.0, "sources": {"book": 1.0}}}
    stage = {"name": "one", "tokens": 1000, "schedule": {"peak_lr": 1e-3}, "mixture": mixture}
    recipe = {"name": "x", "workspace": str(tmp_path / "run"), "model": {"path": "none"}, "stages": [stage],
              "documents": {"inputs": [{"path": str(tmp_path / "a.jsonl")}], "valid_share": 0.0}}  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="clean drops 20 of 40 documents of en/book"):
        run_stages(load_recipe(tmp_path / "r.yaml", []), until=["clean"])
    assert len(list(read_rejects(tmp_path / "run", "clean", "too_short"))) == 20
    assert run_stages(load_recipe(tmp_path / "r.yaml", ["documents.max_drop_share=0.5"]), until=["clean"]) == 1


@pytest.mark.parametrize(
    ("stage", "reason", "setting"),
    [("deduplicate", "exact_duplicate", "documents.deduplicate.enabled"),
     ("decontaminate", "benchmark_question", "documents.decontaminate.min_overlap")],
)  # fmt: skip
def test_a_later_stage_stops_too_and_names_its_setting(tmp_path, stage, reason, setting):
    question = "Which river runs past the old mill at the far end of the quiet village in the hills?"
    bad = (
        "The same words again and again, in every copy of this one long page of text. " * 2
        if stage == "deduplicate"
        else question
    )
    texts = [
        bad if number % 2 else f"Page {number}. " + " ".join(f"word{number}x{k}" for k in range(30))
        for number in range(40)
    ]
    if stage == "decontaminate":
        texts = [
            f"{text} Also {number} more: {' '.join(f'{number}y{k}' for k in range(9))}"
            for number, text in enumerate(texts)
        ]
    lines = [json.dumps({"text": text, "lang": "en", "source": "book"}) + "\n" for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"id": "q", "question": question, "choices": ["a", "b"], "answer": 0}) + "\n"
    )
    mixture = {"en": {"share": 1.0, "sources": {"book": 1.0}}}
    recipe = {"name": "x", "workspace": str(tmp_path / "run"), "model": {"path": "none"},
              "stages": [{"name": "one", "tokens": 1000, "mixture": mixture}],
              "documents": {"inputs": [{"path": str(tmp_path / "a.jsonl")}], "valid_share": 0.0,
                            "decontaminate": {"extra_benchmarks": [str(tmp_path / "q.jsonl")]}}}  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=rf"the stage {stage} drops \d+ of 40 documents of en/book") as stopped:
        run_stages(load_recipe(tmp_path / "r.yaml", []), until=[stage], say=lambda line: None)
    assert setting in str(stopped.value) and f"--stage {stage} --reason {reason}" in str(stopped.value)
    dropped = len(list(read_rejects(tmp_path / "run", stage, reason)))
    assert dropped in (19, 20)
    allowed = load_recipe(tmp_path / "r.yaml", ["documents.max_drop_share=0.5"])
    assert run_stages(allowed, until=[stage], say=lambda line: None) == 1


def test_stages_that_drop_nothing_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="did you mean clean") as error:
        read_rejects(tmp_path, "claen")
    assert "synthesize" in error.value.remedy
    assert list(read_rejects(tmp_path, "synthesize")) == []
