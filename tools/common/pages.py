"""Pages and pictures, and the tables that several pages show."""

import base64
import io
import re
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt

from common.cli import fail, one_line
from common.folders import hide_paths, read_json
from common.statistics import MIN_INTERVAL_DOCUMENTS

# Tools that draw pages find everything for them here.
from common.text import escape_markdown, markdown_table, p_cell, p_text, percent  # noqa: F401


def faithfulness_table(folder: Path, summary: dict) -> dict | None:
    """Return header, rows (one per ranking) and note of faithfulness.json.

    None if there is no such file or it is of other attributions than those of the summary. Exits
    with status 2 if the file is damaged.
    """
    path = folder / "faithfulness.json"
    if not path.exists():
        return None
    measured = read_json(path)
    if "run" not in measured:
        fail(f"{path} is damaged (no 'run'); run tools/measure_faithfulness.py again")
    if measured["run"] != summary.get("run"):
        return None
    try:
        return faithfulness_rows(measured["rankings"], measured["note"])
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        # Whatever a file of another shape leads to.
        fail(f"{path} is damaged ({one_line(error)}); run tools/measure_faithfulness.py again")


def faithfulness_rows(rankings: dict[str, dict], note: str) -> dict:
    """Return header, rows and note for the measures of each ranking of words."""
    if not rankings:
        raise ValueError("no rankings")
    first = next(iter(rankings.values()))
    measures = list(first)
    rows = []
    any_interval = False
    for name, values in rankings.items():
        cells = [interval_text(values[key]) for key in measures]
        rows.append([name, *cells])
        any_interval |= any(has_interval(values[key]) for key in measures)
    if not any_interval:
        # Older files have bootstrap intervals.
        note = re.sub(" with (95 ?% bootstrap|Student's 95%) intervals", "", note)
        note += f" Intervals are not reported for fewer than {MIN_INTERVAL_DOCUMENTS} documents."
    header = ["words ranked by", *(key.replace("_", " ") for key in measures)]
    return {"header": header, "rows": rows, "note": note}


def has_interval(measured: dict | None) -> bool:
    """Return whether a mean has an interval, and there are enough documents to report it."""
    if measured is None or measured["low"] is None:
        return False
    return measured.get("documents", MIN_INTERVAL_DOCUMENTS) >= MIN_INTERVAL_DOCUMENTS


def interval_text(measured: dict | None) -> str:
    """Return a mean with its interval where there is one to report; empty for None."""
    if measured is None:
        return ""
    mean = three_digits(measured["mean"])
    if not has_interval(measured):
        return mean
    return f"{mean} ({three_digits(measured['low'])} to {three_digits(measured['high'])})"


def three_digits(value: float) -> str:
    """Return a number with three digits, never as -0.000."""
    return f"{round(value, 3) + 0.0:.3f}"


def plain(text: str) -> str:
    """Return text for matplotlib: a $ from the data does not start a formula."""
    return text.replace("$", r"\$")


def png(figure: plt.Figure) -> bytes:
    """Close a figure and return it as PNG.

    The bytes hold no date, so the same figure gives the same file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def numeric_columns(rows: list[list]) -> list[bool]:
    """Return for every column whether its cells are numbers or intervals.

    Empty cells do not count, and a column of empty cells is not numeric.
    """
    number = re.compile(r"(?:[-+−±<>=.,:%\d\s()\[\]†*]|to|e[-+]?\d)+")
    is_numeric = []
    for column in zip(*rows, strict=True):
        cells = [str(cell) for cell in column if cell not in (None, "")]
        is_numeric.append(bool(cells) and all(number.fullmatch(cell) for cell in cells))
    return is_numeric


def data_url(picture: bytes) -> str:
    """Return a PNG picture as the address of an <img> inside a page."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def shown_value(value: object) -> object:
    """Return a value as a page shows it: no absolute path, pictures as they are.

    Text that is marked as HTML (of another type than str) was cleaned by who made it.
    """
    if type(value) is str and not value.startswith("data:image/png;base64,"):
        return hide_paths(value)
    return value


def render(template: str, **values) -> str:
    """Render a page of tools/common/templates, which includes style.css.

    Values are escaped and show no absolute path.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown_value,
    )
    environment.globals["numeric_columns"] = numeric_columns
    return environment.get_template(template).render(values)
