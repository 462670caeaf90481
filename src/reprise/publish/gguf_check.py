"""Check that a GGUF file computes the model: transformers reads it, and its logits on held-out text are compared.

The reference is the model with its weights quantized and dequantized in memory, so any difference beyond rounding is a
wrong name, order, setting or constant in the file. The loss from quantization is reported, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprise.errors import UserError
from reprise.model.failures import explain_loading
from reprise.model.gguf import read_gguf
from reprise.model.loading import load_model
from reprise.model.tokenizer import open_tokenizer
from reprise.model.weights import compare_loaded
from reprise.publish.gguf_file import quantized_tensors
from reprise.publish.gguf_tokenizer import GgufTokenizer, read_gguf_tokenizer
from reprise.publish.logits_check import (
    QuantizationCheck,
    check_documents,
    compare_logits,
    logits_of,
)
from reprise.recipe.model import Model

TOLERANCE = 1e-3
"""Maximum difference of a document's logits from the reference, relative to their spread."""


def check_gguf_file(model: Model, file: Path, quantization: str, texts: Sequence[str]) -> QuantizationCheck:
    """Compare a GGUF file with the model that it was written from.

    Args:
        model: the model that the file was written from.
        file: the GGUF file.
        quantization: type of the weight matrices.
        texts: held-out text.

    Raises:
        UserError: the file cannot be read, its tokenizer differs, or its logits differ by more than TOLERANCE.
    """
    own = load_model(model)
    embeddings: Any = own.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])
    _compare_tokenizer(read_gguf_tokenizer(model, rows), file)
    documents = check_documents(open_tokenizer(model).encode_batch(list(texts)), file)
    before = [logits_of(own, ids) for ids in documents]
    with torch.no_grad():
        weights = own.state_dict()
        for name, value in quantized_tensors(model, quantization):
            weights[name].copy_(value)
    expected = [logits_of(own, ids) for ids in documents]
    del own, weights
    with explain_loading(str(file), where="--gguf"):
        loaded, info = read_gguf(file)
    compare_loaded(loaded, info).refuse(file)
    after = [logits_of(loaded.eval(), ids) for ids in documents]
    return compare_logits(before, expected, after, documents, limit=TOLERANCE, published=file, option="--gguf")


def _compare_tokenizer(expected: GgufTokenizer, file: Path) -> None:
    """Refuse a file whose tokenizer differs from the model's.

    Raises:
        UserError: they differ; names the field.
    """
    import gguf

    fields = gguf.GGUFReader(file).fields
    for name, value in (
        ("tokens", expected.tokens),
        ("token_type", expected.kinds),
        ("merges", expected.merges),
        ("pre", expected.pre),
        ("bos_token_id", expected.bos_id),
        ("eos_token_id", expected.eos_id),
        ("eot_token_id", expected.eot_id),
    ):
        field = fields.get(f"tokenizer.ggml.{name}")
        written = None if field is None else field.contents()
        if isinstance(written, np.generic):
            written = written.item()
        if (written or None) != (value or None):
            raise UserError(
                f"the file's tokenizer.ggml.{name} is not the model's", where=str(file), remedy="write it again"
            )
