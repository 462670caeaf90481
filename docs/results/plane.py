"""What the scripts of several pages share: means with intervals, pictures of two measures, the command line."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from write import ticks

from reprise.evaluation.paired import mean_interval


def amount(numbers: Sequence[float], decimals: int) -> str:
    """`-1.2 (-2.0 to -0.4)`: mean and Student's 95 % interval."""
    mean, ci = mean_interval(numbers)
    text = f"{mean:+.{decimals}f}"
    return text if ci is None else f"{text} ({ci[0]:+.{decimals}f} to {ci[1]:+.{decimals}f})"


_STYLE = """text{font:13px system-ui,sans-serif;fill:#1f2328}.axis{stroke:#8c959f}.mean{fill:#0969da}
.bar{stroke:#0969da;stroke-width:1.5}.seed{fill:none;stroke:#8c959f;stroke-width:1.2}.before{fill:#cf222e}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.mean{fill:#4493f8}.bar{stroke:#4493f8}.before{fill:#ff7b72}}"""


def draw(
    title: str,
    names: tuple[str, str],
    points: Mapping[str, Sequence[tuple[float, float]]],
    before: tuple[float, float],
    *,
    start: str = "instruct model",
) -> str:
    """A picture of two measures: each variant with its seeds as circles, their mean, and its 95 % interval in both
    directions if there are three.

    Args:
        title: shown above it.
        names: what the horizontal and the vertical axis show.
        points: variant -> one pair for each seed.
        before: the model before training.
        start: what that model is called.
    """
    left, top, width, height, legend = 64, 34, 380, 300, 250
    every = [pair for pairs in points.values() for pair in pairs] + [before]
    ends = []
    for axis in (0, 1):
        numbers = [pair[axis] for pair in every]
        margin = 0.08 * (max(numbers) - min(numbers)) or 1.0
        ends.append((min(numbers) - margin, max(numbers) + margin))
    (x0, x1), (y0, y1) = ends

    def x(value: float) -> float:
        return round(left + width * (min(max(value, x0), x1) - x0) / (x1 - x0), 1)

    def y(value: float) -> float:
        return round(top + height * (y1 - min(max(value, y0), y1)) / (y1 - y0), 1)

    bottom = top + height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + legend} {bottom + 46}" role="img" '
        f'aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f"<style>{_STYLE}</style>",
        f'<text x="0" y="16">{escape(title)}</text>',
        f'<line class="axis" x1="{left}" x2="{left + width}" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="axis" x1="{left}" x2="{left}" y1="{top}" y2="{bottom}"/>',
        f'<text x="{left + width / 2}" y="{bottom + 40}" text-anchor="middle">{escape(names[0])}</text>',
        f'<text x="{left + 6}" y="{top + 4}">{escape(names[1])}</text>',
    ]
    parts += [f'<text x="{x(tick)}" y="{bottom + 19}" text-anchor="middle">{tick:g}</text>' for tick in ticks(x0, x1)]
    parts += [f'<text x="{left - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>' for tick in ticks(y0, y1)]
    parts.append(f'<circle class="before" cx="{x(before[0])}" cy="{y(before[1])}" r="5"/>')
    rows = [("before", start)]
    for index, (name, pairs) in enumerate(points.items(), 1):
        (mean_x, ci_x), (mean_y, ci_y) = (mean_interval([pair[axis] for pair in pairs]) for axis in (0, 1))
        parts += [f'<circle class="seed" cx="{x(one)}" cy="{y(other)}" r="3.5"/>' for one, other in pairs]
        if ci_x is not None and ci_y is not None and len(pairs) > 2:  # of two seeds they are wider than the picture
            parts.append(f'<line class="bar" x1="{x(ci_x[0])}" x2="{x(ci_x[1])}" y1="{y(mean_y)}" y2="{y(mean_y)}"/>')
            parts.append(f'<line class="bar" x1="{x(mean_x)}" x2="{x(mean_x)}" y1="{y(ci_y[0])}" y2="{y(ci_y[1])}"/>')
        parts.append(f'<circle class="mean" cx="{x(mean_x)}" cy="{y(mean_y)}" r="4.5"/>')
        parts.append(f'<text x="{x(mean_x) + 7}" y="{y(mean_y) - 6}">{index}</text>')
        rows.append(("mean", f"{index} {name}"))
    for index, (kind, label) in enumerate(rows):
        height_of_row = top + 10 + 20 * index
        parts.append(f'<circle class="{kind}" cx="{left + width + 16}" cy="{height_of_row - 4}" r="4.5"/>')
        parts.append(f'<text x="{left + width + 28}" y="{height_of_row}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def take_and_write(
    description: str | None, collect: Callable[[Path], None], files: Callable[[], Mapping[Path, str]]
) -> None:
    """The command of a page: keep what a finished study found, if one is named, and write the page's files.

    Args:
        description: text of `--help`.
        collect: keeps what the study in a workspace found.
        files: path of each file -> its content.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", nargs="?", type=Path, help="folder of a study to take")
    chosen = parser.parse_args()
    if chosen.workspace is not None:
        collect(chosen.workspace)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(Path(__file__).resolve().parents[2]))
