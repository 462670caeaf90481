"""Every pair of: model family, sharding, activation checkpointing, compile, adapter, precision.

Optimizer and averaging change from case to case. Each case trains a few steps on two processes (hybrid sharding: four,
as two nodes of two) and must end with the losses and weights of one process that neither shards nor compiles nor
recomputes; resumed from its middle, it must end with the same bits; and no process may hold a whole gradient between
two micro-batches.
"""

import itertools
import json
import os
import re
import shutil
from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from tests.training.conftest import (
    SEQ_LEN,
    as_call,
    assert_same_weights,
    events,
    make_stage,
    make_training,
    weights_of,
)
from tests.training.matrix_worker import Group
from tests.training.test_families import FAMILIES
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.model.tokenizer import open_tokenizer
from reprise.recipe.model import Model
from reprise.tokens.builder import StoreBuilder
from reprise.training.stage import run

STEPS = 4
BATCH_ROWS = 8
RANK = 1
"""Fewer rows than processes: one of them has no row of the first factors."""
LORA = {"kind": "lora", "rank": RANK, "alpha": 2 * RANK}

FACTORS = {
    "family": {"llama": None, "qwen": None, "gemma": None, "mixtral": None},
    "sharding": {
        "full": {"sharding": "full"},
        "gradients": {"sharding": "gradients"},
        "hybrid": {"sharding": "hybrid"},
        "whole": {"gradient_accumulation": "whole"},
    },
    "checkpointing": {
        "none": {},
        "selective": {"activation_checkpointing": "selective"},
        "full": {"activation_checkpointing": "full"},
    },
    "compile": {"eager": {}, "compiled": {"compile": True}},
    "adapter": {
        "no adapter": {},
        "lora": {"adapter": {**LORA, "train_embeddings": True}},
        "dora": {"adapter": {**LORA, "kind": "dora"}},
    },
    "precision": {
        "float32": {"precision": "float32"},
        "bf16": {"precision": "bf16"},
        "bf16 masters": {"precision": "bf16", "master_weights": "bf16"},
    },
    "optimizer": {
        "adamw": {},
        "muon": {"optimizer": {"kind": "muon"}},
        "8 bits": {"optimizer": {"moments": "8bit"}},
    },
    "averaging": {
        "last": {},
        "mean": {"averaging": {"kind": "mean", "tokens": SEQ_LEN * BATCH_ROWS * (STEPS - 1)}},
        "ema": {"averaging": {"kind": "ema", "decay": 0.5}},
    },
}
NAMES = list(FACTORS)
PAIRED, RIDING = NAMES[:6], NAMES[6:]
"""Factors of which every pair of values occurs, and those whose values only take turns."""
PLAIN = {name: next(iter(values)) for name, values in FACTORS.items()}
COMPUTED_ALIKE = ("sharding", "checkpointing", "compile")
"""Factors that must not change the result."""


def settings_of(case):
    """Settings of training of a case: factor -> name of its value."""
    merged = {}
    for name, value in case.items():
        merged |= FACTORS[name][value] or {}
    return merged


def refusal(case):
    """Why the recipe refuses a case; None if it does not."""
    try:
        make_training(**settings_of(case))
    except ValidationError as error:
        assert len(error.errors()) == 1
        return error.errors()[0]["msg"]
    return None


def all_pairs():
    """Each pair of values of two factors, as a set of (factor, value)."""
    for first, second in itertools.combinations(NAMES, 2):
        for a, b in itertools.product(FACTORS[first], FACTORS[second]):
            yield frozenset({(first, a), (second, b)})


PAIRS = {pair: refusal(PLAIN | dict(pair)) for pair in all_pairs()}
REQUIRED = {pair for pair, refused in PAIRS.items() if refused is None and dict(pair).keys() <= set(PAIRED)}


def pairs_of(case):
    return {frozenset(pair) for pair in itertools.combinations(case.items(), 2)}


def fits(case, name, value):
    return all(PAIRS[frozenset({(name, value), other})] is None for other in case.items())


def cover():
    """Cases that contain every required pair: greedy, the same in every run."""
    left = [pair for pair in PAIRS if pair in REQUIRED]
    cases = []
    while left:
        case = dict(left[0])
        for name in sorted(PAIRED, key=lambda name: -len(FACTORS[name])):
            if name not in case:
                gains = {
                    value: len(pairs_of(case | {name: value}) & set(left))
                    for value in FACTORS[name]
                    if fits(case, name, value)
                }
                case[name] = max(gains, key=lambda value: gains[value])  # of equal ones the first, the cheapest
        left = [pair for pair in left if pair not in pairs_of(case)]
        for name in RIDING:
            values = list(FACTORS[name])
            turn = len(cases) % len(values)
            case[name] = next(value for value in values[turn:] + values[:turn] if fits(case, name, value))
        cases.append({name: case[name] for name in NAMES})
    return cases


CASES = cover()


COMPILED_MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif("REPRISE_MATRIX" not in os.environ, reason="set REPRISE_MATRIX=compiled: minutes of tracing"),
]

REFUSED = {
    ("adapter", "precision"): "master_weights: bf16 cannot be combined with an adapter",
    ("adapter", "optimizer"): "Muon is for whole matrices|8bit works with AdamW on all weights",
    ("precision", "optimizer"): "master_weights: bf16 cannot be combined with Muon",
}
"""What is said about a pair of values of two factors, in the order of the factors."""


def test_every_pair_occurs_or_is_refused_with_a_reason():
    occurring = set().union(*map(pairs_of, CASES))
    assert occurring >= REQUIRED
    for name in RIDING:
        assert {case[name] for case in CASES} == set(FACTORS[name])
    assert all(refusal(case) is None for case in CASES)
    refused = [(tuple(sorted(dict(pair), key=NAMES.index)), said) for pair, said in PAIRS.items() if said is not None]
    assert Counter(factors for factors, _ in refused) == {
        ("adapter", "precision"): 2, ("adapter", "optimizer"): 4, ("precision", "optimizer"): 1,
    }  # fmt: skip
    for factors, said in refused:
        assert re.search(REFUSED[factors], said), said


@pytest.fixture(scope="module")
def bases(tmp_path_factory, base_model):
    """Family -> folder of a small random model."""
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    folders = {"llama": base_model}
    for family, config in FAMILIES.items():
        if family in FACTORS["family"]:
            folders[family] = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.config.eos_token_id = tokenizer.eos_token_id
            model.save_pretrained(folders[family])
            tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="module")
def store(tmp_path_factory, passages, base_model):
    """Folder of a store without held-out passages: a validation takes longer than these steps."""
    folder = tmp_path_factory.mktemp("store")
    builder = StoreBuilder(folder, open_tokenizer(Model(path=str(base_model)), "tokenizers"), ["web"])
    builder.add([{**passage, "split": "train", "ppl": None} for passage in passages])
    builder.finish()
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Runs a call in a group of so many processes, which is started again after a failure."""
    opened, errors = {}, tmp_path_factory.mktemp("errors")

    def call(size, call):
        if size not in opened:
            opened[size] = Group(size, errors / f"{size}.stderr")
        try:
            return opened[size].run(call)
        except AssertionError:
            opened.pop(size).close()
            raise

    yield call
    for group in opened.values():
        group.close()


@pytest.fixture(scope="module")
def alone():
    """Works of one process, by what they computed."""
    return {}


def losses(work):
    return [event["loss"] for event in events(work, "step")]


def distance(first, second):
    """Norm of the difference of two models."""
    a, b = weights_of(first), weights_of(second)
    assert a.keys() == b.keys()
    return float(torch.stack([(a[name].double() - b[name].double()).norm() for name in a]).norm())


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id="-".join(case.values()).replace(" ", "_"),
            marks=COMPILED_MARKS if case["compile"] == "compiled" else [],
        )
        for case in CASES
    ],
)
def test_processes_train_like_one_and_resume_exactly(case, arguments, make_work, bases, groups, alone):
    for package, needed in (("peft", case["adapter"] != "no adapter"), ("bitsandbytes", case["optimizer"] == "8 bits")):
        if needed:
            pytest.importorskip(package, reason=f"{package} is not installed")
    size, local_world = (4, 2) if case["sharding"] == "hybrid" else (2, 2)
    step_tokens = SEQ_LEN * BATCH_ROWS
    arguments |= {
        "model": Model(path=str(bases[case["family"]])),
        "stage": make_stage(tokens=step_tokens * STEPS, schedule={"peak_lr": 1e-2}),
    }
    common = {
        "batch_rows": BATCH_ROWS,
        "micro_batch_rows": BATCH_ROWS // size // 2,
        "validation": {"every_tokens": 0, "max_tokens": 64},
    }
    checkpoints = {"every_tokens": step_tokens * 2, "keep_every_tokens": step_tokens * 2}
    plain = case | {name: PLAIN[name] for name in COMPUTED_ALIKE}
    key = tuple(plain.values())
    if key not in alone:
        alone[key] = make_work("alone")
        run(alone[key], **arguments | {"training": make_training(**common, **settings_of(plain))})

    together, resumed = (make_work(name) for name in ("together", "resumed"))
    arguments["training"] = make_training(**common, **settings_of(case), checkpoints=checkpoints)
    seen = groups(size, {**json.loads(as_call(arguments, together)), "local_world": local_world})
    assert [one["passes"] for one in seen] == [2 * STEPS] * size
    if case["sharding"] == "whole":
        assert all(one["whole"] > 0 for one in seen)
    else:
        assert [(one["whole"], one["plain"]) for one in seen] == [(0, 0)] * size

    middle = f"checkpoints/step-{STEPS // 2:08d}"
    shutil.copytree(together.output / middle, resumed.output / middle)
    groups(size, {**json.loads(as_call(arguments, resumed)), "local_world": local_world})
    assert [event["step"] for event in events(resumed, "resume")] == [STEPS // 2]
    assert losses(resumed) == losses(together)[STEPS // 2 :]
    assert_same_weights(together.output / "model", resumed.output / "model")
    files = [
        json.loads((work.output / "state" / "checkpoint.json").read_text())["files"] for work in (together, resumed)
    ]
    assert files[0] == files[1]

    apart = distance(together.output / "model", alone[key].output / "model")
    moved = distance(together.output / "model", bases[case["family"]])
    exact = case["precision"] == "float32"
    assert losses(together) == pytest.approx(losses(alone[key]), rel=1e-6 if exact else 1e-3)
    assert apart < (1e-3 if exact else 0.1) * moved
