import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from reprise.errors import UserError
from reprise.evaluation.bits_per_byte import Text, encode
from reprise.evaluation.model import EvaluatedModel
from reprise.model import tokenizer as module
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model

TEXT = [
    "the cat sat on the mat, and the dog didn't mind it at all 123 times",
    "人工智能的研究进展很快,中文文本也要切分。",
    "def f(x):\n    return x ** 2\n",
]


def save_model(folder: Path, vocab_size: int = 400, model_vocab: int | None = None, **special: str) -> Model:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=model_vocab or len(fast), hidden_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return Model(path=str(folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return save_model(tmp_path_factory.mktemp("model"), eos_token="<|end|>", bos_token="<|begin|>")


def test_a_fast_library_is_chosen_and_says_why(model: Model) -> None:
    tokenizer = open_tokenizer(model, "auto")
    assert tokenizer.library == "fastokens"
    assert "gives the ids of tokenizers" in tokenizer.reason


@pytest.fixture(scope="module")
def pair(model: Model) -> tuple[module.Tokenizer, module.Tokenizer]:
    return open_tokenizer(model, "auto"), open_tokenizer(model, "tokenizers")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_ids_are_those_of_tokenizers(pair: tuple[module.Tokenizer, module.Tokenizer], texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    fast, reference = pair[0].encode_batch(texts), pair[1].encode_batch(texts)
    for text, ids, right in zip(texts, fast, reference, strict=True):
        assert ids.tolist() == right.tolist(), text


@pytest.mark.parametrize("name", ["auto", "tokenizers", "fastokens"])
def test_a_special_token_in_the_text_stays_text(model: Model, name: str) -> None:
    tokenizer = open_tokenizer(model, name)
    (ids,) = tokenizer.encode_batch(["an <|end|> in the <|begin|> text"])
    assert tokenizer.eos_id not in ids
    assert 1 not in ids


def test_a_library_that_gives_other_ids_is_not_used(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module._open_fastokens
    monkeypatch.setattr(module, "_open_fastokens", lambda parsed: lambda texts: [x[::-1] for x in right(parsed)(texts)])
    tokenizer = open_tokenizer(model, "auto")
    assert tokenizer.library == "tokenizers"
    assert "fastokens: it gives other ids on" in tokenizer.reason
    with pytest.raises(UserError, match="fastokens cannot be used: it gives other ids"):
        open_tokenizer(model, "fastokens")


def test_a_library_that_refuses_the_vocabulary_is_not_used(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(parsed: str) -> module.EncodeBatch:
        raise RuntimeError("no such normalizer")

    monkeypatch.setattr(module, "_open_fastokens", refuse)
    tokenizer = open_tokenizer(model, "auto")
    assert tokenizer.library == "tokenizers"
    assert tokenizer.reason == "fastokens: it refuses the vocabulary (no such normalizer)"


def test_other_ids_are_found_on_the_way(model: Model) -> None:
    """Every place of a batch has its turn, so that an error that the first check missed is met in the end."""
    fast, reference = (open_tokenizer(model, name) for name in ("fastokens", "tokenizers"))

    def wrong_on_dogs(texts: list[str]) -> list[module.Ids]:
        return [ids[1:] if "dog" in text else ids for text, ids in zip(texts, fast.encode_batch(texts), strict=True)]

    message = "quick cannot be used: it gives other ids on 'the cat"
    tokenizer = module.Tokenizer("quick", wrong_on_dogs, 400, 0, None, "", reference.encode_batch)
    with pytest.raises(UserError, match=message):  # of the first batch every text is compared
        tokenizer.encode_batch([TEXT[1], TEXT[2], TEXT[0]])
    tokenizer = module.Tokenizer("quick", wrong_on_dogs, 400, 0, None, "", reference.encode_batch)
    tokenizer.encode_batch([TEXT[1]])
    with pytest.raises(UserError, match=message):
        for _ in range(3):
            tokenizer.encode_batch([TEXT[1], TEXT[2], TEXT[0]])


def test_vocabulary_that_does_not_fit_the_model(tmp_path: Path) -> None:
    model = save_model(tmp_path, model_vocab=100, eos_token="<|end|>")
    with pytest.raises(UserError, match="the model embeds 100 tokens"):
        open_tokenizer(model, "auto")


def test_end_and_begin_tokens_must_exist(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        open_tokenizer(model, "auto")
    with pytest.raises(UserError, match=r"'</s>' is not a token"):
        open_tokenizer(model.model_copy(update={"eos": "</s>"}), "auto")
    with pytest.raises(UserError, match="no beginning-of-sequence token"):
        open_tokenizer(model.model_copy(update={"eos": "<|end|>", "bos": True}), "auto")
    assert open_tokenizer(model.model_copy(update={"eos": "<|end|>"}), "auto").eos_id == 0


def write_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_transformers_must_give_the_ids_of_the_file(tmp_path: Path) -> None:
    """A class of transformers that builds its own pre-tokenizer overlooks that the file splits digits."""
    model = save_model(tmp_path, eos_token="<|end|>")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    right = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("123 times").ids
    assert open_tokenizer(model).encode_batch(["123 times"])[0].tolist() == right
    write_json(tmp_path / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(UserError, match=r"has the ids \[[\d, .]+\] by tokenizer.json, but transformers, .* gives \[\d"):
        open_tokenizer(model)


def test_an_unused_token_past_the_embeddings_is_no_error(tmp_path: Path) -> None:
    model = save_model(tmp_path, eos_token="<|end|>")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["reprise"])
    tokenizer.save_pretrained(tmp_path)
    opened = open_tokenizer(model)
    assert opened.vocab_size == json.loads((tmp_path / "config.json").read_text())["vocab_size"] + 2
    opened.encode_batch([TEXT[0], "the text [PAD]"])  # as text it is not the token
    with pytest.raises(UserError, match=r"gives the id \d+ in the text 'a reprise', but the model embeds \d+ tokens"):
        opened.encode_batch([TEXT[0], "a reprise"])


def test_eos_of_the_recipe_is_eos_everywhere(tmp_path: Path) -> None:
    model = save_model(tmp_path).model_copy(update={"eos": "<|end|>"})
    opened, evaluated = open_tokenizer(model), EvaluatedModel(model, Evaluation())
    assert (opened.eos_id, opened.start_id) == (0, 0)
    assert encode(evaluated, [Text("a", "en", "web")])[0][0][0] == 0
    assert evaluated.tokenizer.eos_token_id == 0  # what the harness and the samples stop at


def test_special_tokens_in_text_are_text_in_evaluation(model: Model) -> None:
    text = "write <|end|> between two <|begin|> of them"
    evaluated = EvaluatedModel(model, Evaluation())
    (ids,), _ = encode(evaluated, [Text(text, "en", "web")])
    assert ids[1:].tolist() == open_tokenizer(model, "auto").encode_batch([text])[0].tolist()
    assert not {0, 1} & set(ids[1:].tolist())


def write_sentencepiece(folder: Path) -> Model:
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "text.txt").write_text("\n".join(TEXT * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=400, model_type="bpe",
        byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    content = {"tokenizer_class": "LlamaTokenizer", "legacy": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    LlamaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2).save_pretrained(folder)
    return Model(path=str(folder))


def test_a_model_with_sentencepiece_only(tmp_path: Path) -> None:
    model = write_sentencepiece(tmp_path)
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    opened = open_tokenizer(model, "auto")
    for text in TEXT:
        assert opened.encode_batch([text])[0].tolist() == own.encode(text)
    assert opened.eos_id == own.eos_id()


def test_sentencepiece_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_sentencepiece(tmp_path)
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "sentencepiece" else known(name))
    with pytest.raises(UserError, match=r"sentencepiece`.*\n.*pip install 'reprise-cpt\[sentencepiece\]'"):
        open_tokenizer(model)
