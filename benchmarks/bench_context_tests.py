#!/usr/bin/env python
"""Simulate the tests of tools/measure_context.py: how often do they err?

    python benchmarks/bench_context_tests.py                              # about 10 minutes
    python benchmarks/bench_context_tests.py --repetitions 100 --output_file few.json
    python benchmarks/bench_context_tests.py --parts bags                 # this part alone

Means over documents (phrases, P(true class)): values with mean 0 from a normal distribution,
Student's t with 3 degrees of freedom, and shifted lognormal and exponential ones. The share of
rejections at 5% should be 5%; it is that of the test in use, the studentized bootstrap, beside
those of Student's t and of randomly drawn signs.

Share of the variance between words: words and documents are both random, the true share is known.
The share of the 95% intervals that contain it should be 95%; it is that of the interval in use,
from resampled words and documents, beside that of documents alone.

Additive share of a model that cannot see order: a bag of words with random values, pooled by
attention with random scores. The standard deviation of the scores says how unequal the weights are;
0 is the mean. Texts leave each word out with probability 1/2, as the tool's do.

Writes benchmarks/results/context_tests.json; parts that are not measured again stay.
"""

import argparse
import datetime
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from common.statistics import mean_interval  # noqa: E402
from context.additive_surrogate import additive_r2, draw_kept_words  # noqa: E402
from context.significance import mean_tests  # noqa: E402
from context.word_variance import intraclass_correlation, ranks  # noqa: E402

SHAPES = ("normal", "t3", "lognormal", "exponential")
SIZES = (10, 20, 50, 93)
WORDS_AND_DOCUMENTS = ((20, 60), (56, 258))
BAG_WORDS = 80  # the median of the real abstracts is 81
BAG_DOCUMENTS = 50
PARTS = ("means", "share_between_words", "bags")


def draw(shape: str, size: int, generator: np.random.Generator) -> np.ndarray:
    """Return values (size,) of a distribution whose mean is 0."""
    if shape == "normal":
        return generator.normal(size=size)
    if shape == "t3":
        return generator.standard_t(3, size=size)
    if shape == "lognormal":
        return np.exp(generator.normal(size=size)) - np.exp(0.5)
    return generator.exponential(size=size) - 1


def sign_flip_p(values: np.ndarray, generator: np.random.Generator) -> float:
    """Return p of the test that was used before: random signs."""
    signs = generator.choice([-1, 1], size=(499, len(values)))
    return (1 + (np.abs(signs @ values) >= abs(values.sum()) - 1e-9).sum()) / 500


def simulate_means(repetitions: int, n_resamples: int) -> list[dict]:
    """Return the share of rejections at 5% by distribution, number of documents and test."""
    rows = []
    for shape in SHAPES:
        for documents in SIZES:
            rejected = {"studentized_bootstrap": 0, "students_t": 0, "sign_flip": 0}
            for repetition in range(repetitions):
                generator = np.random.default_rng([repetition, documents])
                values = draw(shape, documents, generator)
                test = mean_tests(values[None], n_resamples, repetition)[0]
                rejected["studentized_bootstrap"] += test["p"] < 0.05
                rejected["students_t"] += stats.ttest_1samp(values, 0).pvalue < 0.05
                rejected["sign_flip"] += sign_flip_p(values, generator) < 0.05
            row = {"distribution": shape, "documents": documents}
            for name, count in rejected.items():
                row[name] = float(count / repetitions)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def draw_scores(
    words: int, documents: int, spread: float, generator: np.random.Generator
) -> np.ndarray:
    """Return scores (words, documents) of which about a fifth are there, NaN elsewhere.

    The score of a word in a document has the mean of the word and a noise of variance 1; spread is
    the standard deviation of the means.
    """
    means = generator.normal(0, spread, size=(words, 1))
    scores = means + generator.normal(size=(words, documents))
    chances = generator.uniform(0.05, 0.35, size=(words, 1))
    scores[generator.random((words, documents)) > chances] = np.nan
    return scores


def simulate_shares(repetitions: int, n_resamples: int) -> list[dict]:
    """Return the coverage of the interval of the share of variance between words.

    The true share of the ranks is that of a sample of 3,000 words.
    """
    rows = []
    for words, documents in WORDS_AND_DOCUMENTS:
        for spread in (0.7, 1.6):
            large = draw_scores(3000, documents, spread, np.random.default_rng(0))
            true = intraclass_correlation(ranks(large), 2, 0)["icc"]
            covered = {"words_and_documents": 0, "documents_alone": 0}
            for repetition in range(repetitions):
                generator = np.random.default_rng([repetition, words])
                scores = ranks(draw_scores(words, documents, spread, generator))
                both = intraclass_correlation(scores, n_resamples, repetition)
                alone = intraclass_correlation(
                    scores, n_resamples, repetition, resample_words=False
                )
                covered["words_and_documents"] += both["low"] <= true <= both["high"]
                covered["documents_alone"] += alone["low"] <= true <= alone["high"]
            row = {"words": words, "documents": documents, "true_share": round(true, 3)}
            for name, count in covered.items():
                row[name] = float(count / repetitions)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def simulate_bags() -> list[dict]:
    """Return the mean additive share of bags that are pooled by attention, by their scores' SD."""
    rows = []
    for spread in (0.0, 1.0, 2.0, 3.0):
        shares = []
        for document in range(BAG_DOCUMENTS):
            generator = np.random.default_rng([document])
            values = generator.normal(size=BAG_WORDS)
            weights = np.exp(spread * generator.normal(size=BAG_WORDS))
            kept = draw_kept_words(BAG_WORDS, [document])
            logits = kept @ (weights * values) / (kept @ weights)
            shares.append(additive_r2(kept, logits))
        row = {"sd_of_scores": spread, "words": BAG_WORDS} | mean_interval(shares)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=1000, help="Simulated samples.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="What to run.")
    parser.add_argument("--n_resamples", type=int, default=499, help="Resamples of each.")
    parser.add_argument(
        "--output_file", default=str(ROOT / "benchmarks/results/context_tests.json")
    )
    arguments = parser.parse_args()
    path = Path(arguments.output_file)
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/bench_context_tests.py", *sys.argv[1:]]),
        "device": f"{os.cpu_count()} CPU cores",
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }
    if "means" in arguments.parts:
        content |= made
        content["repetitions"] = arguments.repetitions
        content["n_resamples"] = arguments.n_resamples
        content["means"] = simulate_means(arguments.repetitions, arguments.n_resamples)
    if "share_between_words" in arguments.parts:
        repetitions = arguments.repetitions // 5
        content["share_between_words"] = simulate_shares(repetitions, arguments.n_resamples)
    if "bags" in arguments.parts:
        content["bags"] = simulate_bags()
        content["bags_made"] = made
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
