import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.errors import UserError
from reprise.recipe.languages.codes import find_language, normalise_keys, normalise_path
from reprise.recipe.loading import parse_recipe
from reprise.recipe.mixture import Stage

CODES = {
    "zh": "zh zh-CN zh_CN zh-Hant-TW zho zho_Hans zho_Hant cmn cmn_Hani chi wuu yue yue_Hani nan lzh zh-yue Chinese",
    "en": "en EN en-US en_GB.UTF-8 eng eng_Latn English",
    "ar": "ar arb arb_Arab ara",
    "sw": "sw swh swh_Latn swa",
    "no": "no nb nob nob_Latn",
    "sr": "sr srp_Cyrl srp_Latn sr@latin sh hbs",
    "fa": "fa pes pes_Arab fas per farsi",
    "et": "et ekk ekk_Latn",
    "id": "id ind in",
    "he": "he iw heb",
    "fil": "fil tl tgl tgl_Latn",
    "ary": "ary ary_Arab",
    "hr": "hr hrv hrv_Latn",
    "ka": "ka kat geo",
}


@pytest.mark.parametrize("language", CODES)
def test_all_names_of_a_language_are_one_code(language):
    assert {name: find_language(name) for name in CODES[language].split()} == dict.fromkeys(
        CODES[language].split(), language
    )


def test_what_is_no_language_has_no_code():
    assert [find_language(name) for name in ("", "und", "mul", "xx", "synthetic", "general", "a" * 400, "../en")] == [
        None
    ] * 8


@given(st.text(max_size=12))
def test_a_code_is_normalised_once_and_for_all(text):
    code = find_language(text)
    assert code is None or find_language(code) == code


def stage(mixture, **more):
    return Stage.model_validate({"name": "one", "tokens": 10, "mixture": mixture, **more})


def entry(share=1.0, **more):
    return {"share": share, "sources": {"web": 1.0}, **more}


def test_a_mixture_named_by_any_code_is_the_language():
    found = stage({"zho_Hans": entry()}, curriculum={"zh-CN/web": {"order": "ascending"}})
    assert list(found.mixture) == ["zh"]
    assert found.curriculum_of("zh", "web").order == "ascending"
    assert Stage.model_validate(found.model_dump()) == found


def test_an_entry_with_its_own_language_keeps_its_name():
    found = stage(
        {"geo": entry(0.5, language="eng"), "general": entry(0.5, language="en_US")},
        curriculum={"geo": {"order": "ascending"}, "general/web": {"order": "descending"}},
    )
    assert {name: part.language for name, part in found.mixture.items()} == {"geo": "en", "general": "en"}
    assert found.curriculum_of("geo", "web").order == "ascending"


def test_norwegian_needs_no_quotes():
    recipe = parse_recipe(
        "{name: n, workspace: w, model: {path: m}, documents: {inputs: [{path: p, constants: {lang: no}}]},"
        " stages: [{name: s, tokens: 1, mixture: {no: {share: 1, language: no, sources: {web: 1}}}}]}"
    )
    assert recipe.documents.inputs[0].constants == {"lang": "no"}
    assert list(recipe.stages[0].mixture) == ["no"]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("documents: {inputs: [{path: p, constants: {lang: turkic}}]}", "turkic"),
        ("documents: {topics: {lists: {klingon: [A]}}}", "klingon"),
        ("documents: {clean: {heuristics: {zh: {}, cmn: {}}}}", "'cmn' are both the language 'zh'"),
        ("synthesis: {languages: [english-ish]}", "english-ish"),
        ("stages: [{name: s, tokens: 1, mixture: {zh: {share: 1, sources: {a: 1}}, yue: {share: 0, sources: {a: 1}}}}]",
         "'zh' and 'yue' are both"),
        ("stages: [{name: s, tokens: 1, mixture: {a: {share: 1, language: x y, sources: {a: 1}}}}]", "x y"),
    ],
)  # fmt: skip
def test_a_setting_that_names_no_language_is_refused(setting, named):
    with pytest.raises(UserError, match=named):
        parse_recipe(setting)


def test_every_setting_takes_every_code():
    recipe = parse_recipe(
        """
        {name: n, workspace: w, model: {path: m},
         documents: {inputs: [{path: p, constants: {lang: cmn_Hani}}],
                     clean: {heuristics: {zho_Hans: {min_words: 7}}}, topics: {lists: {zh-CN: [A, B]}}},
         synthesis: {languages: [zho], templates: {cmn: ["{question}{answer}"]}, passages: {terms: {x: {zh-TW: [y]}}}},
         stages: [{name: s, tokens: 1, mixture: {wuu: {share: 1, sources: {web: 1}}, x: {share: 0, language: eng,
                   sources: {web: 1}}}}],
         evaluation: {tolerance: {zho: 0.1, eng_Latn/web: 0.2, x: 0.3}}}
        """
    )
    assert recipe.documents.inputs[0].constants["lang"] == "zh"
    assert recipe.documents.clean.heuristics["zh"].min_words == 7
    assert recipe.documents.topics.lists["zh"] == ["A", "B"]
    assert (recipe.synthesis.languages, list(recipe.synthesis.templates)) == (["zh"], ["zh"])
    assert recipe.synthesis.passages.terms == {"x": {"zh": ["y"]}}
    assert recipe.evaluation.tolerance == {"zh": 0.1, "en/web": 0.2, "x": 0.3}


def test_keys_and_paths():
    assert normalise_keys({"tr": 1, "deu": 2}) == {"tr": 1, "de": 2}
    assert normalise_path("zho_Hans/web/Law", {"zh"}) == "zh/web/Law"
    assert normalise_path("geo/web", {"geo", "ka"}) == "geo/web"
    assert normalise_path("deu/web", {"zh"}) == "deu/web"
