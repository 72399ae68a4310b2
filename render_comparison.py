#!/usr/bin/env python
"""Put what compare_runs.py found into a table, pictures and sentences. Needs no runs; drawing again takes seconds.

    python render_comparison.py --comparison_dir comparison
    python render_comparison.py --comparison_dir comparison --paper --disagreement_rate 0.06

Reads comparison.json (and hard_documents.csv) from the folder and writes beside them: table2.md, table2.tex,
table2.csv and table2.png (accuracy and macro F1 with 95 % intervals), comparison.md (every test as a sentence) and,
if a run has probabilities, calibration.png. With --paper the study's own table is added as marked rows, and
study.json holds the bounds that its accuracies set to the tests nobody can make without its predictions.
"""

import argparse
import difflib
import io
import json
import logging
import os
import sys
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NoReturn

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

ALPHA = 0.05
POWER = 0.8
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1"}
HEADER = ["model", "seeds", "accuracy", "95 % interval", "macro F1", "95 % interval"]
SHOWN_HARD_DOCUMENTS = 10
HARD_COLUMNS = "id label majority_prediction runs_that_agree mean_confidence categories cross_listed".split()
TEST_NOTES = (
    "Exact McNemar compares the documents that exactly one of two models gets right; the paired bootstrap draws "
    "{resamples:,} times from the documents and compares macro F1 on each draw. Both speak about these trained "
    "models, not about training them again. Where a model has several seeds, documents and seeds count as random "
    "(Obuchowski-Rockette analysis with Hillis's degrees of freedom). p-values are corrected by Holm's method over "
    "all pairs of one metric, intervals are not. Distinguishable means p < 0.05 after correction."
)
# Nakada & Masada, table 2: accuracy and macro F1 in per cent, one run each; a tenth of 47,350 abstracts is the test.
STUDY_DOCUMENTS = 4735
STUDY_TABLE = {
    "bert-large-cased": (90.90, 87.70),
    "e5-large-v2": (91.15, 88.60),
    "bge-large-en-v1.5": (91.59, 88.77),
    "gte-large": (91.00, 87.86),
    "mxbai-embed-large-v1": (90.60, 87.37),
    "GIST-large-Embedding-v0": (91.53, 88.76),
    "UAE-Large-V1": (90.83, 87.75),
    "TF-IDF + linear SVM": (90.54, 87.20),
}


@dataclass
class RenderArguments:
    """What to draw."""

    comparison_dir: str = field(metadata={"help": "Folder that compare_runs.py wrote; the files are put there, too."})
    paper: bool | None = field(
        default=None,
        metadata={"help": "Add the study's table 2 and what its test set could show; as compare_runs.py was told if "
                          "not given."},
    )  # fmt: skip
    disagreement_rate: float = field(
        default=0.08,
        metadata={"help": "Assumed share of the study's documents on which exactly one of two models is right."},
    )

    def __post_init__(self):
        if not 0 < self.disagreement_rate <= 1:
            raise ValueError(f"--disagreement_rate must lie above 0 and not above 1, not {self.disagreement_rate:g}")


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse_arguments(*dataclass_types: type) -> tuple:
    """Parse the command line; a first argument FILE.json or FILE.yaml stands for flags, later flags override it.

    Ends with exit code 2 on an unreadable file, an unknown flag (the nearest known one is named) or a bad value.
    """
    parser = HfArgumentParser(
        dataclass_types, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = fail
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        try:
            recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))  # JSON is YAML
            recipe = {key: value for key, value in recipe.items() if value is not None}
            flags = [
                word
                for key, value in recipe.items()
                for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
            ]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            fail(
                f"{arguments[0]} is no readable file of arguments (flag: value a line): {' '.join(str(error).split())}"
            )
        arguments = flags + arguments[1:]
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(" ".join(str(error).split()))


def detectable_difference(documents: int, disagreement: float) -> float | None:
    """Smallest difference in accuracy that McNemar's test finds with power 0.8 at level 0.05.

    disagreement is the share of documents on which exactly one model is right. Solves the sample-size formula of
    Connor (Biometrics 43:207-211, 1987). None if not even a model that wins every disagreement would be found.
    """
    z_alpha, z_power = stats.norm.ppf([1 - ALPHA / 2, POWER])

    def surplus(difference: float) -> float:
        spread = z_alpha * np.sqrt(disagreement) + z_power * np.sqrt(disagreement - difference**2)
        return documents - (spread / difference) ** 2

    if disagreement == 0 or surplus(disagreement) < 0:
        return None
    return float(optimize.brentq(surplus, disagreement * 1e-6, disagreement))


def study_pairs(disagreement: float) -> list[dict]:
    """For each pair of the study's models: bounds of the exact McNemar p-value that its two accuracies allow.

    The smallest p belongs to the fewest disagreements (one model's errors are all errors of the other, too), the
    largest to the most (no document is missed by both); p_assumed belongs to the assumed share of disagreements.
    """
    rows = []
    for (first, (a, _)), (second, (b, _)) in combinations(STUDY_TABLE.items(), 2):
        right = sorted(round(STUDY_DOCUMENTS * accuracy / 100) for accuracy in (a, b))
        lead, most = right[1] - right[0], 2 * STUDY_DOCUMENTS - sum(right)
        # The number of disagreements has the parity of the lead.
        assumed = min(max(round((disagreement * STUDY_DOCUMENTS - lead) / 2), 0), (most - lead) // 2)
        row = {"model": first, "reference": second, "difference": round((a - b) / 100, 6)}
        for name, losses in (("p_least", 0), ("p_assumed", assumed), ("p_most", (most - lead) // 2)):
            row[name] = float(mcnemar([[0, losses + lead], [losses, 0]], exact=True).pvalue)
        rows.append(row)
    return rows


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def points(fraction: float) -> str:
    """A difference in points, never as minus nought."""
    return f"{round(100 * fraction, 2) + 0.0:.2f}"


def pair_sentence(row: dict) -> str:
    """What a row of compare_pair says, in words."""
    shown = points(abs(row["difference"]))
    word = "better than" if row["difference"] > 0 else "worse than"
    text = "as good as" if shown == "0.00" else f"{shown} points {word}"
    verdict = "distinguishable" if row["distinguishable"] else "not distinguishable"
    alone = [row[name] for name, n in (("model", "seeds"), ("reference", "reference_seeds")) if row[n] == 1]
    pooled = max(row["seeds"], row["reference_seeds"]) > 1
    caveat = f" (one seed of {' and '.join(alone)}: how much seeds would differ there is not in the interval)"
    return (
        f"{METRICS[row['metric']]}: {row['model']} is {text} {row['reference']}, 95 % interval {points(row['low'])} "
        f"to {points(row['high'])} ({row['test']}, p {p_text(row['p'])}, after Holm {p_text(row['p_holm'])}): "
        f"{verdict} on {row['documents']:,} documents{caveat if pooled and alone else ''}."
    )


def study_sentences(rows: list[dict], disagreement: float, observed: float | None) -> list[str]:
    """What the study's number of documents could show; every assumption is in the sentence that makes it."""
    always, never, assumed = (
        [row for row in rows if keep(row)]
        for keep in (lambda row: row["p_most"] < ALPHA, lambda row: row["p_least"] >= ALPHA,
                     lambda row: row["p_assumed"] < ALPHA)
    )  # fmt: skip
    sentences = [
        "The study gives accuracies, not predictions, so its pairs cannot be tested: the accuracies only bound the "
        "paired test, since how often exactly one of two models is right is not known. Without a correction for "
        f"{len(rows)} pairs, {len(always)} differences would be significant at 5 % however the errors fell, "
        f"{len(never)} could not be whatever the errors, and {len(rows) - len(always) - len(never)} depend on them."
    ]
    for rate, kind in ((disagreement, "assumed"), (observed, "median of the runs compared here")):
        if rate:
            least = detectable_difference(STUDY_DOCUMENTS, rate)
            text = "no difference" if least is None else f"only a difference of {points(least)} points or more"
            sentences.append(
                f"If exactly one of two models is right on {100 * rate:.1f} % of the {STUDY_DOCUMENTS:,} documents "
                f"({kind}), {text} in accuracy would be found four times in five."
            )
    largest = max(abs(row["difference"]) for row in rows)
    sentences.append(f"The largest difference in the study's accuracies is {points(largest)} points.")
    names = "; ".join(f"{row['model']} and {row['reference']} ({points(abs(row['difference']))})" for row in assumed)
    sentences.append(
        f"With {100 * disagreement:.1f} % assumed, {len(assumed)} of the study's {len(rows)} differences would have "
        f"p < 0.05 before correction{': ' + names if names else ''}. For macro F1 the table gives no such bound."
    )
    return sentences


def png(figure: plt.Figure) -> bytes:
    """The picture as bytes that hold no date, so the same figure gives the same file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def plot_table(rows: list[dict], documents: int) -> bytes:
    """Accuracy and macro F1 of every row with 95 % intervals; the study's rows are hollow."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 1.2 + 0.38 * len(rows)), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for height, row in enumerate(rows):
            value, low, high = (row[key] and 100 * row[key] for key in (metric, f"{metric}_low", f"{metric}_high"))
            study = row["source"] == "study"
            colour = "#888888" if study else "#1b7837"
            if low is not None:
                axes.hlines(height, low, high, color=colour, linewidth=1.6)
            axes.plot(value, height, "o", color=colour, markerfacecolor="white" if study else colour)
        axes.set_xlabel(f"{title}, per cent (95 % interval)")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    # A name from a run may hold a $: it is text here, not the start of a formula.
    names = [(row["name"] + (" (study)" if row["source"] == "study" else "")).replace("$", r"\$") for row in rows]
    panels[0].set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
    figure.suptitle(f"{documents:,} test documents")
    figure.tight_layout()
    return png(figure)


def plot_calibration(results: dict[str, dict]) -> bytes:
    """Reliability diagram: one line a model, a marker's area grows with the bin's number of documents."""
    figure, axes = plt.subplots(figsize=(6.4, 5.6))
    axes.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
    for name, result in results.items():
        x, y, n = (np.array([part[key] for part in result["bins"]]) for key in ("confidence", "accuracy", "documents"))
        label = f"{name} (ECE {100 * result['ece']:.1f})".replace("$", r"\$")
        (line,) = axes.plot(x, y, linewidth=1.4, label=label)
        axes.scatter(x, y, s=8 + 120 * n / n.sum(), color=line.get_color(), alpha=0.7)
    axes.set(xlim=(0, 1.01), ylim=(-0.01, 1.01), xlabel="probability of the prediction", ylabel="share that is right")
    axes.legend(loc="best", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def table_row(row: dict, best: dict[str, float], bold: str) -> list[str]:
    """A row of table 2 as text, per cent; the best of the compared models in bold."""
    texts = [row["name"] + (" †" if row["source"] == "study" else ""), str(row["seeds"])]
    for metric in METRICS:
        value = f"{100 * row[metric]:.2f}"
        text = bold.format(value) if row["source"] == "run" and value == f"{100 * best[metric]:.2f}" else value
        spread, low = row[f"{metric}_sd"], row[f"{metric}_low"]
        texts.append(text + (f" ± {100 * spread:.2f}" if spread is not None else ""))
        texts.append("" if low is None else f"{100 * low:.2f} to {100 * row[f'{metric}_high']:.2f}")
    return texts


def markdown(header: list[str], rows: list[list]) -> str:
    """A Markdown table; text is escaped, the first column is the only one aligned to the left."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(text).replace("|", r"\|") for text in line) + " |" for line in lines) + "\n"


def latex(header: list[str], rows: list[list[str]]) -> str:
    """A booktabs tabular; every character that LaTeX would read as a command is escaped."""
    escapes = {character: rf"\{character}" for character in "&%$#_{}"}
    escapes |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escapes |= {"±": r"$\pm$", "†": r"$^\dagger$", "\x02": r"\textbf{", "\x03": "}"}
    lines = [" & ".join("".join(escapes.get(character, character) for character in text) for text in row) + r" \\"
             for row in [header, *rows]]  # fmt: skip
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    return f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def study_rows() -> list[dict]:
    """The study's table as rows of table 2: one run each, Wilson's interval for accuracy, none for macro F1."""
    rows = []
    for name, (accuracy, f1) in STUDY_TABLE.items():
        right = round(STUDY_DOCUMENTS * accuracy / 100)
        low, high = proportion_confint(right, STUDY_DOCUMENTS, alpha=ALPHA, method="wilson")
        row = {"name": name, "source": "study", "seeds": 1, "accuracy": accuracy / 100, "macro_f1": f1 / 100}
        row |= {"accuracy_low": float(low), "accuracy_high": float(high), "accuracy_sd": None}
        rows.append(row | {"macro_f1_low": None, "macro_f1_high": None, "macro_f1_sd": None})
    return rows


def detectable_sentence(documents: int, observed: float | None) -> str:
    """What the number of test documents lets one see at all."""
    if observed is None:
        return "All runs are seeds of one model: there is no difference to find."
    if observed == 0:
        return (
            f"On these {documents:,} documents all models are right on the same ones: accuracy cannot tell them apart."
        )
    least = detectable_difference(documents, observed)
    start = f"Exactly one of two models is right on {100 * observed:.1f} % of these {documents:,} documents (median)"
    if least is None:
        return f"{start}: with so few, hardly any difference between them can be told from chance."
    return (
        f"{start}: a difference of {points(least)} points of accuracy would be found four times in five (before "
        "correction), smaller ones more rarely."
    )


def summary(result: dict, table: str, study: list[str], hard: pd.DataFrame) -> str:
    """comparison.md: the table, then a sentence for every test, then what else was found."""
    parts = ["# Comparison of runs", table, detectable_sentence(result["documents"], result["median_disagreement"])]
    parts.append("## Tests")
    parts.append("\n".join(f"- {pair_sentence(row)}" for row in result["pairs"]) or "None was made.")
    if result["pairs"]:
        parts.append(TEST_NOTES.format(resamples=result["arguments"]["n_resamples"]))
        if result["arguments"]["reference"] is None:
            parts.append(f"{result['reference']} is the reference because it is the most accurate on these very "
                         "documents, which flatters it a little: one picked beforehand is fairer.")  # fmt: skip
    if study:
        parts += ["## The study's table", "\n\n".join(study)]
    names = [model["name"] for model in result["models"]]
    rows = [[row["class"], f"{row['documents']:,}", *(f"{100 * row[name]:.2f}" for name in names)]
            for row in result["per_class_f1"]]  # fmt: skip
    parts += ["## F1 of every class, per cent", markdown(["class", "documents", *names], rows)]
    rows = [[f"{row['model']} / {row['other']}", f"{100 * row['same_prediction']:.2f}", f"{row['cohen_kappa']:.3f}",
             f"{100 * row['exactly_one_right']:.2f}"] for row in result["agreement"]]  # fmt: skip
    header = ["models", "same prediction, %", "Cohen's kappa", "exactly one right, %"]
    parts += ["## Agreement", markdown(header, rows)]
    found = result["hard_documents"]
    text = f"Every run is wrong on {found['documents']:,} of {result['documents']:,} documents (hard_documents.csv)"
    text += ": candidates for label noise, the more so the more confident the runs are."
    if "cross_listed" in found:
        text += (f" On {found['cross_listed']:,} of them the majority's prediction is another category of the "
                 f"document; of all documents, {100 * found['share_of_all_with_another']:.1f} % have another of these "
                 "classes among their categories.")  # fmt: skip
    parts += ["## Documents that every run gets wrong", text]
    if len(hard):
        shown = hard.head(SHOWN_HARD_DOCUMENTS).fillna("")
        columns = [name for name in HARD_COLUMNS if name in shown]
        parts.append(markdown(columns, shown[columns].to_numpy().tolist()))
    parts.append("## Calibration")
    lines = [f"- {name}: expected calibration error {100 * part['ece']:.2f} points, mean confidence "
             f"{100 * part['mean_confidence']:.2f} %." for name, part in result["calibration"].items()]  # fmt: skip
    parts.append("\n".join(lines) or "Left out: no run has probabilities.")
    if result["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in result["notes"])]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def main() -> None:
    # 1. Arguments and what compare_runs.py found
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(RenderArguments)
    folder = Path(arguments.comparison_dir)
    try:
        result = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        hard = pd.read_csv(folder / "hard_documents.csv", dtype=str, keep_default_na=False)
        paper = result["arguments"]["paper"] if arguments.paper is None else arguments.paper
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{folder} is no folder of compare_runs.py: {' '.join(str(error).split())}")

    # 2. Table 2
    rows = [*result["models"], *(study_rows() if paper else [])]
    best = {metric: max(row[metric] for row in result["models"]) for metric in METRICS}
    about = (
        f"{result['documents']:,} test documents, per cent. 95 % intervals; ± is the standard deviation over seeds."
    )
    if paper:
        about += (
            f" † As the study reports it, one run on about {STUDY_DOCUMENTS:,} other documents (Wilson's interval)."
        )
    table = markdown(HEADER, [table_row(row, best, "**{}**") for row in rows]) + f"\n{about}\n"
    numbers = [metric + end for metric in METRICS for end in ("", "_low", "_high", "_sd")]
    frame = pd.DataFrame(rows)[["name", "source", "seeds", *numbers]].rename(columns={"name": "model"})
    outputs = {
        "table2.md": table,
        "table2.tex": latex(HEADER, [table_row(row, best, "\x02{}\x03") for row in rows]),
        "table2.csv": frame.to_csv(index=False, float_format="%.8g"),
        "table2.png": plot_table(rows, result["documents"]),
    }

    # 3. The study's own differences
    sentences = []
    if paper:
        pairs = study_pairs(arguments.disagreement_rate)
        sentences = study_sentences(pairs, arguments.disagreement_rate, result["median_disagreement"])
        study = {"documents": STUDY_DOCUMENTS, "disagreement_rate": arguments.disagreement_rate, "pairs": pairs}
        study["detectable_difference"] = detectable_difference(STUDY_DOCUMENTS, arguments.disagreement_rate)
        outputs["study.json"] = json.dumps(study | {"sentences": sentences}, ensure_ascii=False, indent=2) + "\n"

    # 4. Calibration and everything in sentences
    if result["calibration"]:
        outputs["calibration.png"] = plot_calibration(result["calibration"])
    outputs["comparison.md"] = summary(result, table, sentences, hard)
    try:
        for name, content in outputs.items():
            temporary = folder / f"{name}.tmp"
            temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            os.replace(temporary, folder / name)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}; free some space and run the command again")
    logger.info("written into %s: %s", folder, ", ".join(outputs))
    for row in result["pairs"]:
        logger.info(pair_sentence(row))
    logger.info(detectable_sentence(result["documents"], result["median_disagreement"]))


if __name__ == "__main__":
    main()
