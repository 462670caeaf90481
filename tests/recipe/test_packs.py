import hashlib

import pytest

from reprise.documents.words import split_words
from reprise.errors import UserError
from reprise.recipe.documents import Documents
from reprise.recipe.languages.codes import WITHOUT_SPACES, find_language
from reprise.recipe.languages.packs import FOLDER, load_pack, shipped
from reprise.recipe.loading import parse_recipe

PACKS_DIGEST = "50019e5fe8658f14"
"""Of all packs together. When it changes, raise the version of `clean` (of `label`, where topics or prompts changed)
in stages.py, so that older workspaces become stale, and write the new one here."""

SUFFIXING = {"ko", "te", "ta", "kn", "ml", "mr"}
"""Languages whose particles are written as ends of words."""


def test_a_changed_pack_raises_the_version_of_the_stages_that_read_it():
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.yaml")))).hexdigest()[:16]
    assert digest == PACKS_DIGEST


def test_there_are_packs_for_many_languages_under_their_normal_codes():
    assert len(shipped()) >= 60
    assert [code for code in shipped() if find_language(code) != code] == []


@pytest.mark.parametrize("code", shipped())
def test_a_pack_names_its_source_and_its_stop_words_can_be_met(code):
    pack = load_pack(code)
    assert pack.source
    rules = pack.heuristics
    assert rules.stop_words_within_words == (code in WITHOUT_SPACES or code in SUFFIXING)
    if not rules.stop_words_within_words:
        for word in rules.stop_words:
            words = split_words([word])
            assert len(words.hashes) == 1, f"{word!r} is never one word of a text"
    assert (rules.max_short_lines is None) == (rules.short_line_chars is None)


def test_a_language_without_a_pack_has_that_of_its_macrolanguage_or_none():
    assert load_pack("acm").name == "Arabic"
    assert load_pack("tlh").heuristics.model_dump() == {}


def test_a_dropped_in_pack_is_laid_over_ours(tmp_path):
    (tmp_path / "tur_Latn.yaml").write_text(
        "name: Turkish\nheuristics: {min_words: 7, stop_words: [ve]}\ntopics: [Hukuk, Diğer]\n"
        "personal_data: {phone: ['0 5\\d\\d']}\nprompts: {topic: {version: 1, messages: [{role: user, text: x}]}}\n"
    )
    given = {"clean": {"heuristics": {"tr": {"min_words": 8}}}, "topics": {"lists": {"en": ["A", "B"]}}}
    documents = Documents.model_validate({"language_packs": str(tmp_path), **given})
    rules = documents.clean.rules_of("tr")
    assert (rules.min_words, rules.stop_words) == (8, ["ve"])
    assert rules.max_mean_word_length == load_pack("tr").heuristics.max_mean_word_length
    assert documents.topics.list_of("tr") == ["Hukuk", "Diğer"]
    assert documents.topics.list_of("en") == ["A", "B"]
    assert documents.topics.list_of("sw") == load_pack("en").topics
    assert documents.clean.personal_data_of("tr")["phone"][-1] == "0 5\\d\\d"
    assert documents.topics.prompts["tr"]["topic"]["version"] == 1
    assert Documents(**documents.model_dump()) == documents


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tr.yaml", "name: x\nheuristics: {min_word: 7}", "heuristics.min_word"),
        ("tr.yaml", "name: x\npersonal_data: {phone: ['(']}", "not a regular expression"),
        ("tr.yaml", "name: [x", "not a language pack"),
        ("tr.yaml", "- x", "not a language pack"),
        ("turkic-ish.yaml", "name: x", "no language code"),
        ("tr.yml", "name: x", "no language pack in this folder"),
    ],
)
def test_a_bad_pack_is_explained(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        parse_recipe(f"documents: {{language_packs: {tmp_path}}}")
