"""docs/private-names.md lists every private name of a library that we use, with the test that meets it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "private-names.md"
STANDARD = {"_asdict", "_exit", "_is_text_encoding", "_run_exitfuncs"}
"""Of Python itself."""
LIBRARIES = ("torch", "transformers", "daft", "lm_eval", "datasets", "tokenizers", "safetensors", "huggingface_hub")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def foreign_names() -> dict[str, str]:
    """Private name -> a file that uses it: imported from a library, or an attribute that nothing of ours defines."""
    own: set[str] = set()
    used: dict[str, str] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                own.add(node.attr)
    for path in sorted((ROOT / "src").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                used |= {part: name for part in parts if is_private(part)}
            elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                used[node.attr] = name
            elif isinstance(node, ast.keyword) and is_private(node.arg or "") and node.arg not in own:
                used[str(node.arg)] = name
    return {private: file for private, file in used.items() if private not in STANDARD}


def listed() -> dict[str, str]:
    """Private name -> the test beside it, from the table."""
    rows = re.findall(r"^\| `([^`]+)` \|[^|]*\|[^|]*\| `([^`]+)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    return dict(rows)


def test_every_private_name_that_is_used_is_listed() -> None:
    names = {name.rpartition(".")[2] for name in listed()}
    missing = {name: file for name, file in foreign_names().items() if name not in names}
    assert not missing


def test_what_is_listed_is_used_and_its_test_exists() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for name, test in listed().items():
        assert name.rpartition(".")[2] in source, name
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), test
