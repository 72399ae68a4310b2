"""Words and numbers of the sentences and tables, colors and markers of the picture."""

from collections.abc import Callable

from common.pages import p_text, percent
from common.statistics import ALPHA, MIN_INTERVAL_DOCUMENTS

COLORS = ("#1b7837", "#762a83", "#2166ac", "#b35806", "#666666", "#c51b7d", "#35978f", "#000000")
MARKERS = "osD^vPX*"


def number(value: float) -> str:
    """Return a number with three digits, never as -0.000."""
    return f"{round(value, 3) + 0.0:.3f}"


def limits(estimate: dict, form: Callable[[float], str] = percent) -> str:
    """Return the limits of an interval for a table cell."""
    if estimate["low"] is None:
        return "-"
    return f"{form(estimate['low'])} to {form(estimate['high'])}"


def interval(estimate: dict, form: Callable[[float], str] = percent) -> str:
    """Return an interval for a sentence, or why there is none."""
    if estimate["low"] is None:
        return f"no 95% CI: fewer than {MIN_INTERVAL_DOCUMENTS} documents"
    return f"95% CI {limits(estimate, form)}"


def verdict(p_holm: float, null: str) -> str:
    """Return whether a test found a difference from the null."""
    if p_holm < ALPHA:
        return f"distinguishable from {null}"
    return f"not distinguishable from {null}"


def change_text(what: str, test: dict) -> str:
    """Return by how many points something changes, by a test with a Holm-corrected p.

    Without significance it says that no change is shown, not that there is a loss or a gain. That
    is also said where nothing changes: other documents may. Only of ``indifferent_runs`` it is
    known that nothing can change.
    """
    change = test["difference"] if "difference" in test else test["mean"]
    details = f"{interval(test)}, p after Holm {p_text(test['p_holm'])}"
    if test["p_holm"] >= ALPHA:
        return f"no change of {what} is shown ({percent(change)} points, {details})"
    return f"{what} changes by {percent(change)} points ({details})"


def estimate_cell(estimate: dict | None, value: str, form: Callable[[float], str] = percent) -> str:
    """Return a value with its interval for a table cell; a dash where there is none."""
    if not estimate:
        return "-"
    if estimate["low"] is None:
        return form(estimate[value])
    return f"{form(estimate[value])} ({limits(estimate, form)})"


def indifferent_runs(result: dict) -> set[str]:
    """Return the names of the runs that cannot see the order of words, which was checked."""
    return {run["name"] for run in result["order"] if run["indifferent"]}


def model_styles(result: dict) -> dict[str, dict[str, str]]:
    """Return color and marker of each model, the same in all panels.

    The markers suffice without colors.
    """
    names = []
    for model in [*result["order"], *result["attribution"]]:
        if model["name"] not in names:
            names.append(model["name"])
    styles = {}
    for index, name in enumerate(names):
        color = COLORS[index % len(COLORS)]
        styles[name] = {"color": color, "marker": MARKERS[index % len(MARKERS)]}
    return styles
