#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "numpy==2.4.6",
#     "PyYAML==6.0.3",
#     "scipy==1.17.1",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Measure whether attributions describe the model: does its prediction change without the words
they rank first?

    python tools/measure_faithfulness.py --attribution_dir attributions
    python tools/measure_faithfulness.py --attribution_dir attributions --max_samples 500 \\
        --internal_batch_size 512

Reads attributions.jsonl and summary.json of run_attribution.py, replaces words with PAD tokens and
evaluates the model again (on one GPU where there is one). It measures for each document:

- as defined by ERASER (DeYoung et al., ACL 2020), comprehensiveness, the probability of the target
  class lost without the words ranked first (larger is better), and sufficiency, the probability
  lost with only these words (smaller is better), both averaged over 5, 10, 20 and 50 percent of the
  words (AOPC);
- Kendall's tau with the loss of the logit when a single word is left out;
- infidelity (Yeh et al., NeurIPS 2019): how much of the loss of the logit without a random set of
  words the sum of their scores leaves unexplained.

Gradient x input and random rankings are measured for comparison. Writes faithfulness.json and adds
its table to summary.json. An interrupted measurement continues.
"""

import hashlib
import json
import math
import re
import shlex
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import scipy
import torch
from accelerate.utils.memory import should_reduce_batch_size
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.folders import hide_paths, read_attributions, write_files
from common.statistics import MIN_INTERVAL_DOCUMENTS, percentile_interval

FRACTIONS = (0.05, 0.1, 0.2, 0.5)
RANKINGS = ("integrated gradients", "gradient x input", "random")
MEASURES = ("comprehensiveness", "sufficiency", "tau_leave_one_out", "infidelity")
WORD_SETS = 50  # random sets of words left out, for infidelity
MAX_CHARACTERS_PER_TOKEN = 4096  # as in run_attribution.py, of very long texts
RESAMPLES = 2000
NOTE = (
    "Comprehensiveness: probability of the target class lost without the words ranked first "
    "(larger is better). Sufficiency: probability lost with only these words (smaller is better). "
    "Both are averaged over 5, 10, 20 and 50 % of the words, replaced with PAD tokens. Tau: "
    "Kendall's rank correlation with leaving out single words. Infidelity: the share of the change "
    "of the logit without random sets of words that the sums of their scores, scaled to fit best, "
    "leave unexplained (0 to 1, smaller is better; random scores are positive, so their sums "
    "contain the number of words left out)."
)


@dataclass
class FaithfulnessArguments:
    """Arguments of the measurement."""

    attribution_dir: str = field(metadata={"help": "Folder that run_attribution.py wrote."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Default: the model of the attributions."}
    )
    model_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of the model on the Hub. Default: as recorded."},
    )
    max_samples: int = field(
        default=50, metadata={"help": "Maximum number of documents, the first ones."}
    )
    random_orders: int = field(
        default=20, metadata={"help": "Random rankings of each document, averaged."}
    )
    seed: int = field(
        default=42, metadata={"help": "Seed of the random rankings and of the bootstrap."}
    )
    internal_batch_size: int = field(
        default=64, metadata={"help": "Texts in a batch; halved when the memory does not suffice."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bar."})

    def __post_init__(self):
        for name in ("max_samples", "random_orders", "internal_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")


@dataclass
class Evaluator:
    """A classifier, the token that stands in the place of a word, and the number of texts in a
    batch.
    """

    model: torch.nn.Module
    pad_token_id: int
    batch_size: int
    evaluations: int = 0

    def __post_init__(self):
        base = self.model.base_model
        self.embedding_layer = getattr(base, "embeddings", None) or base.get_input_embeddings()

    def logits(self, ids: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return the logits (rows, classes) of ids (rows, tokens), which are text (tokens,) with
        PAD in some places.

        PAD stands for a word there, not for padding: only the embedding layer reads ids. Attention
        mask, positions and the token that a decoder classifies are those of text.
        """
        ids = ids.to(self.model.device)
        text = text.to(self.model.device).expand_as(ids)

        def change(value):
            same = (
                isinstance(value, torch.Tensor)
                and value.dtype == text.dtype
                and torch.equal(value, text)
            )
            return ids if same else value

        def substitute(module, args, kwargs):
            return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}

        # RoBERTa and its relatives count the positions of the tokens that are not PAD.
        position_embeddings = getattr(self.embedding_layer, "position_embeddings", None)
        padding = getattr(position_embeddings, "padding_idx", None)
        extra = {}
        if padding is not None:
            positions = torch.arange(len(text[0]), device=text.device) + padding + 1
            extra["position_ids"] = positions.expand_as(text)
        hook = self.embedding_layer.register_forward_pre_hook(substitute, with_kwargs=True)
        try:
            output = self.model(input_ids=text, attention_mask=torch.ones_like(text), **extra)
        finally:
            hook.remove()
        return output.logits.float()

    def explained(self, ids: torch.Tensor, document: dict) -> torch.Tensor:
        """Return the explained logit and its probability, (rows, 2), in double precision.

        With a class to compare with, they are the difference of the two logits and the probability
        of the target among the two classes.
        """
        logits = self.logits(ids, document["input_ids"])
        target, versus = document["target_id"], document["versus_id"]
        if versus is None:
            return torch.stack([logits[:, target], logits.softmax(1)[:, target]], 1).double()
        difference = logits[:, target] - logits[:, versus]
        return torch.stack([difference, difference.sigmoid()], 1).double()

    def without_words(self, document: dict, removed: np.ndarray) -> np.ndarray:
        """Return explained logit and probability, (rows, 2), without the words that removed (rows,
        words) marks.

        Equal rows are evaluated once. Running out of memory halves the batch size for good.
        """
        of_token = np.array([-1 if word is None else word for word in document["word_ids"]])
        unique, where = np.unique(removed, axis=0, return_inverse=True)
        gone = np.where(of_token >= 0, unique[:, of_token], False)
        ids = torch.where(torch.from_numpy(gone), self.pad_token_id, document["input_ids"])
        values = []
        while len(values) < len(ids):
            batch = ids[len(values) : len(values) + self.batch_size]
            try:
                with torch.no_grad():
                    values += self.explained(batch, document).tolist()
            except RuntimeError as error:
                if not should_reduce_batch_size(error) or len(batch) == 1:
                    raise
                self.batch_size = len(batch) // 2
        self.evaluations += len(ids)
        return np.array(values)[where.ravel()]

    def gradient_times_input(self, document: dict) -> np.ndarray:
        """Return scores (words,) of the simplest gradient method, grad F(x) * x in the embedding
        output.
        """
        captured = []

        def detach(module, inputs, output):
            captured.append(output.detach().requires_grad_(True))
            return captured[0]

        hook = self.embedding_layer.register_forward_hook(detach)
        explained = self.explained(document["input_ids"][None], document)[0, 0]
        hook.remove()
        (gradient,) = torch.autograd.grad(explained, captured[0])
        of_tokens = (gradient.double() * captured[0].detach().double()).sum(-1)[0].cpu().numpy()
        scores = np.zeros(len(document["words"]) + 1)  # the last one collects the special tokens
        np.add.at(
            scores, [-1 if word is None else word for word in document["word_ids"]], of_tokens
        )
        return scores[:-1]


def first_words(scores: np.ndarray) -> np.ndarray:
    """Return the words ranked first, at least one, of every fraction: (fractions, words)."""
    rank = np.empty(len(scores), int)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return np.stack([rank < math.ceil(fraction * len(scores)) for fraction in FRACTIONS])


def unexplained(scores: np.ndarray, removed: np.ndarray, lost: np.ndarray) -> float:
    """Return the infidelity of scores (words,), normalized: the share of the squares of lost
    (sets,) that the sums of the scores of the words in removed (sets, words), scaled to fit best,
    leave unexplained. NaN where nothing is lost.
    """
    sums = removed @ scores
    if not lost.any():
        return math.nan
    return max(0.0, 1 - (sums @ lost) ** 2 / ((sums @ sums) * (lost @ lost))) if sums.any() else 1.0


def measure(evaluator: Evaluator, document: dict, orders: np.ndarray, removed: np.ndarray) -> dict:
    """Return the measures of every ranking of a document, {ranking: {measure: value}}; None where
    one is undefined.

    orders (n, words) are the random rankings, whose measures are averaged; removed (sets, words)
    marks the sets of words that infidelity leaves out.
    """
    words = len(document["words"])
    rankings = {
        "integrated gradients": np.array(document["word_attributions"])[None],
        "gradient x input": evaluator.gradient_times_input(document)[None],
        "random": orders,
    }

    # Every set of words that is left out, by name, evaluated in one pass: (sets, words)
    masks = {
        "nothing": np.zeros((1, words), bool),
        "single words": np.eye(words, dtype=bool),
        "random sets": removed,
    }
    for name, rows in rankings.items():
        first = np.concatenate([first_words(row) for row in rows])
        masks[f"{name}: first words"] = first
        masks[f"{name}: all but the first words"] = ~first
    values = evaluator.without_words(document, np.concatenate(list(masks.values())))
    ends = np.cumsum([len(mask) for mask in masks.values()])
    values = dict(zip(masks, np.split(values, ends[:-1]), strict=True))

    logit, probability = values["nothing"][0]
    lost = logit - values["single words"][:, 0]
    lost_of_sets = logit - values["random sets"][:, 0]
    measures = {}
    for name, rows in rankings.items():
        without = values[f"{name}: first words"][:, 1]
        only = values[f"{name}: all but the first words"][:, 1]
        taus = [math.nan]  # one word has no rank correlation
        if words > 1:
            taus = [scipy.stats.kendalltau(row, lost).statistic for row in rows]
        infidelities = [unexplained(row, removed, lost_of_sets) for row in rows]
        means = {
            "comprehensiveness": probability - without.mean(),
            "sufficiency": probability - only.mean(),
            "tau_leave_one_out": np.mean(taus),
            "infidelity": np.mean(infidelities),
        }
        measures[name] = {
            key: float(mean) if math.isfinite(mean) else None for key, mean in means.items()
        }
    return measures


def interval(values: list[float | None], generator: np.random.Generator) -> dict | None:
    """Return the mean over the documents and its 95 % percentile bootstrap interval; None without a
    defined value.

    low and high are None for fewer than MIN_INTERVAL_DOCUMENTS documents.
    """
    values = np.array([value for value in values if value is not None])
    if not len(values):
        return None
    low = high = None
    if len(values) >= MIN_INTERVAL_DOCUMENTS:
        draws = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
        low, high = percentile_interval(draws)
    return {"mean": float(values.mean()), "low": low, "high": high, "documents": len(values)}


def load_model(name: str, revision: str | None, batch_size: int) -> tuple:
    """Return the evaluator of a model and its tokenizer.

    Only safetensors are read, and no code in a folder runs. Exits with status 2 if it cannot be
    loaded, or if the tokenizer has neither PAD nor EOS.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:  # OSError, ValueError, and those of the Hub and of safetensors
        fail(
            f"cannot load the model {name} of the attributions: {one_line(error)}; "
            "give it as --model_name_or_path"
        )
    # GPT-2 and Llama have no PAD: EOS stands for it, as in the baseline of the attributions.
    pad_token_id = tokenizer.pad_token_id
    if pad_token_id is None:
        pad_token_id = tokenizer.eos_token_id
    if pad_token_id is None:
        fail(f"the tokenizer of {name} has neither PAD nor EOS to put in place of a word")
    if model.config.get_text_config().pad_token_id is None:  # with None, a decoder rejects batches
        model.config.get_text_config().pad_token_id = -1
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model.requires_grad_(False)
    model.eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Evaluator(model, pad_token_id, batch_size), tokenizer


def prepare(document: dict, evaluator: Evaluator, tokenizer, max_length: int) -> None:
    """Add input_ids, target_id and versus_id to the document. Exit with status 2 if it is of
    another model.

    Raises a LookupError, TypeError or ValueError if it is damaged.
    """
    name = evaluator.model.name_or_path
    label2id = evaluator.model.config.label2id
    scores = np.array(document["word_attributions"], float)
    words = len(document["words"])
    word_ids = document["word_ids"]
    if (
        scores.shape != (words,)
        or not np.isfinite(scores).all()
        or len(word_ids) != len(document["tokens"])
        or not set(word_ids) <= {None, *range(words)}
        or not math.isfinite(document["f_input"])
    ):
        raise ValueError("words, tokens and scores do not fit together")
    for label in filter(None, (document["target"], document.get("versus"))):
        if label not in label2id:
            fail(
                f"the model {name} has no class {label!r}, only "
                f"{', '.join(map(repr, label2id))}; give the model of the attributions"
            )
    # More of a book was not given to the tokenizer by run_attribution.py, either.
    text = document["text"][: MAX_CHARACTERS_PER_TOKEN * max_length]
    ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    if tokenizer.convert_ids_to_tokens(ids) != document["tokens"]:
        fail(
            f"{name} splits document {document['id']} into other tokens than those attributed; "
            "wrong model"
        )
    document["input_ids"] = torch.tensor(ids)
    document["target_id"] = label2id[document["target"]]
    document["versus_id"] = label2id.get(document.get("versus"))


def check_weights(evaluator: Evaluator, summary: dict) -> None:
    """Exit with status 2 if the model has other weights than the one that was attributed."""
    settings = summary.get("settings")
    expected = settings.get("weights_sha256") if isinstance(settings, dict) else None
    digest = hashlib.sha256()  # as in run_attribution.py
    for key, values in evaluator.model.state_dict().items():
        digest.update(key.encode() + values.cpu().numpy().tobytes())
    if expected is not None and digest.hexdigest() != expected:
        fail(
            f"{evaluator.model.name_or_path} has other weights than the model of the attributions: "
            "wrong model; give that one as --model_name_or_path, or run run_attribution.py again"
        )


def check_model(evaluator: Evaluator, document: dict) -> None:
    """Exit with status 2 if the model gives the document another logit than the attributed one."""
    with torch.no_grad():
        explained = evaluator.explained(document["input_ids"][None], document)[0, 0].item()
    name = evaluator.model.name_or_path
    expected = document["f_input"]
    # In bfloat16 it differs by a few percent.
    if not abs(explained - expected) <= 0.1 * max(1, abs(expected)):
        fail(
            f"{name} gives document {document['id']} the logit {explained:.4g}, "
            f"not {expected:.4g}; wrong model"
        )


def read_results(path: Path) -> list[dict]:
    """Return the results of an interrupted measurement, without a line that was cut."""
    if not path.exists():
        return []
    results = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if line:
                results.append(json.loads(line))
        except ValueError:
            break
    return results


def append_result(path: Path, result: dict) -> None:
    """Add the result of a document to a file. Exit with status 2 if that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    except OSError as error:
        fail(
            f"cannot write {path}: {error.strerror}; free some space, then the same command "
            "continues"
        )


def open_partial(folder: Path) -> None:
    """Make the folder of an interrupted measurement.

    Exit with status 2 if that fails or it is a link.
    """
    if folder.is_symlink():
        fail(f"{folder} is a link to another folder; remove it")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}")


def remove_partial(folder: Path) -> None:
    """Remove the files of interrupted measurements, and no others."""
    try:
        for path in folder.iterdir():
            if re.fullmatch(r"[0-9a-f]{16}\.jsonl(\.tmp)?", path.name):
                path.unlink()
        folder.rmdir()
    except OSError:
        pass  # the results are complete without it


def summarize(results: list[dict], seed: int) -> dict:
    """Return mean and interval of every measure of every ranking, and of the difference from random
    rankings.
    """
    generator = np.random.default_rng(seed)
    table = {
        ranking: {
            name: interval([result[ranking][name] for result in results], generator)
            for name in MEASURES
        }
        for ranking in RANKINGS
    }
    differences = {}
    for name in MEASURES:
        pairs = [
            (result["integrated gradients"][name], result["random"][name]) for result in results
        ]
        values = [None if None in pair else pair[0] - pair[1] for pair in pairs]
        differences[name] = interval(values, generator)
    return table | {"integrated gradients minus random": differences}


def main() -> None:
    # 1. Arguments, attributions
    logger = start_logging()
    (arguments,) = parse_arguments(__doc__, FaithfulnessArguments)
    folder = Path(arguments.attribution_dir)
    documents, summary = read_attributions(folder)
    documents = [document for document in documents[: arguments.max_samples] if document["words"]]
    if not documents:
        fail(f"{folder} has no document with words; attribute a model with a fast tokenizer")

    # 2. Model and tokenizer
    try:
        recorded, max_length, run = summary["arguments"], summary["max_seq_length"], summary["run"]
        name = arguments.model_name_or_path or recorded["model_name_or_path"]
    except (KeyError, TypeError) as error:
        fail(f"{folder / 'summary.json'} is damaged (no {error}); run run_attribution.py again")
    revision = arguments.model_revision
    if revision is None and arguments.model_name_or_path is None:
        revision = summary.get("model_commit") or recorded.get("model_revision")
    evaluator, tokenizer = load_model(name, revision, arguments.internal_batch_size)
    placed = "PAD" if tokenizer.pad_token_id is not None else "EOS"
    if placed == "EOS":
        logger.info("the tokenizer has no PAD: its EOS %r replaces words", tokenizer.eos_token)
    for document in documents:
        try:
            prepare(document, evaluator, tokenizer, max_length)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            fail(
                f"document {document['id']} of {folder} is damaged ({one_line(error)}); "
                "run run_attribution.py again"
            )
    check_weights(evaluator, summary)
    check_model(evaluator, documents[0])

    # 3. Measures of every document; those that an interrupted call measured are kept
    # The name of their file stands for all that they depend on.
    scores = [[document["id"], document["word_attributions"]] for document in documents]
    basis = [run, name, revision, arguments.random_orders, arguments.seed, scores]
    key = hashlib.sha256(json.dumps(basis).encode())
    partial = folder / "partial-faithfulness" / f"{key.hexdigest()[:16]}.jsonl"
    open_partial(partial.parent)
    results = read_results(partial)[: len(documents)]
    if results:
        logger.info("%d of %d documents are measured already", len(results), len(documents))
    # Without the line that was being written when the call was interrupted
    kept = "".join(json.dumps(result) + "\n" for result in results)
    write_files(partial.parent, {partial.name: kept})
    for number in tqdm(
        range(len(results), len(documents)),
        total=len(documents),
        initial=len(results),
        unit="document",
        disable=arguments.disable_tqdm,
    ):
        start = time.perf_counter()
        document = documents[number]
        words = len(document["words"])
        generator = np.random.default_rng([arguments.seed, number])
        orders = generator.random((arguments.random_orders, words))
        # From almost no word to almost all: a share is drawn for each set, then its words.
        shares = generator.random((WORD_SETS, 1))
        removed = generator.random((WORD_SETS, words)) < shares
        evaluator.evaluations = 0
        result = measure(evaluator, document, orders, removed)
        result["forward_evaluations"] = evaluator.evaluations
        result["seconds"] = time.perf_counter() - start
        results.append(result)
        append_result(partial, result)

    # 4. Means and intervals
    table = summarize(results, arguments.seed)
    few = len(results) < MIN_INTERVAL_DOCUMENTS
    intervals = "" if few else " with 95 % bootstrap intervals"
    note = NOTE if placed == "PAD" else NOTE.replace("PAD tokens", "EOS tokens (there is no PAD)")
    content = {
        "script": Path(__file__).name,
        "rankings": table,
        "note": f"Means over {len(results)} documents{intervals}. {note}",
        "per_document": [
            {"id": document["id"], "target": document["target"]}
            | {name: result[name] for name in RANKINGS}
            for document, result in zip(documents, results, strict=True)
        ],
        "forward_evaluations": sum(result["forward_evaluations"] for result in results),
        "gradient_evaluations": len(results),
        "seconds": sum(result["seconds"] for result in results),
        "arguments": {
            key: hide_paths(v) if isinstance(v, str) else v for key, v in asdict(arguments).items()
        },
        "versions": versions("torch", "transformers", "scipy", "numpy"),
        "run": run,
    }
    parts = {"faithfulness.json": content, "summary.json": summary | {"faithfulness": table}}
    texts = {
        file: json.dumps(part, ensure_ascii=False, indent=2, allow_nan=False)
        for file, part in parts.items()
    }
    write_files(folder, {file: text + "\n" for file, text in texts.items()})
    remove_partial(partial.parent)
    for ranking, cells in table.items():
        shown = ", ".join(
            f"{measure} {cell['mean']:.3f}" for measure, cell in cells.items() if cell
        )
        logger.info("%s: %s", ranking, shown)
    logger.info(
        "next: python tools/render_attributions.py --attribution_dir %s", shlex.quote(str(folder))
    )


if __name__ == "__main__":
    main()
