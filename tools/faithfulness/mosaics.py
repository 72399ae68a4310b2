"""Mosaics: texts of the sentences of two documents of different classes. Their answer is known.

The logit of one of the two classes is attributed. What speaks for that class should be found in
the sentences of that class, so the score of a method is the share of its positive attribution that
falls there. Attributions that know nothing would get the share of the words there, the chance
level. (Arias-Duart et al., "Focus! Rating XAI methods and finding biases", FUZZ-IEEE 2022, for
images; TextFocus for texts.)
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from common.cli import fail

MIN_MOSAICS = 10
# A sentence ends with ., ! or ?, before a word that does not begin with a small letter.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])")


@dataclass
class Half:
    """The sentences of a document that a mosaic can hold."""

    id: str
    label: str
    text: str


@dataclass
class Mosaic:
    """Two halves in the order in which they stand, and the place (0 or 1) of the explained one."""

    halves: tuple[Half, Half]
    place: int

    @property
    def target(self) -> str:
        """The class that is explained."""
        return self.halves[self.place].label


def first_sentences(
    text: str, n_sentences: int, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> str:
    """Return at most n_sentences whole sentences of a text, from its beginning, that fit into
    max_tokens; empty if not even the first one does.
    """
    chosen = ""
    for sentence in SENTENCE_END.split(text.strip())[:n_sentences]:
        longer = f"{chosen} {sentence}".strip()
        # The second half of a mosaic follows a blank, which many tokenizers make part of a token.
        alone, after_blank = (
            tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in (longer, f" {longer}")
        )
        if max(len(alone), len(after_blank)) > max_tokens:
            break
        chosen = longer
    return chosen


def count_pairs(halves: list[Half]) -> int:
    """Return how many pairs of different classes can be made with every half in at most one."""
    sizes = Counter(half.label for half in halves)
    total = sum(sizes.values())
    return min(total // 2, total - max(sizes.values(), default=0))


def choose_halves(
    documents: Iterable[dict],
    n_mosaics: int,
    predict: Callable[[dict], str],
    cut: Callable[[str], str],
) -> list[Half]:
    """Return halves of the documents that are predicted rightly, until they suffice.

    documents have id, text and label.
    """
    halves = []
    for document in documents:
        if count_pairs(halves) >= n_mosaics:
            break
        text = cut(document["text"])
        if text and isinstance(document["label"], str) and predict(document) == document["label"]:
            halves.append(Half(document["id"], document["label"], text))
    return halves


def pair_halves(halves: list[Half], n_mosaics: int, seed: int) -> list[Mosaic]:
    """Return at most n_mosaics mosaics, every half in at most one.

    One half is of the class with most halves left, so that as many pairs as possible can be made;
    the other is any half of another class.
    """
    generator = np.random.default_rng([seed, 1])
    left = defaultdict(list)
    for half in halves:
        left[half.label].append(half)
    mosaics = []
    while len(mosaics) < n_mosaics and len(left) > 1:
        largest = max(map(len, left.values()))
        label = str(generator.choice(sorted(name for name in left if len(left[name]) == largest)))
        others = [half for name in sorted(left) if name != label for half in left[name]]
        other = others[generator.integers(len(others))]
        pair = [left[label].pop(0), other]
        left[other.label].remove(other)
        for name in (label, other.label):
            if not left[name]:
                del left[name]
        first, place = generator.integers(2, size=2)
        mosaics.append(Mosaic((pair[first], pair[1 - first]), int(place)))
    return mosaics


def make_mosaics(halves: list[Half], n_mosaics: int, seed: int, source: str) -> list[Mosaic]:
    """Return the mosaics. Exit with status 2 if there are fewer than MIN_MOSAICS."""
    mosaics = pair_halves(halves, n_mosaics, seed)
    if len(mosaics) < MIN_MOSAICS:
        fail(
            f"only {len(mosaics)} mosaics are possible with {source}: {len(halves)} documents are "
            f"usable (with a class, predicted rightly, sentences that fit), each in one mosaic of "
            f"two classes; {MIN_MOSAICS} are needed; give more documents by --dataset_name"
        )
    return mosaics


def encode(
    mosaic: Mosaic, prefix: str, label2id: dict[str, int], tokenizer: PreTrainedTokenizerBase
) -> dict:
    """Return a mosaic as a document: words are what blanks separate.

    in_target (words,) marks the words of the explained half, in_halves those of both; the prefix
    of all texts belongs to none.
    """
    first, second = (half.text for half in mosaic.halves)
    text = f"{prefix}{first} {second}"
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    starts = np.array([start for start, _ in spans])
    encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    word_ids = []
    for (start, end), special in zip(
        encoding["offset_mapping"], encoding["special_tokens_mask"], strict=True
    ):
        # A token may begin with the blank before its word, and one without characters (▁) is of
        # the next word.
        last = end - 1 if end > start else start
        word = int(np.searchsorted(starts, last, "right")) - 1
        word_ids.append(None if special else max(word, 0))
    border = len(prefix) + len(first)
    halves = np.where(starts < len(prefix), -1, starts >= border)
    return {
        "words": [text[start:end] for start, end in spans],
        "word_ids": word_ids,
        "input_ids": torch.tensor(encoding["input_ids"]),
        "target_id": label2id[mosaic.target],
        "versus_id": None,
        "in_target": halves == mosaic.place,
        "in_halves": halves >= 0,
    }


def chance_level(document: dict) -> float:
    """Return the share of the words that are in the explained half."""
    return float(document["in_target"].sum() / document["in_halves"].sum())


def score(scores: np.ndarray, document: dict) -> float | None:
    """Return the share of the positive attribution, of scores (words,), in the explained half.

    None if there is no positive attribution.
    """
    positive = np.clip(scores, 0, None)
    total = positive[document["in_halves"]].sum()
    return float(positive[document["in_target"]].sum() / total) if total > 0 else None
