"""Labels by a language model, over a server that misbehaves."""

import functools
import json
import multiprocessing
import re
import time
from pathlib import Path

import pytest
from tests.documents.test_label import LISTS, WORDS, row
from tests.synthesis.serving import FaultyServer

from reprise.documents.label import stage as topics
from reprise.documents.label.llm_labels import FILE, load_prompt, parse_topic
from reprise.documents.label.report import read_report, show_report
from reprise.documents.table import DOCUMENTS, read_table, write_part
from reprise.errors import UserError
from reprise.generators.generator import Answer, Failure
from reprise.recipe.documents import Topics
from reprise.recipe.model import Model
from reprise.workspace import Work

ARTICLE = re.compile(r"-{10}\n(.*)\n-{10}", re.DOTALL)


def name_topic(prompt, seed):
    """The topic most of whose words the article holds; for an article with `riddle`, a sentence."""
    article = ARTICLE.search(prompt)[1]
    if "riddle" in article:
        return "It is hard to say."
    return max(WORDS, key=lambda topic: sum(word in article for word in WORDS[topic]))


def documents(count=60, **more):
    names = list(WORDS)
    return [row(n, f"{n} " + " ".join(WORDS[names[n % 3]][n % 5 :]) * 3, **more) for n in range(count)]


def settings(server, **llm):
    generator = {"kind": "openai", "base_url": server.url, "model": "m", "batch_size": 4, "input_price": 1.0}
    return {"lists": LISTS, "llm": {"generator": {**generator, **llm.pop("generator", {})}, **llm}}


@pytest.fixture
def run(make_work, tmp_path):
    def run(rows, given, model=None):
        write_part(tmp_path / "before" / DOCUMENTS / "part-00000.parquet", rows)
        work = make_work("label", decontaminate=tmp_path / "before")
        model = model or Model(path="none")
        topics.run(
            work, topics=Topics.model_validate(given), split_sources=["web"], seed=1, engine="native", model=model
        )
        return work, [row for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]

    return run


def test_a_sample_of_each_source_is_asked_about_and_the_rest_learned(run, server, capsys):
    server.answer = name_topic
    rows = [*documents(), row(99, "riddle of the sphinx"), row(100, "court judge", "Law")]
    rows += [row(101, "x", source="book"), row(102, "court", split="valid")]
    work, labelled = run(rows, settings(server, sample_per_source=61))
    assert sum(server.answered.values()) == 61
    asked = [json.loads(line) for line in (work.output / FILE).read_text().splitlines()]
    unusable = [line for line in asked if line["topic"] is None]
    assert [(line["reason"], line["answer"]) for line in unusable] == [("no_topic", "It is hard to say.")]
    names = list(WORDS)
    assert [r["topic"] for r in labelled[:60]] == [names[n % 3] for n in range(60)]
    assert {r["topic_confidence"] for r in labelled[:60]} == {None}
    assert labelled[60]["topic_confidence"] > 0
    assert labelled[63]["topic"] == "Law"
    found = read_report(work.output)["en"]
    assert found["asked"]["cost"] == pytest.approx(61 * 100 / 1e6)
    assert (found["asked"]["documents"], found["asked"]["labelled"]) == (61, 60)
    assert sum(found["documents"]["named"].values()) == 60
    assert found["held_out"]["labels"] == 61
    assert work.counts["asked"]["prompt_tokens"] == 6100
    show_report({"en": found})
    assert "60 of 61 documents (1 no_topic" in capsys.readouterr().out


def test_only_the_sample_is_asked_about_and_never_twice(run, server):
    server.answer = name_topic
    rows = documents() + documents(12, source="news", lang="en")
    work, _ = run(rows, settings(server, sample_per_source=15))
    first = (work.output / FILE).read_text()
    assert len(first.splitlines()) == sum(server.answered.values()) == 15
    given = settings(server, sample_per_source=30, generator={"timeout_s": 5.0})
    work, _ = run(rows[::-1], given)
    assert sum(server.answered.values()) == 30
    assert max(server.answered.values()) == 1
    assert work.counts["asked"]["from_journal"] == 15
    assert set(first.splitlines()) < set((work.output / FILE).read_text().splitlines())
    run(rows, settings(server, sample_per_source=15, max_chars=1000))  # no shown text is longer: nothing changes
    assert sum(server.answered.values()) == 30


def test_faults_on_the_way_change_nothing(run, server):
    server.answer = name_topic
    faults = ["429", "500", "half", "nonsense", "hang_up", "null"]
    server.script = lambda number: [faults[number % 6]]
    work, labelled = run(documents(), settings(server))
    assert [r["topic"] for r in labelled] == [list(WORDS)[n % 3] for n in range(60)]
    assert work.counts["asked"]["failed"] == 0


def test_refusals_name_their_own_settings(run, server, tmp_path):
    server.answer = name_topic
    server.script = lambda number: ["401"]
    with pytest.raises(UserError, match="refuses") as error:
        run(documents(), settings(server))
    assert error.value.where.startswith("documents.topics.llm.generator.base_url")
    server.script = lambda number: []
    with pytest.raises(UserError, match="could cost more") as error:
        run(documents(), settings(server, generator={"max_cost": 0.006}))
    assert error.value.where.startswith("documents.topics.llm.generator.max_cost")
    assert 0 < sum(server.answered.values()) < 60
    run(documents(), settings(server))
    assert max(server.answered.values()) == 1
    server.script = lambda number: ["500"] * 9
    with pytest.raises(UserError, match="got no answer") as error:
        run(documents(), settings(server, max_chars=200, generator={"model": "other", "max_retries": 0}))
    assert error.value.where.startswith("documents.topics.llm.generator.max_failed_share")
    with pytest.raises(UserError, match="folder does not exist"):
        run(documents(), settings(server, prompts=str(tmp_path / "nowhere")))


def test_a_model_in_this_process_is_asked_the_same_way(run, tiny_model):
    given = {"lists": LISTS, "llm": {"generator": {"max_tokens": 4}}}
    with pytest.raises(UserError, match=r"none of 12 answers .* names a topic") as error:
        run(documents(12), given, tiny_model)
    assert error.value.where == "documents.topics.llm"
    work, labelled = run([*documents(12), row(50, "court", "Law")], given, tiny_model)
    assert work.counts["asked"]["from_journal"] == 12
    assert {r["topic"] for r in labelled} == {"Law"}


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("Law and Policy", "stop", "Law and Policy"),
        (' "law AND policy".\n', "stop", "Law and Policy"),
        ("2. Law and Policy", "length", "Law and Policy"),
        ("**2**", "stop", "Law and Policy"),
        ("(3)", "stop", "3D printing"),
        ("3D printing", "stop", "3D printing"),
        ("「法律」。", "stop", "法律"),
        ("4、法律", "stop", "法律"),
        ("1. Law and Policy", "stop", "contradiction"),
        ("9", "stop", "no_topic"),
        ("Law", "stop", "no_topic"),
        ("The topic is Law and Policy", "stop", "no_topic"),
        ("Law and Policy, 法律", "stop", "no_topic"),
        ("", "stop", "no_topic"),
        ("The topic of this", "length", "cut_off"),
    ],
)
def test_an_answer_is_one_topic_and_nothing_else(text, finish, expected):
    lists = ["Medicine", "Law and Policy", "3D printing", "法律"]
    topic, reason = parse_topic(Answer(text, finish, 1, 1), lists)
    assert (topic or reason) == expected
    assert bool(topic) != bool(reason)
    assert parse_topic(Failure("x"), lists) == (None, "failed")


def asking(folder=None, **settings):
    return Topics.model_validate({"llm": {"prompts": folder and str(folder)}, **settings})


def test_prompts_of_the_user_go_first(tmp_path):
    assert load_prompt("topic", "zh", asking()).name == "topic.zh@1"
    assert load_prompt("topic", "fr", asking()).name == "topic.en@1"
    own = tmp_path / "topic.fr.yaml"
    own.write_text("version: 7\nmessages:\n  - {role: user, text: '{topics} {text}'}\n")
    assert load_prompt("topic", "fr", asking(tmp_path)).name == "topic.fr@7"
    assert load_prompt("topic", "zh", asking(tmp_path)).name == "topic.zh@1"
    own.write_text("version: 7\nmessages:\n  - {role: user, text: '{text}'}\n")
    with pytest.raises(UserError, match="the prompt has no"):
        load_prompt("topic", "fr", asking(tmp_path))


def label_in_child(root: Path, given) -> None:
    """The stage, in a process that can be killed."""
    (root / "label").mkdir(exist_ok=True)
    topics.run(
        Work(output=root / "label", inputs={"decontaminate": root / "before"}, cache=root / "cache"),
        topics=Topics.model_validate(given), split_sources=["web"], seed=1, engine="native", model=Model(path="none"),
    )  # fmt: skip


def test_killed_again_and_again_nothing_is_paid_for_twice(server: FaultyServer, tmp_path: Path) -> None:
    server.answer = name_topic
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.documents.test_asked", "httpx", "sklearn.svm"])
    start = functools.partial(context.Process, target=label_in_child)
    for name in ("whole", "killed"):
        write_part(tmp_path / name / "before" / DOCUMENTS / "part-00000.parquet", documents())
    whole = start(args=(tmp_path / "whole", settings(server)))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    server.answered.clear()
    server.delay_s = 0.05
    kills, journal = 0, tmp_path / "killed" / "cache" / "answers.jsonl"
    while True:
        process = start(args=(tmp_path / "killed", settings(server)))
        process.start()
        had = journal.stat().st_size if journal.exists() else 0
        while kills < 3 and process.is_alive() and (not journal.exists() or journal.stat().st_size == had):
            time.sleep(0.01)
        if kills < 3 and process.is_alive():
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    assert kills == 3
    recorded = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(recorded) == len(set(recorded)) == 60
    # What was on its way when the kill came could not be recorded: at most one answer per request in flight.
    assert sum(server.answered.values()) <= 60 + 4 * kills
    for name in (FILE, "documents/part-00000.parquet"):
        one, other = (tmp_path / run / "label" / name for run in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes()


def test_a_prompt_of_the_recipe_or_a_pack_is_taken_for_its_language():
    own = {"version": 3, "messages": [{"role": "user", "text": "Konu? {text} {topics}"}]}
    assert load_prompt("topic", "tr", asking(prompts={"tur_Latn": {"topic": own}})).name == "topic.tr@3"
    with pytest.raises(UserError, match=r"no \{topics\}"):
        load_prompt(
            "topic", "tr", asking(prompts={"tr": {"topic": own | {"messages": [{"role": "user", "text": "{text}"}]}}})
        )
