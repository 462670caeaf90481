"""Convert a web page, PDF, DOCX or EPUB to text. Runs in a process of its own (`parsing`), as files may be damaged."""

import io
import re
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from reprise.documents.read.formats import NO_TEXT_FILES
from reprise.errors import missing_extra

_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_NO_TEXT = (
    "script", "style", "noscript", "template", "svg", "button", "select", "input", "textarea", "nav", "iframe",
    "object",
)  # fmt: skip
_BLOCKS = ("ul", "ol", "dl", "div", "section", "p", "header", "footer", "aside", "table")
_MAX_LINK_SHARE = 0.6
_MENU_CHARS, _MENU_ITEM_CHARS = 200, 30
_SENTENCE_END = re.compile(r"[.!?。！？।؟።။៕]\s*$")
_OLE = b"\xd0\xcf\x11\xe0"
"""First bytes of a .doc file, and of a .docx file with a password."""
_MAX_MEMBER_BYTES = 64 << 20
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_MAX_CONTROL_SHARE = 0.02
"""Largest share of control characters in a page; with more, it is text of a program or a picture."""


class NoPageError(Exception):
    """The reason why a file has no text, as one word."""


def parse(format: str, html: str, data: bytes) -> list[str]:
    """The texts of a file: one, or one per chapter of a book or page of a PDF; empty ones are included.

    Args:
        format: `html`, `pdf`, `docx` or `epub`.
        html: how web pages are read, or `pages` for one text per page of a PDF: see `recipe.documents.Input`.
        data: content of the file.

    Raises:
        NoPageError: the file has no text; the message is the reason.
        UserError: the library for the format is not installed.
    """
    try:
        return _PARSERS[format](data, html)
    except ImportError as error:
        raise missing_extra(str(error.name), "files", f"reading {format}") from None


def _parse_html(data: bytes, html: str) -> list[str]:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    if data.startswith(NO_TEXT_FILES):
        raise NoPageError("not_html")
    text = bytes_to_str(data, detect_encoding(data, from_html_meta=True) or "utf-8")
    if len(_CONTROLS.findall(text)) > _MAX_CONTROL_SHARE * len(text):
        raise NoPageError("not_html")
    return [_EXTRACTORS[html](_XML_DECLARATION.sub("", text)).strip()]


def _extract_prose(text: str) -> str:
    """Text of a page without menus (blocks that are mostly links, short lists of links) and elements without text."""
    import lxml.html
    from lxml import etree
    from resiliparse.extract.html2text import extract_plain_text

    try:
        document = lxml.html.document_fromstring(text)
    except (etree.ParserError, ValueError):
        return ""
    for element in list(document.iter(*_NO_TEXT)):
        if element.getparent() is not None:
            element.drop_tree()
    for element in list(document.iter(*_BLOCKS)):
        parent = element.getparent()
        if parent is not None and element.getroottree().getroot() is document and _is_menu(element):
            element.drop_tree()
    page = etree.tostring(document, encoding="unicode", method="html")
    return str(extract_plain_text(page, main_content=False, alt_texts=False))


def _is_menu(element: Any) -> bool:
    link_chars = sum(_num_chars(link) for link in element.iter("a"))
    if not link_chars:
        return False
    num_chars = _num_chars(element)
    if link_chars > _MAX_LINK_SHARE * num_chars:
        return True
    is_short_list = element.tag in ("ul", "ol") and num_chars < _MENU_CHARS
    return (
        is_short_list
        and num_chars < _MENU_ITEM_CHARS * len(element)
        and _SENTENCE_END.search("".join(element.itertext())) is None
    )


def _num_chars(element: Any) -> int:
    return sum(len("".join(text.split())) for text in element.itertext())


def _extract_trafilatura(text: str) -> str:
    import trafilatura

    return trafilatura.extract(text, include_comments=False) or ""


def _extract_main(text: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(text, main_content=True, alt_texts=False))


_EXTRACTORS: dict[str, Callable[[str], str]] = {
    "prose": _extract_prose,
    "trafilatura": _extract_trafilatura,
    "resiliparse": _extract_main,
}


def _parse_pdf(data: bytes, way: str) -> list[str]:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise NoPageError("encrypted" if "assword" in str(error) else "damaged_pdf") from None
    pages = []
    for page in pdf:
        text = page.get_textpage().get_text_range()
        # pdfium writes U+FFFE for a hyphen at the end of a line that does not belong to the word.
        pages.append(re.sub("[\x02\ufffe](\r?\n)?", "", text).replace("\r\n", "\n").strip())
    return pages if way == "pages" else ["\n\n".join(page for page in pages if page)]


def _parse_docx(data: bytes, html: str) -> list[str]:
    import docx

    if data.startswith(_OLE):
        raise NoPageError("encrypted_or_old_word_format")
    try:
        document = docx.Document(io.BytesIO(data))
    except ImportError:
        raise
    except Exception as error:  # zipfile, lxml and python-docx raise many types of error for a damaged file
        raise NoPageError("damaged_docx") from error
    blocks = []
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            blocks += ["\t".join(dict.fromkeys(cell.text.strip() for cell in row.cells)) for row in block.rows]
        else:
            blocks.append(block.text.strip())
    return ["\n\n".join(block for block in blocks if block)]


def _parse_epub(data: bytes, html: str) -> list[str]:
    """The chapters of a book, in the order of the spine in its package file."""
    from lxml import etree

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            names = set(book.namelist())
            if "META-INF/encryption.xml" in names and b"EncryptedData" in _member(book, "META-INF/encryption.xml"):
                raise NoPageError("encrypted")
            parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
            container = etree.fromstring(_member(book, "META-INF/container.xml"), parser)
            root = str(container.xpath("string(//*[local-name()='rootfile']/@full-path)"))
            package = etree.fromstring(_member(book, root), parser)
            base = root.rpartition("/")[0]
            paths = {
                item.get("id"): "/".join(part for part in (base, unquote(item.get("href", ""))) if part)
                for item in package.xpath("//*[local-name()='manifest']/*[local-name()='item']")
            }
            order = [item.get("idref") for item in package.xpath("//*[local-name()='spine']/*[local-name()='itemref']")]
            chapters = [paths[name] for name in order if paths.get(name) in names]
            if not chapters:
                raise NoPageError("damaged_epub")
            return [_parse_html(_member(book, chapter), html)[0] for chapter in chapters]
    except (zipfile.BadZipFile, KeyError, etree.LxmlError, ValueError, AttributeError, RuntimeError) as error:
        raise NoPageError("damaged_epub") from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_MEMBER_BYTES:
        raise NoPageError("too_long")
    return archive.read(name)


_PARSERS: dict[str, Callable[[bytes, str], list[str]]] = {
    "html": _parse_html,
    "pdf": _parse_pdf,
    "docx": _parse_docx,
    "epub": _parse_epub,
}
