"""Web pages, PDF, DOCX, EPUB, WARC and archives: text, origin, and what broken ones become."""

import gzip
import importlib.util
import io
import json
import random
import re
import tarfile
import zipfile

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprise.documents.read import stage as read
from reprise.documents.read.files import list_input
from reprise.documents.read.records import Record, read_records
from reprise.documents.table import read_table
from reprise.errors import UserError
from reprise.recipe.documents import Input

pytest.importorskip("resiliparse", reason="the extra `files` is not installed")

PROSE = [
    "The <b>tide</b> tables of 1846 were printed in a small shop behind the harbour, and every captain bought one.",
    "Когда вода уходила, дети собирали ракушки и продавали их на рынке.",
    "潮水退去以后，渔民们在沙滩上修补渔网，等待下一次涨潮。",
]
PLAIN = [text.replace("<b>", "").replace("</b>", "") for text in PROSE]
MENU = "".join(f'<li><a href="/{n}">Menu entry {n}</a></li>' for n in range(12))
PAGE = f"""<!DOCTYPE html><html><head><meta charset="utf-8"><title>t</title><style>p {{}}</style></head><body>
<nav><a href="/">Home</a></nav><div class="side"><ul>{MENU}</ul></div>
<h1>On tides</h1>{"".join(f"<p>{text}</p>" for text in PROSE)}
<ul class="nav"><li><a href="a">Prev</a></li><li>Up</li><li><a href="b">Next</a></li></ul>
<ul><li>A first point, which <a href="x">refers</a> to something.</li><li>And a second, without any link.</li></ul>
<script>var x = 1;</script></body></html>"""


def web(path, **more):
    return Input(path=str(path), constants={"source": "web", "lang": "en"}, **more)


@pytest.fixture
def run(make_work):
    runs = 0

    def run(*inputs):
        nonlocal runs
        runs += 1
        work = make_work(f"read{runs}")
        read.run(work, inputs=list(inputs), engine="native", valid_share=0.0, max_reject_share=1.0)
        rows = [row for batch in read_table(work.output / "documents") for row in batch.to_pylist()]
        rejects = [json.loads(line) for line in (work.output / "rejects.jsonl").open(encoding="utf-8")]
        return rows, rejects, work.counts

    return run


def make_docx(path):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("On tides", 1)
    for text in PLAIN:
        document.add_paragraph(text)
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "high", "low"
    document.save(str(path))


def make_epub(path, encrypted=False):
    container = '<container><rootfiles><rootfile full-path="OEBPS/b.opf"/></rootfiles></container>'
    items = "".join(f'<item id="c{n}" href="chapter%20{n}.xhtml"/>' for n in range(3))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in (2, 0, 1))
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("META-INF/container.xml", container)
        book.writestr(
            "OEBPS/b.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>',
        )
        for n in range(3):
            book.writestr(
                f"OEBPS/chapter {n}.xhtml",
                f'<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>{PROSE[n]}</p></body></html>',
            )
        if encrypted:
            book.writestr("META-INF/encryption.xml", "<encryption><EncryptedData/></encryption>")


def make_pdf(path, texts):
    """A PDF of one page to each text, in a standard font."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in texts:
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    data += f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()
    path.write_bytes(data)


def make_warc(responses):
    data = b""
    for index, (kind, status, body) in enumerate(responses):
        http = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}; charset=utf-8", f"Content-Length: {len(body)}", "", ""]
        content = "\r\n".join(http).encode() + body
        head = ["WARC/1.0", "WARC-Type: response", f"WARC-Record-ID: <urn:uuid:{index}>", "WARC-Target-URI: http://x/",
                "WARC-Date: 2024-01-01T00:00:00Z", "Content-Type: application/http; msgtype=response",
                f"Content-Length: {len(content)}", "", ""]  # fmt: skip
        data += gzip.compress("\r\n".join(head).encode() + content + b"\r\n\r\n")
    return data


@pytest.mark.parametrize("extractor", ["prose", "resiliparse", "trafilatura"])
def test_pages_give_their_prose_without_menus(run, tmp_path, extractor):
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(PAGE.replace("utf-8", "gb18030").encode("gb18030")))
    rows, rejects, _ = run(web(tmp_path, html=extractor))
    assert not rejects
    assert [row["origin"] for row in rows] == [f"{tmp_path}/a.html:1", f"{tmp_path}/b.htm.gz:1"]
    for row in rows:
        for text in PLAIN:
            assert text in row["text"]
        for menu in ("Menu entry 3", "Home", "Prev", "var x"):
            assert menu not in row["text"]
        if extractor == "prose":
            assert "A first point, which refers to something." in row["text"]


def test_books_documents_and_pdf(run, tmp_path):
    make_docx(tmp_path / "a.docx")
    make_epub(tmp_path / "b.epub")
    make_pdf(tmp_path / "c.pdf", ["The first page.", "The second page."])
    rows, rejects, _ = run(web(tmp_path))
    assert not rejects
    assert rows[0]["text"] == "\n\n".join(["On tides", *PLAIN, "high\tlow"])
    assert [row["text"] for row in rows[1:4]] == [PLAIN[2], PLAIN[0], PLAIN[1]]
    assert [row["origin"] for row in rows[1:4]] == [f"{tmp_path}/b.epub:{n}" for n in (1, 2, 3)]
    assert rows[4]["text"] == "The first page.\n\nThe second page."


def test_pages_of_a_pdf_can_be_documents_that_name_their_page(run, tmp_path):
    make_pdf(tmp_path / "a.pdf", ["The first page.", "", "The third page."])
    rows, rejects, _ = run(web(tmp_path / "a.pdf", pdf="pages"))
    assert [(row["origin"][-7:], row["text"]) for row in rows] == [
        ("a.pdf:1", "The first page."), ("a.pdf:3", "The third page."),
    ]  # fmt: skip
    assert not rejects
    rows, _, _ = run(web(tmp_path / "a.pdf"))
    assert [row["origin"][-7:] for row in rows] == ["a.pdf:1"]


def test_warc_gives_its_pages_and_names_the_rest(run, tmp_path):
    page = PAGE.encode()
    data = make_warc(
        [
            ("text/html", 200, page),
            ("image/png", 200, b"x" * 9),
            ("text/html", 404, page),
            ("text/plain", 200, b"plain text"),
            ("text/html", 200, b""),
        ]
    )
    (tmp_path / "a.warc.gz").write_bytes(data)
    (tmp_path / "b.warc").write_bytes(gzip.decompress(data))
    (tmp_path / "c.warc.zst").write_bytes(zstandard.compress(gzip.decompress(data)))
    rows, rejects, counts = run(web(tmp_path))
    assert [row["origin"].removeprefix(f"{tmp_path}/") for row in rows] == [
        f"{name}:{index}" for name in ("a.warc.gz", "b.warc", "c.warc.zst") for index in (1, 4)
    ]
    assert all(text in rows[0]["text"] for text in PLAIN)
    assert {(reject["line"], reject["reason"]) for reject in rejects} == {(5, "no_text_inside")}
    assert {(kind["extension"], kind["reason"], kind["files"]) for kind in counts["skipped"]} == {
        ("image/png", "content type", 3), ("text/html", "HTTP status 404", 3),
    }  # fmt: skip
    (tmp_path / "a.warc.gz").write_bytes(data[:-200])
    with pytest.raises(UserError, match="damaged"):
        run(web(tmp_path / "a.warc.gz"))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst", "a.zip"])
def test_archives_of_files(run, tmp_path, name):
    lines = b'{"text": "one"}\n{"text": "two"}\n'
    files = {
        "d/a.jsonl": lines,
        "d/b.jsonl.gz": gzip.compress(lines),
        "c.html": PAGE.encode(),
        "d/e.png": b"png",
        ".x/y.txt": b"z",
        "in.tar": b"t",
    }
    buffer = io.BytesIO()
    if name.endswith("zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, data in files.items():
                archive.writestr(path, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, data in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    data = buffer.getvalue()
    data = gzip.compress(data) if name.endswith("gz") else zstandard.compress(data) if name.endswith("zst") else data
    (tmp_path / name).write_bytes(data)
    rows, rejects, counts = run(web(tmp_path))
    assert not rejects
    expected = ["d/a.jsonl:1", "d/a.jsonl:2", "d/b.jsonl.gz:1", "d/b.jsonl.gz:2", "c.html:1"]
    assert [row["origin"] for row in rows] == [f"{tmp_path}/{name}!{end}" for end in expected]
    assert {kind["extension"] for kind in counts["skipped"]} == {".png", ".txt", ".tar"}
    (tmp_path / name).write_bytes(data[: 2500 if name == "a.tar" else len(data) // 2])
    with pytest.raises(UserError, match=r"damaged|cannot be read|no JSON"):
        run(web(tmp_path / name))


def test_broken_files_are_rejects_with_a_reason(run, tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 nothing")
    (tmp_path / "b.docx").write_bytes(b"PK no zip")
    (tmp_path / "c.docx").write_bytes(b"\xd0\xcf\x11\xe0 old")
    (tmp_path / "d.epub").write_bytes(b"")
    make_epub(tmp_path / "e.epub", encrypted=True)
    make_pdf(tmp_path / "f.pdf", [""])
    (tmp_path / "g.html").write_text("<html><body><nav>Menu</nav></body></html>")
    (tmp_path / "h.html").write_text(PAGE)
    rows, rejects, _ = run(web(tmp_path))
    assert len(rows) == 1
    assert {reject["file"][-6:]: reject["reason"] for reject in rejects} == {
        "/a.pdf": "damaged_pdf", "b.docx": "damaged_docx", "c.docx": "encrypted_or_old_word_format",
        "d.epub": "damaged_epub", "e.epub": "encrypted", "/f.pdf": "no_text_inside", "g.html": "no_text_inside",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("time.sleep(60)", "parser_took_too_long"),
        ("bytearray(3 << 30)", "parser_out_of_memory"),
        ("os.kill(os.getpid(), 11)", "parser_crashed"),
    ],
)
def test_a_parser_that_hangs_grows_or_crashes_costs_one_document(tmp_path, monkeypatch, fault, reason):
    """The fault is in a module that the parser process imports in the place of pypdfium2."""
    (tmp_path / "pypdfium2.py").write_text(
        f"import os, time\nclass PdfiumError(Exception): pass\ndef PdfDocument(data): {fault}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("a.html", "c.html"):
        (tmp_path / name).write_text(PAGE)
    make_pdf(tmp_path / "b.pdf", ["text"])
    entry = web(tmp_path, parse_seconds=10.0 if "sleep" not in fault else 3.0, parse_memory_gb=1.0)
    items = []
    from reprise.documents.read.parsing import PageParser

    with PageParser() as parser:
        for file in list_input(entry, "documents.inputs.0.path").files:
            items += read_records(file, entry, None, parser)
    assert [item.reason if not isinstance(item, Record) else "" for item in items] == ["", reason, ""]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 30),
    name=st.sampled_from(["a.html", "a.pdf", "a.docx", "a.epub", "a.zip", "a.tar", "a.warc.gz"]),
)
def test_files_with_flipped_bytes_give_documents_rejects_or_one_message(tmp_path_factory, seed, name):
    folder, rng = _whole_files(tmp_path_factory), random.Random(seed)
    data = bytearray((folder / name).read_bytes())
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    path = tmp_path_factory.mktemp("flipped") / name
    path.write_bytes(bytes(data))
    entry = web(path)
    try:
        for file in list_input(entry, "documents.inputs.0.path").files:
            list(read_records(file, entry))
    except UserError as error:
        assert str(path) in str(error)


_made = []


def _whole_files(tmp_path_factory):
    if not _made:
        folder = tmp_path_factory.mktemp("whole")
        (folder / "a.html").write_text(PAGE)
        make_pdf(folder / "a.pdf", ["The first page."])
        make_docx(folder / "a.docx")
        make_epub(folder / "a.epub")
        (folder / "a.warc.gz").write_bytes(make_warc([("text/html", 200, PAGE.encode())] * 2))
        with zipfile.ZipFile(folder / "a.zip", "w") as archive, tarfile.open(folder / "a.tar", "w") as tar:
            for name in ("a.html", "a.docx"):
                archive.write(folder / name, name)
                tar.add(folder / name, name)
        _made.append(folder)
    return _made[0]


def test_preflight_names_the_package_that_an_input_needs(tmp_path, monkeypatch):
    from reprise.preflight.requirements import check_packages
    from reprise.recipe import load_recipe

    (tmp_path / "a.html").write_text(PAGE)
    stage = {"name": "s", "tokens": 1000, "schedule": {"peak_lr": 1e-3}}
    stage["mixture"] = {"en": {"share": 1.0, "sources": {"web": 1.0}}}
    values = {"name": "x", "workspace": str(tmp_path / "run"), "model": {"path": "none"}, "stages": [stage]}
    values["documents"] = {"inputs": [{"path": str(tmp_path / "a.html"), "constants": {"source": "web"}}]}
    (tmp_path / "r.yaml").write_text(json.dumps(values))
    recipe = load_recipe(tmp_path / "r.yaml", [])
    here = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "resiliparse" else here(name))
    findings = [str(finding) for finding in check_packages(recipe)]
    assert any("reading html needs the package `resiliparse`" in text for text in findings)


def test_mislabelled_files_are_rejects_or_one_message_and_never_garbage(tmp_path):
    """Every kind of file under the name of every other: no document may hold bytes that are no text."""
    whole = {path.name: path.read_bytes() for path in _whole_files_in(tmp_path / "whole").iterdir()}
    whole |= {"a.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, "a.empty": b"", "a.nul": bytes(5000)}
    whole["a.noise"] = random.Random(0).randbytes(5000)
    whole["a.txt"] = b"Just words in a file."
    without_text = {"a.pdf", "a.png", "a.nul", "a.noise", "a.empty"}
    from reprise.documents.read.parsing import PageParser

    with PageParser() as parser:
        for name, data in whole.items():
            for end in (
                "html",
                "pdf",
                "docx",
                "epub",
                "warc",
                "jsonl",
                "json",
                "csv",
                "txt",
                "parquet",
                "arrow",
                "zip",
                "tar",
            ):
                if name == f"a.{end}":
                    continue
                path = tmp_path / f"x.{end}"
                path.write_bytes(data)
                entry = web(path)
                items = []
                try:
                    for file in list_input(entry, "documents.inputs.0.path").files:
                        items += read_records(file, entry, None, parser)
                except UserError as error:
                    assert str(path) in str(error), (name, end)
                texts = [item.fields["text"] for item in items if isinstance(item, Record)]
                assert not texts or name not in without_text, (name, end, texts)
                # A tar that ends with a .docx is one for zip's readers: its words may come, its bytes may not.
                assert not any(re.search("[\0-\x08\x0e-\x1f\ufffd]", text) for text in texts), (name, end, texts)


def _whole_files_in(folder):
    folder.mkdir()
    make_pdf(folder / "a.pdf", ["The first page."])
    make_docx(folder / "a.docx")
    make_epub(folder / "a.epub")
    (folder / "a.html").write_text(PAGE)
    (folder / "a.warc.gz").write_bytes(make_warc([("text/html", 200, PAGE.encode())]))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive, tarfile.open(folder / "a.tar", "w") as tar:
        for name in ("a.html", "a.docx"):
            archive.write(folder / name, name)
            tar.add(folder / name, name)
    return folder
