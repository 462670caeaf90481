"""What a name of a group of held-out documents stands for."""

import pytest

from reprise.errors import UserError
from reprise.recipe.groups import find_groups
from reprise.recipe.loading import check
from reprise.recipe.mixture import Stage
from reprise.recipe.recipe import Recipe


def stage(name="one", **mixture):
    return Stage(name=name, tokens=1000, mixture=mixture)


def entry(share, *sources, **more):
    return {"share": share, "sources": {source: 1 / len(sources) for source in sources}, **more}


def summary(groups):
    return [(group.path, group.tolerance) for group in groups]


BILINGUAL = stage(zh=entry(0.5, "web", "book"), en=entry(0.5, "web", "paper", "code"))
DOMAIN = stage(
    law=entry(0.7, "cases", "statutes", language="en"),
    general=entry(0.3, "web", language="en", keep=True, tolerance=0.01),
)
HELD_OUT = [("en", "web"), ("en", "paper"), ("en", "code"), ("zh", "web")]


def test_every_entry_and_every_held_out_source_has_a_group_and_sources_inherit():
    groups = find_groups([BILINGUAL], {"en": 0.02, "en/paper": 0.05})
    assert summary(groups.over(HELD_OUT)) == [
        ("zh", None), ("en", 0.02), ("en/code", 0.02), ("en/paper", 0.05), ("en/web", 0.02),
    ]  # fmt: skip
    assert summary(groups.kept().over(HELD_OUT))[:1] == [("en", 0.02)]


def test_two_entries_of_one_language_are_two_groups():
    groups = find_groups([DOMAIN], None)
    held_out = [("en", "cases"), ("en", "statutes"), ("en", "web"), ("en", "mail")]
    judged = groups.over(held_out)
    assert summary(judged) == [
        ("law", None),
        ("law/cases", None),
        ("law/statutes", None),
        ("general", 0.01),
        ("en", None),
        ("en/mail", None),
    ]
    members = {
        group.path: [source for language, source in held_out if group.contains(language, source)] for group in judged
    }
    assert members["law"] == ["cases", "statutes"] and members["general"] == ["web"]
    assert [groups.entry_of("en", source) for _, source in held_out] == ["law", "law", "general", "en"]


def test_a_language_that_is_no_entry_is_all_of_it_and_its_entries_inherit():
    two = stage(law=entry(0.7, "cases", language="en"), general=entry(0.3, "web", language="en"))
    judged = find_groups([two], {"en": 0.03}).over([("en", "cases"), ("en", "web")])
    assert summary(judged) == [("law", 0.03), ("general", 0.03), ("en", 0.03)]
    assert all(judged[-1].contains("en", source) for source in ("cases", "web"))


def test_an_entry_named_as_its_language_leaves_to_others_what_is_theirs():
    mixed = stage(zh=entry(0.8, "web"), synthetic=entry(0.2, "synthetic", language="zh"))
    judged = find_groups([mixed], {"zh": 0.1}).over([("zh", "web"), ("zh", "synthetic"), ("zh", "news")])
    assert summary(judged) == [("zh", 0.1), ("zh/news", 0.1), ("zh/web", 0.1), ("synthetic", 0.1)]
    assert not judged[0].contains("zh", "synthetic")


def test_default_keeps_english_even_where_it_is_only_held_out_and_asks_for_nothing_that_is_not_there():
    chinese = stage(zh=entry(1.0, "web"))
    assert summary(find_groups([chinese], None).over([("zh", "web"), ("en", "web")])) == [("zh", None), ("en", 0.02)]
    assert summary(find_groups([chinese], None).over([("zh", "web")])) == [("zh", None)]
    # What the user named himself is asked for, so that its absence can be said.
    assert summary(find_groups([chinese], {"en": 0.02}).over([("zh", "web")])) == [("zh", None), ("en", 0.02)]


def test_a_named_source_gets_a_group_also_where_it_is_the_only_one():
    judged = find_groups([stage(en=entry(1.0, "web"))], {"en/web": 0.01}).over([("en", "web")])
    assert summary(judged) == [("en", None), ("en/web", 0.01)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": {"tolerance": {"general": 0.05}}}, "two tolerances"),
        ({"evaluation": {"tolerance": {"en/web/Law": 0.05}}}, "neither NAME nor NAME/SOURCE"),
    ],
)
def test_settings_that_disagree_are_refused(change, message):
    values = {"name": "x", "workspace": "x", "model": {"path": "x"}, "stages": [DOMAIN.model_dump()]}
    check(Recipe, values, where="here")
    with pytest.raises(UserError, match=message):
        check(Recipe, values | change, where="here")


def test_tolerance_without_keep_is_refused():
    with pytest.raises(ValueError, match="says nothing without"):
        stage(en=entry(1.0, "web", tolerance=0.1))
