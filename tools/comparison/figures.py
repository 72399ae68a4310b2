"""Pictures of a comparison: differences, all pairs, classes, cost, learning curve.

They share a language. Each verdict has a color (safe for color-blind readers) and a shape, so that
a picture can be read without colors; what is undecided is hollow. Pictures are narrow, and what
belongs to a row is written beside it, because pages show them on phones, too.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from common.pages import plain, png
from common.text import percent
from comparison.verdict import points, signed

# Verdict: color (Okabe & Ito's palette) and shape.
LANGUAGE = {
    "better": ("#0072b2", ">"),
    "worse": ("#d55e00", "<"),
    "within the margin": ("#00795a", "s"),
    "undecided": ("#5f5f5f", "o"),
}
MARGIN_COLOR = "#e9ecef"
WIDTH = 6.2  # inches
LABEL_CHARACTERS = 32
MAX_CLASS_MODELS = 6  # panels in the picture of the classes
MAX_GROUPED_MODELS = 20  # beyond this, groups of models are too many to draw
SERIES = ("#0072b2", "#d55e00", "#00795a", "#8d5b96", "#9a6b00", "#333333", "#c2185b", "#4b8bbf")
SHAPES = "osD^vP*X"


def row_label(name: str, lines: int = 2) -> str:
    """Return a name for the label of a row: wrapped, cut off after so many lines."""
    parts = textwrap.wrap(" ".join(name.split()), LABEL_CHARACTERS) or [""]
    if len(parts) > lines:
        parts = [*parts[: lines - 1], parts[lines - 1][: LABEL_CHARACTERS - 1] + "…"]
    return plain("\n".join(parts))


def tidy(axes: plt.Axes) -> None:
    """Remove what carries no information from axes."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)


def draw_interval(axes: plt.Axes, height: float, row: dict, is_second: bool = False) -> None:
    """Draw the difference of a row in points, with its interval if any, as its verdict says."""
    color, shape = LANGUAGE[row["verdict"]]
    value = 100 * row["difference"]
    if row["low"] is not None:
        low, high = 100 * row["low"], 100 * row["high"]
        axes.hlines(height, low, high, color=color, linewidth=1.2 if is_second else 2.6)
    face = "white" if row["verdict"] == "undecided" else color
    size = 5 if is_second else 8
    axes.plot(value, height, shape, color=color, markerfacecolor=face, markersize=size, zorder=3)


def draw_margin(axes: plt.Axes, margin: float | None) -> None:
    """Draw the line of no difference and shade the margin (a fraction) around it."""
    if margin is not None:
        axes.axvspan(-100 * margin, 100 * margin, color=MARGIN_COLOR, zorder=0)
    axes.axvline(0, color="#333333", linewidth=1, zorder=1)


def verdict_legend(rows: list[dict], margin: float | None) -> list:
    """Return the entries of a legend for the verdicts that occur, and for the margin."""
    entries = []
    for verdict, (color, shape) in LANGUAGE.items():
        if any(row["verdict"] == verdict for row in rows):
            face = "white" if verdict == "undecided" else color
            line = Line2D([], [], color=color, marker=shape, markerfacecolor=face, label=verdict)
            line.set(markersize=7, linewidth=2)
            entries.append(line)
    if margin is not None:
        entries.append(Patch(color=MARGIN_COLOR, label=f"margin, {points(100 * margin)}"))
    return entries


def plot_differences(
    groups: list[dict], reference: str, margin: float, titles: dict[str, str]
) -> bytes:
    """Draw the difference of each model to the reference with its 95% interval.

    A group is {"model": name, "first": row, "second": row or None}: a thick interval for the main
    metric, a thin one below it for the second. margin is a fraction, titles names the metrics.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 1.35 + 0.62 * len(groups)))
    draw_margin(axes, margin)
    labels, rows = [], []
    for height, group in enumerate(groups):
        first, second = group["first"], group["second"]
        draw_interval(axes, height - (0.12 if second else 0), first)
        rows.append(first)
        if second is not None:
            draw_interval(axes, height + 0.2, second, is_second=True)
            rows.append(second)
        numbers = print_signed(first["difference"])
        if first["low"] is not None:
            numbers += f" ({print_signed(first['low'])} to {print_signed(first['high'])})"
        labels.append(f"{row_label(group['model'])}\n{numbers}")
    axes.set_yticks(range(len(groups)), labels=labels)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    tidy(axes)
    about = f"95% CI of {titles['accuracy']}"
    if any(group["second"] is not None for group in groups):
        about += f"; thin, below it: {titles['macro_f1']}"
    axes.set_xlabel(f"points more (right) or fewer (left) than\n{row_label(reference)}\n{about}")
    figure.legend(
        handles=verdict_legend(rows, margin),
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=3,
        frameon=False,
    )
    figure.tight_layout()
    return png(figure)


def print_signed(value: float) -> str:
    """Return a difference in points with its sign; a true minus, as in print."""
    return signed(value).replace("-", "−")


# All pairs


def groups_of_models(count: int, is_apart: set[tuple[int, int]]) -> list[list[int]]:
    """Return the largest groups of models without a significant difference, each in order.

    is_apart holds the pairs (smaller number first) that are. Bron and Kerbosch's algorithm with a
    pivot (Communications of the ACM 16:575-577, 1973).
    """
    neighbors = []
    for number in range(count):
        others = set(range(count)) - {number}
        neighbors.append({k for k in others if (min(k, number), max(k, number)) not in is_apart})
    groups = []

    def extend(chosen: set[int], candidates: set[int], excluded: set[int]) -> None:
        if not candidates and not excluded:
            groups.append(sorted(chosen))
            return
        pivot = max(candidates | excluded, key=lambda k: len(neighbors[k] & candidates))
        for number in sorted(candidates - neighbors[pivot]):
            near = neighbors[number]
            extend(chosen | {number}, candidates & near, excluded & near)
            candidates = candidates - {number}
            excluded = excluded | {number}

    extend(set(), set(range(count)), set())
    return sorted(group for group in groups if len(group) > 1)


def group_names(models: list[dict], pairs: list[dict], metric: str) -> list[list[str]] | None:
    """Return the largest groups of models without a significant difference, best models first.

    models are the rows of table 2, and pairs has a test for every two of them. None if there are
    too few or too many models for groups, or some two are not tested.
    """
    tested = [row for row in pairs if row["metric"] == metric]
    count = len(models)
    if not 2 < count <= MAX_GROUPED_MODELS or len(tested) < count * (count - 1) // 2:
        return None
    in_order = [row["name"] for row in sorted(models, key=lambda row: -row[metric])]
    number = {name: k for k, name in enumerate(in_order)}
    is_apart = set()
    for row in tested:
        if row["distinguishable"]:
            is_apart.add(tuple(sorted((number[row["model"]], number[row["reference"]]))))
    return [[in_order[k] for k in group] for group in groups_of_models(count, is_apart)]


def plot_all_pairs(models: list[dict], groups: list[list[str]], metric: str, title: str) -> bytes:
    """Draw models by their metric; a bar joins each group without a significant difference."""
    models = sorted(models, key=lambda row: -row[metric])
    number = {row["name"]: k for k, row in enumerate(models)}
    widths = [1, 0.07 * max(2, len(groups))]
    figure, (axes, bars) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.1 + 0.5 * len(models)), sharey=True, width_ratios=widths
    )
    for height, row in enumerate(models):
        axes.plot(100 * row[metric], height, "o", color="#333333", markersize=7)
    labels = [f"{row_label(row['name'])}\n{percent(row[metric])}" for row in models]
    axes.set_yticks(range(len(models)), labels=labels)
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.set_xlabel(f"{title}, percent")
    tidy(axes)

    style = {"color": "#5f5f5f", "linewidth": 2, "markersize": 7, "markerfacecolor": "white"}
    for column, group in enumerate(groups):
        places = [number[name] for name in group]
        bars.plot([column] * len(places), places, "o-", **style)
    bars.set_xlim(-0.7, max(1, len(groups)) - 0.3)
    bars.set_xlabel(
        "joined: no\nsignificant\ndifference" if groups else "all differ\nsignificantly"
    )
    bars.set_xticks([])
    bars.spines[:].set_visible(False)
    bars.tick_params(axis="y", length=0)
    figure.tight_layout()
    return png(figure)


# Classes


def class_verdict(row: dict) -> str:
    """Return what the simultaneous interval of a class says; a class has no test and no margin."""
    if row["low_simultaneous"] is None:
        return "undecided"
    if row["low_simultaneous"] > 0:
        return "better"
    return "worse" if row["high_simultaneous"] < 0 else "undecided"


def plot_classes(panels: dict[str, list[dict]], reference: str) -> bytes:
    """Draw the difference in F1 of every class, a panel per model.

    panels holds for each model rows with class, documents, difference, interval and simultaneous
    interval, which is drawn thin and decides about color and shape.
    """
    shown = dict(list(panels.items())[:MAX_CLASS_MODELS])
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    classes = len(next(iter(shown.values())))
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(WIDTH, 0.9 + lines * (0.7 + 0.3 * classes)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    bounds = [0.0]
    for rows in shown.values():
        for row in rows:
            if row["low_simultaneous"] is not None:
                bounds += [100 * row["low_simultaneous"], 100 * row["high_simultaneous"]]
    room = 0.05 * (max(bounds) - min(bounds)) or 1.0
    every = []
    for axes, (model, rows) in zip(grid.flat, shown.items(), strict=False):
        draw_margin(axes, None)
        for height, row in enumerate(rows):
            judged = row | {"verdict": class_verdict(row)}
            every.append(judged)
            color, _ = LANGUAGE[judged["verdict"]]
            if row["low_simultaneous"] is not None:
                wide = 100 * row["low_simultaneous"], 100 * row["high_simultaneous"]
                axes.hlines(height, *wide, color=color, linewidth=1)
            draw_interval(axes, height, judged)
        labels = [plain(f"{row['class'][:24]} ({row['documents']:,})") for row in rows]
        axes.set_yticks(range(classes), labels=labels)
        axes.set_ylim(classes - 0.5, -0.5)
        axes.set_xlim(min(bounds) - room, max(bounds) + room)
        axes.set_title(row_label(model), fontsize=10)
        tidy(axes)
    for axes in grid.flat[len(shown) :]:
        axes.remove()
    figure.supxlabel(
        f"points of F1 more (right) or fewer (left) than\n{row_label(reference)}\n"
        "95% CI; thin: simultaneous for all classes and models",
        fontsize=10,
    )
    figure.legend(handles=verdict_legend(every, None), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    return png(figure)


# Cost and size of the training split


def draw_points(axes: plt.Axes, rows: list[dict], key: str, metric: str) -> None:
    """Draw the metric of each row with its interval over a positive number on a log scale."""
    for number, row in enumerate(rows):
        if not row[key]:
            continue
        color, shape = SERIES[number % len(SERIES)], SHAPES[number % len(SHAPES)]
        if row[f"{metric}_low"] is not None:
            bounds = 100 * row[f"{metric}_low"], 100 * row[f"{metric}_high"]
            axes.vlines(row[key], *bounds, color=color, linewidth=1.2)
        axes.plot(row[key], 100 * row[metric], shape, color=color, markersize=8)
    axes.set_xscale("log")
    axes.margins(x=0.1)  # no marker is cut at the edge
    low, high = axes.get_xlim()
    if high < 20 * low:  # powers of ten alone might leave the axis without labels
        steps = (1, 2, 5)
    elif high < 1000 * low:
        steps = (1, 3)
    else:
        steps = (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_cost(rows: list[dict], metric: str, title: str) -> bytes | None:
    """Draw the metric of each model over what it costs; None if no cost is known of two models."""
    axes_titles = {
        "train_seconds": "seconds\nof training",
        "documents_per_second": "documents per second\nof prediction",
        "parameters": "parameters",
    }
    shown = {}
    for key, text in axes_titles.items():
        if sum(bool(row[key]) for row in rows) > 1:
            shown[key] = text
    if not shown:
        return None
    figure, panels = plt.subplots(1, len(shown), figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    for axes, (key, text) in zip(panels[0], shown.items(), strict=True):
        draw_points(axes, rows, key, metric)
        axes.set_xlabel(text)
    panels[0][0].set_ylabel(f"{title}, percent (95% CI)")
    entries = []
    for number, row in enumerate(rows):
        if any(row[key] for key in shown):
            color, shape = SERIES[number % len(SERIES)], SHAPES[number % len(SHAPES)]
            label = row_label(row["name"], lines=1)
            entries.append(Line2D([], [], color=color, marker=shape, linestyle="", label=label))
    figure.legend(
        handles=entries, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False
    )
    figure.tight_layout()
    return png(figure)


def plot_learning_curves(curves: dict[str, list[dict]], metric: str, title: str) -> bytes:
    """Draw the metric with its interval over the number of training documents, a line per model.

    curves holds for each model rows with train_samples, metric and its interval, in order.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    sizes = sorted({row["train_samples"] for rows in curves.values() for row in rows})
    for number, (name, rows) in enumerate(curves.items()):
        color, shape = SERIES[number % len(SERIES)], SHAPES[number % len(SHAPES)]
        # Models are a little apart, so that their intervals do not cover each other.
        shift = 1.02 ** (number - (len(curves) - 1) / 2)
        x = np.array([row["train_samples"] for row in rows]) * shift
        y = [100 * row[metric] for row in rows]
        axes.plot(x, y, color=color, marker=shape, markersize=6, label=row_label(name, lines=1))
        for place, row in zip(x, rows, strict=True):
            if row[f"{metric}_low"] is not None:
                bounds = 100 * row[f"{metric}_low"], 100 * row[f"{metric}_high"]
                axes.vlines(place, *bounds, color=color, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training documents")
    axes.set_ylabel(f"{title}, percent (95% CI)")
    axes.grid(color="#d9d9d9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    return png(figure)
