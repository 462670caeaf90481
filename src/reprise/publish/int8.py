"""Write a model with 8-bit weights by torchao, and check what transformers reads back: each weight, and the logits.

The matrices of the linear layers are quantized by row, symmetrically (torchao's `Int8WeightOnlyConfig`); embeddings,
output layer and norms keep their type.
"""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reprise.errors import UserError, missing_extra
from reprise.model.failures import explain_loading
from reprise.model.loading import load_model
from reprise.model.tokenizer import open_tokenizer
from reprise.publish.logits_check import (
    QuantizationCheck,
    check_documents,
    compare_logits,
    logits_of,
)
from reprise.recipe.model import Model

MAX_STEPS = 1.01
"""Largest difference of a weight from its original, in quantization steps: half by rounding, half by the range, which
ends at 127 steps, and by a scale that was computed in bfloat16."""
TOLERANCE = {torch.float32: 1e-3}
HALF_TOLERANCE = 0.05
"""Largest difference of the logits from those of the dequantized weights in float32, as a part of their spread; layers
of half precision round every result."""


def check_int8(model: Model) -> None:
    """Refuse what cannot be written, before the work.

    Raises:
        UserError: torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        raise missing_extra("torchao", "int8", "--int8")


def write_int8(model: Model, folder: Path) -> None:
    """Write the model with 8-bit weights into an existing folder, with the other files of the original.

    Raises:
        UserError: torchao is not installed, or the model cannot be loaded.
    """
    check_int8(model)
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    with explain_loading(model.path):
        quantized = AutoModelForCausalLM.from_pretrained(
            model.path,
            dtype="auto",
            quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2)),
            trust_remote_code=model.trust_remote_code,
        )
    quantized.save_pretrained(folder)
    for path in Path(model.path).iterdir():
        weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name != "README.md" and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def check_int8_folder(model: Model, folder: Path, texts: Sequence[str]) -> QuantizationCheck:
    """Load the folder by transformers, and compare it with the model that it was written from.

    Args:
        model: the original.
        folder: what `write_int8` wrote.
        texts: held-out text.

    Raises:
        UserError: it cannot be loaded, a weight differs by more than quantization explains, or the logits do.
    """
    from transformers import AutoModelForCausalLM

    own = load_model(model)
    documents = check_documents(open_tokenizer(model).encode_batch(list(texts)), folder)
    with explain_loading(str(folder), where="--int8"):
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", trust_remote_code=model.trust_remote_code
        ).eval()
    before = [logits_of(own, ids) for ids in documents]
    _take_weights(own, loaded, folder)
    expected = [logits_of(own, ids) for ids in documents]
    after = [logits_of(loaded, ids) for ids in documents]
    return compare_logits(
        before,
        expected,
        after,
        documents,
        limit=TOLERANCE.get(loaded.dtype, HALF_TOLERANCE),
        published=folder,
        option="--int8",
    )


@torch.no_grad()
def _take_weights(own: Any, loaded: Any, folder: Path) -> None:
    """Compare each weight with the original, and put the dequantized ones in its place.

    Raises:
        UserError: one differs by more than quantization explains, or nothing is quantized.
    """
    weights = own.state_dict()
    quantized = 0
    for name, value in loaded.state_dict().items():
        scale = getattr(value, "scale", None)
        original = weights[name]
        if scale is None:
            error = 0.0 if torch.equal(value.to(original.dtype), original) else float("inf")
        else:
            quantized += 1
            value = value.dequantize()
            error = float(((value.float() - original).abs() / scale.float()).max())
        if not error <= MAX_STEPS:
            raise UserError(
                f"the weight {name} differs from the original by {error:.3g} quantization steps, more than {MAX_STEPS}",
                where=str(folder),
                remedy="report it with the base model's name",
            )
        original.copy_(value)
    if not quantized:
        raise UserError("the model has no linear layer that torchao quantizes", where=model_name(loaded))


def model_name(loaded: Any) -> str:
    """The family of a loaded model."""
    return str(loaded.config.model_type)
