"""Find and load a causal language model and its tokenizer."""

import contextlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from reprise.errors import UserError, missing_extra
from reprise.model.check import DEQUANTIZED
from reprise.model.failures import explain_loading
from reprise.model.files import model_files, model_folder, sentencepiece_file
from reprise.model.gguf import convert_gguf
from reprise.model.weight_files import BIN, INDEX, SAFETENSORS, StoredWeights, open_weights
from reprise.model.weights import are_names_of, compare, compare_loaded, not_finite, refuse_not_finite
from reprise.recipe.model import Model


def locate_model(settings: Model) -> str:
    """Directory of the model in Hugging Face format, or its Hub name; a GGUF file is converted first.

    Raises:
        UserError: the package, the folder or the GGUF file does not exist, or cannot be converted.
    """
    folder = model_folder(settings)
    if settings.gguf_file is not None:
        return str(convert_gguf(model_files(settings)[0]))
    return settings.path if folder is None else str(folder)


def load_config(settings: Model) -> Any:
    """The model's configuration, without its quantization, since the weights are dequantized on loading.

    Raises:
        UserError: it cannot be loaded, the model is not a causal language model, or its weights stay quantized.
    """
    config = _read_config(settings)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return config


def _read_config(settings: Model) -> Any:
    with explain_loading(settings.path):
        config = AutoConfig.from_pretrained(
            locate_model(settings), revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
        architectures = [str(name) for name in config.architectures or []]
        known = type(config) in transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in architectures)
    if not (known or settings.trust_remote_code) or (architectures and not causal):
        raise UserError(
            f"{settings.path} is a {config.model_type} model ({', '.join(architectures) or 'no architecture named'}), "
            "not a causal language model",
            where="model.path",
            remedy="choose a model whose architecture ends in ForCausalLM",
        )
    method = quantization_method(config)
    if method not in {None, *DEQUANTIZED}:
        raise UserError(
            f"the weights of {settings.path} are quantized ({method}) and cannot be trained",
            where="model.path",
            remedy="name the full-precision model that they were made from",
        )
    return config


def quantization_method(config: Any) -> str | None:
    """The quantization method in a configuration."""
    for part in (config, config.get_text_config()):
        quantization = getattr(part, "quantization_config", None)
        if quantization is not None:
            method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
            return str(getattr(method, "value", method))
    return None


def load_model(
    settings: Model, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """Load a model with exactly the weights of its files, in evaluation mode, without a key-value cache.

    Raises:
        UserError: it cannot be loaded or is not a causal language model; or a weight is missing, unexpected, of another
            shape, not of floating point, infinite or NaN.
    """
    skeleton, stored = load_skeleton(settings), open_model_weights(settings)
    direct = names_match(skeleton, settings, stored)
    config = _read_config(settings)
    method = quantization_method(config)
    if method is not None:
        config.quantization_config = _as_dict(config.quantization_config) | {"dequantize": True}
    attention = None if settings.attention == "auto" else settings.attention
    with explain_loading(settings.path):
        if direct:
            compare(skeleton, stored).refuse(stored.folder)
        model_class: Any = type(skeleton)
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=stored.open(),
            dtype=dtype,
            attn_implementation=attention,
            generation_config=load_generation_settings(settings),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        compare_loaded(model, info).refuse(stored.folder)
    model.config.name_or_path = locate_model(settings)
    if method is not None:
        _forget_quantization(model)
    refuse_not_finite(not_finite(model), str(stored.folder))
    model.config.use_cache = False
    loaded: PreTrainedModel = stop_freezing_padding(model.to(device).eval())
    return loaded


def names_match(skeleton: PreTrainedModel, settings: Model, stored: StoredWeights) -> bool:
    """Whether the files contain the model's weights without conversion: under its own names and not quantized."""
    return quantization_method(_read_config(settings)) is None and are_names_of(skeleton, stored)


def stop_freezing_padding(model: Any) -> Any:
    """Make every embedding trainable: torch gives the padding token, which may be EOS, no gradient.

    Padding is never trained on, whatever `pad_token_id` is.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None
    return model


def _as_dict(quantization: Any) -> dict[str, Any]:
    return dict(quantization) if isinstance(quantization, dict) else dict(quantization.to_dict())


def _forget_quantization(model: Any) -> None:
    """Remove the remains of the quantizer once the weights are dequantized; otherwise saving fails."""
    model.hf_quantizer = None
    model.is_quantized = False
    for part in (model.config, model.config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config


def load_skeleton(settings: Model) -> PreTrainedModel:
    """The model with its weights on the meta device, where they take no memory; buffers are real.

    Raises:
        UserError: see `load_config`; or the model cannot be built.
    """
    config = load_config(settings)
    attention = None if settings.attention == "auto" else settings.attention
    with explain_loading(settings.path), _weights_on_meta():
        model: Any = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.float32,
            attn_implementation=attention,
            trust_remote_code=settings.trust_remote_code,
        )
    model.config.use_cache = False
    skeleton: PreTrainedModel = stop_freezing_padding(model.eval())
    return skeleton


def open_model_weights(settings: Model) -> StoredWeights:
    """The weights in a model's files, downloaded from the Hub if necessary.

    Raises:
        UserError: see `weights.open_weights`.
    """
    path = locate_model(settings)
    folder = Path(path)
    with explain_loading(settings.path):
        if not folder.is_dir():
            import huggingface_hub

            for name in (SAFETENSORS, BIN):
                stem, _, suffix = name.rpartition(".")
                patterns = [f"{stem}*.{suffix}", f"{name}{INDEX}"]
                folder = Path(
                    huggingface_hub.snapshot_download(path, revision=settings.revision, allow_patterns=patterns)
                )
                if any(folder.glob(f"{stem}*.{suffix}")):
                    break
        return open_weights(folder)


_KEPT_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.tiktoken", "*.model",
    "chat_template*", "*.jinja", "*.py", "LICENSE*", "NOTICE*",
)  # fmt: skip
"""Files that a published model takes unchanged from its base: tokenizer, code, licence."""


def copy_tokenizer_and_code(settings: Model, target: Path) -> None:
    """Copy the files of a model's tokenizer, its own code and its licence, byte for byte.

    Raises:
        UserError: they cannot be downloaded.
    """
    path = locate_model(settings)
    folder = Path(path)
    if not folder.is_dir():
        import huggingface_hub

        with explain_loading(settings.path):
            folder = Path(
                huggingface_hub.snapshot_download(path, revision=settings.revision, allow_patterns=list(_KEPT_FILES))
            )
    for pattern in _KEPT_FILES:
        for file in folder.rglob(pattern) if pattern == "*.py" else folder.glob(pattern):
            if file.is_file() and file.suffix != ".gguf":
                copied = target / file.relative_to(folder)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copied)


def load_generation_settings(settings: Model) -> GenerationConfig | None:
    """The generation settings that come with the model, if any.

    Raises:
        UserError: the file exists but cannot be read.
    """
    path = locate_model(settings)
    with explain_loading(settings.path):
        file = cached_file(
            path,
            "generation_config.json",
            revision=settings.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if file is None else GenerationConfig.from_pretrained(Path(file).parent)


def load_tokenizer(settings: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer as transformers builds it, for chats, decoding and the harness; `model.eos` is its EOS.

    Ids of document text come from `model.tokenizer.open_tokenizer`.

    Raises:
        UserError: it cannot be loaded, or `model.eos` is not one of its tokens.
    """
    path = locate_model(settings)
    if sentencepiece_file(settings) is not None and importlib.util.find_spec("sentencepiece") is None:
        raise missing_extra("sentencepiece", "sentencepiece", "a tokenizer that is only there as tokenizer.model")
    with explain_loading(settings.path):
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    if settings.eos is not None:
        if settings.eos not in tokenizer.get_vocab():
            raise UserError(
                f"{settings.eos!r} is not a token of the vocabulary",
                where="model.eos",
                remedy="name one of its tokens",
            )
        tokenizer.eos_token = settings.eos
    return tokenizer


def hub_commit(settings: Model) -> str:
    """The Hub commit that a model's path resolves to: the folder name in the cache.

    Raises:
        UserError: the model is not in the cache.
    """
    with explain_loading(settings.path):
        return Path(str(cached_file(settings.path, "config.json", revision=settings.revision))).parent.name


def tokenizer_file(settings: Model) -> Path | None:
    """The model's `tokenizer.json`; None if it has none."""
    with explain_loading(settings.path):
        path = cached_file(
            locate_model(settings),
            "tokenizer.json",
            revision=settings.revision,
            _raise_exceptions_for_missing_entries=False,
        )
    return None if path is None else Path(path)


@contextlib.contextmanager
def _weights_on_meta() -> Any:
    """Move every weight to the meta device when a module registers it; buffers, which no file contains, stay."""
    register = torch.nn.Module.register_parameter

    def register_on_meta(self: Any, name: str, parameter: Any) -> None:
        register(self, name, parameter)
        if parameter is not None and not parameter.is_meta:  # a weight on meta is tied to another module's
            on_meta = parameter.detach().to("meta")
            self._parameters[name] = torch.nn.Parameter(on_meta, requires_grad=parameter.requires_grad)

    torch.nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
