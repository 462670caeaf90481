"""Files of text in every format, whole and with one fault each, and what becomes of their documents."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import random
import shutil
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import yaml
import zstandard
from tests.fuzz.calling import Hang, time_limit

from reprise.errors import UserError
from reprise.pipeline import run_stages
from reprise.recipe.loading import load_recipe
from reprise.workspace import Workspace

PACKERS = {
    "": lambda data: data, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}  # fmt: skip


def records(rng, count=8):
    """Documents with ids, languages and sources of two scripts."""
    words = {
        "en": ["the", "old", "river", "ran", "past", "a", "quiet", "mill", "and", "its", "wheel"],
        "zh": list("那一天他来到河边看见古老的水车"),
    }
    made = []
    for index in range(count):
        lang = rng.choice(("en", "zh"))
        text = ("" if lang == "zh" else " ").join(rng.choice(words[lang]) for _ in range(30))
        made.append({"id": f"doc-{index}-{rng.random():.6f}", "text": f"{text} {index}", "lang": lang, "source": "web"})
    return made


def _lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _table(rows):
    return pa.Table.from_pylist(rows)


def _sink(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _tar(rows, mode="w"):
    def write(buffer):
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            info = tarfile.TarInfo("inner.jsonl")
            info.size = len(data := _lines(rows))
            archive.addfile(info, io.BytesIO(data))

    return _sink(write)


def _zip(rows):
    def write(buffer):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.jsonl", _lines(rows))

    return _sink(write)


FORMATS = {
    ".jsonl": _lines,
    ".json": lambda rows: json.dumps(rows, ensure_ascii=False, indent=1).encode(),
    ".csv": lambda rows: _sink(lambda buffer: pyarrow.csv.write_csv(_table(rows), buffer)),
    ".parquet": lambda rows: _sink(lambda buffer: pyarrow.parquet.write_table(_table(rows), buffer)),
    ".arrow": lambda rows: _sink(lambda buffer: pyarrow.feather.write_feather(_table(rows), buffer)),
    ".tar": _tar,
    ".tar.gz": lambda rows: _tar(rows, "w:gz"),
    ".zip": _zip,
}
PLAIN = frozenset({".jsonl", ".json", ".csv"})


class Case:
    """A folder with a file `b...` that has one fault, beside a good file of two documents.

    `told` is the number of documents that must come out or be refused; None where a file whose bytes are damaged may
    hold another number, so that only an error, a reject or all documents are right.
    """

    def __init__(self, folder, rng):
        self.folder, self.rng = folder, rng
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_bytes(_lines(records(rng, 2)))
        self.rows = records(rng)
        self.format = rng.choice(list(FORMATS))
        self.pack = rng.choice(list(PACKERS)) if self.format in PLAIN and rng.random() < 0.5 else ""
        self.what, self.told, self.plain = "", len(self.rows), self.format in PLAIN and not self.pack
        rng.choice(_FAULTS)(self)

    def write(self, data, suffix=None, name="b"):
        (self.folder / f"{os.fsdecode(name)}{suffix or self.format + self.pack}").write_bytes(data)

    def data(self, rows=None):
        return PACKERS[self.pack](FORMATS[self.format](self.rows if rows is None else rows))


def _whole(case):
    case.what = "whole"
    case.write(case.data())


def _cut(case):
    data = case.data()
    size = case.rng.randrange(len(data))
    case.what, case.told = f"cut at {size} of {len(data)}", None
    case.write(data[:size])


def _flipped(case):
    data = bytearray(case.data())
    count = case.rng.choice((1, 1, 3, 40))
    for _ in range(count):
        data[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
    case.what, case.told = f"{count} bits flipped", None
    case.write(bytes(data))


def _garbage(case):
    case.format, case.pack, case.plain = ".jsonl", "", True
    line = case.rng.choice(
        [b"{", b"[]", b"null", b"7", b'"text"', b"\x00" * 30, b"\xff\xfe\xfa", b'{"text": "cut', b"{}" * 3, b"[" * 9000,
         b'{"text": NaN}', b'{"text": "a", "text": "b", "lang": "en"', b"<html>", b"{'text': 'single'}",
         b'{"a": ' + b"9" * 6000 + b"}", b'{"a":' * 3000 + b"1" + b"}" * 3000]
    )  # fmt: skip
    case.what, case.told = f"a line {line[:20]!r}", len(case.rows) + 1
    lines = case.data().splitlines(keepends=True)
    lines.insert(case.rng.randrange(len(lines)), line + b"\n")
    case.write(b"".join(lines))


def _value(case):
    case.format = case.rng.choice((".jsonl", ".json"))
    key = case.rng.choice(("text", "text", "id", "lang", "source", "topic"))
    value = case.rng.choice(
        [None, 7, 1.5, True, [], ["a", "b"], {}, {"$oid": "5f"}, "", " \n ", "\u0000", "\u200b", "a" * 300_000, "-1",
         "../../x", "null", 10**30, {"text": "inside"}]
    )  # fmt: skip
    case.rows[case.rng.randrange(len(case.rows))][key] = value
    case.what = f"{key} = {str(value)[:30]!r}"
    case.write(case.data())


def _missing(case):
    case.format = case.rng.choice((".jsonl", ".json"))
    key = case.rng.choice(("text", "id", "lang", "source"))
    for row in case.rng.sample(case.rows, case.rng.randrange(1, len(case.rows) + 1)):
        del row[key]
    case.what = f"without {key}"
    case.write(case.data())


def _encoding(case):
    case.format = case.rng.choice((".jsonl", ".csv", ".json"))
    name = case.rng.choice(("utf-16", "utf-16-le", "utf-32", "gb18030", "big5", "utf-8-sig", "shift_jis"))
    case.what, case.told = name, None
    text = FORMATS[case.format](case.rows).decode()
    case.write(PACKERS[case.pack](codecs.encode(text, name, errors="replace")))


def _surrogate(case):
    case.format, case.pack = ".jsonl", ""
    case.what = "a lone surrogate"
    case.write(case.data().replace(b" 3", b"\\ud83d 3"))


def _bad_utf8(case):
    case.format, case.pack = case.rng.choice(((".jsonl", ""), (".csv", ""), (".json", ""))), ""
    case.format = case.format[0]
    case.what, case.told = "a byte that is no UTF-8", None
    data = bytearray(case.data())
    data[len(data) * 2 // 3] = 0xFF
    case.write(bytes(data))


def _line_ends(case):
    case.format, case.pack = ".jsonl", ""
    change = case.rng.choice((b"\r\n", b"\n\n\n", b"\n \t\n", b"\r\n\r\n"))
    case.what = f"line ends {change!r}"
    data = case.data().replace(b"\n", change)
    case.write(data if case.rng.random() < 0.5 else data.rstrip())


def _misnamed(case):
    other = case.rng.choice([name for name in (*FORMATS, ".jsonl.gz", ".jsonl.zst", ".csv.xz") if name != case.format])
    case.what, case.told = f"{case.format}{case.pack} named {other}", None
    case.write(case.data(), other)


def _empty(case):
    data = case.rng.choice((b"", b"\n", b" \n\t\n", b"\x00" * 4096))
    case.what, case.told = f"{len(data)} bytes of nothing", 0
    if case.pack:
        data = PACKERS[case.pack](data)
    case.write(data)


def _name(case):
    name = case.rng.choice(
        (
            b"b [zh] *?",
            "b 文件".encode(),
            b"b\nline",
            b"b%20#?x=1",
            b"b\xff\xfe",
            b"b'\"$(true)",
            b"b" * 200,
            b"b;&|",
            b"-b",
        )
    )
    case.what = f"the name {name[:20]!r}"
    case.write(case.data(), name=name)


def _special(case):
    kind = case.rng.choice(("fifo", "folder", "broken link", "loop", "device", "link", "socket"))
    case.what, case.told = kind, {"link": len(case.rows)}.get(kind, 0)
    path = case.folder / f"b{case.format}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to(case.folder / "nowhere")
    elif kind == "loop":
        path.symlink_to(case.folder)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        os.mknod(path, 0o140600)
    else:
        other = case.folder.with_name(f"{case.folder.name}-other{case.format}")
        case.pack = ""
        other.write_bytes(case.data())
        path.symlink_to(other)


def _table_shape(case):
    case.format, case.pack, case.plain = case.rng.choice((".parquet", ".arrow")), "", False
    kind = case.rng.choice(("no text", "no rows", "text of numbers", "text of lists", "binary text", "dictionary"))
    case.what, table = f"{case.format}: {kind}", _table(case.rows)
    texts = [row["text"] for row in case.rows]
    column = {
        "text of numbers": pa.array(range(len(texts))),
        "text of lists": pa.array([[text] for text in texts]),
        "binary text": pa.array([text.encode() for text in texts]),
        "dictionary": pa.array(texts).dictionary_encode(),
    }.get(kind)
    if kind == "no text":
        table = table.drop_columns(["text"])
    elif kind == "no rows":
        table, case.told = table.slice(0, 0), 0
    else:
        table = table.set_column(table.schema.get_field_index("text"), "text", column)
    write = pyarrow.parquet.write_table if case.format == ".parquet" else pyarrow.feather.write_feather
    case.write(_sink(lambda buffer: write(table, buffer)))


def _csv_shape(case):
    case.format, case.pack = ".csv", ""
    data = case.data()
    header, *rest = data.splitlines(keepends=True)
    kind = case.rng.choice(("header only", "no header", "open quote", "ragged", "semicolons", "header twice"))
    case.what, case.told = f"CSV: {kind}", None
    case.write(
        {
            "header only": header,
            "no header": b"".join(rest),
            "open quote": data + b'"9","an open quote,"en","web"\n',
            "ragged": data + b"a,b\nc,d,e,f,g,h\n",
            "semicolons": data.replace(b",", b";"),
            "header twice": header.rstrip() + b',"text"\n' + b"".join(line.rstrip() + b',"x"\n' for line in rest),
        }[kind]
    )
    if kind == "header only":
        case.told = 0


_FAULTS = (
    _whole, _cut, _cut, _flipped, _flipped, _garbage, _garbage, _value, _value, _missing, _encoding, _surrogate,
    _bad_utf8, _line_ends, _misnamed, _misnamed, _empty, _name, _special, _table_shape, _csv_shape,
)  # fmt: skip


def try_file(folder, number):
    """(what was done, fault): read a folder with one such file, and account for its documents."""
    case = Case(folder / "text", random.Random(f"file {number}"))
    recipe = {
        "name": "fuzz", "workspace": str(folder / "run"), "model": {"path": str(folder / "none")},
        "documents": {"inputs": [{"path": str(folder / "text")}], "max_reject_share": 1.0},
        "rows": {"seq_len": 64},
        "stages": [{"name": "one", "tokens": 128, "mixture": {"en": {"share": 1.0, "sources": {"web": 1.0}}}}],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    what = f"{case.format}{case.pack}: {case.what}"
    try:
        with time_limit():
            run_stages(load_recipe(folder / "recipe.yaml"), until=["read"], say=lambda line: None)
    except UserError as error:
        return what, "" if error.what and error.where else f"message: {error}"
    except Hang:
        return what, "hang"
    except BaseException as error:
        return what, f"traceback: {type(error).__name__}: {error}"[:300]
    finally:
        shutil.rmtree(folder / "text", ignore_errors=True)
    counts = Workspace(folder / "run").manifest("read").counts
    return what, _judge(case, counts)


def _judge(case, counts):
    """`silent` where documents are neither there nor named."""
    came, refused = counts["documents_out"] - 2, counts["rejects"]
    named = bool(refused or counts["skipped"])
    if case.told is None:
        # Nothing guards the bytes of plain text: a cut at the end of a line, or another letter, is a whole file.
        return "" if named or came >= len(case.rows) or case.plain else f"silent: {came} of {len(case.rows)} documents"
    if came + refused == case.told or (counts["skipped"] and came == 0):
        return ""
    return f"silent: {came} documents and {refused} rejects of {case.told}"
