"""Write the parts of the documentation that come from the code; `make docs` runs it.

    python docs/generate.py

- ARCHITECTURE.md: the tree of modules, from the first sentence of each module's docstring.
- docs/cluster.md: what the preset `llama-3-syne` takes on the cluster of that page, from `reprise plan`.

A test compares the files with what this would write.
"""

import ast
import json
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = "<!-- tree: written by docs/generate.py from the first sentence of each module -->"
END = "<!-- end of tree -->"
PLAN_START = "<!-- plan: written by docs/generate.py -->"
PLAN_END = "<!-- end of plan -->"
CLUSTER = {"hardware.text_gb": 400, "hardware.cpu_cores": 512, "hardware.gpus": 32}
"""8 nodes of 64 cores, 4 nodes of 8 GPUs."""


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


def cluster() -> str:
    """docs/cluster.md with today's plan of the preset."""
    from reprise.plan.build import make_plan
    from reprise.plan.show import in_words
    from reprise.recipe import read_preset
    from reprise.recipe.loading import parse_recipe

    recipe = parse_recipe(read_preset("llama-3-syne"))
    hardware = {name.removeprefix("hardware."): value for name, value in CLUSTER.items()}
    plan = make_plan(recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update=hardware)}))
    text, scoring, summary = plan["preparation"], plan["scoring"], plan["summary"]
    assert text is not None
    assert scoring is not None
    rows = [
        (f"`{stage['stage']}`", f"{stage['core_hours']:,.1f} core-hours", stage["hours"]) for stage in text["stages"]
    ]
    rows.insert(-1, ("`score`", f"{scoring['gpu_hours']:,.0f} GPU-hours", scoring["gpu_hours"] / summary["gpus"]))
    rows.append(("`train-1`, `train-2`", f"{summary['gpu_hours']:,.0f} GPU-hours", summary["hours"]))
    table = ["| stage | work | time |", "|---|---:|---:|"]
    table += [f"| {name} | {work} | {in_words(hours)} |" for name, work, hours in rows]
    settings = " ".join(f"{name}={value}" for name, value in CLUSTER.items())
    lines = [
        f"    reprise init big.yaml --preset llama-3-syne && reprise plan big.yaml {settings}",
        "",
        *table,
        "",
        f"Memory of the document stages: {text['memory_gb_per_core']:.2g} GB per core. Disk: "
        f"{summary['disk_gb']:,.0f} GB for text and tokens, and\n12 bytes per parameter for each checkpoint.",
    ]
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    before, rest = page.split(PLAN_START)
    return "\n".join([f"{before}{PLAN_START}", "", *lines, "", f"{PLAN_END}{rest.split(PLAN_END)[1]}"])


def main() -> None:
    """Write the files."""
    pages = {"ARCHITECTURE.md": architecture(), "docs/cluster.md": cluster()}
    for name, text in pages.items():
        (ROOT / name).write_text(text, encoding="utf-8")
    print(json.dumps({"written": list(pages)}))


if __name__ == "__main__":
    main()
