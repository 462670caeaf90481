"""Benchmarks that are not ours: tasks of the harness, YAML tasks, question files, suites of languages."""

import json
import math
import re

import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tests.evaluation.conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from reprise.benchmark_files import read_questions
from reprise.cli import app
from reprise.documents.decontaminate.index import build_index
from reprise.documents.decontaminate.search import find_questions
from reprise.documents.table import DOCUMENTS, TableWriter, read_table
from reprise.errors import UserError
from reprise.evaluation.benchmarks import external, harness
from reprise.evaluation.benchmarks.harness_index import folders, harness_tasks, leaf_tasks, read_tasks, tasks_folder
from reprise.evaluation.benchmarks.language_suites import read_suites, suite_of, tasks_by_language
from reprise.evaluation.benchmarks.runner import BenchmarkRunner, compare_benchmarks, summarize
from reprise.evaluation.comparison import find_untested, judge_rows
from reprise.evaluation.model import EvaluatedModel
from reprise.plan.build import make_plan
from reprise.preflight.requirements import check_benchmark_names
from reprise.recipe import read_preset
from reprise.recipe.documents import Decontaminate
from reprise.recipe.evaluation import OWN_BENCHMARKS, Evaluation
from reprise.recipe.groups import find_groups
from reprise.recipe.loading import parse_recipe
from reprise.recipe.model import Model
from reprise.stages import stages
from reprise.workspace import Work

PLACES = ("harbour", "lighthouse", "quarry", "orchard", "chapel", "tannery", "foundry", "granary")
QUESTIONS = [
    {"question": f"Which keeper left the old {place} by the river in the winter of {1800 + number}?",
     "choices": [f"Anna of the {place}", "Piet the younger", "a man from the north"], "gold": number % 3}
    for number, place in enumerate(PLACES)
]  # fmt: skip
YAML = """
task: keepers
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0, language: nl}}
"""


def lines(path, records):
    path.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Questions of tasks are kept here, and not in the user's cache."""
    monkeypatch.setattr(external, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def task(tmp_path, cache):
    path = tmp_path / "keepers.yaml"
    path.write_text(YAML.format(data=lines(tmp_path / "data.jsonl", QUESTIONS)), encoding="utf-8")
    return path


@pytest.fixture
def questions(tmp_path):
    """A question file of the user's: choices and free answers, and an example beside it."""
    mixed = [{"question": one["question"], "choices": one["choices"], "answer": "ABC"[one["gold"]], "lang": "nld_Latn"}
             for one in QUESTIONS[:5]]  # fmt: skip
    mixed.append({"question": "How many sails had the mill?", "answer": "4", "lang": "nl"})
    lines(tmp_path / "mills.dev.jsonl", [mixed[0] | {"question": "Who ground the grain?"}])
    return lines(tmp_path / "mills.jsonl", mixed)


def run(folder, tmp_path, *names, **more):
    settings = Evaluation(benchmarks=[str(name) for name in names], dtype="float32", **more)
    runner = BenchmarkRunner(EvaluatedModel(Model(path=str(folder)), settings), settings, cache=tmp_path / "s", seed=3)
    return runner.run(), runner, settings


def findings(*names):
    return list(external.check_entries([str(name) for name in names]))


def test_a_yaml_task_scores_as_the_harness_does_and_tells_the_bits_of_its_answers(task, tiny_model, tmp_path):
    (measured,), runner, _ = run(tiny_model, tmp_path, task)
    assert (measured.benchmark, measured.language, measured.metric, measured.total) == ("keepers", "nl", "acc", 8)
    assert not runner.absent
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model).eval(),
        AutoTokenizer.from_pretrained(tiny_model),
    )
    tasks = harness.hub_tasks(external.resolve([str(task)])[0])
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    log = evaluate(lm=lm, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0, log_samples=True)
    assert measured.scores == {f"keepers/{one['doc_id']}": one["acc"] for one in log["samples"]["keepers"]}
    assert measured.other_metrics == {"acc_norm": sum(one["acc_norm"] for one in log["samples"]["keepers"]) / 8}
    for number, one in enumerate(QUESTIONS):
        answer = f" {one['choices'][one['gold']]}"
        prompt = tokenizer(f"Question: {one['question']}\nAnswer:", add_special_tokens=False).input_ids
        ids = tokenizer(answer, add_special_tokens=False).input_ids
        with torch.no_grad():
            scores = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        bits = -scores[range(len(ids)), ids].sum().item() / math.log(2)
        assert measured.gold[f"keepers/{number}"] == (pytest.approx(bits, rel=1e-4), len(answer.encode()))
    assert summarize([measured])[0]["gold_bits_per_byte"] == measured.gold_bits_per_byte > 0


def test_questions_of_a_task_are_searched_for_without_the_words_of_its_template(task):
    (path,) = external.searched_files(external.external([str(task)]))
    asked = read_questions({path: "keepers"})
    assert [one.text for one in asked] == [one["question"] for one in QUESTIONS]
    assert asked[1].choices == tuple(QUESTIONS[1]["choices"])
    index = build_index(asked, Decontaminate())
    leak = f"It is told here. {QUESTIONS[3]['question']} Nobody knows."
    assert [list(hit) for hit in find_questions(index, [leak, "The orchard stood by the river."], 0.8)] == [[3], []]


def test_changed_data_of_a_task_are_other_questions(task, tmp_path):
    (before,) = external.searched_files(external.external([str(task)]))
    lines(tmp_path / "data.jsonl", QUESTIONS[:4])
    (after,) = external.searched_files(external.external([str(task)]))
    assert before != after and external.count_questions(external.resolve([str(task)])[0]) == 4


def test_a_question_file_is_asked_with_its_examples(questions, tiny_model, tmp_path):
    (measured,), _, settings = run(tiny_model, tmp_path, questions)
    assert (measured.benchmark, measured.language, measured.total, measured.shots) == ("mills", "nl", 6, 1)
    assert set(measured.parts()) == {"mills", "mills_free"}
    assert len(measured.gold) == 5  # the free answer was generated, not scored
    other = make_model(tmp_path / "other", make_tokenizer(), seed=5)
    (after,), _, _ = run(other, tmp_path, questions)
    rows = compare_benchmarks([measured], [after], settings)
    (verdict,) = judge_rows([], rows)
    assert verdict["measure"] == "mills" and verdict["judged_ci"] is not None
    gold = rows[0].row["gold_bits_per_byte"]
    assert gold["questions"] == 5 and gold["ci"][0] < gold["change"] < gold["ci"][1]
    assert gold["before"] == pytest.approx(measured.gold_bits_per_byte)


def test_a_folder_of_questions_is_a_benchmark_too(questions, tmp_path):
    (tmp_path / "mill-set").mkdir()
    questions.rename(tmp_path / "mill-set" / "test.jsonl")
    (benchmark,) = external.resolve([str(tmp_path / "mill-set")])
    assert benchmark.name == "mill-set" and external.count_questions(benchmark) == 6


def test_a_run_searches_plans_and_asks_the_questions_of_a_task(task, questions, tiny_model, tmp_path):
    names = json.dumps([str(task), str(questions)])
    own = ["documents.max_drop_share=1", f"model={{path: {tiny_model}}}", f"workspace={tmp_path / 'run'}"]
    recipe = parse_recipe(read_preset("demo"), [*own, f"evaluation.benchmarks={names}"])
    assert not list(check_benchmark_names(recipe))
    steps = {stage.name: stage for stage in stages(recipe)}
    searched = {name for name in steps["decontaminate"].files() if name.startswith("benchmarks/")}
    assert searched == {"benchmarks/keepers/questions", "benchmarks/mills/questions"}
    assert searched <= set(steps["synthesize"].files())
    decisive = {"tasks/keepers/keepers.yaml", "tasks/mills/mills.jsonl", "tasks/mills/mills.dev.jsonl"}
    assert decisive | searched <= set(steps["evaluate"].files())
    reach = {entry["path"]: entry["items"] for entry in make_plan(recipe)["reach"]}
    assert reach == {"keepers": 8, "mills": 6}
    (tmp_path / "out").mkdir()
    work = Work(tmp_path / "out", {"deduplicate": tmp_path / "in"}, tmp_path / "work-cache")
    with TableWriter(tmp_path / "in" / DOCUMENTS) as writer:
        for number, text in enumerate((QUESTIONS[2]["question"], "A quiet day at the quarry, and nothing to tell.")):
            row = {"id": str(number), "text": f"{text} So it is.", "lang": "en", "source": "web", "split": "train"}
            writer.write([row | {"origin": "here"}])
    steps["decontaminate"].run()(
        work, **steps["decontaminate"].settings, **steps["decontaminate"].means | {"engine": "local"}
    )
    assert [row["id"] for batch in read_table(tmp_path / "out" / DOCUMENTS, ["id"]) for row in batch.to_pylist()] == [
        "1"
    ]
    assert {entry["benchmark"]: entry["questions"] for entry in work.counts["benchmarks"]} == {"keepers": 8, "mills": 6}


def test_the_list_of_benchmarks_says_whose_questions_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    (tmp_path / "hub" / "datasets--facebook--belebele").mkdir(parents=True)
    (tmp_path / "sets" / "arc-easy").mkdir(parents=True)
    lines(tmp_path / "sets" / "arc-easy" / "test.jsonl", QUESTIONS)
    said = {row["name"]: row for row in json.loads(reprise("benchmarks", "tur_Latn", "--json"))}
    assert said["belebele_tur_Latn"]["data"] == "here" and said["xcopa_tr"]["data"] == "not here"
    assert said["belebele_tur_Latn"]["suites"] == ["language:tr"] and said["turkishmmlu"]["dataset"]
    everything = json.loads(reprise("benchmarks", "--data", str(tmp_path / "sets"), "--json"))
    ours = {row["name"]: row["data"] for row in everything["benchmarks"]}
    assert (ours["arc-easy"], ours["sciq"], ours["icl-probe"]) == ("here", "not here", "generated")
    assert {"tr", "ja", "sw"} <= {row["language"] for row in everything["languages"]}
    assert "belebele_tur_Latn" in reprise("benchmarks", "tr") and "language:sw" in reprise("benchmarks")
    with pytest.raises(UserError, match="'xx'"):
        reprise("benchmarks", "xx")


def reprise(*arguments):
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.mark.parametrize(
    ("name", "near"), [("belebele_tur_latin", "belebele_tur_Latn"), ("gsm8kk", "gsm8k"), ("guard", "guards")]
)
def test_a_misspelt_name_is_a_finding_with_the_right_one(name, near):
    (finding,) = findings("quick", name)
    assert finding.severity == "error" and near in finding.remedy and name in finding.where


def test_what_cannot_be_asked_is_one_finding_each_before_the_work(task, questions, tmp_path):
    gone = tmp_path / "gone.yaml"
    gone.write_text(YAML.format(data=tmp_path / "nowhere.jsonl").replace("keepers", "gone"))
    alike = tmp_path / "b"
    alike.mkdir()
    (alike / "keepers.yaml").write_text(task.read_text())
    text = tmp_path / "text.yaml"
    text.write_text("name: no task")
    rouge = tmp_path / "rouge.yaml"
    rouge.write_text(task.read_text().replace("keepers", "rouge").replace("aggregation: mean", "aggregation: f1"))
    found = findings(task, questions, gone, alike / "keepers.yaml", text, rouge, tmp_path / "no.jsonl", "language:xx")
    said = [f"{finding.severity}: {finding.where}: {finding.what}" for finding in found]
    assert len(said) == 6
    for line, part in zip(
        said,
        ("missing: .*gone.yaml: .* gone cannot be loaded", "two benchmarks are called 'keepers'", "neither `task",
         "no score of each question", "does not exist", "no suite of the language 'xx'"),
        strict=True,
    ):  # fmt: skip
        assert re.search(part, line), line
    with pytest.raises(UserError, match="cannot be loaded"):
        external.searched_files(external.external([str(gone)]))


def test_a_line_that_is_no_question_is_named(tmp_path):
    path = lines(tmp_path / "bad.jsonl", [{"question": "Why?", "answer": "so"}, {"question": "How?"}])
    (finding,) = findings(path)
    assert "bad.jsonl:2" in finding.where
    (finding,) = findings(lines(tmp_path / "empty.jsonl", []))
    assert "holds no question" in finding.what


def test_names_of_the_installed_harness_are_those_that_it_knows_itself():
    """Of folders with groups, tags, included files and inline tasks."""
    from lm_eval.tasks import TaskManager

    root = tasks_folder()
    for folder in ("turkishmmlu", "belebele", "mmlu/default", "xcopa", "include/default/Turkish", "kobest"):
        known = TaskManager(include_defaults=False, include_path=str(root / folder))
        ours = read_tasks(root / folder)
        assert set(known.all_subtasks) == {name for name, task in ours.items() if task.kind == "task"}
        assert set(known.all_groups) <= set(ours)
        assert set(known.all_tags) <= set(ours)
        for name in known.all_subtasks:
            assert ours[name].dataset.split(":")[0] == known.task_index[name].cfg["dataset_path"]
    assert len(leaf_tasks("turkishmmlu", harness_tasks())) == 9
    assert folders("mmlu_prox_ja", harness_tasks()) == ("mmlu_prox",)


def test_suites_of_languages_name_what_is_installed():
    suites = read_suites()
    named = {name for own in suites.languages.values() for name in (*own.suite, *own.more)}
    assert named <= set(harness_tasks()) - OWN_BENCHMARKS
    families = {task.family for tasks in tasks_by_language().values() for task in tasks}
    assert {family.name for family in suites.families} <= families
    assert {"belebele_tur_Latn", "turkishmmlu", "include_base_44_turkish", "xcopa_tr"} <= set(suite_of("tr"))
    assert "belebele_zho_Hans" in suite_of("zh") and "belebele_zho_Hant" not in suite_of("zh")
    assert len([language for language in tasks_by_language() if suite_of(language)]) >= 90
    assert [one.name for one in external.resolve(["language:tur_Latn"])] == suite_of("tr")


@pytest.fixture
def ifeval_sets(tmp_path):
    """Folder with two questions of IFEval."""
    (tmp_path / "sets" / "ifeval").mkdir(parents=True)
    asked = [
        {"question": f"Write {words}.", "answer": "", "instruction_id_list": [rule], "kwargs": [arguments]}
        for words, rule, arguments in (
            ("without a comma", "punctuation:no_comma", {}),
            ("at least 900 words", "length_constraints:number_words", {"relation": "at least", "num_words": 900}),
        )
    ]
    lines(tmp_path / "sets" / "ifeval" / "test.jsonl", asked)
    return str(tmp_path / "sets")


def test_ifeval_asks_files_of_a_folder(tiny_model, tmp_path, monkeypatch, ifeval_sets):
    """Its rules are the harness's: a random model's bytes have no comma or they do."""
    settings = {"data": ifeval_sets}
    monkeypatch.setattr(harness, "local_tasks", _short(harness.local_tasks))
    (measured,), runner, _ = run(tiny_model, tmp_path, "ifeval", **settings)
    assert not runner.absent
    assert measured.metric == "prompt_level_strict_acc" and measured.scores["ifeval/1"] == 0.0
    assert set(measured.other_metrics) == {"prompt_level_loose_acc"} and measured.gold_bits_per_byte is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found, runner, _ = run(tiny_model, tmp_path / "other", "ifeval", **settings)
    assert not found and "reprise-cpt[evaluation]" in runner.absent["ifeval"]


def test_ifeval_asks_through_the_chat_template_of_a_model_that_has_one(tiny_model, tmp_path, monkeypatch, ifeval_sets):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    chat = make_model(tmp_path / "chat", tokenizer)
    prompts = []
    run_tasks = harness.run_tasks

    def recorded(*arguments, **more):
        logs = run_tasks(*arguments, **more)
        prompts.append(logs["ifeval"][0]["arguments"][0][0])
        return logs

    monkeypatch.setattr(harness, "local_tasks", _short(harness.local_tasks))
    monkeypatch.setattr(harness, "run_tasks", recorded)
    (plain,), _, settings = run(tiny_model, tmp_path, "ifeval", data=ifeval_sets)
    (asked,), runner, _ = run(chat, tmp_path, "ifeval", data=ifeval_sets)
    assert prompts == ["Write without a comma.", "[user]Write without a comma.[assistant]"]
    monkeypatch.setattr(BenchmarkRunner, "_has_chat_template", False)
    runner.run()
    assert prompts[2:] == prompts[:1]  # answers to the other form are not read from the cache
    assert summarize([asked])[0]["differs"].endswith("asked through the chat template")
    (compared,) = compare_benchmarks([plain], [asked], settings)
    assert compared.row["tolerance"] == settings.instruction_tolerance
    assert "before: not in the paper; asked as plain text" in compared.row["differs"]
    verdicts = judge_rows([], [compared])
    untested = find_untested([], find_groups([], {}), verdicts, {}, is_assistant=True)
    assert "instruction following" not in [row["measure"] for row in untested]


def _short(local_tasks):
    """Answers of 16 tokens: a random model never ends one by itself."""

    def tasks(*arguments):
        made = local_tasks(*arguments)
        for task in made.values():
            task.set_config(key="generation_kwargs", value={"until": [], "do_sample": False, "max_gen_toks": 16})
        return made

    return tasks
