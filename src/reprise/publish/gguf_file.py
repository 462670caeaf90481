"""Write a Hugging Face model as a GGUF file for llama.cpp and Ollama, with the writer and quantizers of `gguf`.

Only families whose weights and settings map one to one are supported; all others are refused by name.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprise.errors import UserError, missing_extra
from reprise.model.loading import load_config, open_model_weights
from reprise.model.weight_files import StoredWeights
from reprise.publish.gguf_tokenizer import GgufTokenizer, read_gguf_tokenizer
from reprise.recipe.model import Model

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`model_type` in config.json -> architecture in GGUF."""
TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q5_1": "Q5_1", "q5_0": "Q5_0", "q4_1": "Q4_1",
         "q4_0": "Q4_0"}  # fmt: skip
"""Name on the command line -> type of the weight matrices, of those that the package `gguf` can quantize to."""
_FINE = {"Q4_0", "Q4_1", "Q5_0", "Q5_1"}
"""Types for which embeddings and output layer are Q8_0, because small models are most sensitive there."""


def check_gguf(model: Model, quantization: str) -> None:
    """Refuse a model that cannot be written as GGUF, before its weights are read.

    Raises:
        UserError: the quantization, the family or one of its settings is not supported; or `gguf` is not installed.
    """
    if quantization not in TYPES:
        raise UserError(
            f"there is no quantization {quantization!r} that can be written here",
            where=f"--gguf {quantization}",
            remedy=f"take one of {', '.join(TYPES)}; for K-quants such as q4_k_m write f16 and run llama.cpp's "
            "llama-quantize on it",
        )
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "gguf", "writing and checking a GGUF file")
    config = load_config(model)
    family = str(config.model_type)
    if family not in FAMILIES:
        raise UserError(
            f"models of the family {family} cannot be written to a GGUF file here",
            where=f"model_type of {model.path}",
            remedy=f"supported are {', '.join(FAMILIES)}; convert the model folder with llama.cpp's own script",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise UserError(
            f"rotary positions are scaled ({rope['rope_type']}), which is not supported",
            where=f"rope_parameters of {model.path}",
            remedy="convert the model folder with llama.cpp's own script",
        )
    if family != "qwen2" and (getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)):
        raise UserError(
            "its layers have biases, which transformers does not read from a GGUF file of this family, so that nothing "
            "could check the file",
            where=f"attention_bias, mlp_bias of {model.path}",
            remedy="convert the model folder with llama.cpp's own script",
        )
    if not str(config.hidden_act).startswith("silu"):
        raise UserError(
            f"the activation is {config.hidden_act}, not silu", where=f"hidden_act of {model.path}",
            remedy="convert the model folder with llama.cpp's own script",
        )  # fmt: skip


def write_gguf(model: Model, file: Path, quantization: str, *, name: str) -> GgufTokenizer:
    """Write a model as one GGUF file, one tensor at a time.

    Args:
        model: the model directory.
        file: file to write.
        quantization: a key of `TYPES`.
        name: name of the model in the file.

    Returns:
        The tokenizer that was written.

    Raises:
        UserError: as `check_gguf` and `read_gguf_tokenizer`, or a tensor has no name in GGUF.
    """
    import gguf

    check_gguf(model, quantization)
    config, stored = load_config(model), open_model_weights(model)
    architecture = FAMILIES[config.model_type]
    names = gguf_names(stored, architecture, config.num_hidden_layers)
    embeddings = next(own for own, name in names.items() if name == "token_embd.weight")
    rows = stored.read(embeddings).get_shape()[0] if stored.is_safetensors else len(stored.read(embeddings))
    tokenizer = read_gguf_tokenizer(model, int(rows))
    writer = gguf.GGUFWriter(file, architecture)
    _write_settings(writer, config, int(rows), quantization, name)
    _write_tokenizer(writer, tokenizer)
    kinds = {own: type_of(own, names[own], stored, quantization) for own in names}
    for own, kind in kinds.items():
        shape = list(_shape(stored, own))
        if kind.name in ("F32", "F16"):
            dtype: Any = np.float32 if kind.name == "F32" else np.float16
            writer.add_tensor_info(names[own], shape, np.dtype(dtype), int(np.prod(shape)) * np.dtype(dtype).itemsize)
        else:
            stored_shape = gguf.quant_shape_to_byte_shape(shape, kind)
            writer.add_tensor_info(names[own], stored_shape, np.dtype(np.uint8), int(np.prod(stored_shape)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for own, kind in kinds.items():
        value = permuted(own, _float32(stored, own), config)
        writer.write_tensor_data(gguf.quantize(value, kind))
    writer.close()
    return tokenizer


def gguf_names(stored: StoredWeights, architecture: str, layers: int) -> dict[str, str]:
    """Name of each tensor in the model's files -> its name in GGUF.

    Raises:
        UserError: a tensor has no name in GGUF.
    """
    import gguf

    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    table = gguf.get_tensor_name_map(arch, layers)
    names: dict[str, str] = {}
    for own in sorted(stored.files):
        if own.endswith("rotary_emb.inv_freq"):
            continue  # computed from config.json
        name = table.get_name(own, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(
                f"the tensor {own} has no name in a GGUF file of the architecture {architecture}",
                where=str(stored.folder),
                remedy="convert the model folder with llama.cpp's own script",
            )
        names[own] = name
    return names


def type_of(own: str, name: str, stored: StoredWeights, quantization: str) -> Any:
    """Type that a tensor is written in; vectors, and rows that no block size divides, get a more precise type."""
    import gguf

    shape = _shape(stored, own)
    if len(shape) < 2:
        return gguf.GGMLQuantizationType.F32
    type_name = TYPES[quantization]
    if type_name in _FINE and name in ("token_embd.weight", "output.weight"):
        type_name = "Q8_0"
    kind = gguf.GGMLQuantizationType[type_name]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def quantized_tensors(model: Model, quantization: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name in the model's files, float32 values after quantization): the weights that the file must contain."""
    import gguf

    config, stored = load_config(model), open_model_weights(model)
    names = gguf_names(stored, FAMILIES[config.model_type], config.num_hidden_layers)
    for own, name in names.items():
        kind = type_of(own, name, stored, quantization)
        value = gguf.dequantize(gguf.quantize(_float32(stored, own), kind), kind)
        yield own, torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)).reshape(_shape(stored, own))


def permuted(own: str, value: Any, config: Any) -> Any:
    """Permute the rows of query and key into the order of llama.cpp's rotary embedding (architecture llama only)."""
    if FAMILIES[config.model_type] != "llama" or not any(part in own for part in (".q_proj.", ".k_proj.")):
        return value
    heads = config.num_attention_heads if ".q_proj." in own else config.num_key_value_heads
    half = value.shape[0] // heads // 2
    return np.ascontiguousarray(value.reshape(heads, 2, half, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape))


def _float32(stored: StoredWeights, own: str) -> Any:
    return stored.read(own)[...].to(torch.float32).numpy()


def _shape(stored: StoredWeights, own: str) -> tuple[int, ...]:
    tensor = stored.read(own)
    return tuple(tensor.shape if isinstance(tensor, torch.Tensor) else tensor.get_shape())


def _write_settings(writer: Any, config: Any, rows: int, quantization: str, name: str) -> None:
    import gguf

    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    writer.add_name("Mistral" if name == "mistral" else name)  # transformers selects the architecture by this name
    file_type = "ALL_F32" if quantization == "f32" else f"MOSTLY_{TYPES[quantization]}"
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(rows)
    # llama.cpp has no sliding window in these architectures, so beyond the window it would compute something else.
    writer.add_context_length(min(config.max_position_embeddings, window or config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    rope = getattr(config, "rope_parameters", None) or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta", getattr(config, "rope_theta", None) or 10_000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _write_tokenizer(writer: Any, tokenizer: GgufTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.kinds)
    writer.add_token_merges(tokenizer.merges)
    for add, token_id in (
        (writer.add_bos_token_id, tokenizer.bos_id),
        (writer.add_eos_token_id, tokenizer.eos_id),
        (writer.add_eot_token_id, tokenizer.eot_id),
        (writer.add_pad_token_id, tokenizer.pad_id),
        (writer.add_unk_token_id, tokenizer.unknown_id),
    ):
        if token_id is not None:
            add(token_id)
    writer.add_add_bos_token(tokenizer.adds_bos)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
