"""A vocabulary that continues the model's own: old ids stay, every new token can be reached, rows are means."""

import json
import shutil

import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.publish.models import set_in_json, write_full_model
from tokenizers import models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.errors import UserError
from reprise.model.tokenizer import HARD_TEXT
from reprise.recipe.model import Model
from reprise.vocabulary.extend import extend_model
from reprise.vocabulary.merges import check_bpe, extended, learn_tokens, unreachable

OLD = ["the river runs to the sea", "bread and salt, twice a day", "the cat and the hat"]
NEW = ["河水流向大海。河水很长。", "大海很大,河水流向大海。", "the rivers run", "kırmızı kırmızıya kırmızılar"] * 8


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_full_model(tmp_path_factory.mktemp("base") / "model", OLD, 300)
    content = json.loads((folder / "tokenizer.json").read_text())
    assert "<eos>" in content["model"]["vocab"]
    return folder


@pytest.fixture(scope="module")
def old(base):
    return json.loads((base / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def learned(old):
    return learn_tokens(old, NEW, 60, 4)


@pytest.fixture(scope="module")
def pair(old, learned):
    """The old and the new tokenizer, and what each new id stands for."""
    new, ids = extended(old, learned)
    pieces = dict(zip(ids, (token.pieces for token in learned), strict=True))
    return (*(tokenizers.Tokenizer.from_str(json.dumps(content)) for content in (old, new)), pieces)


def test_tokens_are_learned_reachable_and_shorten_the_text(old, learned, pair):
    assert 20 < len(learned) <= 60
    new, ids = extended(old, learned)
    assert unreachable(new, ids) == []
    assert new["model"]["vocab"].items() >= old["model"]["vocab"].items()
    before, after, _ = pair
    text = "".join(NEW)
    assert len(after.encode(text).ids) < 0.5 * len(before.encode(text).ids)
    assert after.decode(after.encode(text).ids) == text


def expand(ids, pieces):
    return [number for one in ids for number in pieces.get(one, (one,))]


TEXTS = (
    st.lists(st.sampled_from([*NEW[:4], *OLD, *HARD_TEXT[:8], "<eos>", "河", " 海", "kı", "\n"])).map("".join)
    | st.text()
)


@settings(max_examples=200)
@given(TEXTS)
def test_any_text_is_its_old_ids_with_some_joined(pair, text):
    before, after, pieces = pair
    for tokenizer in (before, after):
        tokenizer.encode_special_tokens = True
    old_ids, new_ids = before.encode(text).ids, after.encode(text).ids
    assert expand(new_ids, pieces) == old_ids
    if not set(new_ids) & pieces.keys():
        assert new_ids == old_ids


@pytest.mark.parametrize("ignore_merges,as_text", [(True, False), (False, True)])
def test_the_same_where_whole_words_are_taken_at_once_and_where_merges_are_texts(old, ignore_merges, as_text):
    content = json.loads(json.dumps(old))
    content["model"]["ignore_merges"] = ignore_merges
    if as_text:
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    tokens = learn_tokens(content, NEW, 40, 4)
    new, ids = extended(content, tokens)
    assert unreachable(new, ids) == []
    pieces = dict(zip(ids, (token.pieces for token in tokens), strict=True))
    before, after = (tokenizers.Tokenizer.from_str(json.dumps(one)) for one in (content, new))
    for text in [*NEW[:4], *OLD, *HARD_TEXT[:8]]:
        assert expand(after.encode(text).ids, pieces) == before.encode(text).ids


def test_rare_tokens_are_left_out_and_counts_are_honest(old):
    tokens = learn_tokens(old, NEW, 400, 8)
    new, ids = extended(old, tokens)
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(new))
    counts = dict.fromkeys(ids, 0)
    for text in NEW:
        for number in tokenizer.encode(text).ids:
            if number in counts:
                counts[number] += 1
    parts = {part for token in tokens for part in token.parts}
    rare = [
        token.text for token, number in zip(tokens, ids, strict=True) if counts[number] < 8 and token.text not in parts
    ]
    assert rare == []


def test_the_written_model_has_means_as_rows_and_computes_the_same_on_old_text(base, tmp_path):
    result, tokens = extend_model(
        Model(path=str(base)), {"zh": NEW}, {"zh": ["大海很长,河水很大。"]}, tmp_path / "larger",
        num_tokens=30, min_count=4,
    )  # fmt: skip
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "larger"))
    name = "model.embed_tokens.weight"
    rows = len(before[name])
    assert after[name].shape[0] == result["rows"] == rows + result["tokens_added"]
    assert tokens["first_id"] == rows and len(tokens["tokens"]) == result["tokens_added"]
    assert torch.equal(after[name][:rows], before[name])
    old = json.loads((base / "tokenizer.json").read_text())
    token = learn_tokens(old, NEW, 30, 4)[0]
    torch.testing.assert_close(after[name][rows], before[name][list(token.pieces)].mean(dim=0))
    assert all(torch.equal(after[other], before[other]) for other in before if other != name)
    (zh,) = result["compression"]
    assert zh["held_out"] and zh["after"] > 1.5 * zh["before"]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tmp_path / "larger"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "larger"),
    )
    encoded = [tokenizer(text, return_tensors="pt").input_ids for text in [*OLD, "bread", "salt, salt"]]
    ids = next(one for one in encoded if int(one.max()) < rows)  # a text without a new token
    expected = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    torch.testing.assert_close(model(ids).logits[..., :rows], expected)
    assert tokenizer.eos_token_id == AutoTokenizer.from_pretrained(base).eos_token_id


def test_control_tokens_behind_the_vocabulary_and_padded_rows_and_an_untied_head(base, tmp_path):
    """As Qwen has it: control tokens that the vocabulary does not list, fewer tokens than rows."""
    folder = tmp_path / "padded"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model.config.tie_word_embeddings = False
    model.resize_token_embeddings(rows + 20, mean_resizing=False)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    result, _ = extend_model(
        Model(path=str(folder)), {"zh": NEW}, {}, tmp_path / "larger", num_tokens=40, min_count=4, verify=True
    )
    new = AutoTokenizer.from_pretrained(tmp_path / "larger")
    assert new.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [rows, rows + 1]
    assert (
        new("<|im_end|>")["input_ids"] == [rows + 1] and result["rows"] == rows + 2 + result["tokens_added"] > rows + 20
    )
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "larger"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][: rows + 2], before[name][: rows + 2])
        assert not torch.equal(after[name][rows + 2], before[name][rows + 2])
    assert not result["compression"][0]["held_out"]


def other_kind(**model):
    return lambda folder: [
        set_in_json(folder / "tokenizer.json", ("model", key), value=value) for key, value in model.items()
    ]


def over_characters(folder):
    set_in_json(folder / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    "change,message",
    [
        (other_kind(merges=[]), "BPE without merges"),
        (other_kind(byte_fallback=True), "byte fallback"),
        (other_kind(end_of_word_suffix="</w>"), "prefix or suffix"),
        (other_kind(dropout=0.1), "dropout"),
        (over_characters, "over characters, not over bytes"),
        (without_tokenizer, "no tokenizer.json"),
    ],
)
def test_other_tokenizers_are_refused_by_name(base, tmp_path, change, message):
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    change(folder)
    with pytest.raises(UserError, match=message):
        extend_model(Model(path=str(folder)), {"zh": NEW}, {}, tmp_path / "larger", num_tokens=9, min_count=4)
    assert not list(tmp_path.glob("larger*"))


def test_a_unigram_model_is_refused_by_name():
    unigram = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(UserError, match="Unigram model, which has no merges"):
        check_bpe(json.loads(unigram.to_str()), "tokenizer.json")


def test_text_that_repeats_nothing_is_told(base, tmp_path):
    with pytest.raises(UserError, match="no pair of tokens occurs 1000 times"):
        extend_model(Model(path=str(base)), {"zh": NEW}, {}, tmp_path / "larger", num_tokens=9, min_count=1000)
