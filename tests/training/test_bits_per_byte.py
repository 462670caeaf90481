"""Bits per byte of training's validations are those of the evaluation."""

import shutil

import numpy as np
import pytest
from tests.training.conftest import SEQ_LEN, events, make_training
from transformers import AutoTokenizer

from reprise.evaluation.bits_per_byte import Text, group_totals, measure_bits
from reprise.evaluation.model import EvaluatedModel
from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.groups import find_groups
from reprise.recipe.model import Model
from reprise.tokens.builder import StoreBuilder
from reprise.training.stage import run
from reprise.workspace import Work


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("window", [(SEQ_LEN, SEQ_LEN // 2), (24, 8)])
def test_a_validation_of_all_held_out_text_is_the_measurement_of_the_evaluation(
    arguments, base_model, passages, tmp_path, bos, window
):
    if bos:
        shutil.copytree(base_model, tmp_path / "with-bos")
        tokenizer = AutoTokenizer.from_pretrained(base_model)
        tokenizer.bos_token = tokenizer.eos_token
        tokenizer.save_pretrained(tmp_path / "with-bos")
    model = Model(path=str(tmp_path / "with-bos" if bos else base_model), bos=bos)
    held_out = [passage for number, passage in enumerate(passages) if number % 6 == 0]
    builder = StoreBuilder(tmp_path / "tokenize", open_tokenizer(model), ["web"])
    builder.add([{**passage, "split": "train", "ppl": None} for passage in passages])
    builder.add(
        [{**passage, "id": f"v{number}", "split": "valid", "ppl": None} for number, passage in enumerate(held_out)]
    )
    builder.finish()
    (tmp_path / "train-1.partial").mkdir()
    work = Work(tmp_path / "train-1.partial", {"tokenize": tmp_path / "tokenize"}, tmp_path / "cache")
    training = make_training(validation={"max_tokens": 10**9})
    run(work, **arguments | {"training": training, "model": model, "window": window})

    settings = Evaluation(max_length=window[0], stride=window[1], dtype="float32")
    texts = [Text(passage["text"], passage["lang"], passage["source"]) for passage in held_out]
    groups = find_groups([arguments["stage"]], None)
    trained = Model(path=str(work.output / "model"))
    for event, measured in zip(events(work, "validation"), (model, trained), strict=True):
        bits = measure_bits(EvaluatedModel(measured, settings), texts, settings, cache=tmp_path / "bits", what="test")
        for language, expected in group_totals(texts, bits, groups).items():
            entries = [entry for entry in event["validation"] if entry["language"] == language]
            value = sum(entry["bits_per_byte"] * entry["num_bytes"] for entry in entries)
            assert value / sum(entry["num_bytes"] for entry in entries) == pytest.approx(expected, rel=2e-5)
            assert sum(entry["documents"] for entry in entries) == sum(text.language == language for text in texts)
            nats = sum(entry["nll"] * entry["tokens"] for entry in entries)
            assert nats / np.log(2) == pytest.approx(value, rel=1e-9)
