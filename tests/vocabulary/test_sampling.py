"""Which text tokens are learned from: by the mixture's shares, whatever the files are, and never what is held out."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.documents.table import TableWriter, write_part
from reprise.errors import UserError
from reprise.vocabulary.extend import LONGEST_CHARS, sample_texts

SHARES = {"zh": {"web": 0.5, "book": 0.1}, "en": {"web": 0.4}}


def document(index, language, source, split, size):
    text = f"{split} {language}/{source} {index} ".ljust(size, "x")
    return {
        "id": f"{language}{source}{index}",
        "text": text,
        "lang": language,
        "source": source,
        "split": split,
        "origin": "",
    }


@pytest.fixture(scope="module")
def documents():
    return [
        document(index, language, source, "valid" if index % 10 == 0 else "train", 400 + index % 300)
        for language, source in (("zh", "web"), ("zh", "book"), ("en", "web"), ("en", "book"), ("fr", "web"))
        for index in range(1500)
    ]


def write(folder, rows, parts):
    for number in range(parts):
        write_part(folder / f"part-{number:05d}.parquet", rows[number::parts])


def kinds(texts):
    """(language, source) -> bytes, of texts that say what they are."""
    sizes = Counter()
    for part in texts.values():
        for text in part:
            sizes[tuple(text.split()[1].split("/"))] += len(text.encode())
    return sizes


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 4))
def test_the_choice_does_not_depend_on_the_files(tmp_path_factory, documents, seed, parts):
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    write(one, documents, 1)
    write(other, shuffled, parts)
    for first, second in zip(sample_texts(one, SHARES, 200_000), sample_texts(other, SHARES, 200_000), strict=True):
        assert {name: sorted(part) for name, part in first.items()} == {
            name: sorted(part) for name, part in second.items()
        }


def test_text_is_taken_by_the_shares_and_none_of_it_is_held_out(tmp_path, documents):
    write(tmp_path, documents, 3)
    texts, held_out = sample_texts(tmp_path, SHARES, 400_000)
    sizes = kinds(texts)
    assert sizes.keys() == {("zh", "web"), ("zh", "book"), ("en", "web")}
    for (language, source), size in sizes.items():
        assert size == pytest.approx(400_000 * SHARES[language][source], rel=0.2)
    assert all(text.startswith("train ") for part in texts.values() for text in part)
    # All that is held out, also of sources that are not trained on.
    assert {key[0] for key in kinds(held_out)} == {"zh", "en"} and ("en", "book") in kinds(held_out)
    assert all(text.startswith("valid ") for part in held_out.values() for text in part)


def test_a_source_with_less_than_its_share_is_taken_whole_and_a_small_share_is_not_nothing(tmp_path, documents):
    write(tmp_path, documents, 1)
    texts, _ = sample_texts(tmp_path, SHARES, 100_000_000)
    assert len(texts["en"]) == 1350 and len(texts["zh"]) == 2700
    texts, _ = sample_texts(tmp_path, SHARES, 10)
    assert kinds(texts).keys() == {("zh", "web"), ("zh", "book"), ("en", "web")}


def test_a_book_is_cut(tmp_path):
    with TableWriter(tmp_path) as writer:
        writer.write([document(0, "zh", "web", "train", LONGEST_CHARS + 5)])
    texts, _ = sample_texts(tmp_path, {"zh": {"web": 1.0}}, 10_000_000)
    assert [len(text) for text in texts["zh"]] == [LONGEST_CHARS]


def test_a_language_without_text_is_told(tmp_path, documents):
    write(tmp_path, [one for one in documents if one["lang"] != "en" or one["split"] == "valid"], 1)
    with pytest.raises(UserError, match="no text in en"):
        sample_texts(tmp_path, SHARES, 1000)
