"""A study runs its grid once, pairs by seed, and says no more than its numbers do."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from reprise.errors import UserError
from reprise.evaluation.paired import detectable_difference, mean_interval, smallest_error, student_quantile
from reprise.evaluation.verdicts import holm_levels
from reprise.report.study_comparison import held_out_bits
from reprise.report.study_page import render_study
from reprise.schemas import FORMATS
from reprise.study import load_study, run_study, shipped_studies

RECIPE = """
name: tiny
workspace: runs/tiny
model: {path: somewhere}
stages:
  - name: one
    tokens: 1k
    mixture: {zh: {share: 1.0, sources: {web: 1.0}}}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    values = {
        "name": "orders <script>",
        "question": "Which order?",
        "recipe": str(tmp_path / "recipe.yaml"),
        "workspace": str(tmp_path / "study"),
        "baseline": "random",
        "variants": {
            "random": ["stages.0.curriculum={zh: {order: random}}"],
            "ascending": ["stages.0.curriculum={zh: {order: ascending}}"],
        },
        "seeds": [1, 2, 3],
        "measures": ["bits_per_byte/zh", "benchmark/cmmlu"],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    return load_study(tmp_path / "study.yaml")


def run(study, pipeline, **options):
    """The study with something in place of the pipeline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reprise.study.take_through", pipeline)
        patch.setattr("reprise.study.run_apart", lambda arguments, parallel: pipeline)
        return run_study(study, **options)


class Pipeline:
    """Stands for the pipeline: publishes a stage and an evaluation whose numbers follow from order and seed."""

    def __init__(self, gain):
        self.gain, self.ran, self.cached = gain, [], []

    def __call__(self, recipe, others):
        root = Path(recipe.workspace)
        order = recipe.stages[0].curriculum["zh"].order
        if (root / "evaluate").exists():
            return
        self.ran.append((order, recipe.seed))
        self.cached.append((root / "cache" / "evaluate" / "base").exists())
        assert Path(root) not in others
        for folder in ("cache/evaluate", "evaluate"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "cache" / "evaluate" / "base").touch()
        noise = random.Random(recipe.seed).random()
        value = 2.0 + noise - (self.gain * (1 + noise / 10) if order == "ascending" else 0.0)
        row = {"path": "zh", "language": "zh", "source": None, "topic": None, "num_bytes": 100}
        row |= {"before": 3.0, "after": value}
        benchmark = {"benchmark": "cmmlu", "after": 0.25 + (0.001 * recipe.seed if order == "ascending" else 0)}
        results = {"bits_per_byte": [row], "benchmarks": [benchmark], "groups": {"after": {}}}
        (root / "evaluate" / "results.json").write_text(json.dumps(results))


def test_grid_runs_once_baseline_first_with_the_answers_of_the_others(study):
    pipeline = Pipeline(0.1)
    result = run(study, pipeline)
    assert sorted(pipeline.ran) == [(order, seed) for order in ("ascending", "random") for seed in (1, 2, 3)]
    assert pipeline.ran[:3] == [("random", 1), ("random", 2), ("random", 3)]
    assert pipeline.cached == [False] + [True] * 5
    assert run(study, pipeline) == result and len(pipeline.ran) == 6


def test_killed_study_goes_on(study):
    pipeline = Pipeline(0.1)

    def dies(recipe, others):
        if len(pipeline.ran) == 4:
            raise KeyboardInterrupt
        pipeline(recipe, others)

    with pytest.raises(KeyboardInterrupt):
        run(study, dies)
    run(study, pipeline)
    assert len(pipeline.ran) == 6


def test_one_run_of_the_grid_alone(study):
    pipeline = Pipeline(0.1)
    assert run(study, pipeline, only="ascending-seed-2") is None
    assert pipeline.ran == [("ascending", 2)]
    with pytest.raises(UserError, match=r"(?s)no run .ascending-seed-9.*random-seed-1, "):
        run(study, pipeline, only="ascending-seed-9")


def test_runs_at_the_same_time_wait_for_the_baseline(study):
    at_work, most = [], []

    class Slow(Pipeline):
        def __call__(self, recipe, others):
            at_work.append(recipe.workspace)
            time.sleep(0.05)
            most.append(len(at_work))
            super().__call__(recipe, others)
            at_work.remove(recipe.workspace)

    pipeline = Slow(0.1)
    run(study.model_copy(update={"parallel": 2}), pipeline)
    assert most[0] == 1 and max(most) == 2
    assert pipeline.ran[0] == ("random", 1) and {order for order, _ in pipeline.ran[:3]} == {"random"}


def test_differences_are_paired_by_seed(study):
    comparison = run(study, Pipeline(0.1))["measures"]["bits_per_byte/zh"]
    base, mine = (comparison["variants"][name]["values"] for name in ("random", "ascending"))
    expected = [one / other - 1 for one, other in zip(mine, base, strict=True)]
    difference = comparison["differences"]["ascending"]
    assert difference["values"] == pytest.approx(expected)
    half = 4.302653 * np.std(expected, ddof=1) / np.sqrt(3)
    assert difference["ci"] == pytest.approx((np.mean(expected) - half, np.mean(expected) + half))
    assert not comparison["higher_is_better"]


def test_sentence_says_better_only_where_the_interval_does(study, tmp_path):
    clear = run(study, Pipeline(0.1))["measures"]
    assert ": better with this model" in clear["bits_per_byte/zh"]["sentences"][0]
    assert "contains 0" in clear["benchmark/cmmlu"]["sentences"][0]
    other = study.model_copy(update={"workspace": str(tmp_path / "worse")})
    assert ": worse with" in run(other, Pipeline(-0.1))["measures"]["bits_per_byte/zh"]["sentences"][0]
    one = study.model_copy(update={"workspace": str(tmp_path / "one"), "seeds": [1]})
    assert "shows nothing about chance" in run(one, Pipeline(0.1))["measures"]["bits_per_byte/zh"]["sentences"][0]


def test_a_seed_counts_once(study):
    with pytest.raises(ValueError, match="a seed is given twice"):
        type(study).model_validate(study.model_dump() | {"seeds": [1, 2, 1]})


def test_entries_of_one_language_are_measured_apart_and_together():
    def row(path, source, after, num_bytes):
        return {"path": path, "language": "en", "source": source, "before": 2.0, "after": after, "num_bytes": num_bytes}

    rows = [row("law", None, 1.0, 100), row("law/cases", "cases", 0.5, 60), row("general", None, 3.0, 300)]
    results = {"bits_per_byte": rows}
    assert held_out_bits(results, "law") == (2.0, 1.0) and held_out_bits(results, "law/cases") == (2.0, 0.5)
    assert held_out_bits(results, "en") == (2.0, 2.5)
    assert held_out_bits(results, "fr") is None


def test_many_comparisons_of_nothing_show_nothing():
    """20 studies of 10 comparisons with 5 seeds: alone, every second study would call something better or worse."""
    dice = np.random.default_rng(3)
    alone = together = 0
    for _ in range(200):
        errors = [smallest_error(list(dice.normal(0.0, 0.1, 5))) for _ in range(10)]
        alone += min(errors) <= 0.05
        together += any(error <= level for error, level in zip(errors, holm_levels(errors), strict=True))
    assert alone / 200 > 0.3 and together / 200 <= 0.09
    assert holm_levels([0.04, 0.001, 0.2]) == pytest.approx([0.025, 0.05 / 3, 0.025])
    assert smallest_error([0.1, 0.1]) == 0.0 and smallest_error([0.0, 0.0]) == smallest_error([0.1]) == 1.0


def test_what_is_clear_alone_and_not_among_many_is_said(study):
    measures = [f"benchmark/{name}" for name in "abcdefgh"]
    dice = np.random.default_rng(0)
    noise = {(name, seed): dice.normal(0, 0.01) for name in "bcdefgh" for seed in study.seeds}
    noise |= {("a", seed): value for seed, value in zip(study.seeds, (0.028, 0.032, 0.044), strict=True)}  # p = 0.019

    def pipeline(recipe, others):
        ascending = recipe.stages[0].curriculum["zh"].order == "ascending"
        rows = [{"benchmark": name, "after": 0.5 + ascending * noise[name, recipe.seed]} for name in "abcdefgh"]
        folder = Path(recipe.workspace, "evaluate")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(
            json.dumps({"bits_per_byte": [], "benchmarks": rows, "groups": {"after": {}}})
        )

    many = run(study.model_copy(update={"measures": measures}), pipeline)["measures"]["benchmark/a"]["sentences"][0]
    alone = run(study.model_copy(update={"measures": measures[:1]}), pipeline)["measures"]["benchmark/a"]["sentences"]
    assert "among 8 comparisons" in many and "not shown" in many
    assert ": better with this model" in alone[0]


def halved(study, gains, seeds=(1, 2, 3, 4), **halving):
    """The study with variants of these true gains, of which the worse half is stopped; and what ran."""
    names = ["random", *gains]
    ran = []

    def pipeline(recipe, others):
        name = Path(recipe.workspace).name.rpartition("-seed-")[0]
        folder = Path(recipe.workspace, "evaluate")
        if folder.exists():
            return
        ran.append((name, recipe.seed))
        folder.mkdir(parents=True)
        noise = random.Random(f"{name} {recipe.seed}").gauss(0.0, 0.001)
        row = {"path": "zh", "language": "zh", "source": None, "topic": None, "num_bytes": 100, "before": 3.0}
        row["after"] = 2.0 - gains.get(name, 0.0) + noise
        benchmark = {"benchmark": "cmmlu", "after": 0.25}
        results = {"bits_per_byte": [row], "benchmarks": [benchmark], "groups": {"after": {}}}
        (folder / "results.json").write_text(json.dumps(results))

    values = study.model_dump() | {
        "variants": {name: [f"name={name}"] for name in names},
        "seeds": list(seeds),
        "halving": {"measure": "bits_per_byte/zh", **halving},
    }
    return type(study).model_validate(values), pipeline, ran


GAINS = {"a": 0.02, "b": -0.02, "c": 0.04, "d": 0.01, "e": -0.04}


def test_halving_runs_the_best_with_every_seed_and_stops_the_others(study):
    study, pipeline, ran = halved(study, GAINS)
    result = run(study, pipeline)
    assert {name: stop["seeds"] for name, stop in result["stopped"].items()} == {"b": 1, "e": 1, "d": 2, "a": 3}
    assert [result["stopped"][name]["rank"] for name in ("d", "b", "e")] == [3, 4, 5]
    assert len(ran) == 6 + 4 + 3 + 2 and ran[0] == ("random", 1)
    comparison = result["measures"]["bits_per_byte/zh"]
    assert {name: len(one["values"]) for name, one in comparison["variants"].items()} == {
        "random": 4, "a": 3, "b": 1, "c": 4, "d": 2, "e": 1,
    }  # fmt: skip
    sentences = dict(zip(comparison["differences"], comparison["sentences"], strict=True))
    assert "stopped after 1 of 4 seeds, rank 5 of 5 by bits_per_byte/zh" in sentences["e"]
    assert "does not show that it is worse" in sentences["e"] and ": worse with" not in sentences["e"]
    assert "in one run after the choice by the first 3" in sentences["c"]
    page = render_study(result)
    assert page.count('<td class="num wide">stopped</td>') == 2 * 2 * (3 + 3 + 2 + 1)
    (study_format,) = (one for one in FORMATS if one.name == "study")
    study_format.check(result)


def test_the_best_is_judged_by_the_seeds_that_did_not_choose_it(study):
    study, pipeline, _ = halved(study, {"a": 0.04, "b": 0.0}, seeds=range(1, 6))
    comparison = run(study, pipeline)["measures"]["bits_per_byte/zh"]
    later = comparison["differences"]["a"]["values"][1:]
    sentence = comparison["sentences"][0]
    assert f"{100 * np.mean(later):+.2f} %" in sentence and "4 seeds after the choice by the first 1)" in sentence
    assert ": better with this model" in sentence


def test_a_killed_halving_stops_the_same_variants(study, tmp_path):
    study, pipeline, ran = halved(study, GAINS)
    whole = run(study, pipeline)
    for last in range(1, 15):
        again, pipeline, ran = halved(study.model_copy(update={"workspace": str(tmp_path / f"kill-{last}")}), GAINS)

        def dies(recipe, others, pipeline=pipeline, ran=ran, last=last):
            if len(ran) == last:
                raise KeyboardInterrupt
            pipeline(recipe, others)

        with pytest.raises(KeyboardInterrupt):
            run(again, dies)
        assert run(again, pipeline) == whole and len(ran) == 15


def test_halving_waits_for_the_seeds_it_is_told_and_names_a_measure(study):
    late, pipeline, ran = halved(study, GAINS, after=3)
    run(late, pipeline)
    assert len(ran) == 3 * 6 + 4
    with pytest.raises(ValueError, match=r"halving.measure 'bits_per_byte/fr' is not measured; choose one of"):
        halved(study, GAINS, measure="bits_per_byte/fr")


def test_page_stands_alone_and_escapes(study):
    result = run(study, Pipeline(0.1))
    page = render_study(result)
    assert "orders &lt;script&gt;" in page and "orders <script>" not in page
    assert 'src="http' not in page and "Content-Security-Policy" in page
    (study_format,) = (one for one in FORMATS if one.name == "study")
    study_format.check(result)


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706205), (2, 4.302653), (5, 2.570582), (30, 2.042272)])
def test_student_quantile_is_the_tabulated_one(degrees, expected):
    assert student_quantile(degrees) == pytest.approx(expected, abs=1e-5)


def test_a_difference_of_the_detectable_size_shows_in_four_of_five_studies():
    """Simulated with the true spread; 3 seeds."""
    dice, shown = np.random.default_rng(1), 0
    sizes = [detectable_difference(list(dice.normal(0.0, 0.1, 3))) for _ in range(600)]
    size = float(np.sqrt(np.mean(np.square(sizes))))  # with the true standard deviation in place of the estimates
    for _ in range(600):
        low, high = mean_interval(list(dice.normal(size, 0.1, 3)))[1]
        shown += not low <= 0 <= high
    assert 0.7 < shown / 600 < 0.9


def test_interval_covers_the_mean_of_three():
    dice = np.random.default_rng(0)
    intervals = [mean_interval(list(dice.normal(1.0, 0.5, 3)))[1] for _ in range(400)]
    assert 0.92 < np.mean([low <= 1.0 <= high for low, high in intervals]) < 0.98


def test_missing_measure_and_broken_study_are_the_users_to_mend(study, tmp_path):
    with pytest.raises(UserError, match="no measure 'bits_per_byte/fr'"):
        run(study.model_copy(update={"measures": ["bits_per_byte/fr"]}), Pipeline(0.1))
    (tmp_path / "bad.yaml").write_text("name: x\nvariants: {a: []}\n")
    with pytest.raises(UserError, match=r"(?s)bad.yaml: .*variants.*baseline"):
        load_study(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("name: x\nvariants: {a: [\n")
    with pytest.raises(UserError, match=r"bad.yaml:3: not valid YAML"):
        load_study(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match=r"(?s)cannot be read.*one of curriculum, policies, quality"):
        load_study(tmp_path / "none.yaml")
    values = yaml.safe_load((tmp_path / "study.yaml").read_text())
    values["variants"] = {"random": [], "a/b": []}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        load_study(tmp_path / "bad.yaml")


def test_the_papers_five_studies_and_ours_are_shipped():
    assert shipped_studies() == ["curriculum", "policies", "quality", "separation", "synthetic", "synthetic-ratio"]


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_fit_the_recipe(name, tmp_path):
    from reprise.study import _recipe

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    study = load_study(name, {"recipe": str(tmp_path / "recipe.yaml"), "workspace": str(tmp_path)})
    recipes = [_recipe(study, variant, 1) for variant in study.variants]
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes) >= 2
    tokens = {sum(stage.tokens for stage in recipe.stages) for recipe in recipes}
    assert len(tokens) == 1
