"""Text recall and menu text of web pages, against paragraphs that another parser finds, and pages a second.

    apt-get install debian-handbook
    python benchmarks/files.py --pages /usr/share/doc/debian-handbook/html [--sample 0]

The pages' own markup says what is text (`<p>` outside of menus) and what is a menu (class `docnav`, the title bar, the
list of translations); Python's html.parser reads it, the extractors do not use it. Recall is the share of the
paragraphs' characters whose paragraph stands whole in the extracted text, white space aside; menu text is the share of
the extracted characters that are entries of the menus. Ends with one line of JSON: extractor -> recall, menu share,
pages a second of one parser process.
"""

import argparse
import json
import random
import time
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

from reprise.documents.read.parsing import PageParser

VOID = {"meta", "link", "img", "br", "hr", "input", "area", "base", "col"}


class Known(HTMLParser):
    """Paragraphs and menu entries of a page of Publican, which writes Debian's handbook."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self.menu: list[str] = []
        self._open: list[str] = []
        self._paragraph: int | None = None
        self._menu: int | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        self._open.append(tag)
        names = dict(attrs)
        is_menu = names.get("class") in ("docnav", "translations") or names.get("id") == "title"
        if self._menu is None and is_menu:
            self._menu = len(self._open)
        if tag == "p" and self._menu is None:
            self._paragraph = len(self._open)
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or tag not in self._open:
            return
        while self._open:
            closed = self._open.pop()
            depth = len(self._open)
            self._paragraph = None if self._paragraph is not None and depth < self._paragraph else self._paragraph
            self._menu = None if self._menu is not None and depth < self._menu else self._menu
            if closed == tag:
                break

    def handle_data(self, data: str) -> None:
        if "body" not in self._open:
            return
        if self._menu is not None:
            self.menu.append(data)
        elif self._paragraph is not None:
            self.paragraphs[-1] += data


def squeeze(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=0, help="pages, at random; 0: all")
    parser.add_argument("--extractors", nargs="+", default=["prose", "resiliparse", "trafilatura"])
    chosen = parser.parse_args()
    paths = sorted(chosen.pages.glob("**/*.html"))
    paths = random.Random(0).sample(paths, chosen.sample) if chosen.sample else paths
    results = {}
    for extractor in chosen.extractors:
        kept = known_chars = menu_chars = text_chars = 0
        seconds = 0.0
        with PageParser() as pages:
            for path in paths:
                data = path.read_bytes()
                known = Known()
                known.feed(data.decode("utf-8"))
                start = time.perf_counter()
                extracted = squeeze(pages.parse("html", extractor, data, seconds=60.0, memory_gb=2.0)[0])
                seconds += time.perf_counter() - start
                # Shorter paragraphs are words of a table or a list, and stand in other text by chance.
                paragraphs = [text for text in map(squeeze, known.paragraphs) if len(text) >= 10]
                known_chars += sum(map(len, paragraphs))
                kept += sum(len(text) for text in paragraphs if text in extracted)
                menu_chars += sum(len(entry) for entry in {*map(squeeze, known.menu)} - {""} if entry in extracted)
                text_chars += len(extracted)
        results[extractor] = {
            "recall": round(kept / known_chars, 4),
            "menu": round(menu_chars / max(1, text_chars), 4),
            "pages_per_s": round(len(paths) / seconds, 1),
        }
        print(f"{extractor}: {results[extractor]}, {len(paths)} pages", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
