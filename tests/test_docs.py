"""The documentation is true: parts that come from the code, links, commands, and words that a stranger understands."""

import importlib.util
import io
import os
import re
import subprocess
import tokenize
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
PRIVATE_WORDS = {
    "gone on": r"\bg(?:o|oes|one|oing) on (?:from|with|after|behind|where|in each)\b",
    "mend": r"\bmend(?:s|ed|ing)?\b",
    "at hand": r"\bat hand\b",
    "its name": r"\b(?:has|have|gets|got|under) its name\b",
    "of the (as a whole description)": r'^\s+\w+: of (?:the|each|a|its)\b|"""Of (?:the|each|a|its)\b',
    "anew": r"\banew\b",
    "give back": r"\bg(?:ive|ives|iven|ave) back\b",
    "stand behind": r"\bstands?\s+behind\b",
    "of like length": r"\bof\s+like\s+(?:length|size)\b",
    "be told": r"\b(?:be|is|are) told (?:at once|together|beside|from|apart|that|of)\b",
    "in the place of": r"\bin\s+the\s+places?\s+of\b",
    "where there is none": r"\bwhere there (?:is|are) (?:none|one)\b",
    "came of": r"\b(?:came|comes) of (?:it|them)\b",
    "work out": r"\bwork(?:s|ed)?\s+out\b",
    "in force": r"\bin(?:to)?\s+force\b",
    "for good": r"\bfor good\b",
    "laid over": r"\blaid over\b",
    "paid for": r"\bpaid for\b",
    "one to a": r"\b(?:one|words|hashes) to an? (?:document|part|row|text|file|task|language|n-gram|band|batch)\b",
}
"""What only we would say for: resume, fix, published, again, return, follow, similar, reported, instead of, if, result,
compute, current, permanently, override, cached, per; and a description that begins with "of"."""


def _generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_of_the_architecture_page_is_that_of_the_code():
    generate = _generate()
    assert (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8") == generate.architecture(), "run `make docs`"
    assert (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8") == generate.cluster(), "run `make docs`"
    listed = generate.architecture()
    for module in (ROOT / "src" / "reprise").rglob("*.py"):
        assert module.parent.name if module.name == "__init__.py" else module.name in listed, module


def test_every_module_says_in_a_short_sentence_what_it_is():
    generate = _generate()
    long = {
        str(module.relative_to(ROOT)): sentence
        for module in (ROOT / "src" / "reprise").rglob("*.py")
        if not 10 <= len(sentence := generate.first_sentence(module)) <= 120
    }
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_every_command_of_the_readme_exists():
    from reprise.cli import app
    from reprise.recipe import presets
    from reprise.study import shipped_studies

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Commands")[1].split("## ")[0]
    named = set(re.findall(r"`(?:reprise )?([a-z]+)[ `]", table)) - {
        "torchrun",
        *("ratio", "microanneal", "rate"),
        *presets(),
        *shipped_studies(),
    }
    assert named <= known
    assert known <= named, "the table misses a command"


def test_words_that_only_we_would_understand_are_gone():
    """Dated notes in docs/lab are records and stay as they were written."""
    counts: Counter[str] = Counter()
    where: dict[str, str] = {}
    for path in [*(ROOT / "src").rglob("*.py"), *(page for page in PAGES if page.parent.name != "lab")]:
        for name, pattern in PRIVATE_WORDS.items():
            for match in re.finditer(pattern, text := path.read_text(encoding="utf-8"), flags=re.MULTILINE):
                counts[name] += 1
                where.setdefault(name, f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}")
    assert not counts, where


def test_messages_about_missing_packages_name_an_extra_that_has_them():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    calls = 0
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r'missing_extra\("([^"]+)", "([^"]+)"', text):
            package, extra = match[1].partition("[")[0].replace("_", "-"), match[2]
            assert any(package in requirement for requirement in extras[extra]), (path.name, match[0])
            calls += 1
    assert calls > 15


def test_every_command_line_that_installs_reprise_says_its_distribution():
    """`reprise` on PyPI is an unrelated package."""
    texts = {path: path.read_text(encoding="utf-8") for path in [*(ROOT / "src").rglob("*.py"), *PAGES]}
    commands = [
        (path.name, match[0]) for path, text in texts.items() for match in re.finditer(r"pip install [^\n`]*", text)
    ]
    assert commands
    assert [line for line in commands if re.search(r"(?<![\w/.-])reprise(?!-cpt|_cpt)", line[1])] == []


VAGUE_NAMES = ("found", "place", "number", "wanted")
"""Names that say nothing of what they hold: what was found? Matches, path, index, expected, ... do."""


def test_names_in_the_code_say_what_they_hold():
    """Names: fewer than one of each in 5,000 lines; in torchtitan, OLMo-core, datatrove and nanochat they hardly occur.
    Words, with those of docstrings and comments, where they may be right: fewer than one in 2,000 lines."""
    words: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    num_lines = 0
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        num_lines += text.count("\n")
        words.update(word for word in re.findall(r"\w+", text) if word in VAGUE_NAMES)
        if any(name in text for name in VAGUE_NAMES):
            names = (
                token.string
                for token in tokenize.generate_tokens(io.StringIO(text).readline)
                if token.type == tokenize.NAME
            )
            counts.update(name for name in names if name in VAGUE_NAMES)
    assert all(5000 * count < num_lines for count in counts.values()), counts
    assert all(2000 * count < num_lines for count in words.values()), words


def test_the_example_for_a_spot_machine_refuses_an_empty_mirror():
    """Without a mirror, the next machine would start again without a word."""
    script = yaml.safe_load((ROOT / "examples" / "spot.sky.yaml").read_text(encoding="utf-8"))["run"]
    for mirror, code in (("", 127), ("s3://bucket/run", 0)):
        environment = {"MIRROR": mirror, "RECIPE": "my.yaml", "PATH": os.environ["PATH"]}
        commands = f"source() {{ :; }}; reprise() {{ :; }}; {script}"
        done = subprocess.run(["bash", "-c", commands], env=environment, capture_output=True, text=True)
        assert done.returncode == code and ("MIRROR" in done.stderr) == (not mirror), done.stderr
