#!/usr/bin/env python
"""Compare quadratures on one rough path through a deep encoder, in seconds and without the model.

    python benchmarks/bench_attribution_path.py --path_file path.npz

The file has F, (n + 1,), at alpha = k / n and v, (n, tokens), at the middles between them, as
float64. A quadrature may look at these points only, so places are rounded to them. The reference
shares each of the n residuals among the tokens by |v|. A forward counts as a third of a gradient.
Writes benchmarks/results/attribution_path.json.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from run_attribution import (  # noqa: E402
    PathValues,
    integrate_panels,
    quadrature,
    search_rules,
    worst_panels,
)


def share(change: np.ndarray, v: np.ndarray, widths: np.ndarray, clip: float | None) -> np.ndarray:
    """Return the integral of panels with one gradient each, (panels, tokens), at their middles.

    The change of F over a panel, (panels,), that v misses is shared out by |v|. With clip, a v
    whose size is more than so many times the median of its neighbors is made smaller first.
    """
    sizes = np.abs(v).sum(1)
    if clip is not None:
        padded = np.pad(sizes, 2, mode="edge")
        medians = np.median([padded[k : k + len(sizes)] for k in range(5)], axis=0)
        v = v * np.minimum(1, clip * medians / sizes)[:, None]
    sums = v * widths[:, None]
    residuals = change - sums.sum(1)
    return sums + residuals[:, None] * np.abs(v) / np.abs(v).sum(1, keepdims=True)


class TabulatedPath:
    """The points that may be looked at."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as content:
            self.f, self.v = content["F"], content["v"]
        self.n = len(self.v)
        change = np.diff(self.f)
        widths = np.full(self.n, 1 / self.n)
        self.reference = share(change, self.v, widths, None).sum(0)

    def panels(self, edges: np.ndarray, shared: bool, clip: float | None = None) -> np.ndarray:
        """Return the attributions of panels between edges, (panels + 1,), places of F."""
        middles = (edges[:-1] + edges[1:]) // 2
        widths = np.diff(edges) / self.n
        if not shared:
            return widths @ self.v[middles]
        return share(np.diff(self.f[edges]), self.v[middles], widths, clip).sum(0)

    def edges_by_f(self, panels: int, forwards: int) -> np.ndarray:
        """Return edges between which F changes equally, by its values at a few points."""
        coarse = np.linspace(0, self.n, forwards).round().astype(int)
        variation = np.abs(np.diff(self.f[coarse]))
        # A fifth of the panels is placed evenly, for where F does not change.
        density = 0.8 * variation / variation.sum() + 0.2 * np.diff(coarse) / self.n
        cumulated = np.append(0, density.cumsum())
        edges = np.interp(np.linspace(0, cumulated[-1], panels + 1), cumulated, coarse)
        return np.unique(edges.round().astype(int))

    def halved(self, gradients: int, first: int) -> np.ndarray:
        """Return the attributions by halving the worst panels, as run_attribution.py does."""
        alphas = search_rules("gausslegendre", (0,), first).alphas
        places = np.unique(np.clip((alphas * self.n - 0.5).round(), 0, self.n - 1).astype(int))
        while True:
            points = (places + 0.5) / self.n
            f = (self.f[places] + self.f[places + 1]) / 2
            v = self.v[places]
            panels = integrate_panels(points, PathValues(f, np.zeros(len(f)), v))
            number = min(16, gradients - len(places))
            panels.residuals[np.diff(places) < 2] = 0  # cannot be halved on this path
            panels.jumps[np.diff(places) < 2] = 0
            worst = worst_panels(points, [panels], number)
            if len(worst) == 0:
                return panels.attributions
            places = np.insert(places, worst + 1, (places[worst] + places[worst + 1]) // 2)

    def gauss_legendre(self, n: int) -> np.ndarray:
        """Return the attributions by n points; v is interpolated linearly between the middles."""
        nodes, weights = quadrature("gausslegendre", n)
        middles = (np.arange(self.n) + 0.5) / self.n
        return np.array([weights @ np.interp(nodes, middles, column) for column in self.v.T])

    def study_rule(self, most: int) -> tuple[int, dict[int, float]]:
        """Return the number of steps with the smallest completeness error, and all errors.

        They are relative to F(x) - F(b).
        """
        change = self.f[-1] - self.f[0]
        gaps = {
            n: float(abs(self.gauss_legendre(n).sum() - change) / abs(change))
            for n in range(1, most + 1)
        }
        return min(gaps, key=gaps.get), gaps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path_file", type=Path, required=True)
    parser.add_argument(
        "--output_file", type=Path, default=ROOT / "benchmarks/results/attribution_path.json"
    )
    arguments = parser.parse_args()
    path = TabulatedPath(arguments.path_file)
    rows = []

    def add(quadrature: str, gradients: int, forwards: int, attributions: np.ndarray) -> None:
        error = np.abs(attributions - path.reference).sum() / np.abs(path.reference).sum()
        rows.append(
            {
                "quadrature": quadrature,
                "gradients": gradients,
                "forwards": forwards,
                "equivalent_gradients": round(gradients + forwards / 3, 1),
                "error": round(float(error), 4),
                "spearman": round(float(spearmanr(attributions, path.reference)[0]), 4),
            }
        )

    for n in (27, 81, 243):
        edges = np.linspace(0, path.n, n + 1).round().astype(int)
        add("equal steps", n, 2, path.panels(edges, shared=False))
        add("equal steps, residuals shared", n, n + 1, path.panels(edges, shared=True))
        clipped = path.panels(edges, shared=True, clip=3)
        add("equal steps, residuals shared, spikes clipped", n, n + 1, clipped)
    for n in (20, 40, 80, 160):
        edges = path.edges_by_f(n, 41)
        count = len(edges) - 1
        add("equal changes of F, residuals shared", count, 41 + n, path.panels(edges, shared=True))
        clipped = path.panels(edges, shared=True, clip=3)
        add("equal changes of F, residuals shared, spikes clipped", count, 41 + n, clipped)
    best, gaps = path.study_rule(200)
    for n in (best, 50, 100, 200):
        winner = "with the smallest error of n = 1 ... 200" if n == best else "alone"
        name = f"Gauss-Legendre with {n} points, {winner}, completeness error {100 * gaps[n]:.2g} %"
        add(name, n, 2, path.gauss_legendre(n))
    for n in (65, 95, 125, 200, 280):
        for first in (31, 121):
            if first <= n:
                add(f"worst panels halved, from {first} points", n, 0, path.halved(n, first))
    record = {
        "rows": rows,
        "path": "all-mpnet-base-v2, fine-tuned for two epochs on five classes of arXiv abstracts, "
        "one test abstract of 105 tokens, baseline PAD: F and v at 729 equal steps",
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/bench_attribution_path.py --path_file path_mpnet_pad.npz",
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__},
    }
    arguments.output_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
