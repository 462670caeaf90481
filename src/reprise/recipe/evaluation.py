"""Settings of the evaluation before and after training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from reprise.recipe.fields import AnyPath, Count, KeyVariable, ServerUrl, Settings, Share
from reprise.recipe.model import Model

SUITES: dict[str, tuple[str, ...]] = {
    "paper": (
        "mmlu", "ceval", "cmmlu", "math", "gsm8k", "asdiv", "mawps", "sat-math", "humaneval", "mbpp", "scieval", "sciq",
        "gaokao-mathqa", "gaokao-chemistry", "gaokao-biology", "arc-easy", "arc-challenge", "aqua-rat",
    ),
    "guards": ("icl-probe", "ceval-0shot", "cmmlu-0shot", "bbh", "mmlu-pro", "ifeval"),
    "assistant": ("instructions-en", "instructions-zh"),
    "quick": ("arc-easy", "sciq", "mmlu", "cmmlu", "icl-probe"),
}  # fmt: skip
"""Suite -> its benchmarks: the paper's table, guards outside it, instruction following, a few that take minutes."""

FOLDERS: dict[str, str | None] = {
    "icl-probe": None,
    "instructions-en": None,
    "instructions-zh": None,
    "ceval-0shot": "ceval",
    "cmmlu-0shot": "cmmlu",
    **dict.fromkeys(["math", "sat-math", "aqua-rat", "gaokao-mathqa", "gaokao-chemistry", "gaokao-biology"], "agieval"),
}
"""Benchmark -> its folder under `data`, if that differs from its name; None: it is generated, nothing can leak."""


INSTRUCTION_BENCHMARKS = frozenset({"instructions-en", "instructions-zh", "ifeval"})
"""Benchmarks of instruction following, which are asked through the model's chat template."""

OWN_BENCHMARKS = frozenset(name for suite in SUITES.values() for name in suite)
"""Benchmarks that are defined here; every other name is a task of the harness, a suite of a language, or a file."""


def expand_benchmarks(names: Sequence[str]) -> list[str]:
    """Expand suites in a list of benchmarks and suites; each once, in order; other names are unchanged."""
    return list(dict.fromkeys(name for entry in names for name in SUITES.get(entry, (entry,))))


def benchmark_folders(names: Sequence[str]) -> list[str]:
    """Folders under `data` with the questions of our benchmarks in a list of benchmarks and suites."""
    folders = [FOLDERS.get(name, name) for name in expand_benchmarks(names) if name in OWN_BENCHMARKS]
    return list(dict.fromkeys(folder for folder in folders if folder is not None))


class Backend(Settings):
    """Where models are evaluated."""

    kind: Literal["transformers", "openai", "vllm"] = "transformers"
    """`transformers`: in this process. `openai`: a server that returns log-probabilities of a prompt, as vLLM does.
    `vllm`: vLLM's engine, in process."""
    base_url: ServerUrl | None = None
    """Address of the server, such as http://127.0.0.1:8000/v1."""
    api_key_env: KeyVariable = "OPENAI_API_KEY"
    """Environment variable that contains the key of the server; the key itself is never written anywhere."""
    served_names: dict[str, str] = {}
    """Path of a model -> its name on the server; for a model that is not listed, its path."""
    requests_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Most requests that are sent to the server at one time."""
    engine_options: dict[str, Any] = {}
    """Arguments for vLLM's engine, such as `tensor_parallel_size: 4`."""

    @model_validator(mode="after")
    def _server_has_an_address(self) -> "Backend":
        if (self.kind == "openai") != (self.base_url is not None):
            raise ValueError("kind `openai` and `base_url` go together")
        return self


class ChatMerge(Settings):
    """Also evaluate merges of the trained model with a chat model, as `reprise merge --chat` writes them."""

    model: Model
    """The chat model: a folder or Hub name."""
    base: Model | None = None
    """The model that the chat model was made from; null: the run's base model."""
    factors: Annotated[list[Annotated[float, Field(gt=0.0, le=2.0)]], Field(min_length=1)] = [0.5, 1.0]
    """Multiples of the difference between the chat model and its base to add; 1 adds all of it."""


class Evaluation(Settings):
    """Held-out bits per byte, benchmarks, and the retention verdict."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"data"})

    benchmarks: list[AnyPath] = []
    """Benchmarks and suites (`quick`, `guards`, `assistant`, `paper`, `language:tr`), tasks of lm-evaluation-harness,
    your own YAML tasks and files of questions; `reprise benchmarks` lists them. Documents that contain a question are
    dropped."""
    run_code: bool = False
    """Run programs that the model wrote, in a sandbox: required by HumanEval and MBPP."""
    data: AnyPath | None = None
    """Folder of local benchmark files; null: load them from the Hub."""
    limit: Count = 0
    """Questions per benchmark; 0: all. Results from a sample are marked."""
    backend: Backend = Backend()
    curve_benchmarks: list[str] = []
    """Benchmarks that are also run on every kept checkpoint and merge; the results are cached."""
    merge_factors: list[Annotated[float, Field(gt=0.0, lt=1.0)]] = []
    """Also evaluate interpolations of base and trained weights, such as [0.25, 0.5, 0.75]; 0 would be the base."""
    chat_merge: ChatMerge | None = None
    """Also evaluate merges of the trained model with a chat model; `curve_benchmarks` may name `instructions-en`."""
    tolerance: dict[str, Share] | None = None
    """Entry of the mixture, language, or one of its sources (`en/paper`) -> largest relative increase of its bits per
    byte that still counts as kept, for it and its sources; null: 0.02 for `en`, unless an entry has `keep`."""
    benchmark_tolerance: Share = 0.01
    """Largest decrease of a benchmark's score, 0 to 1, that still counts as kept."""
    instruction_tolerance: Share = 0.05
    """The same for instruction following (`instructions-en`, `instructions-zh`, `ifeval`) and for the share of its
    answers without repetition: with hundreds of questions, a smaller one cannot be shown to be absent."""
    bootstrap_samples: Annotated[Count, Field(le=1_000_000)] = 0
    """Resamples for an additional bootstrap interval in results.json, which decides nothing; 0: none."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens per forward pass of the held-out measurement; never more than the model's context."""
    stride: Annotated[int, Field(ge=1)] = 1024
    """Tokens by which the window moves; each token is scored once, after at least max_length - stride tokens."""
    document_bytes: Count = 0
    """Bytes from the beginning of each held-out document that are measured; 0: all. Conversations are never cut."""
    batch_tokens: Count = 8192
    """Most tokens per batch; on a CPU batches are smaller."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of both models; `auto`: bfloat16 if the device multiplies it in hardware."""
    samples_per_language: Count = 2
    """Held-out documents per language whose beginnings both models continue, for the report."""
    sample_prompts: dict[str, list[str]] = {}
    """Language -> your own beginnings, instead of those."""
    sample_tokens: Count = 64
    """Most tokens per continuation; 0: none is generated."""

    @model_validator(mode="after")
    def _curve_can_be_measured(self) -> "Evaluation":
        curve = self.merge_factors or self.curve_benchmarks or self.chat_merge is not None
        if curve and self.backend.kind != "transformers":
            raise ValueError("merge_factors, chat_merge and curve_benchmarks need backend.kind transformers")
        other = set(expand_benchmarks(self.curve_benchmarks)) - set(expand_benchmarks(self.benchmarks))
        if other:
            raise ValueError(f"curve_benchmarks: {', '.join(sorted(other))} must also be among `benchmarks`")
        return self

    @field_validator("document_bytes")
    @classmethod
    def _a_character_fits(cls, document_bytes: int) -> int:
        if 0 < document_bytes < 16:
            raise ValueError(f"{document_bytes} is less than a word; give at least 16, or 0 for all of each document")
        return document_bytes

    @model_validator(mode="after")
    def _window_moves_less_than_its_length(self) -> "Evaluation":
        if self.stride >= self.max_length:
            raise ValueError(f"stride {self.stride} must be below max_length {self.max_length}")
        return self

    def tolerance_of(self, benchmark: str) -> float:
        """Largest decrease of the benchmark's score that still counts as kept."""
        return self.instruction_tolerance if benchmark in INSTRUCTION_BENCHMARKS else self.benchmark_tolerance

    def question_folders(self) -> list[str]:
        """Folders under `data` with questions that no document may contain.

        A missing folder is skipped: its benchmark cannot be run either, and the results report it.
        """
        folders = benchmark_folders(self.benchmarks)
        if self.data is None:
            return folders
        return [folder for folder in folders if Path(self.data, folder).expanduser().is_dir()]
