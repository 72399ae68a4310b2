#!/usr/bin/env python
"""Ask whether attributions are true to the model: does it change its mind without the words that they rank first?

    python run_faithfulness.py --attribution_dir attributions
    python run_faithfulness.py --attribution_dir attributions --max_samples 500 --internal_batch_size 512

Reads attributions.jsonl and summary.json that run_attribution.py wrote, replaces words by PAD and lets the model judge
again (one GPU is used where there is one). Measures per document, as ERASER (DeYoung et al., ACL 2020) defines them:
comprehensiveness, the probability of the target class lost without the words ranked first (larger is better), and
sufficiency, the probability lost with those words alone (smaller is better), both averaged over 5, 10, 20 and 50 % of
the words (AOPC); Kendall's tau with the logit lost when one word is left out; and infidelity (Yeh et al., NeurIPS
2019, by captum): how badly the sum of the scores of words left out together says what the logit loses. The same for
gradient x input and for random orders. Writes faithfulness.json and puts its table in summary.json;
render_attribution.py shows it.
"""

import argparse
import difflib
import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import scipy
import torch
import transformers
import yaml
from accelerate.utils.memory import should_reduce_batch_size
from captum.metrics import infidelity
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

logger = logging.getLogger(__name__)

FRACTIONS = (0.05, 0.1, 0.2, 0.5)
MEASURES = ("comprehensiveness", "sufficiency", "tau_leave_one_out", "infidelity")
PERTURBATIONS = 50  # random sets of words left out
RESAMPLES = 2000


@dataclass
class FaithfulnessArguments:
    """The command line."""

    attribution_dir: str = field(metadata={"help": "Folder that run_attribution.py wrote."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Default: the model of the attributions."})
    max_samples: int = field(default=50, metadata={"help": "Only the first so many documents."})
    random_orders: int = field(default=20, metadata={"help": "Random rankings a document, averaged."})
    seed: int = field(default=42, metadata={"help": "Seed of the random rankings and of the bootstrap."})
    internal_batch_size: int = field(default=64, metadata={"help": "Texts at once; halved when memory is short."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """A library's message as one line that fits an error line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


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
            fail(f"{arguments[0]} is no readable file of arguments (flag: value a line): {one_line(error)}")
        arguments = flags + arguments[1:]
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(one_line(error))


def write_atomically(path: Path, content: dict) -> None:
    """Write content as JSON so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_folder(folder: Path, limit: int) -> tuple[list[dict], dict]:
    """Return the first documents of the folder that have words, and its summary."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        with (folder / "attributions.jsonl").open(encoding="utf-8") as file:
            documents = [json.loads(line) for line, _ in zip(file, range(limit), strict=False)]
        documents = [document for document in documents if document["words"]]
        summary["model_name_or_path"] = summary["arguments"]["model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{folder} is no finished folder of run_attribution.py: {one_line(error)}")
    if not documents:
        fail(f"{folder} holds no document with words")
    return documents, summary


def encode(document: dict, tokenizer, max_length: int) -> None:
    """Add input_ids to the document; ends with exit code 2 if they are not the pieces that were attributed."""
    ids = tokenizer(document["text"], truncation=True, max_length=max_length)["input_ids"]
    if tokenizer.convert_ids_to_tokens(ids) != document["tokens"]:
        fail(f"the tokenizer makes other pieces of document {document['id']} than those attributed; wrong model")
    document["input_ids"] = torch.tensor(ids)


def forward(model, ids: torch.Tensor) -> torch.Tensor:
    """Logits (rows, classes) of texts ids (rows, tokens) in which PAD stands for a word, not for padding."""
    layer = getattr(model.base_model, "embeddings", None)
    padding = getattr(getattr(layer, "position_embeddings", None), "padding_idx", None)
    extra = {}
    if padding is not None:  # RoBERTa's kind would take a PAD for padding and shift the positions
        extra["position_ids"] = (torch.arange(ids.shape[1], device=ids.device) + padding + 1).expand_as(ids)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits.float()


def judge(model, document: dict, removed: np.ndarray, blank: int, target: int, batch_size: list[int]) -> np.ndarray:
    """Logit and probability of the target, (rows, 2), for the text without the words that removed (rows, words) marks.

    Rows that are alike are judged once. Running out of memory halves batch_size[0] for good.
    """
    of_token = np.array([-1 if word is None else word for word in document["word_ids"]])
    unique, where = np.unique(removed, axis=0, return_inverse=True)
    gone = np.where(of_token >= 0, unique[:, of_token], False)
    ids = torch.where(torch.from_numpy(gone), blank, document["input_ids"])
    found = []
    while len(found) < len(ids):
        batch = ids[len(found) : len(found) + batch_size[0]].to(model.device)
        try:
            with torch.no_grad():
                logits = forward(model, batch)
        except Exception as error:
            if not should_reduce_batch_size(error) or len(batch) == 1:
                raise
            batch_size[0] = len(batch) // 2
            logger.warning("out of memory: going on with %d texts a batch", batch_size[0])
            continue
        found += torch.stack([logits[:, target], logits.softmax(1)[:, target]], 1).double().tolist()
    document["evaluations"] = document.get("evaluations", 0) + len(ids)
    return np.array(found)[where.ravel()]


def gradient_times_input(model, document: dict, target: int) -> np.ndarray:
    """Scores (words,) of the simplest gradient method: grad F(x) * x in the embedding output, summed over a word."""
    layer, captured = getattr(model.base_model, "embeddings", None) or model.get_input_embeddings(), []

    def detach(module, inputs, output):
        captured.append(output.detach().requires_grad_(True))
        return captured[0]

    hook = layer.register_forward_hook(detach)
    logits = forward(model, document["input_ids"][None].to(model.device))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, target], captured[0])
    pieces = (gradient.double() * captured[0].detach().double()).sum(-1)[0].cpu().numpy()
    scores = np.zeros(len(document["words"]) + 1)  # the last one collects the special tokens
    np.add.at(scores, [-1 if word is None else word for word in document["word_ids"]], pieces)
    return scores[:-1]


def first_words(scores: np.ndarray) -> np.ndarray:
    """For every fraction the words ranked first, at least one, as a mask (fractions, words)."""
    rank = np.empty(len(scores), int)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return np.stack([rank < math.ceil(fraction * len(scores)) for fraction in FRACTIONS])


def unexplained(scores: np.ndarray, removed: np.ndarray, lost: np.ndarray) -> float:
    """Infidelity of scores (words,): the share of the squares of lost (sets,) that the sums of the scores of the words
    in removed (sets, words), scaled to fit best, leave unexplained; NaN where nothing is lost."""
    present, sets = torch.ones(1, len(scores), dtype=torch.float64), torch.from_numpy(removed).double()
    change = torch.from_numpy(lost)
    error = infidelity(
        lambda kept: -change if len(kept) > 1 else torch.zeros(1, dtype=torch.float64),
        lambda _: (sets, 1 - sets),
        present,
        torch.from_numpy(scores)[None].double(),
        n_perturb_samples=len(sets),
        normalize=True,
    )
    return float(error / change.square().mean()) if change.any() else math.nan


def measure(
    model, document: dict, blank: int, target: int, orders: np.ndarray, removed: np.ndarray, batch_size: list[int]
) -> dict:
    """The measures for every ranking of a document: {ranking: {measure: value}}.

    ``orders`` (n, words) are the random rankings, whose measures are averaged; ``removed`` (sets, words) marks the
    sets of words that infidelity leaves out.
    """
    words = len(document["words"])
    rankings = {
        "integrated gradients": np.array(document["word_attributions"])[None],
        "gradient x input": gradient_times_input(model, document, target)[None],
        "random": orders,
    }
    single, whole = np.eye(words, dtype=bool), np.zeros((1, words), bool)
    masks = {name: np.concatenate([first_words(row) for row in rows]) for name, rows in rankings.items()}
    parts = [whole, single, removed, *(np.concatenate([mask, ~mask]) for mask in masks.values())]
    judged = judge(model, document, np.concatenate(parts), blank, target, batch_size)
    probability, start, found = judged[0, 1], 1 + words + len(removed), {}
    lost, lost_of_sets = np.split(judged[0, 0] - judged[1:start, 0], [words])
    for name, rows in rankings.items():
        size = len(masks[name])
        without, alone = judged[start : start + size, 1], judged[start + size : start + 2 * size, 1]
        start += 2 * size
        taus = [scipy.stats.kendalltau(row, lost).statistic for row in rows] if words > 1 else [math.nan]
        infidelities = [unexplained(row, removed, lost_of_sets) for row in rows]
        values = (probability - without.mean(), probability - alone.mean(), np.mean(taus), np.mean(infidelities))
        found[name] = dict(zip(MEASURES, map(float, values), strict=True))
    return found


def interval(values: list[float], generator: np.random.Generator) -> dict | None:
    """Mean over documents and its 95 % percentile bootstrap interval; None without a defined value."""
    values = np.array([value for value in values if math.isfinite(value)])
    if not len(values):
        return None
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "documents": len(values)}


def main() -> None:
    # 1. Arguments, attributions
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(FaithfulnessArguments)
    for name in ("max_samples", "random_orders", "internal_batch_size"):
        if getattr(arguments, name) < 1:
            fail(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    folder = Path(arguments.attribution_dir)
    documents, summary = read_folder(folder, arguments.max_samples)

    # 2. Model and tokenizer
    name = arguments.model_name_or_path or summary["model_name_or_path"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32)
    except Exception as error:  # OSError, ValueError, the Hub's and safetensors' own
        fail(f"cannot load the model {name} of the attributions: {one_line(error)}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = model.requires_grad_(False).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    unknown = {document["target"] for document in documents} - set(model.config.label2id)
    if unknown:
        fail(f"the model {name} has no class {min(unknown)}; give the model of the attributions")
    if tokenizer.pad_token_id is None:
        fail(f"the tokenizer of {name} has no PAD token to put in place of a word")
    for document in documents:
        encode(document, tokenizer, summary["max_seq_length"])
    first = documents[0]
    with torch.no_grad():
        logits = forward(model, first["input_ids"][None].to(model.device))[0]
    away = abs(logits[model.config.label2id[first["target"]]].item() - first["f_input"])
    if away > 0.1 * max(1, abs(first["f_input"])):  # attributions in bfloat16 are off by a per cent
        fail(f"the model {name} gives document {first['id']} another logit than the attributed one did; wrong model")

    # 3. Measures of every document
    start, batch_size, results = time.perf_counter(), [arguments.internal_batch_size], []
    for number, document in enumerate(tqdm(documents, unit="document", disable=arguments.disable_tqdm)):
        generator = np.random.default_rng([arguments.seed, number])
        orders = generator.random((arguments.random_orders, len(document["words"])))
        # From next to nothing to next to everything: a share drawn for each set, then its words.
        shares = generator.random((PERTURBATIONS, 1))
        removed = generator.random((PERTURBATIONS, len(document["words"]))) < shares
        target = model.config.label2id[document["target"]]
        results.append(measure(model, document, tokenizer.pad_token_id, target, orders, removed, batch_size))

    # 4. Means and intervals
    generator = np.random.default_rng(arguments.seed)
    table = {
        ranking: {name: interval([result[ranking][name] for result in results], generator) for name in MEASURES}
        for ranking in results[0]
    }
    gain = {}
    for name in MEASURES:
        pairs = [(result["integrated gradients"][name], result["random"][name]) for result in results]
        gain[name] = interval([ours - theirs for ours, theirs in pairs], generator)
    table["integrated gradients minus random"] = gain
    content = {
        "rankings": table,
        "note": f"Means over {len(documents)} documents with 95 % bootstrap intervals. Comprehensiveness: probability "
        "of the target lost without the words ranked first (more is better); sufficiency: lost with them alone (less "
        "is better); both averaged over 5, 10, 20 and 50 % of the words, replaced by PAD. Tau: agreement with leaving "
        "one word out. Infidelity: share of what random sets of words change in the logit that the sums of their "
        "scores, scaled to fit best, leave unexplained (0 to 1, less is better; random scores are positive: their "
        "sums know how many words are gone).",
        "per_document": [{"id": d["id"]} | result for d, result in zip(documents, results, strict=True)],
        "forward_evaluations": sum(document["evaluations"] for document in documents),
        "gradient_evaluations": len(documents),
        "seconds": time.perf_counter() - start,
        "arguments": asdict(arguments),
        "versions": {tool.__name__: tool.__version__ for tool in (torch, transformers, scipy, np)},
        "run": summary["run"],
    }
    try:
        write_atomically(folder / "faithfulness.json", content)
        stored = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        write_atomically(folder / "summary.json", stored | {"faithfulness": table})
    except OSError as error:
        fail(f"cannot write to {folder}: {error}")
    for ranking, cells in table.items():
        shown = ", ".join(f"{name} {cell['mean']:.3f}" for name, cell in cells.items() if cell)
        logger.info("%s: %s", ranking, shown)


if __name__ == "__main__":
    main()
