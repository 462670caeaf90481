"""A model that is measured: identified by its files, loaded when the first measure needs it, once for all of them."""

import gc
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reprise.errors import UserError, missing_extra
from reprise.model.chat import ChatTemplate
from reprise.model.devices import own_device
from reprise.model.files import model_files, model_folder
from reprise.model.likelihood import native_dtype
from reprise.model.loading import hub_commit, load_model, load_tokenizer
from reprise.model.tokenizer import Tokenizer, open_tokenizer
from reprise.processes import Processes
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model
from reprise.storage import digest, file_checksum

_LOADED = frozenset({"model", "remote", "tokenizer", "text_tokenizer", "template", "opened", "processes", "device"})
"""Attributes that each worker process creates for itself."""


class EvaluatedModel:
    """A model with the dtype and device that its measures use."""

    def __init__(self, settings: Model, evaluation: Evaluation, processes: Processes | None = None) -> None:
        self.settings, self.backend = settings, evaluation.backend
        self.processes = processes or Processes()
        """Those that divide its work, of which this is the first."""
        self.in_process = evaluation.backend.kind == "transformers"
        """Whether transformers computes it in this process."""
        self.device = own_device()
        named = evaluation.dtype
        self.dtype: torch.dtype = native_dtype(self.device) if named == "auto" else getattr(torch, named)

    def __getstate__(self) -> dict[str, Any]:
        """State for a worker process: what identifies the model, without anything that is loaded."""
        assert self.fingerprint
        return {name: value for name, value in self.__dict__.items() if name not in _LOADED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state that another process sent."""
        self.__dict__ |= {**state, "processes": Processes(), "device": own_device()}

    @property
    def key(self) -> str:
        """Same as `fingerprint`."""
        return self.fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that determines the model's results: its files (on the Hub, its name and commit), the
        settings of its tokenizer and attention, and the dtype."""
        folder = model_folder(self.settings)
        files: dict[str, Any] = {
            str(path.relative_to(folder)): file_checksum(path)["xxh128"]
            for path in model_files(self.settings)
            if folder is not None
        }
        if not files:
            commit = hub_commit(self.settings)
            files = {self.settings.path: commit}
        files["settings"] = self.settings.model_dump(mode="json", exclude={"path", "revision"})
        if not self.in_process:
            return digest([files, self.backend.kind, self.backend.engine_options])
        return digest([files, str(self.dtype), self.device.type])

    @cached_property
    def remote(self) -> Any:
        """The harness's client for a backend that is not in this process.

        Raises:
            UserError: a package is missing, the server does not answer, or vLLM is asked for on several processes.
        """
        if self.backend.kind == "vllm" and self.processes.world > 1:
            raise UserError(
                "vLLM divides its work over GPUs by itself",
                where="evaluation.backend.kind = vllm",
                remedy="run the same command without torchrun; evaluation.backend.engine_options has its settings",
            )
        try:
            from reprise.evaluation.backends import open_backend
        except ImportError as error:
            raise missing_extra("lm-eval", "evaluation", f"evaluation.backend.kind={self.backend.kind}") from error
        return open_backend(self.settings, self.backend)

    @property
    def weights_from(self) -> Model:
        """The model whose weights are loaded."""
        return self.settings

    @property
    def tokenizer_from(self) -> Model:
        """The model whose tokenizer and chat template are loaded."""
        return self.settings

    @cached_property
    def model(self) -> PreTrainedModel:
        """The weights, on the device, in evaluation mode."""
        return load_model(self.weights_from, self.dtype, self.device)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer as transformers builds it: for benchmarks, and ids to text."""
        return load_tokenizer(self.tokenizer_from)

    @cached_property
    def text_tokenizer(self) -> Tokenizer:
        """Text to the ids that training reads."""
        return open_tokenizer(self.tokenizer_from)

    @cached_property
    def opened(self) -> dict[str, Any]:
        """Wrappers that measures have built around the weights, by name."""
        return {}

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template."""
        return ChatTemplate(self.tokenizer_from)

    def release(self) -> None:
        """Free the weights; the next measure loads them again."""
        self.close()

    def close(self) -> None:
        """Free the memory of the weights."""
        for name in ("model", "remote", "opened"):
            self.__dict__.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
