"""Conversations from question-answer text: `Question:`/`Answer:` in English, 来访者/咨询师 in Chinese.

    python examples/make_conversations.py corpus conversations

`corpus` has `train-LANGUAGE-qa_forum.jsonl.zst` and `valid-...`, one `text` per line; each gives a file of the same
name with `messages`, `lang` and `source: chat`. Texts of another form are left out.
"""

import io
import json
import re
import sys
from pathlib import Path

import zstandard

TURNS = {
    "en": re.compile(r"(?m)^(Question|Answer):\s*"),
    "zh": re.compile(r"(?m)^(来访者|咨询师)[：:]\s*"),
}  # fmt: skip
USERS = {"Question", "来访者"}


def conversation(text: str, lang: str) -> list[dict[str, str]] | None:
    """Messages of a text; None if its turns do not alternate."""
    before, *parts = TURNS[lang].split(text)
    roles = ["user" if name in USERS else "assistant" for name in parts[::2]]
    contents = [content.strip() for content in parts[1::2]]
    alternate = roles == [("user", "assistant")[index % 2] for index in range(len(roles))]
    if before.strip() or len(roles) < 2 or not alternate or not all(contents):
        return None
    pairs = len(roles) // 2 * 2
    return [{"role": role, "content": content} for role, content in zip(roles[:pairs], contents[:pairs], strict=True)]


def main() -> None:
    """Write the files and print how many conversations each has."""
    corpus, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    counts = {}
    for path in sorted(corpus.glob("*-qa_forum.jsonl.zst")):
        name = path.name.split(".")[0]
        lang = name.split("-")[1]
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            found = [
                conversation(json.loads(line)["text"], lang) for line in io.TextIOWrapper(stream, encoding="utf-8")
            ]
        lines = [
            json.dumps({"messages": messages, "lang": lang, "source": "chat"}, ensure_ascii=False)
            for messages in found
            if messages is not None
        ]
        (target / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[name] = len(lines)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
