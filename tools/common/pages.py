"""Text, tables, pictures and pages."""

import base64
import html
import io
import re
from collections.abc import Collection
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt

from common.cli import fail, one_line
from common.folders import hide_paths, read_json
from common.statistics import MIN_INTERVAL_DOCUMENTS


def faithfulness_table(folder: Path, summary: dict) -> dict | None:
    """Return header, rows (one a ranking) and note of faithfulness.json; None if it is of other attributions.

    Exits with status 2 if the file is damaged.
    """
    path = folder / "faithfulness.json"
    measured = read_json(path) if path.exists() else {}
    if path.exists() and "run" not in measured:
        fail(f"{path} is damaged (no 'run'); run tools/measure_faithfulness.py again")
    if not measured or measured["run"] != summary.get("run"):
        return None
    try:
        rankings, note = measured["rankings"], measured["note"]
        measures = list(next(iter(rankings.values())))
        rows = [
            [name, *(interval_text(values[key]) for key in measures)]
            for name, values in rankings.items()
        ]
        if not any("to" in cell for row in rows for cell in row[1:]):
            note = note.replace(" with 95 % bootstrap intervals", "")
            note += (
                f" Intervals are not reported for fewer than {MIN_INTERVAL_DOCUMENTS} documents."
            )
        header = ["words ranked by", *(key.replace("_", " ") for key in measures)]
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        StopIteration,
    ) as error:
        fail(f"{path} is damaged ({one_line(error)}); run tools/measure_faithfulness.py again")
    return {"header": header, "rows": rows, "note": note}


def interval_text(part: dict | None) -> str:
    """Return a mean with its interval, where there are enough documents for one; empty for None."""
    if part is None:
        return ""
    mean, low, high = (
        None if part[key] is None else round(part[key], 3) + 0.0 for key in ("mean", "low", "high")
    )
    few = part.get("documents", MIN_INTERVAL_DOCUMENTS) < MIN_INTERVAL_DOCUMENTS
    return f"{mean:.3f}" if low is None or few else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def percent(value: float | None) -> str:
    """Return a fraction in per cent with two digits, never as -0.00; empty for None."""
    return "" if value is None else f"{round(100 * value, 2) + 0.0:.2f}"


def p_text(p: float) -> str:
    """Return a p-value with its relation sign."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(
        r"([\\`*_\[\]|#$~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False)
    )


def markdown_table(
    header: list[str], rows: list[list], bold: Collection[tuple[int, int]] = ()
) -> str:
    """Return a Markdown table of escaped text; the first column is aligned to the left, the others to the right.

    bold are the (row, column) of cells in bold.
    """
    cells = [[escape_markdown(cell) for cell in row] for row in (header, *rows)]
    for row, column in bold:
        cells[1 + row][column] = f"**{cells[1 + row][column]}**"
    lines = [" | ".join(row) for row in cells]
    lines.insert(1, " | ".join(["---"] + ["---:"] * (len(header) - 1)))
    return "".join(f"| {line} |\n" for line in lines)


def plain(text: str) -> str:
    """Return text for matplotlib: a $ from the data does not start a formula."""
    return text.replace("$", r"\$")


def png(figure: plt.Figure) -> bytes:
    """Close a figure and return it as PNG; the bytes hold no date, so the same figure gives the same file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def numeric_columns(rows: list[list]) -> list[bool]:
    """Return for every column of a table whether its cells are numbers or intervals; empty cells do not count."""
    number = re.compile(r"(?:[-+−±<>=.,:%\d\s()\[\]†*]|to|e[-+]?\d)+")
    columns = [
        [str(cell) for cell in column if cell not in (None, "")]
        for column in zip(*rows, strict=True)
    ]
    return [bool(column) and all(map(number.fullmatch, column)) for column in columns]


def data_url(picture: bytes) -> str:
    """Return a PNG picture as the address of an <img> inside a page."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def render(template: str, **values) -> str:
    """Render a page of tools/templates, which includes style.css. Values are escaped and show no absolute path."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.finalize = lambda value: (
        hide_paths(value) if type(value) is str and not value.startswith("data:") else value
    )
    environment.globals["numeric_columns"] = numeric_columns
    return environment.get_template(template).render(values)
