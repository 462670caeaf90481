"""The benchmarks: their tasks in lm-evaluation-harness, their examples, and how our settings differ from the paper's.

If the harness has the task, its configuration is used, with our files instead of its dataset if there are files, so a
score can be reproduced with the harness alone. MAWPS and SciEval are defined here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from reprise.benchmark_files import Item, LocalSet
from reprise.evaluation.benchmarks import answer_matching as answers
from reprise.evaluation.benchmarks import code_execution as programs
from reprise.evaluation.benchmarks import harness_fields as columns
from reprise.evaluation.benchmarks.icl_probe import probe_questions
from reprise.evaluation.benchmarks.instruction_probe import instruction_questions, instruction_results
from reprise.recipe.evaluation import FOLDERS


@dataclass(frozen=True)
class Part:
    """One task of the harness."""

    name: str
    """Name of the task in the harness, or of our own."""
    config: dict[str, Any]
    """Settings that override those of the harness's task; all settings if the harness has no such task."""
    items: LocalSet
    columns: Callable[[Item], columns.Columns]


@dataclass(frozen=True)
class Benchmark:
    """One row of the results."""

    name: str
    language: str
    """Language of the questions; `und` if it is not known."""
    shots: int | None
    """Examples in the prompt, or all that the files have; None: as in the harness's task."""
    parts: Callable[[LocalSet], list[Part]]
    """Makes the tasks from local questions."""
    hub: str = ""
    """The harness's task or group that loads the questions from the Hub, or its YAML file; empty: `hub.py` does."""
    harness: tuple[str, ...] = ()
    """Folders of the harness with its tasks; empty: the task is defined here."""
    metric: str = "acc"
    """Metric of the verdict; empty: the task's first metric that scores each question."""
    other_metrics: tuple[str, ...] = ()
    """Other metrics of the task."""
    judged_metrics: tuple[str, ...] = ()
    """Those of `other_metrics` that get a verdict too."""
    filter: str = "none"
    subjects: tuple[str, ...] | None = None
    """Subjects of the questions that belong to the benchmark; None: all."""
    runs_code: bool = False
    needs_chat: bool = False
    """Whether models without a chat template are skipped."""
    file: Path | None = None
    """The user's file: questions, or the YAML of a task."""
    needs: tuple[str, ...] = ()
    """Packages that it needs besides the harness."""
    differs: str = ""
    """How the setting differs from the paper's."""

    @property
    def folder(self) -> str | None:
        """Folder of its files in `evaluation.data`; None if the questions are generated."""
        return FOLDERS.get(self.name, self.name)

    def count_generated(self) -> int:
        """Number of its questions, if they are generated."""
        return sum(len(part.items.test) for part in self.parts(LocalSet([], [])))


_GREEDY = {"do_sample": False, "temperature": 0.0, "max_gen_toks": 320}


def choice_task(name: str) -> dict[str, Any]:
    """Configuration of a multiple-choice task with the columns query, choices and gold."""
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    return {
        "task": name,
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": metrics,
        "metadata": {"version": 1.0},
    }


def generation_task(name: str, **config: Any) -> dict[str, Any]:
    """Configuration of a generation task."""
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    base = {
        "task": name,
        "output_type": "generate_until",
        "test_split": "test",
        "metric_list": metrics,
        "metadata": {"version": 1.0},
    }
    return base | config


def _by_subject(prefix: str, convert: Callable[[Item], columns.Columns]) -> Callable[[LocalSet], list[Part]]:
    """One task per subject, as the harness divides MMLU, CMMLU and C-Eval."""

    def parts(items: LocalSet) -> list[Part]:
        names = items.subjects()
        return [Part(f"{prefix}{name.replace(' ', '_')}", {}, items.subject(name), convert) for name in names]

    return parts


def _whole(
    name: str, convert: Callable[[Item], columns.Columns], config: dict[str, Any] | None = None
) -> Callable[[LocalSet], list[Part]]:
    """One task for the whole benchmark."""
    return lambda items: [Part(name, config or {}, items, convert)]


def _scieval(items: LocalSet) -> list[Part]:
    """Physics, chemistry and biology with letters, biology with yes, no or maybe; no cloze questions, as the paper."""
    parts = []
    for subject in ("physics", "chemistry", "biology"):
        for kind, name in (("multiple-choice", f"scieval_{subject}"), ("judge", f"scieval_{subject}_judge")):
            asked = [[item for item in split if item.get("answer_type") == kind] for split in (items.test, items.dev)]
            chosen = LocalSet(*asked).subject(subject)
            if chosen.test:
                letters = '"A", "B", "C" or "D"' if kind == "multiple-choice" else '"yes", "no" or "maybe"'
                description = f"Answer the question with {letters}, without any explanation.\n\n"
                parts.append(Part(name, choice_task(name) | {"description": description}, chosen, columns.scieval))
    return parts


def _probe(items: LocalSet) -> list[Part]:
    questions = LocalSet(cast(list[Item], probe_questions()), [])
    return [
        Part(
            "icl_probe",
            choice_task("icl_probe"),
            questions,
            lambda item: {name: value for name, value in item.items() if name != "kind"},
        )
    ]


def _instructions(language: Literal["en", "zh"]) -> Benchmark:
    metrics = ("acc", "no_repetition", "own_language")
    config = generation_task(
        f"instructions_{language}",
        metric_list=[{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
        doc_to_text="{{query}}",
        doc_to_target="{{rule}}",
        process_results=instruction_results,
        generation_kwargs={"until": ["<|im_end|>", "<|eot_id|>", "</s>"], **_GREEDY, "max_gen_toks": 128},
    )

    def parts(items: LocalSet) -> list[Part]:
        questions = instruction_questions(language)
        kinds = list(dict.fromkeys(question["kind"] for question in questions))
        return [
            Part(
                f"instructions_{language}_{kind}",
                config | {"task": f"instructions_{language}_{kind}"},
                LocalSet(cast(list[Item], [question for question in questions if question["kind"] == kind]), []),
                lambda item: {name: value for name, value in item.items() if name != "kind"},
            )
            for kind in kinds
        ]

    return Benchmark(
        f"instructions-{language}", language, 0, parts, "", other_metrics=metrics[1:],
        judged_metrics=("no_repetition",), needs_chat=True, differs="written here; not in the paper",
    )  # fmt: skip


_WORD_PROBLEM = {
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{answer if target is not defined else target}}",
    "fewshot_split": None,
    "process_results": answers.word_problem_results,
    "generation_kwargs": {"until": ["Q:", "</s>", "<|im_end|>"], **_GREEDY},
}

_COMPETITION = generation_task(
    "math_boxed",
    metric_list=[{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_symbolic")],
    doc_to_text="Problem: {{problem}}\nSolution:",
    doc_to_target="{{solution or answer}}",
    fewshot_config={"sampler": "first_n"},
    process_results=answers.competition_results,
    generation_kwargs={"until": ["Problem:", "</s>", "<|im_end|>"], **_GREEDY, "max_gen_toks": 512},
)


_PROGRAM = generation_task(
    "humaneval_sandboxed",
    doc_to_text="{{prompt}}",
    doc_to_target="{{test}}",
    process_results=programs.humaneval_results,
    generation_kwargs={
        "until": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
        "do_sample": False,
        "max_gen_toks": 1024,
    },
)

_SMALL_PROGRAM = generation_task(
    "mbpp_sandboxed",
    doc_to_text="You are an expert Python programmer, and here is your task: {{text}} Your code should pass these "
    "tests:\n\n{{test_list | join('\n')}}\n[BEGIN]\n",
    doc_to_target="{{code}}\n[DONE]",
    target_delimiter="",
    fewshot_config={"sampler": "first_n"},
    process_results=programs.mbpp_results,
    generation_kwargs={"until": ["[DONE]"], "do_sample": False, "max_gen_toks": 256},
)


def _mbpp(items: LocalSet) -> list[Part]:
    """MBPP; its first examples are tasks 2, 3 and 4, as in the harness."""
    dev = sorted(items.dev, key=lambda item: item.get("task_id") not in (2, 3, 4))
    return [Part("mbpp_sandboxed", _SMALL_PROGRAM, LocalSet(items.test, dev), columns.small_program)]


def _with_reasoning(name: str) -> Callable[[LocalSet], list[Part]]:
    """A word-problem task with the harness's eight worked examples for GSM8K (Wei et al., arXiv 2201.11903)."""

    def parts(items: LocalSet) -> list[Part]:
        import lm_eval

        path = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k-cot.yaml"
        examples = yaml.safe_load(path.read_text(encoding="utf-8"))["fewshot_config"]
        config = generation_task(name, **_WORD_PROBLEM, fewshot_config=examples)
        return [Part(name, config, items, columns.word_problem)]

    return parts


def _agieval(name: str, language: Literal["en", "zh"]) -> Benchmark:
    task = f"agieval_{name.replace('-', '_')}"
    example = {"sampler": "first_n", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold[0]}}"}
    parts = _whole(task, columns.agieval, {"fewshot_config": example})
    note = "answer without reasoning in the examples; AGIEval's few-shot prompts reason first"
    return Benchmark(name, language, 5, parts, task, ("agieval",), subjects=(name,), differs=note)


_ALL = [
    Benchmark("mmlu", "en", 5, _by_subject("mmlu_", columns.mmlu), "mmlu", ("mmlu/default",)),
    Benchmark("ceval", "zh", 5, _by_subject("ceval-valid_", columns.ceval), "ceval-valid", ("ceval",),
              differs="the validation questions, as the test answers are not public"),
    Benchmark("cmmlu", "zh", 5, _by_subject("cmmlu_", columns.cmmlu), "cmmlu", ("cmmlu",)),
    Benchmark("math", "en", 5, _whole("math_boxed", columns.competition_math, _COMPETITION),
              "", subjects=("math",), other_metrics=("acc_symbolic",),
              differs="files: AGIEval's 1,000 questions, its 4 examples; Hub: all 5,000, examples of training"),
    Benchmark("gsm8k", "en", 8, _whole("gsm8k_cot", columns.word_problem), "gsm8k_cot", ("gsm8k",),
              metric="exact_match", filter="flexible-extract", differs="the eight worked examples of the harness"),
    Benchmark("asdiv", "en", 8, _with_reasoning("asdiv_cot"), "",
              differs="the eight worked examples of GSM8K; answers that are words count too"),
    Benchmark("mawps", "en", 8, _with_reasoning("mawps_cot"), "",
              differs="written here; the eight worked examples of GSM8K"),
    _agieval("sat-math", "en"),
    Benchmark("humaneval", "en", 0, _whole("humaneval_sandboxed", columns.program, _PROGRAM), "", runs_code=True,
              differs="the harness's prompt; the programs run in our sandbox"),
    Benchmark("mbpp", "en", 3, _mbpp, "", runs_code=True,
              differs="the harness's prompt and its three examples; the programs run in our sandbox"),
    Benchmark("scieval", "en", 5, _scieval, "",
              differs="written here; letters and yes/no/maybe, validation questions: the counts of the paper"),
    Benchmark("sciq", "en", 5, _whole("sciq", columns.sciq), "sciq", ("sciq",),
              differs="local files without paragraphs and examples: 0 shots, question only"),
    _agieval("gaokao-mathqa", "zh"),
    _agieval("gaokao-chemistry", "zh"),
    _agieval("gaokao-biology", "zh"),
    Benchmark("arc-easy", "en", 0, _whole("arc_easy", columns.arc), "arc_easy", ("arc",)),
    Benchmark("arc-challenge", "en", 0, _whole("arc_challenge", columns.arc), "arc_challenge", ("arc",)),
    _agieval("aqua-rat", "en"),
    Benchmark("icl-probe", "en", 0, _probe, "", differs="written here; not in the paper"),
    _instructions("en"),
    _instructions("zh"),
    Benchmark("ceval-0shot", "zh", 0, _by_subject("ceval-valid_", columns.ceval), "ceval-valid", ("ceval",)),
    Benchmark("cmmlu-0shot", "zh", 0, _by_subject("cmmlu_", columns.cmmlu), "cmmlu", ("cmmlu",)),
    Benchmark("bbh", "en", 3, _by_subject("bbh_fewshot_", columns.bbh), "bbh_fewshot", ("bbh/fewshot",),
              metric="exact_match"),
    Benchmark("mmlu-pro", "en", 5, _by_subject("mmlu_pro_", columns.mmlu_pro), "mmlu_pro", ("mmlu_pro",),
              metric="exact_match", filter="custom-extract"),
    Benchmark("ifeval", "en", 0, _whole("ifeval", columns.instructions), "ifeval", ("ifeval",),
              metric="prompt_level_strict_acc", other_metrics=("prompt_level_loose_acc",),
              needs=("langdetect", "immutabledict", "nltk"), differs="not in the paper"),
]  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}

GROUPS: dict[str, tuple[str, ...]] = {
    "science": (
        "scieval", "sciq", "gaokao-mathqa", "gaokao-chemistry", "gaokao-biology", "arc-easy", "arc-challenge",
    ),
    "ARC": ("arc-easy", "arc-challenge"),
    "GaoKao": ("gaokao-mathqa", "gaokao-chemistry", "gaokao-biology"),
    "Chinese": ("ceval", "cmmlu"),
    "mathematics": ("math", "gsm8k", "asdiv", "mawps", "sat-math"),
    "code": ("humaneval", "mbpp"),
}  # fmt: skip
"""Group -> its benchmarks; its score is their mean."""
