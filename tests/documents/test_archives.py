"""Archives: what is no file in them is named, damage is one message, and tables in them are read."""

import io
import json
import random
import stat
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from reprise.documents.read.files import SourceFile, list_input
from reprise.documents.read.records import Record, read_records
from reprise.errors import UserError
from reprise.recipe.documents import Input

ROWS = [{"text": f"Words of the document {number}.", "lang": "en", "source": "web"} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def parquet():
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def write_tar(path):
    with tarfile.open(path, "w") as archive:
        for name, data in (("a.jsonl", LINES), ("b.parquet", parquet())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in (
            ("hard.jsonl", tarfile.LNKTYPE),
            ("soft.jsonl", tarfile.SYMTYPE),
            ("pipe", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jsonl"
            archive.addfile(info)


def write_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", LINES)
        archive.writestr("b.parquet", parquet())
        info = zipfile.ZipInfo("soft.jsonl")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "a.jsonl")


def read(path):
    """Documents and skipped files."""
    (file,) = list_input(Input(path=str(path)), "documents.inputs.0.path").files
    skipped = []
    items = list(read_records(file, Input(path=str(path)), skipped.append))
    return [item for item in items if isinstance(item, Record)], skipped


@pytest.mark.parametrize(("name", "write"), [("x.tar", write_tar), ("x.zip", write_zip)])
def test_tables_are_read_and_what_is_no_file_is_named(tmp_path, name, write):
    write(tmp_path / name)
    records, skipped = read(tmp_path / name)
    assert [record.fields["text"] for record in records] == [row["text"] for row in ROWS] * 2
    reasons = {file.path.partition("!")[2]: file.reason for file in skipped}
    assert reasons["soft.jsonl"] == "link in an archive"
    if name == "x.tar":
        assert reasons["hard.jsonl"] == "link in an archive"
        assert reasons["pipe"] == "neither a file nor a folder in an archive"


def write_arrow(path):
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), str(path), compression="uncompressed")


def write_csv(path):
    path.write_text("text,lang,source\n" + "".join(f'"{row["text"]}",en,web\n' for row in ROWS))


def write_parquet(path):
    path.write_bytes(parquet())


def write_jsonl(path):
    path.write_bytes(LINES)


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.tar", write_tar), ("x.zip", write_zip), ("x.parquet", write_parquet), ("x.arrow", write_arrow),
     ("x.csv", write_csv), ("x.jsonl", write_jsonl)],
)  # fmt: skip
def test_any_flipped_byte_gives_records_or_one_message(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    entry, rng = Input(path=str(path)), random.Random(name)
    file = SourceFile(str(path), list_input(entry, "x").files[0].format, len(whole))
    for _ in range(150):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= rng.choice((1 << rng.randrange(8), 255))
        path.write_bytes(data)
        try:
            list(read_records(file, entry))
        except UserError as error:
            assert error.where


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,text,lang,source\na,b,en,web\n")
    with pytest.raises(UserError, match="2 columns 'text'"):
        read(tmp_path / "a.csv")
