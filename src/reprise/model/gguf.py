"""Convert a GGUF file to a Hugging Face model directory, once."""

import functools
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from reprise.errors import missing_extra
from reprise.model.failures import explain_loading
from reprise.model.weights import compare_loaded, not_finite, refuse_not_finite
from reprise.storage import cache_folder, digest, file_checksum, find_damage, read_checked, write_checked


def convert_gguf(source: Path) -> Path:
    """Directory with the weights of a GGUF file as safetensors, created on first use and cached by the file's content.

    Raises:
        UserError: the file cannot be read, or its weights do not match the model that it describes.
    """
    stat = source.stat()
    key = digest([_content_hash(source, stat.st_size, stat.st_mtime_ns), transformers.__version__])[:12]
    target = cache_folder() / "models" / f"{source.stem}-{key}"
    if _is_whole(target):
        return target
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "gguf", "reading a GGUF file")
    with explain_loading(str(source), where="model.gguf_file"):
        model, info = read_gguf(source)
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    compare_loaded(model, info).refuse(source)
    refuse_not_finite(not_finite(model), str(source))
    # The weights are dequantized now; what is left of the quantizer would make save_pretrained refuse.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    checksums = {path.name: file_checksum(path) for path in sorted(partial.iterdir()) if path.is_file()}
    write_checked(partial / _CHECKSUMS, checksums)
    try:
        partial.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return target


_CHECKSUMS = "checksums.json"


@functools.cache
def _is_whole(target: Path) -> bool:
    """Whether a converted model is unchanged since it was written; a damaged one is removed and converted again."""
    if not target.exists():
        return False
    checksums = read_checked(target / _CHECKSUMS)
    if checksums is None or find_damage(target, checksums, content=True):
        shutil.rmtree(target)
        return False
    return True


@functools.cache
def _content_hash(source: Path, _size: int, _mtime_ns: int) -> str:
    return file_checksum(source)["xxh128"]


def read_gguf(source: Path) -> tuple[Any, Any]:
    """A GGUF file as a transformers model, in float32, and its loading info about the tensors."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    model, info = loaded
    return model, info
