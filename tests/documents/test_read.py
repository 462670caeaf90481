import functools
import gzip
import json
import tracemalloc

import py3langid
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprise.documents.read import record, records
from reprise.documents.read import stage as read
from reprise.documents.table import list_parts, read_table
from reprise.errors import UserError
from reprise.recipe.documents import Input
from reprise.recipe.languages.codes import find_language


def run(work, *inputs, valid_share=0.0, max_reject_share=1.0):
    read.run(work, inputs=list(inputs), engine="native", valid_share=valid_share, max_reject_share=max_reject_share)
    counts = work.counts
    assert counts["documents_in"] == counts["documents_out"] + counts["rejects"] + counts["not_in_sample"]
    rows = [row for batch in read_table(work.output / "documents") for row in batch.to_pylist()]
    rejects = [json.loads(line) for line in (work.output / "rejects.jsonl").open(encoding="utf-8")]
    assert len(rows) == work.counts["documents_out"]
    assert len(rejects) == work.counts["rejects"]
    return rows, rejects


def web(path, **more):
    return Input(path=str(path), constants={"source": "web", "lang": "en", **more})


LINES = [{"text": f"Document number {number}.", "id": f"d{number}", "topic": "Law"} for number in range(20)]


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_compressed_and_plain_give_the_same_documents(tmp_path, make_work):
    data = as_jsonl(LINES)
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data[:300]) + gzip.compress(data[300:]))
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(compress(data[:300]) + compress(data[300:]))
    pq.write_table(pa.Table.from_pylist(LINES), tmp_path / "a.parquet")
    results = []
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        rows, rejects = run(make_work(name), web(tmp_path / name))
        assert not rejects
        assert [row["origin"] for row in rows] == [f"{tmp_path / name}:{number + 1}" for number in range(20)]
        results.append([{**row, "origin": ""} for row in rows])
    assert results[0] == results[1] == results[2] == results[3]
    assert [row["id"] for row in results[0]] == [row["id"] for row in LINES]
    assert {row["topic"] for row in results[0]} == {"Law"}


def test_folders_globs_fields_constants_and_packages(tmp_path, make_work):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.md").write_text("# Title\n\nBody", encoding="utf-8")
    (tmp_path / "in" / "deep" / "a.txt").write_text("text of a", encoding="utf-8")
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "in" / ".hidden.txt").write_text("hidden", encoding="utf-8")
    rows, _ = run(make_work("folder"), web(tmp_path / "in"))
    assert [row["text"] for row in rows] == ["# Title\n\nBody", "text of a"]
    assert rows[0]["origin"] == f"{tmp_path / 'in' / 'b.md'}:1"

    (tmp_path / "c1.jsonl").write_bytes(as_jsonl([{"content": "one", "text": "wrong", "language": "fr", "n": 7}]))
    (tmp_path / "c2.jsonl").write_bytes(as_jsonl([{"content": "two", "language": "de", "n": 8, "split": "test"}]))
    entry = Input(
        path=str(tmp_path / "c?.jsonl"),
        fields={"text": "content", "lang": "language", "id": "n"},
        constants={"source": "book", "split": "valid"},
    )
    rows, _ = run(make_work("glob"), entry)
    assert [(row["id"], row["text"], row["lang"], row["source"], row["split"]) for row in rows] == [
        ("7", "one", "fr", "book", "valid"),
        ("8", "two", "de", "book", "valid"),
    ]
    rows, _ = run(make_work("package"), Input(path="package:reprise/demo/*.jsonl"))
    assert len(rows) > 100
    assert {row["lang"] for row in rows} == {"en", "zh"}


def test_the_split_is_a_function_of_the_text(tmp_path, make_work):
    texts = [{"text": f"text {number}"} for number in range(400)]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(texts))
    (tmp_path / "b.jsonl").write_bytes(as_jsonl(texts[::-1]))
    rows, _ = run(make_work("a"), web(tmp_path / "a.jsonl"), web(tmp_path / "b.jsonl"), valid_share=0.2)
    split_of = {}
    for row in rows:
        assert split_of.setdefault(row["text"], row["split"]) == row["split"]
    share = sum(split == "valid" for split in split_of.values()) / 400
    assert 0.13 < share < 0.27


def test_a_sample_is_a_function_of_the_text_and_independent_of_the_split(tmp_path, make_work):
    texts = [{"text": f"This is the text of document number {number}."} for number in range(1000)]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(texts))
    (tmp_path / "b.jsonl").write_bytes(as_jsonl(texts[::-1]))
    a, _ = run(make_work("a"), web(tmp_path / "a.jsonl").model_copy(update={"sample": 0.3}), valid_share=0.5)
    b, _ = run(make_work("b"), web(tmp_path / "b.jsonl").model_copy(update={"sample": 0.3}), valid_share=0.5)
    assert {row["text"] for row in a} == {row["text"] for row in b}
    assert 240 < len(a) < 360
    assert 0.4 < sum(row["split"] == "valid" for row in a) / len(a) < 0.6


def test_languages_are_detected_where_the_recipe_gives_none(tmp_path, make_work):
    texts = [
        "The committee agreed that the bridge should be repaired before the winter.",
        "委员会同意在冬天之前修好那座桥，费用由市政府承担。",
        "Le comité a décidé de réparer le pont avant l'hiver, aux frais de la ville.",
        "Das Komitee beschloss, die Brücke noch vor dem Winter zu reparieren.",
    ]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([{"text": text} for text in texts]))
    work = make_work("read")
    rows, _ = run(work, Input(path=str(tmp_path / "a.jsonl"), constants={"source": "web"}))
    assert [row["lang"] for row in rows] == ["en", "zh", "fr", "de"]
    assert work.counts["languages_detected"] == 4


BROKEN = [
    (b'{"text": "fine"}', None),
    (b"", None),
    (b"   \t", None),
    (b'{"text": "bad \xff\xfe utf-8"}', "not_utf8"),
    (b'{"text": "cut', "not_json"),
    (b'{"text": "nul \x00 raw"}', "not_json"),
    (b"[" * 100_000, "not_json"),
    (b"[1, 2]", "not_an_object"),
    (b'"just a string"', "not_an_object"),
    (b'{"body": "no text"}', "no_text"),
    (b'{"text": null}', "no_text"),
    (b'{"text": 17}', "text_is_not_a_string"),
    (b'{"text": ["a"]}', "text_is_not_a_string"),
    (b'{"text": " \\n\\t "}', "empty_text"),
    (b'{"text": "\\ud800 alone"}', "lone_surrogate"),
    (b'{"text": "x", "id": "\\udfff"}', "lone_surrogate"),
    (b'{"text": "x", "source": {"a": 1}}', None),
    (b'{"text": "x", "split": [1, 2]}', None),
    (b'{"text": "x", "lang": ["en", "fr"]}', None),
    (b'{"text": "with \\u0000 nul"}', None),
    ("{\"text\": \"line\u2028separator\"}".encode(), None),
    (b'{"text": "windows"}\r', None),
]  # fmt: skip


def test_broken_lines_become_rejects_with_file_and_line(tmp_path, make_work):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(line for line, _ in BROKEN))
    rows, rejects = run(make_work("read"), web(path))
    expected = [(number, reason) for number, (_, reason) in enumerate(BROKEN, 1) if reason]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == expected
    assert {reject["file"] for reject in rejects} == {str(path)}
    assert [row["text"] for row in rows] == ["fine", "x", "x", "x", "with \0 nul", "line\u2028separator", "windows"]
    assert all(len(reject["excerpt"]) <= 200 for reject in rejects)


def test_a_line_that_is_too_long_is_passed_over(tmp_path, make_work, monkeypatch):
    monkeypatch.setattr(record, "MAX_DOCUMENT_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    long = as_jsonl([{"text": "x" * 3_000_000}])
    path.write_bytes(as_jsonl([{"text": "first"}]) + long + as_jsonl([{"text": "second"}]) + long.rstrip())
    rows, rejects = run(make_work("read"), web(path))
    assert [row["text"] for row in rows] == ["first", "second"]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [(2, "too_long"), (4, "too_long")]
    (tmp_path / "a.txt").write_text("y" * 1001, encoding="utf-8")
    assert run(make_work("text"), web(tmp_path / "a.txt"))[1][0]["reason"] == "too_long"


@pytest.mark.slow
def test_a_line_of_200_mb_is_passed_over_in_little_memory(tmp_path, make_work):
    for name, opener in (("a.jsonl", open), ("a.jsonl.gz", functools.partial(gzip.open, compresslevel=1))):
        with opener(tmp_path / name, "wb") as file:
            file.write(as_jsonl([{"text": "first"}]) + b'{"text": "')
            for _ in range(200):
                file.write(b"x" * 1_000_000)
            file.write(b'"}\n' + as_jsonl([{"text": "second"}]))
        tracemalloc.start()
        rows, rejects = run(make_work(name), web(tmp_path / name))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert [row["text"] for row in rows] == ["first", "second"]
        assert [(reject["line"], reject["reason"]) for reject in rejects] == [(2, "too_long")]
        assert peak < 150e6


def test_too_many_rejects_stop_the_run(tmp_path, make_work):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl([{"text": "fine"}] * 9) + b'{"text": 1}\n')
    run(make_work("read"), web(path), max_reject_share=0.1)
    with pytest.raises(UserError) as error:
        run(make_work("strict"), web(path), max_reject_share=0.09)
    assert error.value.where == f"{path}:10"
    assert "1 of 10 documents cannot be read (text_is_not_a_string 1)" in str(error.value)
    assert "rejects.jsonl" in error.value.remedy


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, make_work, name):
    lines = [{"text": "%030x" % (number * 7919**9 % 2**120)} for number in range(3000)]
    whole = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(lines), whole)
    else:
        data = as_jsonl(lines)
        whole.write_bytes(gzip.compress(data) if name.endswith("gz") else zstandard.compress(data))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match=r"damaged or cut off|cannot be read") as error:
        run(make_work("read"), web(whole))
    assert str(whole) in error.value.where


def test_what_is_no_input_is_explained(tmp_path, make_work):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "fake.parquet").write_bytes(b"not parquet")
    (tmp_path / "fake.jsonl.gz").write_bytes(b"not gzip")
    (tmp_path / "data.bin").write_bytes(b"x")
    (tmp_path / "folder.jsonl").mkdir()
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "column.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "type.parquet")
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    for name, message in {
        "missing.jsonl": "does not exist",
        "nothing*.jsonl": "no file matches",
        "empty.jsonl": "holds no document",
        "fake.parquet": "cannot be read",
        "fake.jsonl.gz": "damaged",
        "data.bin": "format of .* cannot be derived",
        "folder.jsonl": "this folder holds no readable file",
        "column.parquet": "no column 'text' .* the columns are body",
        "type.parquet": "holds int64, not text",
        "twice.parquet": "there are 2 columns 'text'",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            run(make_work(name), web(tmp_path / name))
        assert name in error.value.where
    with pytest.raises(UserError, match="is not installed"):
        run(make_work("package"), Input(path="package:no_such_package/x.jsonl"))
    with pytest.raises(UserError, match="no input"):
        run(make_work("none"))


def test_parquet_rows_that_are_no_text(tmp_path, make_work):
    values = [b"fine", b"bad \xff", None, b"  "]
    pq.write_table(pa.table({"text": pa.array(values, pa.binary())}), tmp_path / "a.parquet")
    rows, rejects = run(make_work("read"), web(tmp_path / "a.parquet"))
    assert [row["text"] for row in rows] == ["fine"]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [
        (2, "not_utf8"), (3, "no_text"), (4, "empty_text"),
    ]  # fmt: skip


def test_workers_give_what_one_process_gives(tmp_path, make_work, monkeypatch):
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_bytes(as_jsonl(LINES[number * 3 :]) + b"broken\n")
    inputs = [web(tmp_path / f"{number}.jsonl") for number in range(3)]
    one = run(make_work("one"), *inputs)
    monkeypatch.setattr("reprise.documents.engine.IN_PROCESS_BYTES", 0)
    work = make_work("many")
    assert run(work, *inputs) == one
    assert len(list_parts(work.output / "documents")) == 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".jsonl", ".txt", ".jsonl.gz", ".jsonl.zst", ".parquet"]))
def test_any_bytes_give_documents_rejects_or_a_clear_message(tmp_path, data, suffix):
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(data)
    file = records.SourceFile(
        str(path), "parquet" if "parquet" in suffix else suffix[1:6].strip(".").replace("txt", "text"), 0
    )
    try:
        items = list(records.read_records(file, web(path)))
    except UserError as error:
        assert str(path) in str(error)
    else:
        if suffix == ".jsonl":
            assert len(items) == sum(bool(line.strip()) for line in data.split(b"\n"))


def test_a_language_is_one_whatever_its_code(tmp_path, make_work):
    texts = {
        code: f"这是一段用来测试的中文，编号{number}。"
        for number, code in enumerate(("zh-CN", "zho_Hans", "wuu", "und", ""))
    }
    rows = [{"text": text, "lang": code, "source": "web"} for code, text in texts.items()]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([*rows, {"text": "neither", "lang": "general", "source": "web"}]))
    work = make_work("read")
    rows, rejects = run(work, Input(path=str(tmp_path / "a.jsonl")))
    assert {row["lang"] for row in rows} == {"zh"}
    assert work.counts["languages_detected"] == 2
    assert [reject["reason"] for reject in rejects] == ["unknown_language_code"]


def test_every_answer_of_the_language_identifier_is_a_code(tmp_path, make_work):
    answers = [answer for answer, _ in py3langid.rank("x")]
    assert len(answers) > 90
    assert [answer for answer in answers if find_language(answer) is None] == ["zxx"]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([{"text": "1 2 3 4 5", "source": "web"}]))
    rows, _ = run(make_work("read"), Input(path=str(tmp_path / "a.jsonl")))
    assert find_language(rows[0]["lang"]) or rows[0]["lang"] == "und"
