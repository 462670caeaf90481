"""Check that a published model folder is the model that was trained, for a process that does not import Reprise.

The folder is loaded at another path in another process, by transformers alone and offline. This detects code files that
were not copied, a configuration that does not match the weights, a tokenizer that splits text differently, and weights
under names that are ignored.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch

from reprise.errors import UserError
from reprise.model.files import sentencepiece_file
from reprise.model.loading import load_tokenizer
from reprise.model.objective import Objective, one_type
from reprise.model.tokenizer import PLAIN_TEXT, compared_texts, open_tokenizer
from reprise.recipe.model import Model
from reprise.training.averaging import distinct_weights
from reprise.training.local_parts import local_part

PROBE_TOKENS = 32
"""Tokens whose logits are compared."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 0.1
"""Maximum median over positions of the error of the logits, relative to their spread. Half-precision weights are
rounded once; replacing one weight matrix by random numbers gives an error of 0.3 or more."""


class Probe(NamedTuple):
    """Inputs for the published model, and the outputs of the trained one."""

    texts: list[str]
    ids: list[list[int]]
    eos_id: int
    input_ids: list[int]
    logits: np.ndarray[Any, Any]
    """float32[PROBE_TOKENS, vocabulary]."""


def make_probe(objective: Objective, average: Mapping[str, Any], settings: Model) -> Probe:
    """Compute token ids and logits of the trained model; if it is sharded, every process must call.

    Args:
        objective: the trained model.
        average: mean of the weights, which is used instead of the weights unless it is empty.
        settings: the base model, whose tokenizer is published.
    """
    tokenizer = open_tokenizer(settings)
    plain = sentencepiece_file(settings) is not None
    texts = list(PLAIN_TEXT) if plain else compared_texts(load_tokenizer(settings))
    ids = [one.tolist() for one in tokenizer.encode_batch(texts)]
    rng = np.random.default_rng(0)
    embedded = int(objective.model.get_input_embeddings().weight.shape[0])
    limit = getattr(objective.config.get_text_config(), "max_position_embeddings", None) or PROBE_TOKENS
    of_text = [token for one in ids for token in one if token < embedded][: PROBE_TOKENS // 2]
    anywhere = rng.integers(0, min(tokenizer.vocab_size, embedded), PROBE_TOKENS - len(of_text)).tolist()
    input_ids = [*of_text, *anywhere][:limit]
    with torch.no_grad(), _in_use(objective, average), one_type(objective):
        was_training = objective.training
        objective.eval()
        device = next(objective.parameters()).device
        logits = objective(torch.tensor([input_ids], device=device)).logits[0].float().cpu().numpy()
        objective.train(was_training)
    return Probe(texts, ids, tokenizer.eos_id, input_ids, logits)


@contextlib.contextmanager
def _in_use(objective: Objective, average: Mapping[str, Any]) -> Iterator[None]:
    """Context in which the model has the mean of its weights."""

    def exchange() -> None:
        for name, value in distinct_weights(objective).items() if average else ():
            weight, mean = local_part(value), local_part(average[name])
            before = weight.clone()
            weight.copy_(mean)
            mean.copy_(before)

    with torch.no_grad():
        exchange()
    try:
        yield
    finally:
        with torch.no_grad():
            exchange()


class Reply(TypedDict):
    """Output of the process that runs `read_alone.py`."""

    ids: list[list[int]]
    """Token ids of each text."""
    eos_id: int | None
    logits: list[list[float]]
    """[tokens, vocabulary]."""
    quantized: bool
    """Whether the published configuration has a quantization."""


def check_published(folder: Path, probe: Probe, settings: Model, dtype: torch.dtype) -> None:
    """Load the published folder in another process, and compare its outputs with those of the trained model.

    Args:
        folder: folder of the model.
        probe: inputs, and the expected outputs.
        settings: the base model, which says whether code in the folder may run.
        dtype: dtype of the written weights, which determines the tolerance.

    Raises:
        UserError: the folder cannot be loaded, or its outputs differ.
    """
    answer = _ask(folder, probe, settings)
    for text, right, ids in zip(probe.texts, probe.ids, answer["ids"], strict=True):
        if ids != right:
            raise _refusal(folder, f"its tokenizer gives {ids[:12]} for {text[:40]!r}; trained was {right[:12]}")
    if answer["eos_id"] != probe.eos_id:
        raise _refusal(folder, f"its tokenizer has the EOS id {answer['eos_id']}; trained was {probe.eos_id}")
    if answer["quantized"]:
        raise _refusal(folder, "its config.json says that the weights are quantized, which they are not")
    logits = np.array(answer["logits"], dtype=np.float32)
    if logits.shape != probe.logits.shape:
        raise _refusal(folder, f"its logits have the shape {logits.shape}, not {probe.logits.shape}")
    spread = np.sqrt(np.mean((probe.logits - probe.logits.mean(axis=1, keepdims=True)) ** 2, axis=1))
    errors = np.sqrt(np.mean((logits - probe.logits) ** 2, axis=1)) / np.maximum(spread, 1e-30)
    error = float(np.median(errors))  # the median, as rounding may route a token to another expert
    limit = TOLERANCE.get(dtype, HALF_TOLERANCE)
    if not error <= limit:
        raise _refusal(folder, f"its logits differ by {error:.2g} of their spread, more than {limit:g}")


def _ask(folder: Path, probe: Probe, settings: Model) -> Reply:
    request = {
        "texts": probe.texts,
        "input_ids": probe.input_ids,
        "trust_remote_code": settings.trust_remote_code,
    }
    with tempfile.TemporaryDirectory(prefix="reprise-published-") as elsewhere:
        model = Path(elsewhere, "model")
        model.mkdir()
        for path in folder.iterdir():
            (model / path.name).symlink_to(path.resolve())
        answer = Path(elsewhere, "answer.json")
        script = Path(__file__).with_name("read_alone.py")
        launcher = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE"}
        environment = {name: value for name, value in os.environ.items() if name not in launcher}
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(model), str(answer)],
            input=json.dumps(request),
            cwd=elsewhere,
            env={**environment, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": elsewhere, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0 or not answer.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            said = lines[-1] if lines else f"exit code {done.returncode}"
            if done.returncode == -9:
                said = "the system ended it, which it does when memory runs out"
            raise _refusal(folder, f"another process cannot load it: {said}")
        reply: Reply = json.loads(answer.read_text(encoding="utf-8"))
        return reply


def _refusal(folder: Path, what: str) -> UserError:
    return UserError(
        f"the model that was written is not the one that was trained: {what}",
        where=str(folder),
        remedy="report it with the base model's name; training.verify_model=false publishes it as it is",
    )
