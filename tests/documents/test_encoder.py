"""A tiny random BERT behind the interface of the classifiers."""

import random

import numpy as np
import pytest
import torch
from tests.documents.test_label import WORDS, make_text, row, run  # noqa: F401
from transformers import BertConfig, BertModel, BertTokenizerFast

from reprise.documents.label.encoder import EncoderClassifier
from reprise.documents.label.saved import load_classifier
from reprise.errors import UserError
from reprise.recipe.documents import Encoder

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A random BERT over the words of the tests."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for words in WORDS.values() for word in words)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def settings(bert, **more):
    return Encoder(model=bert, learning_rate=3e-3, batch_size=16, epochs=6, **more)


def test_it_learns_and_answers_the_same_after_loading(bert, tmp_path):
    rng = random.Random(4)
    labels = list(WORDS) * 50
    texts = [make_text(rng, label) for label in labels]
    before = torch.random.get_rng_state()
    fitted = EncoderClassifier.fit(texts, labels, [*WORDS, "Unused"], seed=0, settings=settings(bert))
    assert torch.equal(before, torch.random.get_rng_state())
    fresh = [make_text(rng, label) for label in labels]
    probabilities = fitted.probabilities(fresh)
    assert np.mean(probabilities.argmax(1) == np.arange(150) % 3) > 0.95
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities[:, 3] == 0).all()
    again = EncoderClassifier.fit(texts, labels, [*WORDS, "Unused"], seed=0, settings=settings(bert))
    assert np.array_equal(again.probabilities(fresh), probabilities)
    fitted.scale(2.0)
    fitted.save(tmp_path)
    loaded = load_classifier(tmp_path)
    odd = ["", "court " * 5000, "法律", *fresh]
    assert loaded.topics == [*WORDS, "Unused"]
    assert np.allclose(loaded.probabilities(odd), fitted.probabilities(odd), atol=1e-6)
    one_by_one = np.concatenate([loaded.probabilities([text]) for text in odd])
    assert np.allclose(loaded.probabilities(odd), one_by_one, atol=1e-5)
    assert loaded.probabilities([]).shape == (0, 4)


def test_the_stage_takes_it(run, bert):  # noqa: F811
    rng = random.Random(1)
    names = list(WORDS)
    rows = [row(n, make_text(rng, names[n % 3]), names[n % 3] if n < 150 else None) for n in range(180)]
    chosen = settings(bert).model_dump()
    _, labelled, report = run(rows, classifier="encoder", encoder=chosen)
    assert sum(r["topic"] == names[n % 3] for n, r in enumerate(labelled)) >= 178
    assert report["en"]["classifier"] == "encoder"
    assert report["en"]["held_out"]["macro_f1"] > 0.9
    assert 20 < report["en"]["held_out"]["labels"] < 45


def test_a_missing_model_is_explained(run, tmp_path):  # noqa: F811
    rows = [row(n, "court", "Law") for n in range(6)]
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="cannot be loaded") as error:
            run(rows, classifier="encoder", encoder={"model": str(path)})
        assert error.value.where == "documents.topics.encoder.model"
    with pytest.raises(ValueError, match=r"needs encoder\.model"):
        run(rows, classifier="encoder")
