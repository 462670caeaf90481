"""Residual merge on tiny models: exact where it must be, and refused where the models do not fit."""

import json
import shutil
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.publish.models import TEXTS, write_full_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.errors import UserError
from reprise.merging import chat_vector, sides
from reprise.merging.chat_vector import add_chat_vector
from reprise.merging.mergekit import merge_with_mergekit
from reprise.recipe.model import Model
from reprise.training import sharded_weights


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_full_model(tmp_path_factory.mktemp("base") / "model", TEXTS, 300)


def changed(source, target, seed, scale=0.5, dtype=torch.float32):
    """A copy with other weights."""
    shutil.copytree(source, target)
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(target / "model.safetensors")
    for name, value in weights.items():
        weights[name] = (value + scale * torch.randn(value.shape, generator=generator)).to(dtype)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
    return target


@pytest.fixture
def chat(base, tmp_path):
    folder = changed(base, tmp_path / "chat", 1)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<eos>{% endfor %}")
    return folder


def settings(folder):
    return Model(path=str(folder))


def test_base_plus_the_difference_is_the_chat_model_to_the_bit(base, chat, tmp_path, monkeypatch):
    monkeypatch.setattr(sides, "BLOCK_NUMBERS", 100)  # many blocks to a tensor
    monkeypatch.setattr(sharded_weights, "FILE_BYTES", 20_000)  # several files
    result = add_chat_vector(base, settings(base), settings(chat), tmp_path / "merged", verify=True)
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 2
    merged, expected = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (tmp_path / "merged", chat))
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    assert result.has_template and result.largest_difference > 1
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == (chat / "chat_template.jinja").read_text()
    )


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0])
def test_the_result_is_trained_plus_factor_times_the_difference(base, chat, tmp_path, factor):
    trained = changed(base, tmp_path / "trained", 2)
    add_chat_vector(trained, settings(base), settings(chat), tmp_path / "merged", factor=factor)
    own, below, above, merged = (
        load_file(path / "model.safetensors") for path in (trained, base, chat, tmp_path / "merged")
    )
    for name, value in merged.items():
        exact = own[name].double() + factor * (above[name].double() - below[name].double())
        assert torch.equal(value, exact.float())


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_any_two_numbers_however_far_apart_give_the_chat_model_back(pairs):
    base, chat = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    result, _ = chat_vector._sum([base, base, chat], tuple(base.shape), torch.float32, 1.0)
    assert torch.equal(result, chat)


def test_half_precision_is_kept(base, tmp_path):
    bases, chats = (changed(base, tmp_path / name, seed, dtype=torch.bfloat16) for name, seed in (("b", 3), ("c", 4)))
    add_chat_vector(bases, settings(bases), settings(chats), tmp_path / "merged")
    merged, expected = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", chats))
    assert all(value.dtype == torch.bfloat16 and torch.equal(value, expected[name]) for name, value in merged.items())


def with_tokens(source, target, tokens):
    """A copy whose vocabulary has more tokens, and embeddings for them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    torch.manual_seed(5)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def test_tokens_that_only_the_chat_model_has_keep_its_rows(base, chat, tmp_path):
    larger = with_tokens(chat, tmp_path / "larger", ["<|user|>", "<|assistant|>"])
    trained = changed(base, tmp_path / "trained", 2)
    result = add_chat_vector(trained, settings(base), settings(larger), tmp_path / "merged", verify=True)
    merged, above = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", larger))
    name = "model.embed_tokens.weight"
    rows = load_file(base / "model.safetensors")[name].shape[0]
    assert merged[name].shape[0] == rows + 2 and result.rows_of_chat == 2
    assert torch.equal(merged[name][rows:], above[name][rows:])
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("<|user|>")["input_ids"] == [rows]


def test_tokens_that_only_the_trained_model_has_keep_its_rows(base, chat, tmp_path):
    trained = with_tokens(changed(base, tmp_path / "some", 2), tmp_path / "trained", ["<new>"])
    result = add_chat_vector(trained, settings(base), settings(chat), tmp_path / "merged", verify=True)
    merged, own = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", trained))
    name = "model.embed_tokens.weight"
    assert result.rows_of_trained == 1 and torch.equal(merged[name][-1], own[name][-1])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer("<new>")["input_ids"] == [len(own[name]) - 1] and tokenizer.chat_template is not None


def padded(source, target, tokens, rows):
    """A copy with this many rows of embeddings, some of which have a token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    torch.manual_seed(6)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def test_unused_rows_of_the_base_are_no_token_s_difference(base, chat, tmp_path):
    rows = len(load_file(base / "model.safetensors")["model.embed_tokens.weight"]) + 10
    names = {"trained": ["<new>"], "base": [], "chat": []}
    below, own, above = (
        padded(source, tmp_path / f"padded-{name}", names[name], rows)
        for name, source in (("base", base), ("trained", changed(base, tmp_path / "some", 2)), ("chat", chat))
    )
    weights = load_file(above / "model.safetensors")
    weights["model.embed_tokens.weight"][-10:] += 1  # what instruction tuning made of unused rows
    save_file(weights, above / "model.safetensors", metadata={"format": "pt"})
    result = add_chat_vector(own, settings(below), settings(above), tmp_path / "merged", verify=True)
    merged, kept = (
        load_file(path / "model.safetensors")["model.embed_tokens.weight"] for path in (tmp_path / "merged", own)
    )
    assert result.rows_of_trained == 1 and torch.equal(merged[rows - 10], kept[rows - 10])

    larger = padded(chat, tmp_path / "padded-larger", ["<|user|>"], rows)
    plain = padded(changed(base, tmp_path / "other", 3), tmp_path / "padded-plain", [], rows)
    result = add_chat_vector(plain, settings(below), settings(larger), tmp_path / "with-user", verify=True)
    merged, theirs = (
        load_file(path / "model.safetensors")["model.embed_tokens.weight"] for path in (tmp_path / "with-user", larger)
    )
    assert result.rows_of_chat == 1 and torch.equal(merged[rows - 10], theirs[rows - 10])


def retold(folder):
    """The same vocabulary with two tokens exchanged."""
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, other = (token for token, number in vocabulary.items() if number in (260, 261))
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def other_rope(folder):
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = config["rope_parameters"] | {"rope_theta": 5e5}
    (folder / "config.json").write_text(json.dumps(config))


def other_layer(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lowercased(folder):
    """Text is split otherwise, and one more token would hide it from a comparison of equal vocabularies."""
    with_tokens(folder, folder, ["<|user|>"])
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def own_head(folder):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def infinite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def pickled(folder):
    size = struct.unpack("<Q", (folder / "model.safetensors").read_bytes()[:8])[0]
    (folder / "model.safetensors").write_bytes(b"\x80\x04" + b"0" * size)


@pytest.mark.parametrize(
    "change,message",
    [
        (retold, r"the id 260 is .* there and .* in the trained model"),
        (other_rope, r"rope_parameters = .*500000"),
        (other_layer, r"not those of the trained model: model\.layers\.1\.mlp\.up_proj\.weight"),
        (lowercased, r"splits .* into other tokens than the base model"),
        (own_head, r"are two tensors there and one in the trained model"),
        (infinite, r"model\.norm\.weight would hold numbers that are not finite"),
        (cut, "cannot be read"),
        (pickled, "cannot be read"),
    ],
)
def test_models_that_do_not_fit_are_refused_and_nothing_is_left(base, chat, tmp_path, change, message):
    change(chat)
    with pytest.raises(UserError, match=message):
        add_chat_vector(base, settings(base), settings(chat), tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))


def test_a_run_that_started_from_the_chat_model_is_told_to_name_the_base(chat, tmp_path):
    with pytest.raises(UserError, match="--base"):
        add_chat_vector(chat, settings(chat), settings(chat), tmp_path / "merged")


def test_without_mergekit_the_message_says_what_to_do(base, chat, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="mergekit-yaml is not on the PATH"):
        merge_with_mergekit(base, settings(base), settings(chat), tmp_path / "merged", method="ties")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mergekit-yaml") is None, reason="mergekit is not installed")
def test_ties_by_mergekit_with_all_numbers_kept_and_equal_models_is_the_chat_model(base, chat, tmp_path):
    merge_with_mergekit(
        base, settings(base), settings(chat), tmp_path / "merged", method="ties", density=1.0, verify=True
    )
    merged, expected = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", chat))
    for name, value in merged.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
