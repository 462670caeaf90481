"""Write the parts of the documentation that come from the code; `make docs` runs it.

    python docs/generate.py

- ARCHITECTURE.md: the tree of modules, from the first sentence of each module's docstring.

A test compares the files with what this would write.
"""

import ast
import json
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = "<!-- tree: written by docs/generate.py from the first sentence of each module -->"
END = "<!-- end of tree -->"


def first_sentence(module: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    doc = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    return paragraph.split(". ")[0].removesuffix(".").removesuffix(":")


def tree(package: Path, layers: list[str]) -> str:
    """Every module with half a line, folders in the order of the layers, top first."""
    lines = ["    src/reprise/"]
    names = [name.strip() for layer in layers for name in layer.split("|")]
    for name in names:
        folder = package / name
        if folder.is_dir():
            lines.append(_line(f"      {name}/", first_sentence(folder / "__init__.py")))
            lines += _folder(folder, 8)
        elif (module := package / f"{name}.py").exists():
            lines.append(_line(f"      {name}.py", first_sentence(module)))
    return "\n".join(lines)


def _folder(folder: Path, indent: int) -> list[str]:
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            lines.append(_line(f"{' ' * indent}{path.name}/", first_sentence(path / "__init__.py")))
            lines += _folder(path, indent + 2)
        elif path.suffix == ".py" and path.name != "__init__.py":
            lines.append(_line(f"{' ' * indent}{path.name}", first_sentence(path)))
    return lines


def _line(name: str, sentence: str) -> str:
    return f"{name:<36} {sentence}"


def architecture() -> str:
    """ARCHITECTURE.md with today's tree."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    return f"{before}{START}\n\n{tree(ROOT / 'src' / 'reprise', layers)}\n\n{END}{after}"


def main() -> None:
    """Write the files."""
    (ROOT / "ARCHITECTURE.md").write_text(architecture(), encoding="utf-8")
    print(json.dumps({"written": ["ARCHITECTURE.md"]}))


if __name__ == "__main__":
    main()
