"""`reprise init --model --data --keep`: from folders of text to a recipe that runs."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.chats import CHATML, write_chat_model
from tests.pipeline.test_run import reprise

from reprise.errors import UserError
from reprise.preflight.checks import inspect
from reprise.proposal.entries import make_entries, shares_by_size
from reprise.proposal.propose import propose
from reprise.proposal.sampling import find_groups, guess_source, sample
from reprise.recipe.loading import parse_recipe
from reprise.recipe.model import Model


def write_lines(path, texts, name="text", **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({name: text, **fields}, ensure_ascii=False) for text in texts]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def texts(passages):
    return {lang: [passage["text"] for passage in some] for lang, some in passages.items()}


@pytest.fixture
def folders(tmp_path, texts):
    """New text in Chinese, in two folders and formats, and English text to keep."""
    write_lines(tmp_path / "data" / "wiki" / "a.jsonl", texts["zh"][:60], name="content")
    (tmp_path / "data" / "wiki" / "notes.rst").write_text("not read")
    (tmp_path / "data" / "books").mkdir()
    pq.write_table(pa.table({"body": texts["zh"][60:]}), tmp_path / "data" / "books" / "b.parquet")
    write_lines(tmp_path / "english.jsonl", texts["en"])
    return tmp_path


def proposed(folders, tiny_model, data="data", keep=("english.jsonl",)):
    proposal = propose(
        Model(path=str(tiny_model)),
        [str(folders / data)],
        [str(folders / name) for name in keep],
        name="mine",
        workspace=str(folders / "run"),
    )
    return proposal, parse_recipe(proposal.recipe)


def test_fields_languages_sources_and_sizes_are_found(folders, tiny_model, texts):
    proposal, recipe = proposed(folders, tiny_model)
    books, wiki, english = recipe.documents.inputs
    assert (books.fields, books.constants) == ({"text": "body"}, {"lang": "zh", "source": "book"})
    assert (wiki.fields, wiki.constants) == ({"text": "content"}, {"lang": "zh", "source": "encyclopedia"})
    assert english.constants["lang"] == "en"
    mixture = recipe.stages[0].mixture
    assert mixture["zh"].share == 0.75 and mixture["en"].share == 0.25  # another language: a strong shift
    assert mixture["en"].keep and not mixture["zh"].keep
    sizes = [sum(len(text.encode()) for text in some) for some in (texts["zh"][:60], texts["zh"][60:])]
    assert mixture["zh"].sources["encyclopedia"] == pytest.approx(sizes[0] / sum(sizes), abs=0.001)
    assert any("notes.rst" in note for note in proposal.assumptions)
    assert any(f"{len(texts['zh'])} documents" in note for note in proposal.assumptions)


def test_kept_text_in_the_language_of_the_new_text_is_a_source_of_its_own(folders, tiny_model, texts):
    write_lines(folders / "law" / "court.jsonl", texts["en"][:50])
    _, recipe = proposed(folders, tiny_model, data="law")
    mixture = recipe.stages[0].mixture
    assert set(mixture) == {"law", "general-en"} and mixture["law"].language == "en"
    assert mixture["general-en"].language == "en" and mixture["general-en"].keep
    assert mixture["general-en"].share == 0.05  # the same language: a weak shift
    assert not set(mixture["law"].sources) & set(mixture["general-en"].sources)


@pytest.mark.parametrize("pages", [6, 30])
def test_pages_left_in_the_kept_language_do_not_make_a_strong_shift_a_weak_one(folders, tiny_model, texts, pages):
    write_lines(folders / "data" / "wiki" / "left.jsonl", texts["en"][:pages], name="content")
    proposal, recipe = proposed(folders, tiny_model)
    mixture = recipe.stages[0].mixture
    assert set(mixture) == {"zh", "en"} and mixture["en"].share == 0.25 and mixture["en"].keep
    assert set(mixture["en"].sources) == {"web", "encyclopedia"}
    assert any("counted as kept text" in note for note in proposal.assumptions)


def test_validations_cost_a_small_part_of_the_training(folders, tiny_model, texts):
    write_lines(folders / "english.jsonl", texts["en"] * 400)
    write_lines(
        folders / "data" / "wiki" / "a.jsonl",
        [f"{n} {text}" for n in range(60) for text in texts["zh"]],
        name="content",
    )
    _, recipe = proposed(folders, tiny_model)
    sources = sum(len(entry.sources) for entry in recipe.stages[0].mixture.values())
    validation, tokens = recipe.training.validation, recipe.stages[0].tokens
    assert validation.max_tokens * sources * (tokens / validation.every_tokens) / 3 <= 0.101 * tokens


@pytest.mark.parametrize("tokens", [5_000, 20_000, 100_000, 3_000_000])
def test_a_small_budget_has_fewer_validations(folders, tiny_model, tokens):
    texts = [str(folders / "data")], [str(folders / "english.jsonl")]
    proposal = propose(Model(path=str(tiny_model)), *texts, name="mine", workspace="run", tokens=tokens)
    recipe = parse_recipe(proposal.recipe)
    validation = recipe.training.validation
    sources = sum(len(entry.sources) for entry in recipe.stages[0].mixture.values())
    validations = tokens // validation.every_tokens
    assert validations == 1 or validations * validation.max_tokens * sources / 3 <= 0.11 * tokens
    assert 1 <= validations <= 10


def test_the_evaluation_of_a_small_budget_takes_half_as_long_as_its_training_at_most(folders, tiny_model, texts):
    write_lines(folders / "english.jsonl", [" ".join(texts["en"])] * 300)
    small, large = (
        parse_recipe(
            propose(
                Model(path=str(tiny_model)),
                [str(folders / "data")],
                [str(folders / "english.jsonl")],
                name="mine",
                workspace=str(folders / "run"),
                tokens=tokens,
            ).recipe
        ).evaluation.document_bytes
        for tokens in (20_000, 50_000_000)
    )
    assert 1000 <= small < len(" ".join(texts["en"]))
    assert large == 0


def test_the_name_of_the_folder_tells_the_source_where_that_of_the_file_does_not(folders, tiny_model, texts):
    write_lines(folders / "medicine" / "part-1.jsonl", texts["en"][:50])
    _, recipe = proposed(folders, tiny_model, data="medicine")
    assert set(recipe.stages[0].mixture["medicine"].sources) == {"medicine"}


def test_nothing_to_keep_is_said(folders, tiny_model):
    proposal, recipe = proposed(folders, tiny_model, keep=())
    assert recipe.stages[0].mixture["zh"].share == 1.0
    assert any("--keep" in note for note in proposal.assumptions)


def test_languages_and_sources_of_the_files_win_over_guesses(tmp_path, tiny_model, texts):
    write_lines(tmp_path / "data" / "web.jsonl", texts["zh"], lang="zh", source="forum posts")
    _, recipe = proposed(tmp_path, tiny_model, keep=())
    assert recipe.documents.inputs[0].constants == {}
    assert recipe.stages[0].mixture["zh"].sources == {"forum posts": 1.0}


def test_a_file_is_carried_over_from_its_beginning(tmp_path, monkeypatch, texts):
    monkeypatch.setattr("reprise.proposal.sampling.SAMPLED_RECORDS", 50)
    monkeypatch.setattr("reprise.proposal.sampling.SAMPLED_BYTES", 4 << 20)
    write_lines(tmp_path / "long.jsonl", texts["en"] * 200)
    (group,) = find_groups(str(tmp_path / "long.jsonl"), keep=False, notes=[])
    sample(group, [])
    assert group.documents == pytest.approx(len(texts["en"]) * 200, rel=0.3)


@pytest.mark.parametrize(
    "name,source",
    [
        ("train-zh-web.jsonl.zst", "web"),
        ("Wikipedia", "encyclopedia"),
        ("arxiv_abstracts.parquet", "paper"),
        ("StackExchange", "qa_forum"),
        ("nothing in particular", "web"),
    ],
)
def test_source_by_name(name, source):
    assert guess_source(name) == source


@given(
    st.dictionaries(st.text(min_size=1), st.integers(0, 10**12), min_size=1, max_size=50), st.sampled_from([1, 0.75])
)
def test_shares_sum_exactly(sizes, total):
    shares = shares_by_size(sizes, total)
    assert sum(round(share * 1000) for share in shares.values()) == total * 1000
    assert all(share > 0 for share in shares.values())


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b'{"no": "text"}\n' * 30, b"[1, 2, 3"])
def test_files_without_text_are_refused_in_one_message(tmp_path, tiny_model, content):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"no document can be read here|damaged"):
        proposed(tmp_path, tiny_model, keep=())


def test_files_of_several_kinds_and_languages_are_told_apart_and_broken_ones_left_out(tmp_path, tiny_model, texts):
    folder = tmp_path / "data"
    write_lines(folder / "old" / "web.jsonl", texts["en"], lang="en", source="web")
    for index, text in enumerate(texts["zh"][:20]):
        (folder / f"{index}.txt").write_text(text * 4, encoding="utf-8")
    (folder / "broken.jsonl.gz").write_bytes(b"not gzip")
    (folder / "bad.jsonl").write_text("{")
    (folder / "noise.pdf").write_bytes(random.Random(0).randbytes(3000))
    proposal, recipe = proposed(tmp_path, tiny_model, keep=())
    assert recipe.stages[0].mixture.keys() == {"zh", "en"}
    inputs = {Path(entry.path).name: entry for entry in recipe.documents.inputs}
    assert inputs.keys() == {"old", "*.txt"}
    assert inputs["*.txt"].constants["lang"] == "zh" and "lang" not in inputs["old"].constants
    notes = "\n".join(proposal.assumptions)
    assert all(name in notes for name in ("broken.jsonl.gz", "bad.jsonl", "noise.pdf"))


def test_a_small_part_in_another_language_is_not_given_the_language_of_the_rest(tmp_path, tiny_model, texts):
    for index in range(6):
        (tmp_path / "data").mkdir(exist_ok=True)
        text = texts["zh"][0] if index == 3 else " ".join(texts["en"]) * 20
        (tmp_path / "data" / f"{index}.txt").write_text(text, encoding="utf-8")
    proposal, recipe = proposed(tmp_path, tiny_model, keep=())
    assert all("lang" not in entry.constants for entry in recipe.documents.inputs)
    assert "zh" not in recipe.stages[0].mixture
    assert any("seem to be in zh" in note and "not trained on" in note for note in proposal.assumptions)


def test_empty_folder_is_refused(tmp_path, tiny_model):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="--data"):
        proposed(tmp_path, tiny_model, keep=())


@pytest.fixture
def write_chats(texts):
    """Writes conversations, and other documents after them, to a file."""

    def write(path, count, others=()):
        path.parent.mkdir(exist_ok=True)
        said = [(text[:60], text[60:300]) for text in (texts["en"] * count)[:count]]
        spoken = [{"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
                  for ask, answer in said]  # fmt: skip
        lines = [json.dumps(record) for record in [*spoken, *({"text": text} for text in others)]]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    return write


@pytest.mark.parametrize(("count", "share"), [(2, 0.05), (60, 0.1)])
def test_conversations_have_a_source_and_a_small_share_of_their_own(
    folders, tmp_path, texts, write_chats, count, share
):
    """`--data chats/` in the language of the kept text, for an instruct model: its probe is asked too."""
    model = write_chat_model(tmp_path / "chat-model", texts["en"] + texts["zh"], 600, CHATML)
    write_chats(folders / "chats" / "talk.jsonl", count)
    data = [str(folders / "data"), str(folders / "chats")]
    proposal = propose(
        Model(path=str(model)), data, [str(folders / "english.jsonl")], name="mine", workspace=str(folders / "run")
    )
    recipe = parse_recipe(proposal.recipe)
    (chats,) = [entry for entry in recipe.documents.inputs if entry.path.endswith("chats")]
    assert chats.constants == {"lang": "en", "source": "chat"}
    english = recipe.stages[0].mixture["en"]
    assert english.keep and english.sources == {"web": 1 - share, "chat": share}
    assert "# chat: conversations; 5% to 10%" in proposal.recipe
    assert recipe.evaluation.benchmarks == ["assistant"]
    assert not [finding for finding in inspect(recipe) if finding.severity == "error"]


def test_a_model_without_a_chat_template_is_asked_no_instructions(folders, tiny_model):
    assert proposed(folders, tiny_model)[1].evaluation.benchmarks == []


def test_a_file_of_conversations_and_other_text_is_told(tmp_path, texts, write_chats):
    write_chats(tmp_path / "mixed.jsonl", 10, texts["en"][:30])
    (group,) = find_groups(str(tmp_path / "mixed.jsonl"), keep=False, notes=(notes := []))
    sample(group, notes)
    assert (group.source, group.holds_chat) == ("web", False)
    assert "25% of it are conversations: give them an input of their own" in notes[-1]


def test_no_entry_is_lost_for_being_small():
    assert make_entries([], [], notes := []) == [] and notes


@pytest.mark.slow
def test_from_folders_to_a_verdict_with_init_plan_and_run(folders, tiny_model):
    recipe = folders / "my.yaml"
    arguments = ["--model", tiny_model, "--data", folders / "data", "--keep", folders / "english.jsonl"]
    refused = reprise("init", recipe, *arguments, "--tokens", "many", cwd=folders, check=False)
    assert refused.returncode == 2 and "--tokens" in refused.stderr and not recipe.exists()
    arguments += ["--tokens", "2k"]
    said = reprise("init", recipe, *arguments, cwd=folders).stdout
    assert "held out" in said and f"wrote {recipe}" in said
    assert "stages" in reprise("plan", recipe, cwd=folders).stdout
    reprise("run", recipe, "training.batch_rows=4", "training.threads=1", cwd=folders)
    workspace = folders / yaml.safe_load(recipe.read_text(encoding="utf-8"))["workspace"]
    results = json.loads((workspace / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert results["headline"]
    refused = reprise("init", recipe, *arguments, check=False)
    assert refused.returncode == 2 and "--force" in refused.stderr
    refused = reprise("init", folders / "b.yaml", "--data", folders / "data", check=False)
    assert refused.returncode == 2 and "--model" in refused.stderr
