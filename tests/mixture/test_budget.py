from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.mixture.apportion import apportion
from reprise.mixture.budget import budgets
from reprise.recipe import Recipe
from reprise.recipe.languages.packs import load_pack

ZH = {"web": 0.70, "encyclopedia": 0.05, "book": 0.20, "qa_forum": 0.05}
EN = {"web": 0.40, "encyclopedia": 0.05, "book": 0.15, "qa_forum": 0.05, "paper": 0.10, "math": 0.10, "code": 0.15}

# Billions of tokens over both stages, from the paper (arXiv 2407.18743, Figure 1).
PAPER = {
    ("zh", "web"): "13.475",
    ("zh", "encyclopedia"): "0.9625",
    ("zh", "book"): "3.85",
    ("zh", "qa_forum"): "0.9625",
    ("en", "web"): "31.70",
    ("en", "encyclopedia"): "3.9625",
    ("en", "book"): "11.8875",
    ("en", "qa_forum"): "3.9625",
    ("en", "paper"): "7.925",
    ("en", "math"): "7.925",
    ("en", "code"): "11.8875",
    ("synthetic", "synthetic"): "1.5",
}


def paper_recipe(initial: str = "uniform") -> Recipe:
    zh, en = {"sources": ZH}, {"sources": EN}
    synthetic = {"language": "en", "sources": {"synthetic": 1.0}}
    return Recipe.model_validate(
        {
            "name": "paper",
            "workspace": "runs/paper",
            "model": {"path": "meta-llama/Meta-Llama-3-8B"},
            "stages": [
                {
                    "name": "bilingual",
                    "tokens": "92.5B",
                    "mixture": {"zh": {"share": 0.2, **zh}, "en": {"share": 0.8, **en}},
                    "topics": {"sources": ["web"], "initial": initial},
                },
                {
                    "name": "synthetic",
                    "tokens": "7.5B",
                    "mixture": {
                        "zh": {"share": 0.1, **zh},
                        "en": {"share": 0.7, **en},
                        "synthetic": {"share": 0.2, **synthetic},
                    },
                    "topics": {"sources": ["web"], "initial": "inherit"},
                },
            ],
        }
    )


def test_the_paper_s_budget_comes_out_exactly() -> None:
    totals: Counter[tuple[str, str]] = Counter()
    for budget in budgets(paper_recipe()):
        totals[budget.entry, budget.source] += budget.tokens
    assert totals == {key: int(Fraction(billions) * 10**9) for key, billions in PAPER.items()}
    assert sum(totals.values()) == 100 * 10**9


@pytest.mark.parametrize(("stage", "tokens"), [(1, 92_500_000_000), (2, 7_500_000_000)])
def test_a_stage_sums_to_its_tokens(stage: int, tokens: int) -> None:
    assert sum(budget.tokens for budget in budgets(paper_recipe()) if budget.stage == stage) == tokens


def test_topics_of_a_language_share_its_split_source() -> None:
    web = [b for b in budgets(paper_recipe()) if (b.stage, b.source) == (1, "web")]
    assert [b.topic for b in web if b.entry == "zh"] == load_pack("zh").topics
    assert [b.topic for b in web if b.entry == "en"] == load_pack("en").topics
    for language in ("zh", "en"):
        tokens = [b.tokens for b in web if b.entry == language]
        assert max(tokens) - min(tokens) <= 1


def test_topics_are_null_where_a_source_is_not_split_or_its_shares_are_not_known_yet() -> None:
    assert all(b.topic is None for b in budgets(paper_recipe()) if b.source != "web")
    assert all(b.topic is None for b in budgets(paper_recipe("available")))


@given(st.integers(0, 10**12), st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12))
def test_apportion_sums_exactly_and_is_off_by_less_than_one(total: int, shares: list[float]) -> None:
    counts = apportion(total, shares)
    whole = sum(Fraction(repr(share)) for share in shares)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - total * Fraction(repr(share)) / whole) < 1


def test_apportion_by_hand() -> None:
    """10 in the ratio 1 : 1 : 1 is 3.33 each: the first of equal remainders gets what is left."""
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(7, [0.5, 0.3, 0.2]) == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert apportion(5, [0.0, 1.0]) == [0, 5]
