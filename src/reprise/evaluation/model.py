"""A model that is measured: identified by its files, loaded when the first measure needs it, once for all of them."""

import gc
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reprise.errors import missing_extra
from reprise.model.chat import ChatTemplate
from reprise.model.files import model_files, model_folder
from reprise.model.likelihood import native_dtype
from reprise.model.loading import hub_commit, load_model, load_tokenizer
from reprise.model.tokenizer import Tokenizer, open_tokenizer
from reprise.recipe.evaluation import Evaluation
from reprise.recipe.model import Model
from reprise.storage import digest, file_checksum


class EvaluatedModel:
    """A model with the number format and device that its measures use."""

    def __init__(self, settings: Model, evaluation: Evaluation) -> None:
        self.settings, self.backend = settings, evaluation.backend
        self.in_process = evaluation.backend.kind == "transformers"
        """Whether transformers computes it in this process."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        named = evaluation.dtype
        self.dtype: torch.dtype = native_dtype(self.device) if named == "auto" else getattr(torch, named)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what decides its answers: its files (on the Hub, its name and commit), the settings of its tokens and
        its attention, and the number format."""
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
        """The harness's client for a backend that is not in this process."""
        try:
            from reprise.evaluation.backends import open_backend
        except ImportError as error:
            raise missing_extra("lm-eval", "evaluation", f"evaluation.backend.kind={self.backend.kind}") from error
        return open_backend(self.settings, self.backend)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The weights, on the device, in evaluation mode."""
        return load_model(self.settings, self.dtype, self.device)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer as transformers builds it: for benchmarks, and ids to text."""
        return load_tokenizer(self.settings)

    @cached_property
    def text_tokenizer(self) -> Tokenizer:
        """Text to the ids that training reads."""
        return open_tokenizer(self.settings)

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template."""
        return ChatTemplate(self.settings)

    def release(self) -> None:
        """Let go of the weights; the next measure loads them again."""
        self.__dict__.pop("model", None)
        self.__dict__.pop("remote", None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
