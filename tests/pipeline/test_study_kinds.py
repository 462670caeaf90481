"""`study microanneal` and `study rate`: what they run, what they answer, on a tiny model."""

import json
import math

import numpy as np
import pytest
import yaml
from tests.pipeline.conftest import small_recipe
from tests.pipeline.test_study import one_stage_recipe

from reprise import rate_range
from reprise.errors import UserError
from reprise.microanneal import Microanneal, plan_microanneal
from reprise.rate_range import RateStudy, find_rates
from reprise.recipe import load_recipe
from reprise.study import run_study


@pytest.fixture
def recipe(tmp_path, tiny_model):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(one_stage_recipe(tmp_path, tiny_model)))
    return path


def test_both_runs_of_a_microanneal_have_the_same_tokens_and_all_but_the_candidate(tmp_path, tiny_model):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small_recipe(tmp_path / "unused", tiny_model)))
    settings = Microanneal(
        recipe=str(tmp_path / "recipe.yaml"), workspace=str(tmp_path / "m"), source="zh/book", stage=1, share=0.25
    )
    study = plan_microanneal(settings)
    recipes = {name: load_recipe(study.recipe, study.variants[name]) for name in ("with", "without")}
    stages = {name: one.stages[1] for name, one in recipes.items()}
    assert all(len(one.stages) == 2 and one.stages[0] == recipes["with"].stages[0] for one in recipes.values())
    assert stages["with"].mixture["zh"].sources == {"web": 0.75, "book": 0.25}
    assert stages["without"].mixture["zh"].sources == {"web": 1.0, "book": 0.0}
    for stage in stages.values():
        assert stage.mixture["en"].sources == {"web": 0.7, "book": 0.3} and stage.mixture["zh"].share == 0.6
        assert (stage.tokens, stage.schedule.decay_tokens, stage.schedule.final_lr) == (2048, 2048, 0.0)
    for source, message in (("zh/nothing", "no source 'zh/nothing'"), ("nothing", "no source 'nothing'")):
        with pytest.raises(UserError, match=message) as error:
            plan_microanneal(settings.model_copy(update={"source": source}))
        assert "zh/book" in (error.value.remedy or "")


@pytest.mark.slow
def test_a_microanneal_answers_with_a_paired_difference(recipe, tmp_path):
    settings = Microanneal(
        recipe=str(recipe), workspace=str(tmp_path / "m"), source="zh/book", tokens=512, seeds=[1, 2]
    )
    study = plan_microanneal(settings)
    result = run_study(study)
    difference = result["measures"]["bits_per_byte/zh"]["differences"]["with"]
    assert len(difference["values"]) == 2 and difference["ci"] is not None
    assert "with against without: bits_per_byte/zh" in result["measures"]["bits_per_byte/zh"]["sentences"][0]


@pytest.mark.slow
def test_rates_are_one_run_that_resumes(recipe, tmp_path):
    study = RateStudy(
        recipe=str(recipe), workspace=str(tmp_path / "rate"), lowest=1e-5, highest=1e-2, rates=4, tokens=512
    )
    answer = find_rates(study)
    assert [step["rate"] for step in answer["steps"]] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    for one, other in zip(answer["steps"], answer["steps"][1:], strict=False):
        assert one["after"] == pytest.approx(other["before"], rel=1e-6), "each rate begins where the last ended"
    assert json.loads((tmp_path / "rate" / "rate.json").read_text()) == answer
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "rate" / "run").glob("train-*/manifest.json")}
    assert len(times) == 4
    assert find_rates(study) == answer
    assert times == {path: path.stat().st_mtime_ns for path in times}, "nothing is trained twice"


class Simulated:
    """A run whose new text falls by a law of the rate, whose kept text rises with it, and that breaks at a rate."""

    def __init__(self, breaks_at):
        self.breaks_at, self.new, self.kept = breaks_at, 2.0, 1.0

    def __call__(self, recipe, until, say):
        rate = recipe.stages[int(until[0].partition("-")[2]) - 1].schedule.peak_lr
        if rate >= self.breaks_at:
            raise UserError("loss or gradient was not finite in 5 steps in a row")

    def step(self, workspace, number, rate, recipe):
        before = {"zh": self.new, "en": self.kept}
        self.new *= 1 - 0.1 * math.exp(-((math.log10(rate) + 4) ** 2))
        self.kept *= 1 + 30 * rate
        return {"rate": rate, "before": before, "after": {"zh": self.new, "en": self.kept}}


def test_the_planted_rates_are_found(recipe, tmp_path, monkeypatch):
    data = yaml.safe_load(recipe.read_text())
    data["evaluation"]["tolerance"] = {"en": 0.02}
    recipe.write_text(yaml.safe_dump(data))
    simulated = Simulated(breaks_at=2e-3)
    monkeypatch.setattr(rate_range, "run_stages", simulated)
    monkeypatch.setattr(rate_range, "_step", simulated.step)
    answer = find_rates(RateStudy(recipe=str(recipe), workspace=str(tmp_path / "r")))
    rates = np.geomspace(1e-6, 1e-2, 9)
    assert answer["fastest"] == pytest.approx(1e-4)
    assert answer["highest_kept"] == pytest.approx(rates[5]), (
        "30 * (sum of rates up to 3.2e-4) is 1.4 %, with 1e-3 4.5 %"
    )
    assert answer["broke_at"] == pytest.approx(rates[7])
    assert "fell fastest at 0.0001" in answer["sentence"] and "broke at 0.0032" in answer["sentence"]
    with pytest.raises(UserError, match="something else"):
        monkeypatch.setattr(
            rate_range, "run_stages", lambda *a, **k: (_ for _ in ()).throw(UserError("something else"))
        )
        find_rates(RateStudy(recipe=str(recipe), workspace=str(tmp_path / "r2")))
