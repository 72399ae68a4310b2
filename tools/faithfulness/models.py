"""The attributed model: loaded, checked against its attributions, evaluated without some words."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.cli import fail, one_line

MAX_CHARACTERS_PER_TOKEN = 4096  # as in run_attribution.py, of very long texts


@dataclass
class Evaluator:
    """A classifier, the token that stands in the place of a word, and the number of texts in a
    batch.
    """

    model: torch.nn.Module
    pad_token_id: int
    batch_size: int
    forward_evaluations: int = 0
    gradient_evaluations: int = 0

    def __post_init__(self):
        base = self.model.base_model
        self.embedding_layer = getattr(base, "embeddings", None) or base.get_input_embeddings()

    def reset(self) -> None:
        """Begin to count evaluations again."""
        self.forward_evaluations = 0
        self.gradient_evaluations = 0

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
        # Without PAD, a decoder rejects batches.
        has_pad = self.model.config.get_text_config().pad_token_id is not None
        hook = self.embedding_layer.register_forward_pre_hook(substitute, with_kwargs=True)
        try:
            with nullcontext() if has_pad else last_token_pooled(self.model):
                output = self.model(input_ids=text, attention_mask=torch.ones_like(text), **extra)
        finally:
            hook.remove()
        return output.logits.float()

    def explained(self, ids: torch.Tensor, document: dict) -> torch.Tensor:
        """Return the explained logit and its probability, (rows, 2), in double precision."""
        return self.explain_logits(self.logits(ids, document["input_ids"]), document)

    def explain_logits(self, logits: torch.Tensor, document: dict) -> torch.Tensor:
        """Return the explained logit and its probability, (rows, 2), of logits (rows, classes).

        With a class to compare with, they are the difference of the two logits and the probability
        of the target among the two classes. Of several labels, each has its own probability.
        """
        target, versus = document["target_id"], document["versus_id"]
        if versus is not None:
            difference = logits[:, target] - logits[:, versus]
            return torch.stack([difference, difference.sigmoid()], 1).double()
        if self.model.config.problem_type == "multi_label_classification":
            probability = logits[:, target].sigmoid()
        else:
            probability = logits.softmax(1)[:, target]
        return torch.stack([logits[:, target], probability], 1).double()

    def in_batches(self, compute: Callable[[int], object]) -> object:
        """Return compute(batch_size). Running out of memory halves the batch size for good."""
        while True:
            try:
                return compute(self.batch_size)
            except RuntimeError as error:
                if not should_reduce_batch_size(error) or self.batch_size == 1:
                    raise
                self.batch_size //= 2

    def evaluate(self, ids: torch.Tensor, text: torch.Tensor, document: dict) -> np.ndarray:
        """Return explained logit and probability, (rows, 2), of ids (rows, tokens), which are text,
        (rows, tokens), with other tokens in some places.
        """
        values = []

        def evaluate_next(batch_size: int) -> list:
            rows = slice(len(values), len(values) + batch_size)
            with torch.no_grad():
                return self.explain_logits(self.logits(ids[rows], text[rows]), document).tolist()

        while len(values) < len(ids):
            values += self.in_batches(evaluate_next)
        self.forward_evaluations += len(ids)
        return np.array(values)

    def without_words(
        self, document: dict, removed: np.ndarray, token_id: int | None = None
    ) -> np.ndarray:
        """Return explained logit and probability, (rows, 2), without the words that removed (rows,
        words) marks; a token (default: PAD) stands for each of their tokens.

        Equal rows are evaluated once.
        """
        unique, where = np.unique(removed, axis=0, return_inverse=True)
        gone = removed_tokens(document, unique)
        placed = self.pad_token_id if token_id is None else token_id
        ids = torch.where(torch.from_numpy(gone), placed, document["input_ids"])
        text = document["input_ids"].expand_as(ids)
        return self.evaluate(ids, text, document)[where.ravel()]

    def with_words_deleted(self, document: dict, removed: np.ndarray) -> np.ndarray:
        """Return explained logit and probability, (rows, 2), of the text without the tokens of the
        words that removed (rows, words) marks: what is left moves together.

        NaN where no token is left. Equal rows are evaluated once, rows of equal length together, so
        that no padding is needed.
        """
        unique, where = np.unique(removed, axis=0, return_inverse=True)
        gone = removed_tokens(document, unique)
        lengths = (~gone).sum(1)
        values = np.full((len(unique), 2), math.nan)
        for length in np.unique(lengths[lengths > 0]):
            rows = np.flatnonzero(lengths == length)
            left = torch.stack([document["input_ids"][~gone[row]] for row in rows])
            values[rows] = self.evaluate(left, left, document)
        return values[where.ravel()]

    def probabilities(self, ids: torch.Tensor, text: torch.Tensor) -> dict[str, float]:
        """Return the probability of every class of ids (tokens,), which are text (tokens,) with
        other tokens in some places.
        """
        with torch.no_grad():
            logits = self.logits(ids[None], text)[0].double()
        self.forward_evaluations += 1
        is_multi_label = self.model.config.problem_type == "multi_label_classification"
        probabilities = logits.sigmoid() if is_multi_label else logits.softmax(0)
        names = self.model.config.id2label
        return {names[number]: float(value) for number, value in enumerate(probabilities)}


@contextmanager
def last_token_pooled(model: PreTrainedModel) -> Iterator[None]:
    """Let a decoder pool the last token, whichever it is, until the block ends.

    No token is PAD then for the head, which pools; below it, in the base model, PAD stays what it
    is.
    """
    config = model.config.get_text_config()
    pad_token_id = config.pad_token_id

    def set_pad(token_id: int | None) -> Callable:
        return lambda *call: setattr(config, "pad_token_id", token_id)

    handles = []
    if model.base_model is not model:
        handles = [
            model.base_model.register_forward_pre_hook(set_pad(pad_token_id)),
            model.base_model.register_forward_hook(set_pad(-1)),
        ]
    config.pad_token_id = -1
    try:
        yield
    finally:
        config.pad_token_id = pad_token_id
        for handle in handles:
            handle.remove()


def config_digest(config: PretrainedConfig) -> str:
    """Return the SHA-256 of what a config.json says of a model, without its path and versions.

    Defaults do not count, as another version of transformers may have more of them.
    """
    content = config.to_diff_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        content.pop(key, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def removed_tokens(document: dict, removed: np.ndarray) -> np.ndarray:
    """Return the tokens (rows, tokens) of the words that removed (rows, words) marks."""
    of_token = np.array([-1 if word is None else word for word in document["word_ids"]])
    return np.where(of_token >= 0, removed[:, of_token], False)


def of_words(document: dict, of_tokens: np.ndarray) -> np.ndarray:
    """Return the sums of the scores of tokens over words, (words,); special tokens do not count."""
    scores = np.zeros(len(document["words"]) + 1)  # the last one collects the special tokens
    np.add.at(scores, [-1 if word is None else word for word in document["word_ids"]], of_tokens)
    return scores[:-1]


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
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model.requires_grad_(False)
    model.eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Evaluator(model, pad_token_id, batch_size), tokenizer


def baseline_token_id(summary: dict, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token of the baseline text of the attributions; None where it is no token.

    Exits with status 2 if the tokenizer lacks it.
    """
    baseline = str(summary.get("baseline") or "PAD").lower()
    if baseline not in ("pad", "mask", "eos"):  # a point in the space of embeddings
        return None
    token_id = getattr(tokenizer, f"{baseline}_token_id")
    if token_id is None:
        fail(
            f"the attributions have the baseline {baseline.upper()}, a token that the tokenizer of "
            f"{tokenizer.name_or_path} lacks; give the model of the attributions"
        )
    return token_id


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
    """Exit with status 2 if the model has other weights than the one that was attributed.

    The same for another config.json, which folders of version 0.2 do not record.
    """
    settings = summary.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    expected = settings.get("weights_sha256")
    digest = hashlib.sha256()  # as in run_attribution.py
    for key, values in evaluator.model.state_dict().items():
        digest.update(key.encode() + values.cpu().numpy().tobytes())
    if expected is not None and digest.hexdigest() != expected:
        fail(
            f"{evaluator.model.name_or_path} has other weights than the model of the attributions: "
            "wrong model; give that one as --model_name_or_path, or run run_attribution.py again"
        )
    expected = settings.get("config_sha256")
    if expected is not None and config_digest(evaluator.model.config) != expected:
        fail(
            f"{evaluator.model.name_or_path} has another config.json than the model of the "
            "attributions; give that one as --model_name_or_path, or run run_attribution.py again"
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
