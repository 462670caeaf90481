from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from reprise.documents.table import write_part
from reprise.errors import UserError
from reprise.model import tokenizer as module
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.model import Model
from reprise.recipe.tokens import Tokens
from reprise.tokens.stage import run
from reprise.tokens.store import BucketKey, TokenStore
from reprise.workspace import Work

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


def test_stage_reads_both_inputs_and_counts(model: Model, tmp_path: Path) -> None:
    def row(id: str, text: str, **fields: object) -> dict[str, object]:
        return {"id": id, "text": text, "lang": "en", "source": "web", "split": "train", "origin": "f:1", **fields}

    scored = [row(str(i), TEXT[i % 3], topic="Law", ppl=float(i)) for i in range(10)]
    write_part(tmp_path / "score" / "documents" / "part-00000.parquet", scored)
    made = [row("q", TEXT[0], source="synthetic")]
    write_part(tmp_path / "synthesize" / "documents" / "part-00000.parquet", made)
    output = tmp_path / "out"
    output.mkdir()
    inputs = {name: tmp_path / name for name in ("score", "synthesize")}
    work = Work(output=output, inputs=inputs, cache=tmp_path / "cache")
    run(work, model=model.model_copy(update={"bos": True}), tokens=Tokens(), split_sources=["web"])
    store = TokenStore.open(output)
    assert set(store.train) == {BucketKey("en", "web", "Law"), BucketKey("en", "synthetic", None)}
    assert work.counts["documents"] == 11
    synthetic = store.train[BucketKey("en", "synthetic", None)]
    reference = open_tokenizer(model, "tokenizers").encode_batch([TEXT[0]])[0]
    assert synthetic.tokens.tolist() == [store.bos_id, *reference, store.eos_id]
    assert np.isnan(synthetic.ppl).all()
    assert not list(output.glob("spool*"))
