"""Benchmarks outside the catalogue: tasks of lm-evaluation-harness, and the user's YAML tasks and question files.

An entry of `evaluation.benchmarks` becomes a `Benchmark` like those of the catalogue. The questions of a task are
written once to a file in the user's cache, in our format, so that documents can be searched for them.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reprise.benchmark_files import LETTERS, Item, LocalSet, read_set_file
from reprise.errors import Finding, UserError, missing_extra
from reprise.evaluation.benchmarks import answer_matching as answers
from reprise.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, Part, choice_task, generation_task
from reprise.evaluation.benchmarks.harness_fields import Columns
from reprise.evaluation.benchmarks.harness_index import folders, harness_tasks, harness_version
from reprise.evaluation.benchmarks.language_suites import PREFIX, language_of, suite_of, tasks_by_language
from reprise.recipe.evaluation import OWN_BENCHMARKS, SUITES, expand_benchmarks
from reprise.recipe.languages.codes import find_language
from reprise.storage import cache_folder, digest, write_text

_FORMAT = 1
"""To be increased when the same task gives another file of questions."""
_SHOTS = 5
"""Examples in the prompt of a question file that has a file of examples."""
_WHERE = "evaluation.benchmarks"


def resolve(names: Sequence[str]) -> list[Benchmark]:
    """Resolve names, suites, tasks and files to benchmarks, each once, in order.

    Raises:
        UserError: an entry is not known.
    """
    benchmarks = {benchmark.name: benchmark for entry in expand_benchmarks(names) for benchmark in _resolve(entry)}
    return list(benchmarks.values())


def external(names: Sequence[str]) -> list[Benchmark]:
    """As `resolve`, but only benchmarks that are not in the catalogue.

    Raises:
        UserError: an entry is not known.
    """
    return resolve([name for name in expand_benchmarks(names) if name not in OWN_BENCHMARKS])


def check_entries(names: Sequence[str]) -> Iterator[Finding]:
    """Check the entries: unknown names, data that are not on this machine, and duplicate names."""
    sources: dict[str, str] = {}
    for entry in expand_benchmarks(names):
        if entry in OWN_BENCHMARKS:
            continue
        try:
            benchmarks = _resolve(entry)
        except UserError as error:
            yield Finding.of(error)
            continue
        for benchmark in benchmarks:
            other = sources.setdefault(benchmark.name, _source(benchmark))
            if other != _source(benchmark) or benchmark.name in BENCHMARKS:
                what = f"two benchmarks are called {benchmark.name!r}, and results are kept by name"
                yield Finding(what, f"{_WHERE}={entry}", "rename the file, or the task in it")
                continue
            try:
                searched_files([benchmark])
            except UserError as error:
                yield Finding.of(error, "missing")


def _source(benchmark: Benchmark) -> str:
    return benchmark.hub or str(benchmark.file)


def _resolve(entry: str) -> list[Benchmark]:
    if entry in BENCHMARKS:
        return [BENCHMARKS[entry]]
    if entry.startswith(PREFIX):
        return [_harness_benchmark(name) for name in _suite(entry)]
    if entry.endswith((".jsonl", ".yaml", ".yml")) or "/" in entry:
        path = Path(entry).expanduser()
        if not path.exists():
            remedy = "correct the path; a name without a slash is a task of lm-evaluation-harness"
            raise UserError("the file of a benchmark does not exist", where=f"{_WHERE}={entry}", remedy=remedy)
        return [_yaml_benchmark(path) if path.suffix in (".yaml", ".yml") else _question_benchmark(path)]
    if entry not in harness_tasks():
        raise _unknown(entry)
    return [_harness_benchmark(entry)]


def _unknown(entry: str) -> UserError:
    known = [*SUITES, *sorted(OWN_BENCHMARKS), *harness_tasks()]
    near = difflib.get_close_matches(entry, known, n=3, cutoff=0.7) or difflib.get_close_matches(entry, known, n=1)
    hint = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    return UserError(
        f"there is no benchmark {entry!r}: it is no suite, no task or group of the installed lm-evaluation-harness, "
        "and no file",
        where=f"{_WHERE}={entry}",
        remedy=f"{hint}`reprise benchmarks` lists what there is",
    )


def _suite(entry: str) -> list[str]:
    code = entry.removeprefix(PREFIX)
    language = find_language(code)
    names = suite_of(language) if language is not None else []
    if not names:
        raise UserError(
            f"the installed lm-evaluation-harness has no suite of the language {code!r}",
            where=f"{_WHERE}={entry}",
            remedy=f"it has those of {', '.join(sorted(one for one in tasks_by_language() if suite_of(one)))}",
        )
    return names


def _harness_benchmark(name: str) -> Benchmark:
    installed = harness_tasks()
    return Benchmark(name, language_of(name), None, _no_parts, hub=name, harness=folders(name, installed), metric="")


def _yaml_benchmark(path: Path) -> Benchmark:
    config = read_task_yaml(path)
    name = str(config.get("task") if isinstance(config.get("task"), str) else config.get("group"))
    language = (config.get("metadata") or {}).get("language", "und")
    # The tasks of a group are in files beside it.
    beside = (str(path.resolve().parent),) if "group" in config else ()
    return Benchmark(
        name, find_language(str(language)) or "und", None, _no_parts,
        hub=str(path.resolve()), harness=beside, metric="", file=path,
    )  # fmt: skip


class _Loader(yaml.SafeLoader):
    """YAML loader that reads values with tags, such as `!function`, as text."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix} {getattr(node, 'value', '')}")


def read_task_yaml(path: Path) -> dict[str, Any]:
    """Read the settings of a YAML task or group of the harness, including those of the files that it includes.

    Raises:
        UserError: the file is not YAML, or neither a task nor a group.
    """
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the task cannot be read: {reason}", where=str(path), remedy="correct the file") from None
    if isinstance(config, dict) and isinstance(config.get("include"), str):
        base = path.parent / config["include"]
        if base.is_file() and base.resolve() != path.resolve():
            config = read_task_yaml(base) | config if base.suffix else config
    if not isinstance(config, dict) or not (isinstance(config.get("task"), str) or "group" in config):
        raise UserError(
            "this is no task of lm-evaluation-harness: it has neither `task: NAME` nor `group: NAME`",
            where=str(path),
            remedy="docs/evaluation.md shows one over a file of your own",
        )
    return config


def _question_benchmark(path: Path) -> Benchmark:
    """A question file `NAME.jsonl` with examples in `NAME.dev.jsonl`, or a folder with test.jsonl and dev.jsonl."""
    test = path / "test.jsonl" if path.is_dir() else path
    items = read_question_file(test)
    languages = {find_language(str(item.get("lang") or "")) for item in items.test}
    language = languages.pop() if len(languages) == 1 else None
    return Benchmark(_question_name(path), language or "und", _SHOTS, _question_parts(_question_name(path)), file=test)


def _question_name(path: Path) -> str:
    return path.resolve().name.removesuffix(".jsonl")


def read_question_file(test: Path) -> LocalSet:
    """Read the questions of a user's file, and the examples beside it.

    Raises:
        UserError: the file is missing or empty, or a line is not a question with an answer.
    """
    dev = examples_beside(test)
    if not test.is_file():
        raise UserError("there is no file of questions here", where=str(test), remedy="see docs/evaluation.md")
    items = LocalSet(read_set_file(test), read_set_file(dev) if dev.is_file() else [])
    if not items.test:
        raise UserError("the file holds no question", where=str(test), remedy="write one JSON object a line")
    return items


def examples_beside(test: Path) -> Path:
    """Path of the examples of a question file; it may not exist."""
    return test.with_name("dev.jsonl" if test.name == "test.jsonl" else f"{test.stem}.dev.jsonl")


def _question_parts(name: str) -> Any:
    """Tasks of a question file: choices are scored by their text; free answers are generated and compared."""
    prompt = "Q: {{question}}\nA:"
    choice = choice_task(name) | {
        "doc_to_text": prompt,
        "fewshot_config": {"sampler": "first_n", "doc_to_target": "{{gold[0]}}"},
    }
    free = generation_task(
        f"{name}_free",
        doc_to_text=prompt,
        doc_to_target="{{answer}}",
        fewshot_config={"sampler": "first_n"},
        process_results=answers.word_problem_results,
        generation_kwargs={"until": ["\n", "Q:"], "do_sample": False, "max_gen_toks": 128},
    )

    def parts(items: LocalSet) -> list[Part]:
        made = []
        for config, columns, has_choices in ((choice, _choice_columns, True), (free, _free_columns, False)):
            chosen = LocalSet(
                *([item for item in split if bool(item["choices"]) is has_choices] for split in (items.test, items.dev))
            )
            if chosen.test:
                made.append(Part(str(config["task"]), config, chosen, columns))
        return made

    return parts


def _choice_columns(item: Item) -> Columns:
    gold = [LETTERS.index(letter) for letter in item["answer"]]
    return {"question": item["question"], "choices": item["choices"], "gold": gold}


def _free_columns(item: Item) -> Columns:
    return {"question": item["question"], "answer": item["answer"]}


def _no_parts(items: LocalSet) -> list[Part]:
    raise AssertionError("a task of the harness brings its own questions")


def searched_files(benchmarks: Sequence[Benchmark]) -> dict[Path, str]:
    """File of questions -> name of its benchmark, for benchmarks outside the catalogue; missing files are written.

    Raises:
        UserError: the data of a task cannot be loaded, or it does not score single questions.
    """
    files: dict[Path, str] = {}
    for benchmark in benchmarks:
        if benchmark.hub:
            path = question_path(benchmark)
            if not path.is_file():
                _write_questions(benchmark, path)
            files[path] = benchmark.name
        elif benchmark.file is not None:
            files[benchmark.file] = benchmark.name
    return files


def task_files(benchmarks: Sequence[Benchmark]) -> dict[str, Path]:
    """The user's files that affect a score: YAML tasks, and the examples of question files."""
    files = {}
    for benchmark in benchmarks:
        if benchmark.file is not None:
            files.update(
                {
                    f"{benchmark.name}/{path.name}": path
                    for path in (benchmark.file, examples_beside(benchmark.file))
                    if path.is_file()
                }
            )
    return files


def task_identity(benchmark: Benchmark) -> str:
    """Hash of the user's YAML file of a task; empty for a task of the harness, whose version identifies it."""
    return "" if benchmark.file is None else digest(benchmark.file.read_text(encoding="utf-8"))


def count_questions(benchmark: Benchmark) -> int:
    """Number of questions of a benchmark outside the catalogue.

    Raises:
        UserError: the questions cannot be loaded.
    """
    return sum(1 for path in searched_files([benchmark]) for line in path.read_bytes().splitlines() if line.strip())


def question_path(benchmark: Benchmark) -> Path:
    """Cache file with the questions of a harness task."""
    key: list[Any] = [_FORMAT, harness_version(), benchmark.hub, task_identity(benchmark)]
    if benchmark.file is not None:
        key.append([[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in _local_data(benchmark.file)])
    return cache_folder() / "questions" / f"{_safe(benchmark.name)}-{digest(key)[:16]}.jsonl"


def _local_data(path: Path) -> list[Path]:
    """Local files from which a YAML task loads its data."""
    config = read_task_yaml(path)
    options = config.get("dataset_kwargs")
    queue: list[Any] = [config.get("dataset_path")]
    queue += [options.get("data_files"), options.get("data_dir")] if isinstance(options, Mapping) else []
    files: list[Path] = []
    while queue:
        value = queue.pop()
        if isinstance(value, Mapping):
            queue += value.values()
        elif isinstance(value, list):
            queue += value
        elif isinstance(value, str):
            path = Path(value).expanduser()
            files += [path] if path.is_file() else []
            files += [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return sorted(set(files))


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:80]


def _write_questions(benchmark: Benchmark, path: Path) -> None:
    try:
        from reprise.evaluation.benchmarks import harness
    except ImportError as error:
        raise missing_extra("lm-eval", "evaluation", "running benchmarks") from error
    where = f"{_WHERE}={benchmark.file or benchmark.name}"
    try:
        tasks = harness.hub_tasks(benchmark)
        lines = [json.dumps(record, ensure_ascii=False) for record in harness.question_records(tasks)]
    except UserError:
        raise
    except Exception as error:  # `datasets` raises many exceptions for missing, gated or unreachable sets
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"the data of {benchmark.name} cannot be loaded ({type(error).__name__}: {first_line[:200]})",
            where=where,
            remedy="where there is a network, run the same command once there and bring its Hugging Face cache "
            "(HF_HOME), or leave the benchmark out; a YAML task of your own can name local files",
        ) from error
    if not lines:
        raise UserError(f"the task {benchmark.name} has no question", where=where, remedy="leave it out")
    for name, task in tasks.items():
        if task.get_config("unsafe_code"):
            what = f"the task {name} runs programs that the model wrote outside a sandbox"
            raise UserError(what, where=where, remedy="take `humaneval` or `mbpp`, which run them in ours")
        if not harness.share_metrics(task):
            raise UserError(
                f"the task {name} has no score of each question from 0 to 1 where more is better (it has "
                f"{', '.join(harness.metrics(task)) or 'none'}), so no interval can be given",
                where=where,
                remedy="leave it out",
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")
