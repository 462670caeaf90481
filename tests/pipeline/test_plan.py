import json
import math
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.conftest import make_model, make_tokenizer
from tests.report.conftest import make_recipe, make_run

from reprise.model.likelihood import cut_windows
from reprise.model.machine import count_cores, cpu_flops_per_s
from reprise.plan.build import make_plan
from reprise.plan.measuring import count_models, tokens_in_windows
from reprise.plan.preparation import load_rates
from reprise.plan.show import show_plan, summary_line, without_topics
from reprise.recipe import read_preset
from reprise.recipe.hardware import Hardware
from reprise.recipe.loading import parse_recipe
from reprise.schemas import FORMATS
from reprise.tokens.store import TokenStore

(PLAN,) = (one for one in FORMATS if one.name == "plan")

# Billions of tokens over both stages: the table of the method.
PAPER = {
    ("zh", "web"): 13.475,
    ("zh", "encyclopedia"): 0.9625,
    ("zh", "book"): 3.85,
    ("zh", "qa_forum"): 0.9625,
    ("en", "web"): 31.70,
    ("en", "encyclopedia"): 3.9625,
    ("en", "book"): 11.8875,
    ("en", "qa_forum"): 3.9625,
    ("en", "paper"): 7.925,
    ("en", "math"): 7.925,
    ("en", "code"): 11.8875,
    ("synthetic", "synthetic"): 1.5,
}


@pytest.fixture
def paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return parse_recipe(read_preset("llama-3-syne"))


def test_the_papers_numbers_come_out_exactly(paper):
    plan = make_plan(paper)
    totals = defaultdict(int)
    for bucket in plan["buckets"]:
        assert type(bucket["tokens"]) is int
        assert bucket["source"] == "web" or bucket["topic"] is None
        totals[bucket["entry"], bucket["source"]] += bucket["tokens"]
    assert totals == {key: round(billions * 1e9) for key, billions in PAPER.items()}
    of_stage = defaultdict(int)
    for bucket in plan["buckets"]:
        of_stage[bucket["stage"]] += bucket["tokens"]
    assert of_stage == {1: 92_500_000_000, 2: 7_500_000_000}
    assert plan["totals"]["tokens"] == 100_000_000_000


def test_the_cost_is_the_formula(paper):
    plan = make_plan(paper)
    flops = 6 * 8_030_261_248 * 100e9
    assert plan["totals"]["training_flops"] == pytest.approx(flops)
    assert plan["totals"]["gpu_hours"] == pytest.approx(flops / (989.4e12 * 0.4) / 3600)
    steps = [math.ceil(tokens / (512 * 8192)) for tokens in (92_500_000_000, 7_500_000_000)]
    assert [stage["steps"] for stage in plan["stages"]] == steps


def test_scoring_costs_a_forward_pass_over_what_is_ordered(paper, recipe_data):
    scoring = make_plan(paper)["scoring"]
    ordered = sum(PAPER[key] for key in PAPER if key[0] == "zh") * 1e9
    assert (scoring["tokens"], scoring["measured"]) == (ordered, False)
    assert scoring["flops"] == pytest.approx(2 * 8_030_261_248 * ordered)
    assert scoring["gpu_hours"] == pytest.approx(scoring["flops"] / (989.4e12 * 0.4) / 3600)
    for stage in recipe_data["stages"]:
        del stage["curriculum"]
    assert make_plan(parse_recipe(json.dumps(recipe_data)))["scoring"] is None


def test_synthetic_tokens_that_are_missing_are_counted(paper):
    need = make_plan(paper)["synthesis"]
    assert (need["tokens_needed"], need["tokens_there"]) == (1_500_000_000, 0)
    assert need["requests"] > 0
    assert need["hours"] is None  # no run has shown the speed


def test_flops_of_a_small_model_by_hand(recipe_data):
    plan = make_plan(parse_recipe(json.dumps(recipe_data)))
    embedding = 600 * 32  # tied: it multiplies as the head
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    parameters = embedding + 2 * layer + 32
    assert plan["assumptions"]["flops_per_token"] == 6 * parameters + 12 * 2 * 4 * 8 * 128


def test_plan_prints_json_and_needs_no_data(tmp_path):
    def reprise(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "reprise", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    reprise("init", "r.yaml", "--preset", "llama-3-syne")
    plan = json.loads(reprise("plan", "r.yaml", "--json"))
    PLAN.check(plan)
    assert [finding["severity"] for finding in plan["findings"]]
    assert sum(bucket["tokens"] for bucket in plan["buckets"]) == 100_000_000_000
    smaller = json.loads(reprise("plan", "r.yaml", "stages.1.tokens=1B", "--json"))
    assert smaller["totals"]["tokens"] == 93_500_000_000
    assert "GPU-hours" in reprise("plan", "r.yaml")


def test_the_first_line_answers_what_people_ask(paper):
    priced = paper.hardware.model_copy(update={"gpus": 8, "price_per_hour": 2.0})
    summary = make_plan(paper.model_copy(update={"hardware": priced}))["summary"]
    hours = 6 * 8_030_261_248 * 100e9 / (989.4e12 * 0.4) / 3600 / 8
    assert summary["hours"] == pytest.approx(hours)
    assert summary["days"] == pytest.approx(hours / 24)
    assert summary["cost"] == pytest.approx(hours * 8 * 2.0)
    assert summary["tokens_per_s"] == pytest.approx(100e9 / hours / 3600)
    line = summary_line(summary)
    for part in (
        f"{summary['tokens_per_s']:,.0f} tokens/s at 40% of the peak (hardware.utilisation)",
        "100,000,000,000 tokens",
        f"{hours / 24:,.1f} days on 8 H100",
        "GB of disk",
        "cost ",
    ):
        assert part in line


def test_topics_add_up_to_their_source_and_sources_to_their_entry(paper):
    buckets = make_plan(paper)["buckets"]
    rows = without_topics(buckets)
    assert len(rows) < len(buckets) / 2
    for row in rows:
        parts = [one["tokens"] for one in buckets if (one["stage"], one["entry"]) == (row["stage"], row["entry"])
                 and row["source"] in (None, one["source"])]  # fmt: skip
        assert row["tokens"] == sum(parts)
    assert sum(row["tokens"] for row in rows if row["source"] is None) + sum(
        row["tokens"] for row in rows if row["entry"] == "synthetic"
    ) == sum(bucket["tokens"] for bucket in buckets)


def test_topics_are_listed_in_full_for_languages_that_are_split_by_topic(paper, capsys):
    plan = make_plan(paper)
    split = {
        entry.language
        for stage in paper.stages
        for entry in stage.mixture.values()
        if set(stage.topics.sources) & set(entry.sources)
    }
    assert split and plan["topics"] == {language: paper.documents.topics.list_of(language) for language in split}
    show_plan(plan, topics=True)
    printed = " ".join(capsys.readouterr().out.split())
    for language in split:
        assert all(topic in printed for topic in paper.documents.topics.list_of(language))


def test_plan_of_tokenized_text_has_the_same_format_and_knows_the_epochs(tmp_path):
    recipe = make_recipe(tmp_path / "run")
    make_run(tmp_path / "run", recipe, until="tokenize")
    plan = make_plan(recipe)
    PLAN.check(plan)
    for bucket in plan["buckets"]:
        assert bucket["available_tokens"] > 0
        assert bucket["epochs"] > 0
    for row in without_topics(plan["buckets"]):
        assert row["epochs"] == pytest.approx(row["tokens"] / row["available_tokens"])


def test_measuring_held_out_text_costs_what_its_windows_hold(tmp_path):
    recipe = make_recipe(tmp_path / "run")
    make_run(tmp_path / "run", recipe, until="tokenize")
    measuring = make_plan(recipe)["measuring"]
    settings, store = recipe.evaluation, TokenStore.open(tmp_path / "run" / "tokenize")
    lengths = [int(length) for bucket in store.valid.values() for length in np.diff(bucket.offsets)]
    plain = sum(
        end - begin for length in lengths for begin, end, _ in cut_windows(length, settings.max_length, settings.stride)
    )
    assert measuring["evaluation_tokens"] == pytest.approx(measuring["models"] * plain, rel=0.01)
    short = settings.model_copy(update={"document_bytes": 64})
    cheaper = make_plan(recipe.model_copy(update={"evaluation": short}))["measuring"]
    assert 0 < cheaper["evaluation_tokens"] < measuring["evaluation_tokens"]


def test_the_evaluation_measures_base_ends_of_stages_kept_checkpoints_and_merges(paper):
    stages = len(paper.stages)
    merges = paper.evaluation.model_copy(update={"merge_factors": [0.25, 0.5]})
    checkpoints = paper.training.checkpoints.model_copy(update={"keep_every_tokens": paper.stages[0].tokens // 2})
    training = paper.training.model_copy(update={"checkpoints": checkpoints})
    kept = sum(stage.tokens // checkpoints.keep_every_tokens for stage in paper.stages)
    assert kept >= 2
    recipe = paper.model_copy(update={"evaluation": merges, "training": training})
    assert count_models(recipe) == 1 + stages + kept + 2


@given(st.lists(st.integers(2, 500), min_size=1, max_size=20), st.integers(16, 100), st.integers(1, 15))
def test_windows_of_long_documents_overlap(lengths, max_length, stride):
    tokens = tokens_in_windows(np.array(lengths, dtype=np.float64), max_length, stride)
    for length, counted in zip(lengths, tokens, strict=True):
        windows = list(cut_windows(length, max_length, stride))
        plain = sum(end - begin for begin, end, _ in windows)
        assert counted == plain


def test_a_share_of_the_peak_that_nobody_gave_is_a_published_one(paper):
    plan = make_plan(paper.model_copy(update={"hardware": Hardware(parameters=8_030_261_248)}))
    summary = plan["summary"]
    if not torch.cuda.is_available():
        hours = plan["totals"]["training_flops"] / cpu_flops_per_s() / 3600
        assert summary["cpu_hours"] == pytest.approx(hours)
        assert f" days on the {summary['cpu_cores']} CPU cores of this machine" in summary_line(summary)
    assert make_plan(paper)["summary"]["cpu_hours"] is None
    assert summary["utilisation"] == 0.36
    assert "at 36% of the peak (torchtitan" in summary_line(summary)


def test_preparing_the_text_is_planned_from_measured_rates(paper):
    assert make_plan(paper)["preparation"] is None  # the preset's files are not here
    many = paper.model_copy(update={"hardware": Hardware(text_gb=400, cpu_cores=512)})
    plan = make_plan(many)
    cost = plan["preparation"]
    rates = load_rates()["stages"]
    assert [stage["stage"] for stage in cost["stages"]] == list(rates)
    for stage in cost["stages"]:
        assert stage["core_hours"] == pytest.approx(rates[stage["stage"]]["core_seconds_per_gb"] * 400 / 3600)
        assert stage["hours"] == pytest.approx(stage["core_hours"] / 512)
    assert cost["hours"] == pytest.approx(sum(stage["hours"] for stage in cost["stages"]))
    # The text is on the disk as it is trained on, too.
    assert plan["summary"]["disk_gb"] > make_plan(paper)["summary"]["disk_gb"] + 400


def test_the_size_of_the_text_is_that_of_the_files(tmp_path, recipe_data):
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "words " * 50_000}) + "\n")
    recipe_data["documents"] = {"inputs": [{"path": str(tmp_path / "text.jsonl")}]}
    cost = make_plan(parse_recipe(json.dumps(recipe_data)))["preparation"]
    assert cost["text_gb"] == pytest.approx(300e-6, rel=0.01)
    assert cost["cpu_cores"] == count_cores()


def test_text_whose_size_is_not_known_is_told(recipe_data):
    recipe_data["documents"] = {"inputs": [{"path": "s3://corpus/zh/*.jsonl.zst"}]}
    recipe = parse_recipe(json.dumps(recipe_data))
    plan = make_plan(recipe)
    assert plan["preparation"] is None
    assert [line for line in plan["warnings"] if "s3://corpus/zh/*.jsonl.zst is not known" in line]
    told = make_plan(recipe.model_copy(update={"hardware": Hardware(text_gb=1)}))
    assert told["preparation"]["text_gb"] == 1
    assert not [line for line in told["warnings"] if "is not known, so" in line]


def test_the_verdicts_within_reach_include_the_instruction_probe(paper, tmp_path):
    """With its own tolerance and those of its questions that are asked; not of a model without a chat template."""
    settings = ["evaluation.benchmarks=[assistant]", "evaluation.limit=100"]
    probe = make_plan(parse_recipe(read_preset("llama-3-syne"), settings))["reach"]
    assert [(reach["path"], reach["items"], reach["tolerance"]) for reach in probe] == [
        (f"instructions-{language}{metric}", 100, 0.05)
        for language in ("en", "zh")
        for metric in ("", "/no_repetition")
    ]
    folder = make_model(tmp_path / "plain", make_tokenizer())
    plain = parse_recipe(read_preset("llama-3-syne"), [*settings, f"model.path={folder}"])
    assert make_plan(plain)["reach"] == []
