"""Print a table on a terminal of any width: columns wrap at spaces, and no figure or name is cut."""

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

LONGEST_WORD = 24
"""A longer word, such as a path, may continue on the next line."""
_FRAME, _BORDER = 3, 1
"""Extra characters of a row besides its text: per column, and once per row."""


def print_table(table: Table) -> None:
    """Print a table to stdout; if its words do not fit side by side, one line per cell.

    Args:
        table: table of text; brackets are not treated as markup.
    """
    console = Console(markup=False, highlight=False)
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    least = [
        max(min(cell_len(word), LONGEST_WORD) for cell in cells for word in cell.split() or [""]) for cells in columns
    ]
    whole = [max(cell_len(line) for cell in cells for line in cell.splitlines() or [""]) for cells in columns]
    left = console.width - _BORDER - _FRAME * len(columns) - sum(least)
    if left < 0:
        _print_lines(table, columns, console)
        return
    order = sorted(range(len(columns)), key=lambda index: whole[index] - least[index])
    for index in order:  # columns that need the least are filled first
        extra = min(left, whole[index] - least[index])
        table.columns[index].width, table.columns[index].overflow = least[index] + extra, "fold"
        left -= extra
    console.print(table)


def _print_lines(table: Table, columns: list[list[str]], console: Console) -> None:
    """Print `column: cell` for each cell, and an empty line between two rows."""
    if table.title:
        console.print(table.title, style="italic", soft_wrap=True)
    headers = [cells[0] for cells in columns]
    for row in zip(*(cells[1:] for cells in columns), strict=True):
        for header, cell in zip(headers, row, strict=True):
            if cell:
                console.print(f"{header}: {cell}" if header else cell, soft_wrap=True)
        console.print()
