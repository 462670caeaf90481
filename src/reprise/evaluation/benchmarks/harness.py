"""lm-evaluation-harness: its tasks with our files, and a model class that computes shared tokens once.

Only imported when a benchmark runs.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from datasets import Dataset, DatasetDict
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from reprise.benchmark_files import LocalSet
from reprise.errors import UserError
from reprise.evaluation.benchmarks.catalogue import Benchmark, Part
from reprise.evaluation.benchmarks.loglikelihood import ContinuationScorer, cut_pieces
from reprise.evaluation.model import EvaluatedModel
from reprise.evaluation.pieces import measure_pieces
from reprise.evaluation.quiet import without_bars
from reprise.progress import track
from reprise.storage import digest

FEWSHOT_SEED = 1234
"""The harness's default seed, so that its command line draws the same examples."""

GENERATION_PIECE = 64
"""Most prompts in one piece of generation, which one process runs and caches."""

GENERATION_BATCH = 32
"""Most prompts in one batch of generation; fewer if they are long, since their keys and values are kept in memory."""

VERSION = str(getattr(lm_eval, "__version__", "unknown"))

logging.getLogger("lm_eval").setLevel(logging.ERROR)


class BatchedLM(HFLM):  # type: ignore[misc]
    """The harness's transformers model, with a faster computation of the same log-likelihoods.

    Tokenization, truncation and generation are the harness's own.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_tokens: int,
        evaluated: EvaluatedModel | None = None,
        folder: Path | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: a causal language model of transformers on its device.
            tokenizer: the model's tokenizer.
            batch_tokens: tokens in one batch of log-likelihoods; a batch of generation has up to twice as many.
            evaluated: the same model, whose processes share the requests; only together with `folder`.
            folder: cache folder for the answers to each piece of the requests.
        """
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)
        self._scorer = ContinuationScorer(
            model, max_length=self.max_length, batch_tokens=batch_tokens, device=model.device
        )
        self._batch_tokens = batch_tokens
        self._evaluated, self._folder = evaluated, folder

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is greedy) of each choice given its question.

        Raises:
            UserError: a choice has no token of its own, which the harness refuses as well.
        """
        for request in requests:
            context, continuation = request.args
            if not self._own_tokens(context, continuation):
                raise UserError(
                    f"the choice {continuation!r} has no token of its own after {context[-40:]!r}",
                    where="evaluation.benchmarks",
                    remedy="correct the question in the benchmark's files, or leave the benchmark out",
                )
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def _own_tokens(self, context: str, continuation: str) -> bool:
        """Whether a choice has a token besides those of its context; only unusual choices are encoded for this."""
        if context and continuation.strip():
            return True
        if context:
            return bool(self._encode_pair(context, continuation)[1])
        ids: list[int] = self.tok_encode(continuation, add_special_tokens=False)
        return len(ids) > int(ids[:1] == [self.prefix_token_id])

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        pairs = [(list(context), list(continuation)) for _, context, continuation in requests]
        if self._evaluated is None:
            return self._scorer.score(pairs)
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        branches = self._scorer.takes_branches(pairs)
        measure = partial(_score_piece, self.max_length, self._batch_tokens, branches)
        parts = cut_pieces(pairs)
        answers = self._measure("choices", [[pairs[position] for position in part] for part in parts], measure)
        for part, answer in zip(parts, answers, strict=True):
            for position, (logprob, is_greedy) in zip(part, answer, strict=True):
                scores[position] = (logprob, is_greedy)
        return scores

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate a continuation of each prompt."""
        if self._evaluated is None:
            return self.generate_here([request.args for request in requests])
        arguments = [request.args for request in requests]
        order = sorted(
            range(len(requests)),
            key=lambda position: (repr(arguments[position][1]), -len(arguments[position][0]), arguments[position][0]),
        )
        parts = [order[start : start + GENERATION_PIECE] for start in range(0, len(order), GENERATION_PIECE)]
        measure = partial(_generate_piece, self._batch_tokens)
        answers = self._measure("prompts", [[arguments[position] for position in part] for part in parts], measure)
        texts = [""] * len(requests)
        for part, answer in zip(parts, answers, strict=True):
            for position, text in zip(part, answer, strict=True):
                texts[position] = text
        return texts

    def generate_here(self, arguments: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """Generate in this process; `arguments` are (prompt, the harness's generation settings)."""
        tokens = [
            len(self.tok_encode(prompt)) + int(settings.get("max_gen_toks") or self.max_gen_toks)
            for prompt, settings in arguments
        ]
        self.batch_size_per_gpu = max(1, min(GENERATION_BATCH, 2 * self._batch_tokens // max(tokens, default=1)))
        requests = [
            Instance(request_type="generate_until", doc={}, arguments=(prompt, dict(settings)), idx=index)
            for index, (prompt, settings) in enumerate(arguments)
        ]
        return [str(text) for text in super().generate_until(requests, disable_tqdm=True)]

    def _measure(self, unit: str, parts: list[Any], measure: Callable[[EvaluatedModel, Any], Any]) -> list[Any]:
        """Measure pieces of the requests in all processes; the result of each piece is cached by its content."""
        evaluated, folder = self._evaluated, self._folder
        assert evaluated is not None and folder is not None
        paths = [folder / f"{digest([evaluated.fingerprint, VERSION, unit, repr(part)])}.json" for part in parts]
        pieces = list(zip(paths, parts, strict=True))
        with track("benchmarks", sum(map(len, evaluated.processes.own_pieces(parts))), unit) as advance:

            def own(part: Any) -> Any:
                answer = measure(evaluated, part)
                advance(len(part))
                return answer

            return measure_pieces(evaluated, pieces, measure, own)


def _score_piece(
    max_length: int, batch_tokens: int, takes_branches: bool, evaluated: EvaluatedModel, requests: Any
) -> list[tuple[float, bool]]:
    """(log-likelihood, whether it is greedy) of each request of a piece."""
    scorer = ContinuationScorer(
        evaluated.model, max_length=max_length, batch_tokens=batch_tokens, device=evaluated.device,
        takes_branches=takes_branches,
    )  # fmt: skip
    return scorer.score(requests)


def _generate_piece(batch_tokens: int, evaluated: EvaluatedModel, requests: Any) -> list[str]:
    """Continuations of the prompts of a piece."""
    if "harness" not in evaluated.opened:
        evaluated.opened["harness"] = BatchedLM(evaluated.model, evaluated.tokenizer, batch_tokens=batch_tokens)
    texts: list[str] = evaluated.opened["harness"].generate_here(requests)
    return texts


def local_tasks(benchmark: Benchmark, items: LocalSet) -> dict[str, Any]:
    """Name -> task of the harness, with local questions."""
    tasks: dict[str, Any] = {}
    parts = benchmark.parts(items)
    manager = _manager(benchmark)
    for part in parts:
        if "output_type" in part.config:
            task = ConfigurableTask(config={**_data(part, "test"), **part.config})
        else:
            task = _from_harness(manager, part)
        has_own_examples = bool(getattr(task.get_config("fewshot_config"), "samples", None))
        asked = benchmark.shots or 0
        shots = asked if has_own_examples else min(asked, len(part.items.dev))
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        tasks[part.name] = task
    return tasks


def hub_tasks(benchmark: Benchmark) -> dict[str, Any]:
    """Name -> task of the harness, unchanged, with questions from the Hub."""
    with without_bars():
        loaded = _manager(benchmark).load([benchmark.hub])["tasks"]
    for task in loaded.values():
        if benchmark.shots is not None and (task.get_config("num_fewshot") != 0 or benchmark.shots == 0):
            task.set_config(key="num_fewshot", value=benchmark.shots)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return dict(loaded)


def loaded_questions(tasks: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """Task -> its questions and the examples for its prompts: all data that its scores depend on."""
    return {
        name: [list(task.eval_docs), list(task.fewshot_docs() if task.get_config("num_fewshot") else [])]
        for name, task in tasks.items()
    }


def metrics(task: Any) -> list[str]:
    """Names of a task's metrics, in order."""
    return list(task.aggregation())


def share_metrics(task: Any) -> list[str]:
    """Metrics of a task that score each question and are aggregated by the mean, where higher is better; in order.

    Whether scores are between 0 and 1 is checked when they are computed.
    """
    better, aggregated = task.higher_is_better(), task.aggregation()
    return [
        name
        for name in metrics(task)
        if better.get(name, True) and getattr(aggregated[name], "__name__", "") == "mean" and name not in _NOT_SHARES
    ]


_NOT_SHARES = frozenset(
    {"bypass", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "loglikelihood"}
)


def question_records(tasks: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the questions of tasks in our file format, for decontamination."""
    for name, task in tasks.items():
        for index, doc in enumerate(task.eval_docs):
            yield {"id": f"{name}/{index}", "question": _searched(task, doc), "choices": _choices(task, doc)}


def _searched(task: Any, doc: Any) -> str:
    """The text of a question to search documents for: the one that the task defines, else its fields in the prompt.

    Words of the template, such as `Question:`, are left out, as no document contains them.
    """
    if task.should_decontaminate() and (query := task.doc_to_decontamination_query(doc)):
        return str(query)
    prompt = task.doc_to_text(doc)
    fields = [value for value in doc.values() if isinstance(value, str) and value.strip()]
    if isinstance(prompt, str):
        asked = [value for value in fields if value.strip() in prompt]
        whole = [value for value in asked if not any(value != other and value in other for other in asked)]
        if whole:
            return "\n".join(sorted(dict.fromkeys(whole), key=lambda value: prompt.index(value.strip())))
        return prompt
    return "\n".join(fields)  # a task whose prompt depends on the choice, such as Winogrande


def _choices(task: Any, doc: Any) -> list[str]:
    """Texts of the choices, also if the prompt lists them with letters."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return []
    choices = [str(choice) for choice in task.doc_to_choice(doc)]
    if all(len(choice.strip(" ().")) <= 1 for choice in choices):
        lists = (value for value in doc.values() if isinstance(value, list) and len(value) == len(choices))
        choices = next(([str(choice) for choice in value] for value in lists), [])
    return choices


def gold_bits(sample: dict[str, Any], output_type: str) -> tuple[float, int] | None:
    """(bits, UTF-8 bytes) of the right answer as scored; None if nothing was scored, or the right answer is not known.

    If several answers are right, the most likely one counts.
    """
    if output_type not in ("multiple_choice", "loglikelihood"):
        return None
    texts = [str(arguments[1]) for arguments in sample["arguments"]]
    nats = [float(response[0]) for response in sample["filtered_resps"]]
    right = [0] if output_type == "loglikelihood" else _right(sample["target"], texts)
    known = [(-nats[index] / math.log(2), len(texts[index].encode())) for index in right if index < len(nats)]
    return min(known, default=None)


def _right(target: Any, texts: list[str]) -> list[int]:
    """Indices of the right choices; the harness logs one index, several, or the text of a choice."""
    if isinstance(target, list | tuple):
        return [index for one in target for index in _right(one, texts)]
    if isinstance(target, str) and not target.isdecimal():
        return [index for index, text in enumerate(texts) if text.strip() == target.strip()][:1]
    return [int(target)] if 0 <= int(target) < len(texts) else []


def run_tasks(
    lm: Any, tasks: dict[str, Any], samples: dict[str, list[int]], *, as_chat: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Run tasks on chosen questions.

    Args:
        lm: the harness's model.
        tasks: name -> task.
        samples: name of a task -> indices of its questions.
        as_chat: format each question with the chat template.

    Returns:
        Name of a task -> the harness's log of each question.
    """
    chosen = {name: task for name, task in tasks.items() if samples[name]}
    with without_bars():
        results = evaluate(
            lm=lm,
            task_dict={"tasks": chosen, "groups": {}},
            samples={name: samples[name] for name in chosen},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=as_chat,
            confirm_run_unsafe_code=False,
        )
    return {name: list(results["samples"][name]) for name in chosen}


def _manager(benchmark: Benchmark) -> Any:
    """A task manager that only knows the tasks of one benchmark, as indexing all takes half a minute."""
    root = Path(lm_eval.__file__).parent / "tasks"
    return TaskManager(include_defaults=False, include_path=[str(root / folder) for folder in benchmark.harness])


def _from_harness(manager: Any, part: Part) -> Any:
    """The harness's task with our questions instead of its dataset."""
    split = "val" if part.name.startswith("ceval-valid") else "test"
    override = {**_data(part, split), **part.config, "task": part.name}
    loaded = manager.load([{"group": f"reprise-{part.name}", "task": [override]}])
    return next(iter(loaded["tasks"].values()))


def _data(part: Part, split: str) -> dict[str, Any]:
    """Settings that replace the dataset of a task by local questions."""
    columns = {split: part.items.test} | ({"dev": part.items.dev} if part.items.dev else {})
    dataset = DatasetDict(
        {name: Dataset.from_list([part.columns(item) for item in items]) for name, items in columns.items()}
    )
    settings: dict[str, Any] = {
        "custom_dataset": lambda **ignored: dataset,
        "dataset_kwargs": {},
        "training_split": None,
        "validation_split": split if split == "val" else None,
        "test_split": None if split == "val" else split,
        "fewshot_split": "dev" if part.items.dev else None,
    }
    return settings


def ordered(samples: Sequence[dict[str, Any]], metric: str, filter_name: str) -> list[tuple[int, float]]:
    """(index of the question, score) in order, from the harness's log; an empty filter name is the task's first filter.

    Raises:
        UserError: a score is not between 0 and 1.
    """
    filter_name = filter_name or str(samples[0]["filter"])
    chosen = [sample for sample in samples if sample["filter"] == filter_name]
    for sample in chosen:
        score = sample.get(metric)
        if not isinstance(score, int | float | np.number | np.bool_) or not 0 <= score <= 1:
            raise UserError(
                f"the metric {metric} gives a question {str(score)[:80]}, which is no score from 0 to 1",
                where="evaluation.benchmarks",
                remedy="leave the task out",
            )
    return sorted((int(sample["doc_id"]), float(sample[metric])) for sample in chosen)
