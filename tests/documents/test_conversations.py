"""Conversations from files to the document table, and through cleaning and deduplication."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reprise.documents.clean import stage as clean
from reprise.documents.deduplicate import stage as deduplicate
from reprise.documents.read import stage as read
from reprise.documents.table import DOCUMENTS, read_table, write_part
from reprise.model.conversation import dump_messages, load_messages, text_of
from reprise.recipe.documents import Clean, Deduplicate, Input

CHAT = {"source": "chat", "lang": "en"}


@pytest.fixture
def run(make_work, tmp_path):
    """Read records of a file; returns rows, rejects and counts."""

    def run(records, name="chat.jsonl", **settings):
        path = tmp_path / name
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(records), path)
        elif name.endswith(".json"):
            path.write_text(json.dumps(records), encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        work = make_work(f"read-{name}")
        entry = Input(path=str(path), constants=CHAT, **settings)
        read.run(work, inputs=[entry], engine="native", valid_share=0.0, max_reject_share=1.0)
        rows = [row for batch in read_table(work.output / "documents") for row in batch.to_pylist()]
        rejects = [json.loads(line)["reason"] for line in (work.output / "rejects.jsonl").open(encoding="utf-8")]
        return rows, rejects, work.counts

    return run


def roles(row):
    return [(message["role"], message["content"]) for message in load_messages(row["messages"])]


QUESTION, ANSWER = ("user", "How much is 2 + 2?"), ("assistant", "Four.")
SHAPES = {
    "messages": {"messages": [{"role": r, "content": c} for r, c in (QUESTION, ANSWER)]},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION[1]}, {"from": "gpt", "value": ANSWER[1]}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION[1]}]},
                           {"role": "assistant", "content": [{"type": "text", "text": ANSWER[1]}]}]},
    "pair": {"prompt": QUESTION[1], "response": ANSWER[1]},
    "completion": {"prompt": [{"role": "user", "content": QUESTION[1]}],
                   "completion": [{"role": "assistant", "content": ANSWER[1]}]},
    "alpaca": {"instruction": "How much is", "input": "2 + 2?", "output": "Four."},
}  # fmt: skip


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.json", "chat.parquet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_usual_shapes_are_recognised(run, shape, name):
    rows, rejects, counts = run([SHAPES[shape]] * 2, name)
    assert not rejects
    question = ("user", "How much is\n\n2 + 2?") if shape == "alpaca" else QUESTION
    assert [roles(row) for row in rows] == [[question, ANSWER]] * 2
    assert rows[0]["text"] == f"{question[1]}\n\n{ANSWER[1]}"
    assert counts["conversations"] == counts["documents_out"] == 2


def test_columns_of_a_csv_table(run, tmp_path, make_work):
    (tmp_path / "pairs.csv").write_text('question,reply\n"How much is 2 + 2?",Four.\n', encoding="utf-8")
    entry = Input(path=str(tmp_path / "pairs.csv"), constants=CHAT, fields={"prompt": "question", "response": "reply"})
    work = make_work("read")
    read.run(work, inputs=[entry], engine="native", valid_share=0.0, max_reject_share=1.0)
    (row,) = [row for batch in read_table(work.output / "documents") for row in batch.to_pylist()]
    assert roles(row) == [QUESTION, ANSWER]


def test_a_text_is_a_text_unless_the_recipe_says_otherwise(run):
    record = {"text": "A page.", **SHAPES["messages"], "dialog": SHAPES["messages"]["messages"]}
    rows, _, counts = run([record])
    assert (rows[0]["text"], rows[0]["messages"], counts["conversations"]) == ("A page.", None, 0)
    rows, _, counts = run([record], fields={"messages": "dialog"})
    assert (roles(rows[0]), counts["conversations"]) == ([QUESTION, ANSWER], 1)
    _, rejects, _ = run([{"body": None, **SHAPES["messages"]}], fields={"text": "body"})
    assert rejects == ["no_text"]


def message(role, content="x", **more):
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "messages_are_not_a_list"),
        ([], "no_messages"),
        (["hello"], "message_is_not_an_object"),
        ([message("user"), message("narrator")], "unknown_role"),
        ([message("user"), message("assistant", None)], "message_is_not_text"),
        ([message("user", [{"type": "image"}]), message("assistant")], "message_is_not_text"),
        ([message("user"), message("assistant", "", tool_calls=[{"name": "f"}])], "tool_message"),
        ([message("user"), message("tool"), message("assistant")], "tool_message"),
        ([message("user"), message("assistant", " \n")], "empty_message"),
        ([message("user"), message("user"), message("assistant")], "roles_do_not_alternate"),
        ([message("assistant"), message("user")], "roles_do_not_alternate"),
        ([message("user"), message("system"), message("assistant")], "system_message_is_not_the_first"),
        ([message("system"), message("user")], "no_answer"),
    ],
)
def test_a_broken_conversation_is_rejected_with_its_reason(run, messages, reason):
    rows, rejects, counts = run([{"messages": messages}, SHAPES["messages"]])
    assert rejects == [reason]
    assert counts["reject_reasons"] == {reason: 1}
    assert len(rows) == 1


def test_a_record_without_the_mapped_conversation_is_rejected(run):
    _, rejects, _ = run([{"text": "A page.", "talk": None}], fields={"messages": "talk"})
    assert rejects == ["no_conversation"]


def test_system_history_and_unanswered_messages(run):
    rows, _, counts = run(
        [
            {"messages": [message("system", "Be brief."), *SHAPES["messages"]["messages"], message("user", "And?")]},
            {"system": "Be brief.", "history": [["Hi", "Hello."]], "instruction": "Bye", "output": "Bye."},
            {"messages": [message("system", " "), *SHAPES["messages"]["messages"]]},
        ]
    )
    assert roles(rows[0]) == [("system", "Be brief."), QUESTION, ANSWER]
    assert [role for role, _ in roles(rows[1])] == ["system", "user", "assistant", "user", "assistant"]
    assert roles(rows[2]) == [QUESTION, ANSWER]
    assert counts["fields_left_out"] == {"messages behind the last answer": 1}


def row(number, *contents, **more):
    messages = [message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]
    return {"id": str(number), "text": text_of(messages), "messages": dump_messages(messages), "lang": "en",
            "source": "web", "split": "train", "origin": f"a:{number}", **more}  # fmt: skip


def test_messages_are_cleaned_one_by_one_and_no_rule_for_pages_holds(make_work, tmp_path):
    rows = [
        row(1, "schÃ¶n?\r\n", "Ja, jane@example.com."),
        row(2, "Hi", "\x00\x01"),
        {"id": "3", "text": "short", "lang": "en", "source": "web", "split": "train", "origin": "a:3"},
    ]
    write_part(tmp_path / "read" / DOCUMENTS / "part-00000.parquet", rows)
    work = make_work("clean", read=tmp_path / "read")
    clean.run(work, clean=Clean(mask_personal_data=True), engine="native")
    (kept,) = [row for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]
    assert roles(kept) == [("user", "schön?"), ("assistant", "Ja, [mail].")]
    assert kept["text"] == "schön?\n\nJa, [mail]."
    assert work.counts["dropped_by_reason"] == {"empty_message": 1, "too_short": 1}
    assert work.counts["masked"] == {"mail": 1}


def test_copies_of_a_conversation_are_dropped_and_the_messages_stay(make_work, tmp_path):
    long = "A long answer with many words in it, one after the other, so that it can be compared. " * 4
    rows = [row(1, "Why?", long), row(2, "Why?", long), row(3, "Why not?", "Because of the " + "rain and snow " * 40)]
    write_part(tmp_path / "clean" / DOCUMENTS / "part-00000.parquet", rows)
    work = make_work("deduplicate", clean=tmp_path / "clean")
    deduplicate.run(work, deduplicate=Deduplicate(), engine="native")
    kept = [row for batch in read_table(work.output / DOCUMENTS) for row in batch.to_pylist()]
    assert len(kept) == 2
    assert all(roles(one)[0][0] == "user" for one in kept)


def test_licences_are_counted_by_source_and_kept_out_of_the_table(run, tmp_path, make_work):
    rows, _, counts = run([{"text": "One.", "license": "MIT"}, {"text": "Two.", "license": "MIT"}, {"text": "Three."}])
    assert counts["licences"] == {"chat": {"MIT": 2}}
    assert "licence" not in rows[0]
    (tmp_path / "a.txt").write_text("A page.", encoding="utf-8")
    entry = Input(path=str(tmp_path / "a.txt"), constants={**CHAT, "licence": "CC0-1.0"})
    work = make_work("read-text")
    read.run(work, inputs=[entry], engine="native", valid_share=0.0, max_reject_share=1.0)
    assert work.counts["licences"] == {"chat": {"CC0-1.0": 1}}
