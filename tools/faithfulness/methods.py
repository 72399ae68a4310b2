"""Other attribution methods, all of captum, on the words and with the baseline of the attributions.

Occlusion and Shapley values see a text as a row of words that are there (1) or not (0); a word that
is not there is replaced by the token of the baseline text. The model is a black box to them.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from common.cli import fail
from faithfulness.models import Evaluator, of_words

INTEGRATED_GRADIENTS = "integrated gradients"
RANDOM = "random"


@dataclass
class MethodSettings:
    """What the methods share: token of the baseline text, numbers of steps and samples, seed."""

    baseline_token_id: int | None
    n_steps: int
    shapley_samples: int
    seed: int


def forward_of_words(evaluator: Evaluator, document: dict, token_id: int) -> Callable:
    """Return the explained logit as a function of the words that are there, (rows, words)."""

    def explained(there: torch.Tensor) -> torch.Tensor:
        values = evaluator.without_words(document, there.numpy() < 0.5, token_id)
        return torch.from_numpy(values[:, 0])

    return explained


def occlusion(evaluator: Evaluator, document: dict, settings: MethodSettings) -> np.ndarray:
    """Return how much of the explained logit is lost without each word, (words,)."""
    from captum.attr import FeatureAblation

    there = torch.ones(1, len(document["words"]), dtype=torch.float64)
    forward = forward_of_words(evaluator, document, settings.baseline_token_id)
    scores = FeatureAblation(forward).attribute(
        there, baselines=0, perturbations_per_eval=evaluator.batch_size
    )
    return scores[0].numpy()


def shapley_values(evaluator: Evaluator, document: dict, settings: MethodSettings) -> np.ndarray:
    """Return Shapley values (words,), estimated from random orders in which the words come back.

    Castro, Gómez & Tejada, Computers & Operations Research 2009. Their sum is F(x) - F(b).
    """
    from captum.attr import ShapleyValueSampling

    there = torch.ones(1, len(document["words"]), dtype=torch.float64)
    forward = forward_of_words(evaluator, document, settings.baseline_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        scores = ShapleyValueSampling(forward).attribute(
            there,
            baselines=0,
            n_samples=settings.shapley_samples,
            perturbations_per_eval=evaluator.batch_size,
        )
    return scores[0].numpy()


def gradient_x_input(evaluator: Evaluator, document: dict, settings: MethodSettings) -> np.ndarray:
    """Return scores (words,) of the simplest gradient method, grad F(x) * x in the embedding
    output. It has no baseline.
    """
    captured = []

    def detach(module, inputs, output):
        captured.append(output.detach().requires_grad_(True))
        return captured[0]

    hook = evaluator.embedding_layer.register_forward_hook(detach)
    explained = evaluator.explained(document["input_ids"][None], document)[0, 0]
    hook.remove()
    (gradient,) = torch.autograd.grad(explained, captured[0])
    evaluator.gradient_evaluations += 1
    of_tokens = (gradient.double() * captured[0].detach().double()).sum(-1)[0]
    return of_words(document, of_tokens.cpu().numpy())


# --methods: the name of a method in the tables, and its function
METHODS = {
    "gradient_x_input": ("gradient x input", gradient_x_input),
    "occlusion": ("occlusion", occlusion),
    "shapley": ("Shapley values", shapley_values),
}
NEED_CAPTUM = ("occlusion", "shapley")
NEED_TOKEN = ("occlusion", "shapley")


def integrated_gradients(
    evaluator: Evaluator, document: dict, settings: MethodSettings
) -> tuple[np.ndarray, float]:
    """Return captum's integrated gradients (words,) of a text that run_attribution.py did not
    attribute, and their completeness error relative to F(x) - F(b).
    """
    from captum.attr import LayerIntegratedGradients

    text = document["input_ids"]
    is_word = torch.tensor([word is not None for word in document["word_ids"]])
    baseline = torch.where(is_word, settings.baseline_token_id, text)
    method = LayerIntegratedGradients(
        lambda ids: evaluator.explained(ids, document)[:, 0], evaluator.embedding_layer
    )
    device = evaluator.model.device
    attributions, delta = evaluator.in_batches(
        lambda batch_size: method.attribute(
            text[None].to(device),
            baseline[None].to(device),
            n_steps=settings.n_steps,
            internal_batch_size=batch_size,
            return_convergence_delta=True,
        )
    )
    evaluator.gradient_evaluations += settings.n_steps
    evaluator.forward_evaluations += 4  # captum's own, of the two ends
    of_tokens = attributions.detach().double().sum(-1)[0].cpu().numpy()
    difference = of_tokens.sum() - float(delta)
    return of_words(document, of_tokens), abs(float(delta)) / max(abs(difference), 1e-12)


def check_methods(names: list[str], with_mosaics: bool) -> None:
    """Exit with status 2 if a method is unknown, given twice, or lacks its package."""
    for name in names:
        if name not in METHODS:
            fail(f"--methods {name} is not one of {', '.join(METHODS)}")
        if names.count(name) > 1:
            fail(f"--methods names {name} twice")
    users = [f"--methods {name}" for name in names if name in NEED_CAPTUM]
    if with_mosaics:
        users.append("--n_mosaics")
    if users and importlib.util.find_spec("captum") is None:
        fail(f"{users[0]} requires the package captum; pip install captum")


def check_baseline(names: list[str], with_mosaics: bool, token_id: int | None) -> None:
    """Exit with status 2 if a method replaces words and the baseline has no token for that."""
    users = [f"--methods {name}" for name in names if name in NEED_TOKEN]
    if with_mosaics:
        users.append("--n_mosaics")
    if users and token_id is None:
        fail(
            f"{users[0]} replaces words with the token of the baseline, and the baseline of "
            "these attributions is none; use attributions with --baseline pad or mask"
        )
