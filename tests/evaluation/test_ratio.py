"""`reprise study ratio` with something in place of the pipeline: planted laws, kills, the recipe that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from reprise.errors import UserError
from reprise.ratio import RatioStudy, find_ratio
from reprise.recipe import load_recipe

RECIPE = """
name: tiny
workspace: runs/tiny
model: {path: somewhere}
stages:
  - name: one
    tokens: 1k
    mixture:
      chinese: {share: 0.5, language: zh, sources: {web: 1.0}}
      en: {share: 0.3, sources: {web: 1.0}}
      more: {share: 0.2, language: en, sources: {book: 1.0}}
evaluation: {tolerance: {en: 0.02}}
"""


class Pipeline:
    """Losses from planted laws, with the noise of a seed: 0.42 of new text costs the kept text its 2 %."""

    def __init__(self, dies_at=None, kept=1.02):
        self.shares, self.dies_at, self.kept = [], dies_at, kept

    def __call__(self, recipe, others):
        root = Path(recipe.workspace)
        if (root / "evaluate").exists():
            return
        if len(self.shares) == self.dies_at:
            raise KeyboardInterrupt
        mixture = recipe.stages[0].mixture
        assert mixture["en"].share / mixture["more"].share == pytest.approx(1.5, rel=1e-6)
        share = mixture["chinese"].share
        self.shares.append((share, recipe.seed))
        noise = np.random.default_rng(int(share * 1e6) + recipe.seed).normal(0, 0.001, 2)
        kept = self.kept + 0.08 * (share - 0.42) + 0.05 * (share - 0.42) ** 2
        new = 1 - 0.3 * share**0.5
        rows = [
            {
                "path": "en",
                "language": "en",
                "source": None,
                "num_bytes": 10,
                "before": 1.3,
                "after": 1.3 * kept * (1 + noise[0]),
            },
            {
                "path": "chinese",
                "language": "zh",
                "source": None,
                "num_bytes": 10,
                "before": 2.1,
                "after": 2.1 * new * (1 + noise[1]),
            },
        ]
        (root / "evaluate").mkdir(parents=True)
        (root / "evaluate" / "results.json").write_text(json.dumps({"bits_per_byte": rows}))


@pytest.fixture
def study(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return RatioStudy(recipe=str(tmp_path / "recipe.yaml"), workspace=str(tmp_path / "ratio"))


def test_the_planted_share_is_found_and_proposed(study, tmp_path, monkeypatch):
    pipeline = Pipeline()
    monkeypatch.setattr("reprise.ratio.take_through", pipeline)
    answer = find_ratio(study)
    assert len(pipeline.shares) == len(answer["runs"]) <= 16
    assert answer["share"] == pytest.approx(0.42, abs=0.03)
    assert answer["low"] < 0.42 < answer["high"] and answer["high"] - answer["low"] < 0.1
    assert answer["sentence"].startswith(f"Take {answer['share']:.3f} of the tokens from chinese (95 % interval")
    assert "more would cost en more than the 2.0% that is allowed" in answer["sentence"]
    assert json.loads((tmp_path / "ratio" / "ratio.json").read_text()) == answer
    proposed = load_recipe(tmp_path / "ratio" / "proposed.yaml")
    assert proposed.stages[0].mixture["chinese"].share == pytest.approx(answer["share"])
    assert answer["sentence"] in (tmp_path / "ratio" / "proposed.yaml").read_text()
    assert find_ratio(study) == answer and len(pipeline.shares) == 16, "nothing is run twice"


def test_a_killed_search_resumes_to_the_same_answer(study, tmp_path, monkeypatch):
    monkeypatch.setattr("reprise.ratio.take_through", Pipeline())
    whole = find_ratio(study)
    other = study.model_copy(update={"workspace": str(tmp_path / "killed")})
    monkeypatch.setattr("reprise.ratio.take_through", Pipeline(dies_at=7))
    with pytest.raises(KeyboardInterrupt):
        find_ratio(other)
    rest = Pipeline()
    monkeypatch.setattr("reprise.ratio.take_through", rest)
    assert find_ratio(other) == whole
    assert len(rest.shares) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entry": "fr"}, "which entry of the mixture is the new text"),
        ({"kept": "zh"}, "which language must be kept"),
        ({"stage": 1}, "the recipe has 1 stages"),
    ],
)
def test_what_is_not_clear_is_asked(study, change, message):
    with pytest.raises(UserError, match=message):
        find_ratio(study.model_copy(update=change))


def test_no_share_is_run_twice_with_a_seed(study, monkeypatch):
    """No share keeps the kept text, so every round asks for the smallest one again."""
    pipeline = Pipeline(kept=1.2)
    monkeypatch.setattr("reprise.ratio.take_through", pipeline)
    answer = find_ratio(study)
    ran = [(run["share"], run["seed"]) for run in answer["runs"]]
    assert len(set(ran)) == len(ran) == len(pipeline.shares)
    assert answer["sentence"].startswith("No share of chinese keeps en")
