import subprocess
import sys

import pyarrow as pa
import pytest

from reprise.documents import table
from reprise.documents.table import (
    DROPPED_SCHEMA,
    SCHEMA,
    TableWriter,
    as_table,
    count_rows,
    link_parts,
    list_parts,
    read_table,
)


def row(number: int, text: str = "text") -> dict[str, object]:
    return {
        "id": str(number), "text": text, "lang": "en", "source": "web", "split": "train", "origin": f"a.jsonl:{number}",
    }  # fmt: skip


def test_rows_come_back_in_order_over_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "PART_BYTES", 1000)
    with TableWriter(tmp_path / "documents") as writer:
        for start in range(0, 100, 7):
            writer.write([row(number, "x" * 90) for number in range(start, min(start + 7, 100))])
    assert len(list_parts(tmp_path / "documents")) > 3
    assert count_rows(tmp_path / "documents") == writer.num_rows == 100
    read = pa.Table.from_batches(read_table(tmp_path / "documents", batch_rows=9))
    assert read["id"].to_pylist() == [str(number) for number in range(100)]
    assert read.schema.equals(SCHEMA)


def test_an_empty_table_has_a_schema(tmp_path):
    with TableWriter(tmp_path / "dropped", DROPPED_SCHEMA):
        pass
    assert count_rows(tmp_path / "dropped") == 0
    assert len(list_parts(tmp_path / "dropped")) == 1
    assert list(read_table(tmp_path / "nowhere")) == []


def test_columns_are_checked():
    assert as_table(pa.table({name: [value] for name, value in row(1).items()}))["ppl"].to_pylist() == [None]
    with pytest.raises(ValueError, match="the column lang holds 1 nulls"):
        as_table([{**row(1), "lang": None}])
    with pytest.raises(ValueError, match="not of the table: colour"):
        as_table([{**row(1), "colour": "red"}])
    with pytest.raises(ValueError, match="not of the table: colour"):
        as_table(pa.table({**{name: [value] for name, value in row(1).items()}, "colour": ["red"]}))


def test_a_failed_block_does_not_write_its_last_part(tmp_path):
    with pytest.raises(RuntimeError), TableWriter(tmp_path) as writer:
        writer.write([row(1)])
        raise RuntimeError
    assert list_parts(tmp_path) == []


def test_the_table_imports_without_daft():
    code = (
        "import sys, reprise.documents.table; sys.exit(any(name in sys.modules for name in ('daft', 'sklearn', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "copies"])
def test_a_table_is_linked_again_after_an_interruption(tmp_path, monkeypatch, links):
    monkeypatch.setattr(table, "PART_BYTES", 100)
    with TableWriter(tmp_path / "a") as writer:
        for number in range(30):
            writer.write([row(number, "x" * 90)])
    parts = list_parts(tmp_path / "a")
    if not links:
        monkeypatch.setattr(table.os, "link", lambda *_: (_ for _ in ()).throw(OSError("not here")))
    link_parts(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / parts[1].name).unlink()
    (tmp_path / "b" / f".{parts[2].name}.tmp").write_bytes(b"half")
    link_parts(tmp_path / "a", tmp_path / "b")
    assert [part.name for part in list_parts(tmp_path / "b")] == [part.name for part in parts]
    for part in parts:
        assert (tmp_path / "b" / part.name).read_bytes() == part.read_bytes()
        assert (tmp_path / "b" / part.name).samefile(part) is links
