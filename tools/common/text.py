"""Numbers and names as text, and Markdown; imports nothing that draws or computes."""

import html
import re
from collections.abc import Collection


def percent(value: float | None) -> str:
    """Return a fraction in percent with two digits, never as -0.00; empty for None."""
    if value is None:
        return ""
    return f"{round(100 * value, 2) + 0.0:.2f}"


def p_text(p: float) -> str:
    """Return a p-value with its relation sign: three digits, more where 0.05 would hide a verdict.

    0.0496 and 0.0503 lead to different verdicts, so neither is shown as 0.050.
    """
    if p < 0.001:
        return "< 0.001"
    digits = 3
    while float(f"{p:.{digits}f}") == 0.05 != p and digits < 12:
        digits += 1
    return f"= {p:.{digits}f}"


def p_cell(p: float) -> str:
    """Return a p-value for a table cell."""
    return p_text(p).removeprefix("= ")


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|#$~])", r"\\\1", html.escape(line, quote=False))


def markdown_table(
    header: list[str], rows: list[list], bold: Collection[tuple[int, int]] = ()
) -> str:
    """Return a Markdown table of escaped text.

    The first column is aligned to the left, the others to the right. bold are the (row, column)
    of cells in bold.
    """
    cells = []
    for row in (header, *rows):
        cells.append([escape_markdown(cell) for cell in row])
    for row, column in bold:
        cells[1 + row][column] = f"**{cells[1 + row][column]}**"

    lines = [" | ".join(row) for row in cells]
    alignment = ["---"] + ["---:"] * (len(header) - 1)
    lines.insert(1, " | ".join(alignment))
    return "".join(f"| {line} |\n" for line in lines)
