"""A larger vocabulary as a stage: later stages take it, and the verdict is against the base model as it was."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.pipeline.conftest import small_recipe
from transformers import AutoTokenizer
from typer.testing import CliRunner

from reprise.cli import app
from reprise.errors import UserError
from reprise.freshness import statuses
from reprise.pipeline import run_stages
from reprise.plan.build import make_plan
from reprise.preflight.checks import inspect
from reprise.publish.card import write_card
from reprise.publish.origin import trained_origin
from reprise.recipe.loading import open_recipe, parse_recipe
from reprise.recipe.model import Model
from reprise.schemas import FORMATS
from reprise.tokens.store import TokenStore
from reprise.vocabulary import extend
from reprise.workspace import Workspace

LARGER = {"tokens": 60, "min_count": 4, "languages": ["zh"]}


def with_vocabulary(workspace, model):
    """The small recipe; only the new tokens are trained at first."""
    data = small_recipe(workspace, model)
    one, two = data["stages"]
    one |= {"tokens": 1024, "trains": "new_tokens", "max_epochs": 100.0}
    two |= {"tokens": 1024, "max_epochs": 100.0}
    data["evaluation"] |= {"merge_factors": [0.5], "samples_per_language": 0}
    return data | {"vocabulary": dict(LARGER)}


def write_chat_model_of(base, folder):
    """A copy with a chat template and other weights."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(2)
    for name, value in weights.items():
        weights[name] = value + 0.02 * torch.randn(value.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<eos>{% endfor %}", encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    """A whole run, as plain data and as a recipe."""
    root = tmp_path_factory.mktemp("larger")
    data = with_vocabulary(root / "run", tiny_model)
    probe = {"benchmarks": ["instructions-en"], "curve_benchmarks": ["instructions-en"], "limit": 2}
    chat = {"model": {"path": str(write_chat_model_of(tiny_model, root / "chat"))}, "factors": [1.0]}
    data["evaluation"] |= {**probe, "chat_merge": chat, "dtype": "float32"}
    recipe = parse_recipe(json.dumps(data))
    assert [one for one in inspect(recipe) if one.severity != "warning"] == []
    run_stages(recipe, say=lambda line: None)
    return data, recipe


@pytest.fixture
def workspace(finished):
    return Workspace(finished[1].workspace)


def test_later_stages_take_the_larger_vocabulary(workspace, tiny_model):
    counts = workspace.manifest("vocabulary").counts
    next(one for one in FORMATS if one.name == "counts").check(counts)
    assert 20 < counts["tokens_added"] <= 60
    (chinese,) = counts["compression"]
    assert chinese["language"] == "zh" and chinese["held_out"] and chinese["after"] > chinese["before"]
    before = AutoTokenizer.from_pretrained(tiny_model)
    store = TokenStore.open(workspace.folder("tokenize"))
    assert store.vocab_size == len(before) + counts["tokens_added"]
    assert store.highest_id >= counts["first_id"] == len(before)
    tokens = json.loads((workspace.folder("vocabulary") / "new_tokens.json").read_text(encoding="utf-8"))
    next(one for one in FORMATS if one.name == "new-tokens").check(tokens)
    assert len(tokens["tokens"]) == counts["tokens_added"]
    trained = AutoTokenizer.from_pretrained(workspace.folder("train-2") / "model")
    assert trained.get_vocab().items() >= before.get_vocab().items()
    assert [trained.decode([counts["first_id"] + i]) for i in range(len(tokens["tokens"]))] == tokens["tokens"]


def test_only_new_rows_are_trained_by_a_stage_that_says_so(workspace):
    first_id = workspace.manifest("vocabulary").counts["first_id"]
    start, one, two = (
        load_file(workspace.folder(stage) / "model" / "model.safetensors")
        for stage in ("vocabulary", "train-1", "train-2")
    )
    name = "model.embed_tokens.weight"
    assert torch.equal(start[name][:first_id], one[name][:first_id])
    assert not torch.equal(start[name][first_id:], one[name][first_id:])
    assert all(torch.equal(start[other], one[other]) for other in start if other != name)
    assert all(not torch.equal(one[other], two[other]) for other in start)


def test_the_verdict_is_against_the_base_model_with_its_own_vocabulary(workspace, finished, tmp_path):
    from reprise.evaluation.bits_per_byte import measure_bits
    from reprise.evaluation.model import EvaluatedModel
    from reprise.evaluation.stage import read_held_out

    recipe = finished[1]
    results = json.loads((workspace.folder("evaluate") / "results.json").read_text(encoding="utf-8"))
    base, start = (EvaluatedModel(one, recipe.evaluation) for one in (recipe.model, recipe.start_model()))
    assert results["fingerprints"]["before"] == base.fingerprint
    texts = read_held_out(workspace.folder("score") / "documents")
    size = sum(text.num_bytes for text in texts if text.language == "zh")
    of_model = {}
    for name, evaluated in (("base", base), ("start", start)):
        bits = measure_bits(evaluated, texts, recipe.evaluation, cache=tmp_path / name, what="")
        of_model[name] = sum(one for one, text in zip(bits, texts, strict=True) if text.language == "zh") / size
    assert of_model["base"] != pytest.approx(of_model["start"], rel=1e-3)
    (row,) = [one for one in results["bits_per_byte"] if one["path"] == "zh"]
    assert row["before"] == pytest.approx(of_model["base"])
    kinds = [(point["kind"], point["stage"]) for point in results["curve"]]
    assert kinds == [("base", None), ("checkpoint", 1), ("checkpoint", 2), ("merge", None), ("chat", None)]
    assert results["curve"][0]["bits_per_byte"]["zh"] == pytest.approx(of_model["base"])


def test_a_merge_with_a_chat_model_is_measured_as_reprise_merge_writes_it(workspace, finished, tmp_path):
    from reprise.evaluation.bits_per_byte import group_totals, measure_bits
    from reprise.evaluation.model import EvaluatedModel
    from reprise.evaluation.stage import read_held_out

    recipe = finished[1]
    curve = json.loads((workspace.folder("evaluate") / "results.json").read_text(encoding="utf-8"))["curve"]
    chat = recipe.evaluation.chat_merge.model.path
    result = CliRunner().invoke(
        app, ["merge", str(workspace.root), "--chat", chat, "--output", str(tmp_path / "merged")]
    )
    assert result.exit_code == 0, result.output
    merged = EvaluatedModel(Model(path=str(tmp_path / "merged")), recipe.evaluation)
    texts = read_held_out(workspace.folder("score") / "documents")
    bits = measure_bits(merged, texts, recipe.evaluation, cache=tmp_path / "cache", what="")
    assert curve[-1]["bits_per_byte"] == pytest.approx(group_totals(texts, bits, recipe.held_out_groups()), rel=1e-6)
    # Only a model with a template can be asked.
    assert ["instructions-en" in row["scores"] for row in curve] == [False] * 4 + [True]
    assert not (workspace.folder("evaluate") / "model").exists()
    page = (workspace.root / "report.html").read_text(encoding="utf-8")
    assert "Merge with a chat model: benchmarks" in page


def test_a_chat_model_that_does_not_fit_is_refused_before_the_work(tmp_path, tiny_model, finished):
    data = with_vocabulary(tmp_path / "run", tiny_model)
    chat = write_chat_model_of(tiny_model, tmp_path / "chat")
    data["evaluation"]["chat_merge"] = {"model": {"path": str(chat)}}
    assert [one for one in inspect(parse_recipe(json.dumps(data))) if one.severity == "error"] == []
    same = {**data, "evaluation": {**data["evaluation"], "chat_merge": {"model": data["model"]}}}
    (finding,) = [one for one in inspect(parse_recipe(json.dumps(same))) if one.severity == "error"]
    assert "are one model" in finding.what and "evaluation.chat_merge.base" in finding.remedy
    tokenizer = AutoTokenizer.from_pretrained(chat)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(chat)
    (finding,) = [one for one in inspect(parse_recipe(json.dumps(data))) if one.severity == "error"]
    assert "'<|im_start|>' has the id" in finding.what and "vocabulary" in finding.remedy
    config = json.loads((chat / "config.json").read_text(encoding="utf-8"))
    (chat / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), encoding="utf-8")
    (finding,) = [one for one in inspect(parse_recipe(json.dumps(data))) if one.severity == "error"]
    assert "num_hidden_layers = 1" in finding.what


def test_plan_report_and_card_count_the_budget_in_bytes(workspace, finished):
    recipe = finished[1]
    counts = workspace.manifest("vocabulary").counts
    (chinese,) = counts["compression"]
    plan = make_plan(recipe)
    next(one for one in FORMATS if one.name == "plan").check(plan)
    assert not any("was run with other settings" in warning for warning in plan["warnings"])
    fewer = make_plan(recipe.model_copy(update={"vocabulary": recipe.vocabulary.model_copy(update={"tokens": 7})}))
    assert fewer["vocabulary"] is None
    assert "the stage `vocabulary` was run with other settings" in fewer["warnings"][0]
    (planned,) = plan["vocabulary"]["languages"]
    assert planned["tokens"] == round(0.6 * 2048)
    assert planned["bytes_after"] == round(planned["tokens"] * chinese["after"]) > planned["bytes_before"]
    store = TokenStore.open(workspace.folder("tokenize"))
    books = [one for key, one in store.train.items() if key.language == "zh" and key.source == "book"]
    rate = sum(int(one.num_bytes.sum()) for one in books) / sum(one.num_tokens for one in books)
    rows = [one for one in plan["buckets"] if (one["entry"], one["source"]) == ("zh", "book")]
    assert [one["text_bytes"] for one in rows] == [round(one["tokens"] * rate) for one in rows]
    report = json.loads((workspace.root / "report.json").read_text(encoding="utf-8"))
    next(one for one in FORMATS if one.name == "report").check(report)
    assert report["vocabulary"] == counts
    spent = [one for one in report["budget"] if (one["entry"], one["source"]) == ("zh", "book")]
    assert [one["text_bytes"] for one in spent] == [round(one["spent"] * rate) for one in spent]
    page = (workspace.root / "report.html").read_text(encoding="utf-8")
    assert "Larger vocabulary" in page and f"{chinese['after']:.2f}" in page
    card = write_card(workspace, recipe, name="larger", origin=trained_origin(recipe))
    assert f"{counts['tokens_added']} tokens were added" in card and f"| zh | {chinese['before']:.2f} |" in card


def test_a_change_makes_only_what_depends_on_it_again(finished, workspace):
    data, recipe = finished
    assert {status.state for _, status in statuses(recipe, workspace)} == {"fresh"}
    changed = data | {"vocabulary": LARGER | {"tokens": 30}}
    states = dict(statuses(parse_recipe(json.dumps(changed)), workspace))
    assert [name for name, status in states.items() if status.state == "fresh"] == [
        "read", "clean", "deduplicate", "decontaminate", "label",
    ]  # fmt: skip
    more_tokens = json.loads(json.dumps(data))
    for stage in more_tokens["stages"]:
        stage["tokens"] *= 3
    states = dict(statuses(parse_recipe(json.dumps(more_tokens)), workspace))
    assert next(name for name, status in states.items() if status.state != "fresh") == "train-1"


def test_an_equal_result_leaves_later_stages_fresh(finished, tmp_path, workspace):
    """`megabytes` is far more than there is, so more of it changes nothing."""
    data, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(workspace.root, copy)
    recipe = parse_recipe(json.dumps(data | {"workspace": str(copy), "vocabulary": LARGER | {"megabytes": 50}}))
    said = []
    run_stages(recipe, say=said.append)
    assert [line.partition(":")[0] for line in said if "done in" in line] == ["vocabulary", "report"]


def test_killed_in_the_stage_and_made_again_it_has_the_same_bytes(finished, tmp_path, workspace, monkeypatch):
    data, _ = finished
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("read", "clean", "deduplicate", "decontaminate", "label"):
        shutil.copytree(workspace.folder(name), copy / name)
    recipe = parse_recipe(json.dumps(data | {"workspace": str(copy)}))
    for step in ("learn_tokens", "_write_weights", "_write_descriptions", "_compare"):
        child = os.fork()
        if child == 0:
            original = getattr(extend, step)

            def die(*args, original=original, **settings):
                original(*args, **settings)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(extend, step, die)
            run_stages(recipe, until=["vocabulary"], say=lambda line: None)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert not (copy / "vocabulary").exists()
    run_stages(recipe, until=["vocabulary"], say=lambda line: None)
    assert Workspace(copy).manifest("vocabulary").content == workspace.manifest("vocabulary").content
    assert dict(statuses(recipe, Workspace(copy)))["vocabulary"].state == "fresh"


def test_extend_is_the_stage_for_a_recipe_with_and_without_the_setting(recipe_data, write_recipe, finished):
    _, recipe = finished
    path = write_recipe(recipe_data)
    shutil.copytree(recipe.workspace, recipe_data["workspace"])
    shutil.rmtree(f"{recipe_data['workspace']}/vocabulary")
    settings = [f"vocabulary.{name}={json.dumps(value)}" for name, value in LARGER.items()]
    # The tokens of the stages decide the shares of the text, which are those of one language here.
    result = CliRunner().invoke(app, ["extend", str(path), *settings, "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout[result.stdout.index("{") :])
    assert printed.pop("output") == f"{recipe_data['workspace']}/vocabulary/model"
    assert printed == Workspace(recipe.workspace).manifest("vocabulary").counts
    # The run was trained with it: its folder still says so.
    kept = open_recipe(Path(recipe_data["workspace"]), None)
    assert [stage.tokens for stage in kept.stages] == [1024, 1024]
    again = CliRunner().invoke(app, ["extend", str(path), *settings])
    assert "nothing to do" in again.output and "bytes per token on held-out text" in again.output


def test_without_the_setting_nothing_changes(recipe_data):
    recipe = parse_recipe(json.dumps(recipe_data))
    assert recipe.start_model() == recipe.model
    assert "vocabulary" not in [name for name, _ in statuses(recipe, Workspace(recipe.workspace))]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"stages.0.trains": "new_tokens", "vocabulary": None}, r"trains: new_tokens needs `vocabulary`"),
        ({"stages.0.trains": "new_tokens", "training.adapter.kind": "lora"}, "does not go with an adapter"),
        ({"stages.0.trains": "some"}, "stages.0.trains"),
        ({"vocabulary.tokens": 0}, "vocabulary.tokens"),
        ({"vocabulary.megabytes": 0}, "vocabulary.megabytes"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_the_recipe_is_read(tmp_path, tiny_model, change, message):
    data = with_vocabulary(tmp_path / "run", tiny_model)
    overrides = [f"{name}={json.dumps(value)}" for name, value in change.items()]
    with pytest.raises(UserError, match=message):
        parse_recipe(json.dumps(data), overrides)


def test_a_language_that_is_not_trained_is_refused_with_a_hint(tmp_path, tiny_model):
    data = with_vocabulary(tmp_path / "run", tiny_model)
    data["vocabulary"]["languages"] = ["zh", "fr"]
    findings = inspect(parse_recipe(json.dumps(data)))
    (finding,) = [one for one in findings if one.where == "vocabulary.languages"]
    assert "`fr`" in finding.what and "en, zh" in finding.remedy and finding.severity == "error"


def test_a_tokenizer_that_cannot_be_extended_is_refused_before_the_work(tmp_path, tiny_model):
    folder = tmp_path / "unigram"
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<eos>", 0.0], ["a", -1.0]], "byte_fallback": False}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    recipe = parse_recipe(json.dumps(with_vocabulary(tmp_path / "run", folder)))
    with pytest.raises(UserError, match="Unigram model, which has no merges to continue"):
        run_stages(recipe, say=lambda line: None)
    assert not (tmp_path / "run" / "read").exists()


def test_text_that_repeats_too_little_is_told_with_the_setting(finished, tmp_path, workspace):
    data, _ = finished
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("read", "clean", "deduplicate", "decontaminate", "label"):
        shutil.copytree(workspace.folder(name), copy / name)
    recipe = parse_recipe(json.dumps(data | {"workspace": str(copy), "vocabulary": LARGER | {"min_count": 10_000}}))
    with pytest.raises(UserError, match=r"vocabulary\.min_count = 10000"):
        run_stages(recipe, until=["vocabulary"], say=lambda line: None)
