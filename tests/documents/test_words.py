import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reprise.documents.words import (
    _NEEDS_NEIGHBOURS,
    _normal_codes,
    _normal_forms,
    encode,
    hash_ngrams,
    normalise,
    split_words,
)

CJK = re.compile("[\u3400-\u9fff\u3040-\u30ff]")
TEXTS = st.lists(st.text(alphabet="ab AB1。，.中文\u3000\u200bＡé\n", max_size=30), max_size=6)


def plain_words(text: str) -> list[str]:
    """The definition, written plainly."""
    words: list[str] = []
    inside = False
    for char in normalise(text).replace("\u200b", ""):
        if CJK.match(char):
            words.append(char)
            inside = False
        elif char.isalnum():
            words.append(words.pop() + char if inside else char)
            inside = True
        else:
            inside = False
    return words


@given(TEXTS)
def test_words_and_ngrams_are_those_of_the_plain_definition(texts):
    words = split_words(texts)
    expected = [plain_words(text) for text in texts]
    assert np.diff(words.offsets).tolist() == [len(part) for part in expected]
    flat = [word for part in expected for word in part]
    assert words.num_chars.tolist() == [len(word) for word in flat]
    assert words.has_letter.tolist() == [not word.isdigit() for word in flat]
    assert words.is_single.tolist() == [bool(CJK.match(word)) for word in flat]
    assert len({(word, int(value)) for word, value in zip(flat, words.hashes, strict=True)}) == len(set(flat))
    assert len(set(words.hashes.tolist())) == len(set(flat))
    for size in (1, 3):
        grams = [tuple(part[i : i + size]) for part in expected for i in range(len(part) - size + 1)]
        hashes, starts = hash_ngrams(words, size)
        assert len(hashes) == len(starts) == len(grams)
        assert len(set(zip(grams, hashes.tolist(), strict=True))) == len(set(grams)) == len(set(hashes.tolist()))
        assert [flat[start] for start in starts] == [gram[0] for gram in grams]


@given(TEXTS)
def test_by_char_takes_the_words_apart(texts):
    apart = split_words([" ".join("".join(plain_words(text))) for text in texts])
    chars = split_words(texts, by_char=True)
    assert chars.hashes.tolist() == apart.hashes.tolist()
    assert chars.offsets.tolist() == apart.offsets.tolist()


def test_disguises_make_no_difference():
    def same(one, other):
        return split_words([one]).hashes.tolist() == split_words([other]).hashes.tolist()

    assert same("The Great Wall, 1368!", "the\n  great\twall 1368")
    assert same("ＡＢＣ　１２３", "abc 123")
    assert same("中华 人民\n共和国。", "中华人民共和国")
    assert same("pho\u00adto\u200bsynthesis", "photosynthesis")
    assert not same("photo synthesis", "photosynthesis")


def test_a_word_hashes_alike_wherever_it_stands():
    many = split_words(["x " * 70_000 + "needle hay"])
    assert many.hashes[-2] == split_words(["needle"]).hashes[0]
    assert hash_ngrams(many, 2)[0][-1] == hash_ngrams(split_words(["needle hay"]), 2)[0][0]


@given(st.lists(st.text(max_size=40), max_size=4))
def test_the_table_normalises_like_the_function(texts):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    codes, lengths = _normal_codes(texts)
    assert codes.tolist() == encode([normalise(text) for text in texts]).tolist()
    assert lengths.tolist() == [len(normalise(text)) for text in texts]


def test_the_table_normalises_every_pair_of_unlike_characters_like_the_function():
    forms = _normal_forms()
    simple = [
        chr(code)
        for code in np.flatnonzero(forms != _NEEDS_NEIGHBOURS)[:0x2FFFF].tolist()
        if not 0xD800 <= code < 0xE000
    ]
    for first in "eＥ가ㄱᄀが㈀क\u0958İ":
        text = "".join(first + char for char in simple)
        assert _normal_codes([text])[0][:-1].tolist() == encode([normalise(text)])[:-1].tolist()


def test_characters_that_nobody_sees_cut_no_words():
    """Control characters, variation selectors, tags, the grapheme joiner; Hangul's fillers are blank."""
    (plain, *others) = [
        split_words([text]).hashes.tolist()
        for text in ("what is this", "wh\x08at is th\x1bis", "wh\ufe0fat\ufe0f i\u034fs this",
                     "wh\U000e0041at is this\U000e0101", "what\u3164is\u115fthis", "what\n\x0cis\vthis",
                     "wha\u180bt is th\x9fis")
    ]  # fmt: skip
    assert others == [plain] * len(others)
