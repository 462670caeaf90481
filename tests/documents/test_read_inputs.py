"""What people's files look like: encodings, types, nested fields, names, links, archives around them."""

import bz2
import gzip
import json
import lzma
import os
import random
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reprise.documents.read import record
from reprise.documents.read import stage as read
from reprise.documents.read.encoding import guess_encoding
from reprise.documents.read.files import SourceFile, list_input
from reprise.documents.read.records import read_records, read_span
from reprise.documents.read.spans import count_line_ends, number_lines, split_file
from reprise.documents.table import hash_text, read_table
from reprise.errors import UserError
from reprise.recipe.documents import Input

WEB = {"source": "web", "lang": "en"}


@pytest.fixture
def run(make_work):
    """Read inputs; returns the rows, the rejects and the counts of the manifest."""
    runs = 0

    def run(*inputs, max_reject_share=1.0):
        nonlocal runs
        runs += 1
        work = make_work(f"read{runs}")
        read.run(work, inputs=list(inputs), engine="native", valid_share=0.0, max_reject_share=max_reject_share)
        rows = [row for batch in read_table(work.output / "documents") for row in batch.to_pylist()]
        rejects = [json.loads(line) for line in (work.output / "rejects.jsonl").open(encoding="utf-8")]
        return rows, rejects, work.counts

    return run


def web(path, **more):
    return Input(path=str(path), constants=WEB, **more)


def lines(*texts, **more):
    return "".join(json.dumps({"text": text, **more}, ensure_ascii=False) + "\n" for text in texts)


TEXTS = ["The first document, plain.", "第二篇文章，说的是江南的春天。", "Третий документ, о реке и о море."]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.txt"])
def test_unicode_in_any_form_is_recognised(run, tmp_path, encoding, name):
    if name == "a.csv":
        text = "text\n" + "".join(f'"{each}"\n' for each in TEXTS)
    else:
        text = "\n".join(TEXTS) if name == "a.txt" else json.dumps([{"text": t} for t in TEXTS], ensure_ascii=False)
        text = lines(*TEXTS) if name.startswith("a.jsonl") else text
    data = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    rows, rejects, _ = run(web(tmp_path / name))
    assert [row["text"] for row in rows] == (["\n".join(TEXTS)] if name == "a.txt" else TEXTS)
    assert not rejects


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Co", "Cn"]), min_size=1, max_size=60))
def test_utf8_is_never_taken_for_another_encoding(text):
    assert guess_encoding(text.encode()) in ("utf-8", "utf-8-sig")


def test_an_encoding_that_the_bytes_do_not_tell_is_a_setting(run, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(TEXTS[1]).encode("gb18030") + b'{"text": "cut \x81 here"}\n' + lines("plain").encode())
    with pytest.raises(UserError, match="not_utf8 2") as error:
        run(web(path), max_reject_share=0.5)
    assert "`encoding`" in error.value.remedy
    rows, rejects, _ = run(web(path, encoding="gb18030"))
    assert [row["text"] for row in rows] == [TEXTS[1], "plain"]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [(2, "wrong_encoding")]
    for wrong in ("klingon", "hex", "rot13"):
        with pytest.raises(ValidationError, match="no encoding of text"):
            Input(path="a", encoding=wrong)


def test_ids_and_topics_of_other_types_become_text_or_are_left_out(run, tmp_path):
    name = uuid.UUID(int=0xFEDCBA98765432100123456789ABCDEF)
    pq.write_table(
        pa.table({"text": ["one", "two"], "id": pa.array([name.bytes, b"plain"], pa.binary())}), tmp_path / "a.parquet"
    )
    assert [row["id"] for row in run(web(tmp_path / "a.parquet"))[0]] == [str(name), "plain"]
    values = [7, 7.0, 7.5, True, {"$oid": "5f1e"}, ["one"], "", None, {"a": 1}, [1, 2], float("nan")]
    data = "".join(json.dumps({"text": f"text {index}", "id": v, "topic": v}) + "\n" for index, v in enumerate(values))
    (tmp_path / "a.jsonl").write_text(data)
    rows, rejects, counts = run(web(tmp_path / "a.jsonl"))
    assert not rejects
    text = ["7", "7", "7.5", "true", "5f1e", "one"]
    assert [row["id"] for row in rows] == [*text, *(hash_text(f"text {index}") for index in range(6, 11))]
    assert [row["topic"] for row in rows] == [*text, *[None] * 5]
    assert counts["fields_left_out"] == {"id": 2, "topic": 2}
    rows, _, _ = run(web(tmp_path / "a.jsonl", fields={"id": None}))
    assert rows[0]["id"] == hash_text("text 0")


def test_dotted_names_look_inside(run, tmp_path):
    docs = [
        {"doc": {"text": f"text {n}", "meta": {"k.1": f"id{n}"}}, "turns": [{"say": f"turn {n}"}]} for n in range(3)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    pq.write_table(pa.Table.from_pylist(docs), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        rows, rejects, _ = run(web(tmp_path / name, fields={"text": "doc.text", "id": "doc.meta.k.1"}))
        assert not rejects
        assert [(row["text"], row["id"]) for row in rows] == [(f"text {n}", f"id{n}") for n in range(3)]
        rows, _, _ = run(web(tmp_path / name, fields={"text": "turns.0.say"}))
        assert [row["text"] for row in rows] == ["turn 0", "turn 1", "turn 2"]
        rows, _, _ = run(web(tmp_path / "flat.jsonl", fields={"text": "doc.text"})) if _flat(tmp_path) else ([], 0, 0)
        assert [row["text"] for row in rows] == ["a whole name goes first"]
    with pytest.raises(UserError, match=r"no column 'doc.body'"):
        run(web(tmp_path / "a.parquet", fields={"text": "doc.body"}))
    with pytest.raises(UserError, match="no_text 3"):
        run(web(tmp_path / "a.jsonl", fields={"text": "doc.body"}), max_reject_share=0.0)


def _flat(folder):
    (folder / "flat.jsonl").write_text('{"doc.text": "a whole name goes first", "doc": {"text": "x"}}\n')
    return True


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_that_is_no_utf8_is_a_reject_with_its_row(run, tmp_path, kind):
    if pa.types.is_dictionary(kind):
        texts = pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 0], pa.int32()), _as_text([b"fine", b"bad \xff"], pa.string())
        )
    else:
        texts = _as_text([b"fine", b"bad \xff", b"fine"], kind)
    nested = pa.StructArray.from_arrays([_as_text([b"a", b"b", b"\xfe"], pa.string())], ["x"])
    pq.write_table(pa.table({"text": texts, "topic": nested}), tmp_path / "a.parquet")
    rows, rejects, _ = run(web(tmp_path / "a.parquet", fields={"topic": "topic.x"}))
    assert [(row["text"], row["origin"].rsplit(":", 1)[1]) for row in rows] == [("fine", "1")]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [(2, "not_utf8"), (3, "not_utf8")]


def _as_text(values, kind):
    array = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    if kind == pa.string_view():
        return pa.array(values, pa.binary_view()).view(kind)
    return pa.Array.from_buffers(kind, len(array), array.buffers())


def test_lone_surrogates_are_repaired_where_the_recipe_asks(run, tmp_path):
    raw = b'{"text": "half \\ud83d"}\n{"text": "two \\ud83d\\ude00"}\n{"text": "cesu \xed\xa0\xbd\xed\xb8\x80"}\n'
    (tmp_path / "a.jsonl").write_bytes(raw)
    rows, rejects, _ = run(web(tmp_path / "a.jsonl"))
    assert [row["text"] for row in rows] == ["two \U0001f600"]
    assert [reject["reason"] for reject in rejects] == ["lone_surrogate", "not_utf8"]
    rows, rejects, _ = run(web(tmp_path / "a.jsonl", lone_surrogates="repair"))
    assert [row["text"] for row in rows] == ["half \ufffd", "two \U0001f600", "cesu \U0001f600"]


def test_all_compressions_and_a_long_window(run, tmp_path):
    data = lines(*TEXTS).encode()
    long = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=long).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(compressor.compress(data) + compressor.flush())
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(data))
    (tmp_path / "d.ndjson.bz2").write_bytes(bz2.compress(data))
    (tmp_path / "e.json").write_text(json.dumps([{"text": text} for text in TEXTS], indent=2))
    (tmp_path / "f.tsv").write_text("n\ttext\n" + "".join(f"1\t{text}\n" for text in TEXTS))
    rows, rejects, counts = run(web(tmp_path))
    assert [row["text"] for row in rows] == TEXTS * 6
    assert not rejects
    assert (counts["files"], counts["skipped"]) == (6, [])
    for name in ("c.jsonl.xz", "d.ndjson.bz2"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
        with pytest.raises(UserError, match=r"damaged|cannot be read"):
            run(web(tmp_path / name))


def test_a_folder_names_what_it_leaves_out(run, tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jsonl").write_text(lines(*TEXTS))
    (folder / "deep" / "b.png").write_bytes(b"x" * 100)
    (folder / "c.PNG").write_bytes(b"x" * 50)
    (folder / "d.jsonl.lz4").write_bytes(b"x" * 7)
    (folder / "README").write_bytes(b"x")
    (folder / ".hidden.jsonl").write_text(lines("hidden"))
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    _, _, counts = run(web(folder))
    ledger = {(kind["extension"], kind["reason"]): (kind["files"], kind["bytes"]) for kind in counts["skipped"]}
    assert ledger == {
        (".png", "unknown extension"): (2, 150),
        (".lz4", "unknown extension"): (1, 7),
        ("no extension", "unknown extension"): (1, 1),
        (".jsonl", "hidden"): (1, len(lines("hidden"))),
        (".jsonl", "broken link"): (1, 0),
    }
    said = capsys.readouterr().err
    assert "2 .png (unknown extension, 150 bytes" in said
    assert "broken link" in said
    for path in folder.rglob("*.jsonl"):
        path.unlink()
    with pytest.raises(UserError, match=r"holds no readable file; skipped are 2 \.png"):
        run(web(folder))


def test_linked_folders_are_followed_once(run, tmp_path):
    store, folder = tmp_path / "store", tmp_path / "in"
    store.mkdir()
    (folder / "own").mkdir(parents=True)
    (store / "a.jsonl").write_text(lines("in the store"))
    (folder / "own" / "b.jsonl").write_text(lines("of its own"))
    (folder / "linked").symlink_to(store)
    (store / "back").symlink_to(folder)
    (folder / "again").symlink_to(store)
    rows, _, counts = run(web(folder))
    assert sorted(row["text"] for row in rows) == ["in the store", "of its own"]
    assert {kind["reason"] for kind in counts["skipped"]} == {"link to a folder that is read already"}
    with pytest.raises(UserError, match="leads nowhere"):
        (tmp_path / "x.jsonl").symlink_to(tmp_path / "y")
        run(web(tmp_path / "x.jsonl"))


def test_a_format_in_the_recipe_takes_files_whose_names_tell_none(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "part-00000").write_text(lines("no extension"))
    (tmp_path / "in" / "b.json").write_text(lines("json"))
    (tmp_path / "in" / "c.txt").write_text("a text")
    rows, _, counts = run(web(tmp_path / "in", format="jsonl"))
    assert sorted(row["text"] for row in rows) == ["json", "no extension"]
    assert [kind["reason"] for kind in counts["skipped"]] == ["not jsonl, the format of this input"]


@pytest.mark.parametrize("folder", ["data [zh] #1", "a*b", "what? [!x]", "[[]"])
def test_folders_that_exist_are_not_patterns(run, tmp_path, folder):
    (tmp_path / folder / "sub[1]").mkdir(parents=True)
    (tmp_path / folder / "a b.jsonl").write_text(lines("one"))
    (tmp_path / folder / "sub[1]" / "c.jsonl").write_text(lines("two"))
    for pattern, texts in (("*.jsonl", ["one"]), ("**/*.jsonl", ["one", "two"]), ("sub[1]/c.json?", ["two"])):
        rows, _, _ = run(web(tmp_path / folder / pattern))
        assert sorted(row["text"] for row in rows) == texts


def test_file_names_that_are_no_utf8(run, tmp_path):
    (tmp_path / "in").mkdir()
    name = os.fsencode(tmp_path / "in") + b"/\xd6\xd0\xce\xc4.jsonl"
    with open(name, "wb") as file:  # noqa: PTH123 (a name of bytes)
        file.write(lines("one").encode() + b"broken\n")
    rows, rejects, _ = run(web(tmp_path / "in"))
    assert rows[0]["origin"] == f"{tmp_path}/in/\\xd6\\xd0\\xce\\xc4.jsonl:1"
    assert rejects[0]["file"] == f"{tmp_path}/in/\\xd6\\xd0\\xce\\xc4.jsonl"


def test_saved_data_sets_are_read_and_selections_are_refused(run, tmp_path):
    folder = tmp_path / "set"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        table = pa.table({"text": [f"{split} {n}" for n in range(3)]})
        with (
            pa.OSFile(str(folder / split / "data-00000-of-00001.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        (folder / split / "cache-1.arrow").write_bytes(b"left over")
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_files": None}
        (folder / split / "state.json").write_text(json.dumps(state))
        (folder / split / "dataset_info.json").write_text("{}")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    rows, rejects, counts = run(web(folder))
    assert sorted(row["text"] for row in rows) == sorted(f"{s} {n}" for s in ("train", "test") for n in range(3))
    assert not rejects
    assert sum(kind["files"] for kind in counts["skipped"]) == 7
    (folder / "test" / "state.json").write_text(json.dumps({**state, "_indices_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(UserError, match="a selection of the rows"):
        run(web(folder))


def test_arrow_files_csv_and_json_in_other_shapes(run, tmp_path):
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink:
        table = pa.table({"text": ["file 1", "file 2"]})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "b.csv").write_bytes(b'id,text\n1,"two\nlines"\n2,short,long\n3,bad \xff\n4,\n')
    (tmp_path / "c.json").write_text(' [ {"text": "one"},\n3, {"text": "two"}] ')
    (tmp_path / "d.json").write_text('{\n "text": "pretty"\n}\n{"text": "next"}')
    rows, rejects, _ = run(web(tmp_path))
    assert [row["text"] for row in rows] == ["file 1", "file 2", "two\nlines", "one", "two", "pretty", "next"]
    assert [(Path(r["file"]).name, r["line"], r["reason"]) for r in rejects] == [
        ("b.csv", 4, "wrong_number_of_columns"), ("b.csv", 5, "not_utf8"), ("b.csv", 6, "no_text"),
        ("c.json", 2, "not_an_object"),
    ]  # fmt: skip
    for text in ('[{"text": "a"}, {"text": ', '[{"text": "a"}', '{"text": "a"\n'):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(UserError, match=r"no JSON|no end"):
            run(web(tmp_path / "c.json"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=40), max_size=30), frame=st.integers(1, 200), span=st.integers(1, 300),
    compressed=st.booleans(), ending=st.sampled_from(["", "\n", "\n\n", "\r\n"]),
)  # fmt: skip
def test_the_spans_of_a_file_hold_each_line_once(tmp_path, texts, frame, span, compressed, ending):
    data = ("\ufeff" if texts and len(texts[0]) % 2 else "").encode()
    data += (
        ending.join(json.dumps({"text": f"x{text}"}, ensure_ascii=False) for text in texts).encode() if ending else b""
    )
    data += "".join(json.dumps({"text": f"x{text}"}) + "\n" for text in texts).encode() + b"last, broken"
    path = tmp_path / ("a.jsonl.zst" if compressed else "a.jsonl")
    frames = [data[start : start + frame] for start in range(0, len(data), frame)]
    path.write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, frames)) if compressed else data)
    file, entry = SourceFile(str(path), "jsonl", path.stat().st_size), web(path)
    spans = split_file(file, entry, span)
    if spans:
        assert [spans[0].start, spans[-1].end] == [0, file.size]
    spans = number_lines(spans, [count_line_ends(str(path), each) for each in spans])
    pieces = [item for each in spans for item in read_span(file, entry, each)]
    assert pieces == (list(read_records(file, entry)) if spans else [])


@pytest.mark.slow
def test_one_long_file_is_read_in_parts_by_workers(run, tmp_path, monkeypatch):
    rng = random.Random(1)
    texts = [f"{n} {rng.random()}" * rng.randrange(1, 40) for n in range(3000)]
    (tmp_path / "a.jsonl").write_text(lines(*texts) + "broken\n")
    expected = run(web(tmp_path / "a.jsonl"))
    monkeypatch.setattr(read, "SPAN_BYTES", 100_000)
    monkeypatch.setattr(read, "PART_BYTES", 50_000)
    monkeypatch.setattr("reprise.documents.engine.IN_PROCESS_BYTES", 0)
    assert run(web(tmp_path / "a.jsonl")) == expected
    assert len(expected[0]) == 3000


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode),
    name=st.sampled_from(
        ["a.json", "a.csv", "a.tsv", "a.arrow", "a.jsonl.xz", "a.jsonl.bz2", "a.parquet", "a.jsonl", "a.txt.zst"]
    ),
    encoding=st.sampled_from(["auto", "utf-16", "utf-32", "gb18030"]),
)
def test_any_bytes_give_documents_rejects_or_one_message(tmp_path, data, name, encoding):
    path = tmp_path / name
    path.write_bytes(data)
    entry = web(path, encoding=encoding)
    for file in list_input(entry, "documents.inputs.0.path").files:
        try:
            items = list(read_records(file, entry))
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert all(isinstance(item, record.Record | record.Reject) for item in items)
