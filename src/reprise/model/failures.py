"""Turn what libraries raise while a model is loaded into one message."""

import contextlib
import logging
from collections.abc import Iterator

import transformers

from reprise.errors import UserError, out_of_memory

log = logging.getLogger(__name__)


@contextlib.contextmanager
def explain_loading(path: str, what: str = "model", where: str = "model.path") -> Iterator[None]:
    """Turn whatever a library raises for a missing or broken model into one message.

    Args:
        path: the model, as the user specified it.
        what: kind of thing that is loaded, for the message.
        where: the setting that specifies it.

    Raises:
        UserError: the block could not load the model.
    """
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors, tokenizers, torch, json, and the model's own code raise what they like
        log.debug("loading failed", exc_info=True)
        if (memory := out_of_memory(error, "name a smaller model, or give the process more memory")) is not None:
            raise memory from error
        raise UserError(
            f"the {what} {path!r} cannot be loaded: {_first_line(error)}",
            where=where,
            remedy=_remedy(error),
        ) from error
    finally:
        transformers.logging.set_verbosity(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {lines[0]}"


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        package = f" `{error.name}`" if error.name else ""
        return f"install the package{package} that the model needs, or name another model"
    return "name a Hugging Face model directory with config.json, weights and tokenizer, or a model on the Hub"
