"""Find, load and save a causal language model and its tokenizer."""

import contextlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
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
from reprise.model.files import model_files, model_folder, sentencepiece_file
from reprise.recipe.model import Model
from reprise.workspace import digest


def cache_folder() -> Path:
    """Folder of converted models: `REPRISE_CACHE`, else `reprise` in the user's cache."""
    root = os.environ.get("REPRISE_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "reprise"


def locate_model(settings: Model) -> str:
    """Directory of the model in Hugging Face format, or its Hub name; a GGUF file is converted first.

    Raises:
        UserError: the package, the folder or the GGUF file does not exist.
    """
    folder = model_folder(settings)
    if settings.gguf_file is not None:
        return str(_converted(model_files(settings)[0]))
    return settings.path if folder is None else str(folder)


def load_config(settings: Model) -> Any:
    """The model's configuration.

    Raises:
        UserError: it cannot be had, or the model is not a causal language model.
    """
    path = locate_model(settings)
    with explain_loading(settings.path):
        config = AutoConfig.from_pretrained(
            path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    architectures = config.architectures or []
    known = type(config) in transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in architectures)
    if not (known or settings.trust_remote_code) or (architectures and not causal):
        raise UserError(
            f"{settings.path} is a {config.model_type} model ({', '.join(architectures) or 'no architecture named'}), "
            "not a causal language model",
            where="model.path",
            remedy="choose a model whose architecture ends in ForCausalLM",
        )
    return config


def load_model(
    settings: Model, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """The model with its weights, in evaluation mode, without a key-value cache.

    Raises:
        UserError: it cannot be had, or the model is not a causal language model.
    """
    load_config(settings)
    attention = None if settings.attention == "auto" else settings.attention
    with explain_loading(settings.path):
        model: Any = AutoModelForCausalLM.from_pretrained(
            locate_model(settings),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            dtype=dtype,
            attn_implementation=attention,
        )
    model.config.use_cache = False
    loaded: PreTrainedModel = model.to(device).eval()
    return loaded


def load_skeleton(settings: Model) -> PreTrainedModel:
    """The model with its weights on the meta device, where they take no memory; buffers are real.

    Raises:
        UserError: as `load_model`.
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
    skeleton: PreTrainedModel = model.eval()
    return skeleton


def weight_files(settings: Model) -> list[Path]:
    """The safetensors files of a model, from the Hub if they are not here.

    Raises:
        UserError: they cannot be had.
    """
    path = locate_model(settings)
    with explain_loading(settings.path):
        folder = Path(path)
        if not folder.is_dir():
            import huggingface_hub

            patterns = ["model*.safetensors"]
            folder = Path(huggingface_hub.snapshot_download(path, revision=settings.revision, allow_patterns=patterns))
    return sorted(folder.glob("model*.safetensors"))


def load_generation_settings(settings: Model) -> GenerationConfig | None:
    """How the model's makers say that text is to be generated, if they say so."""
    try:
        return GenerationConfig.from_pretrained(locate_model(settings), revision=settings.revision or "main")
    except OSError:
        return None


def load_tokenizer(settings: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer as transformers builds it, for chats, decoding and the harness; `model.eos` is its EOS.

    Ids of document text come from `model.tokenizer.open_tokenizer`.

    Raises:
        UserError: it cannot be loaded, or `model.eos` is none of its tokens.
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


def tokenizer_file(settings: Model) -> Path | None:
    """The model's `tokenizer.json`; None where it has none."""
    with explain_loading(settings.path):
        path = cached_file(
            locate_model(settings),
            "tokenizer.json",
            revision=settings.revision,
            _raise_exceptions_for_missing_entries=False,
        )
    return None if path is None else Path(path)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a Hugging Face directory that `AutoModelForCausalLM.from_pretrained` loads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _converted(source: Path) -> Path:
    """Directory with the weights of a GGUF file as safetensors, made on first use."""
    stat = source.stat()
    key = digest([source.name, stat.st_size, transformers.__version__])[:12]
    target = cache_folder() / "models" / f"{source.stem}-{key}"
    if (target / "config.json").is_file():
        return target
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "gguf", "reading a GGUF file")
    transformers.logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    # The weights are dequantized now; what is left of the quantizer would make save_pretrained refuse.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    save_model(model, tokenizer, partial)
    try:
        partial.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(partial)
    return target


@contextlib.contextmanager
def _weights_on_meta() -> Any:
    """Move every weight to the meta device as soon as a module has it; buffers, which no file holds, stay."""
    register = torch.nn.Module.register_parameter

    def register_on_meta(self: Any, name: str, parameter: Any) -> None:
        register(self, name, parameter)
        if parameter is not None and not parameter.is_meta:  # one that is: tied to another module's
            on_meta = parameter.detach().to("meta")
            self._parameters[name] = torch.nn.Parameter(on_meta, requires_grad=parameter.requires_grad)

    torch.nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextlib.contextmanager
def explain_loading(path: str, what: str = "model", where: str = "model.path") -> Iterator[None]:
    """Turn what transformers raises for a missing or broken model into one message.

    Args:
        path: the model, as the user named it.
        what: what it is, for the message.
        where: the setting that names it.

    Raises:
        UserError: the block could not load the model.
    """
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        logging.getLogger(__name__).debug("loading failed", exc_info=True)
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the {what} {path!r} cannot be loaded: {first_line}",
            where=where,
            remedy="name a Hugging Face model directory with config.json and weights, or a model on the Hub",
        ) from error
    finally:
        transformers.logging.set_verbosity(level)
