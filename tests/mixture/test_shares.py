import pytest

from reprise.errors import UserError
from reprise.mixture.shares import MixtureBucket, Shares
from reprise.recipe.mixture import Stage

BUCKETS = [
    MixtureBucket("zh", "web", "Law"),
    MixtureBucket("zh", "web", "Arts"),
    MixtureBucket("zh", "book", None),
    MixtureBucket("en", "web", None),
]


def tree_of_shares() -> Shares:
    shares = {"zh": 0.4, "en": 0.6, "zh/web": 0.5, "zh/book": 0.5, "en/web": 1.0, "zh/web/Law": 0.2, "zh/web/Arts": 0.8}
    return Shares(BUCKETS, shares)


def test_the_product_of_the_levels_is_the_share_of_a_bucket() -> None:
    assert tree_of_shares().of_buckets() == pytest.approx([0.04, 0.16, 0.2, 0.6])


def test_the_share_of_what_ended_goes_to_the_nearest_siblings() -> None:
    assert tree_of_shares().of_buckets(frozenset({"zh/web/Law"})) == pytest.approx([0, 0.2, 0.2, 0.6])
    assert tree_of_shares().of_buckets(frozenset({"zh/web/Law", "zh/web/Arts"})) == pytest.approx([0, 0, 0.4, 0.6])
    assert tree_of_shares().of_buckets(frozenset({"zh/web/Law", "zh/web/Arts", "zh/book"})) == pytest.approx(
        [0, 0, 0, 1]
    )


def test_siblings_that_are_not_named_share_the_rest() -> None:
    tree = tree_of_shares()
    (change,) = tree.change({"zh": 0.3}, rows=5, cause="shares.json")
    assert (change.path, change.rows, change.cause) == ("", 5, "shares.json")
    assert change.old == {"zh": 0.4, "en": 0.6}
    assert change.new == pytest.approx({"zh": 0.3, "en": 0.7})
    assert tree.change({"zh": change.new["zh"]}, rows=5, cause="again") == []


def test_several_levels_change_at_once() -> None:
    tree = tree_of_shares()
    changes = tree.change({"zh/web/Law": 1.0, "zh/web/Arts": 0.0, "zh/book": 0.0}, rows=0, cause="test")
    assert [change.path for change in changes] == ["zh/web", "zh"]
    assert tree.of_buckets() == pytest.approx([0.4, 0, 0, 0.6])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"fr": 0.5}, "name one of: en, en/web, zh"),
        ({"zh": 1.5}, "between 0 and 1"),
        ({"zh": "much"}, "between 0 and 1"),
        ({"zh": True}, "between 0 and 1"),
        ({"zh": float("nan")}, "between 0 and 1"),
        ({"zh": 0.7, "en": 0.7}, "sum to 1"),
        ({"zh": 0.2, "en": 0.2}, "sum to 1"),
        ({"en/web": 0.5}, "sum to 1"),
    ],
)
def test_bad_shares_are_refused_and_change_nothing(wanted: dict, message: str) -> None:
    tree = tree_of_shares()
    with pytest.raises(UserError, match=message):
        tree.change(wanted, rows=0, cause="shares.json")
    assert tree.shares == tree_of_shares().shares


def test_a_name_with_a_slash_is_refused_since_it_would_look_like_a_path() -> None:
    for mixture in (
        {"zh/web": {"share": 1.0, "sources": {"web": 1.0}}},
        {"zh": {"share": 1.0, "sources": {"a/b": 1.0}}},
    ):
        with pytest.raises(ValueError, match="holds a `/`"):
            Stage.model_validate({"name": "one", "tokens": 1, "mixture": mixture})
