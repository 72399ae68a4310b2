"""Words and phrases of a text: normalized, shuffled, found, moved apart."""

import re
from itertools import pairwise

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

SENTENCE = "sentence"
MIN_GAP = 3  # words between the words of a phrase that are moved apart


def normalize(word: str) -> str:
    """Return a word in lower case without punctuation around it; empty if there is nothing else."""
    return re.sub(r"^\W+|\W+$", "", word).lower()


def normalize_phrase(phrase: str) -> str:
    """Return a phrase as its normalized words."""
    words = [normalize(word) for word in phrase.split()]
    return " ".join(word for word in words if word)


def sentence_starts(words: list[str]) -> list[int]:
    """Return the numbers of the words that begin a sentence, without the first word.

    A sentence ends with ., ! or ?, possibly in quotes or brackets, before a word that does not
    begin with a small letter: "e.g. for" does not end one.
    """
    starts = []
    for position in range(1, len(words)):
        ends = re.search(r"[.!?][)\]'\"”’]*$", words[position - 1])
        if ends and re.match(r"[^a-z]", words[position]):
            starts.append(position)
    return starts


def shuffle(words: list[str], size: int | str, seed: list[int]) -> list[str]:
    """Return the words with their blocks in random order.

    Blocks are of size words, or sentences; they stay intact.
    """
    if size == SENTENCE:
        edges = [0, *sentence_starts(words), len(words)]
    else:
        edges = [*range(0, len(words), size), len(words)]
    blocks = [words[start:stop] for start, stop in pairwise(edges)]
    shuffled = []
    for block in np.random.default_rng(seed).permutation(len(blocks)):
        shuffled += blocks[block]
    return shuffled


def span_starts(words: list[str], size: int) -> list[int]:
    """Return the starts of all spans of size words with no punctuation between them."""
    joined = []  # whether a word can be followed by another one of the same span
    for word in words:
        joined.append(bool(normalize(word)) and not re.search(r"[.,;:!?]$", word))
    starts = []
    for start in range(len(words) - size + 1):
        last = start + size - 1
        if all(joined[start:last]) and normalize(words[last]):
            starts.append(start)
    return starts


def occurrences(words: list[str], phrase: list[str]) -> list[int]:
    """Return the starts of all occurrences of a phrase, given as normalized words.

    Occurrences do not overlap.
    """
    starts = []
    for start in span_starts(words, len(phrase)):
        span = [normalize(word) for word in words[start : start + len(phrase)]]
        if span == phrase and (not starts or start >= starts[-1] + len(phrase)):
            starts.append(start)
    return starts


def ngrams(words: list[str], sizes: range) -> list[str]:
    """Return all n-grams of these sizes, normalized.

    They have no punctuation inside and no function word at either end.
    """
    phrases = []
    for size in sizes:
        for start in span_starts(words, size):
            ngram = [normalize(word) for word in words[start : start + size]]
            if not {ngram[0], ngram[-1]} & ENGLISH_STOP_WORDS:
                phrases.append(" ".join(ngram))
    return phrases


def without_overlap(ranked: list[str], n: int) -> list[str]:
    """Return the first n phrases, leaving out each that contains, or is part of, one before it."""
    chosen = []
    for phrase in ranked:
        overlaps = False
        for other in chosen:
            if f" {phrase} " in f" {other} " or f" {other} " in f" {phrase} ":
                overlaps = True
        if not overlaps:
            chosen.append(phrase)
        if len(chosen) == n:
            break
    return chosen[:n]


def move_apart(
    words: list[str], groups: list[list[int]], generator: np.random.Generator
) -> tuple[list[str], list[list[int]]] | None:
    """Move the words of all groups of positions elsewhere, with MIN_GAP or more others between.

    Returns the words in the new order and the new positions of each group; all other words keep
    their order. None if the text is too short. Every choice of positions that far apart is equally
    likely.
    """
    positions = [position for group in groups for position in group]
    others = [word for position, word in enumerate(words) if position not in positions]
    # Gaps between the other words, after which a moved word can stand. Choosing positions that are
    # MIN_GAP apart is choosing any positions after the gaps in between were taken out, and then
    # putting the gaps back.
    spared = MIN_GAP - 1
    free = len(others) + 1 - (len(positions) - 1) * spared
    if free < len(positions):
        return None
    chosen = generator.choice(free, len(positions), replace=False)
    gaps = np.sort(chosen) + np.arange(len(positions)) * spared
    order = generator.permutation(np.array(positions)).tolist()
    # From the last gap to the first, so that an insertion does not move the gaps that follow.
    for gap, position in zip(gaps[::-1], order[::-1], strict=True):
        others.insert(gap, words[position])
    new_positions = (gaps + np.arange(len(positions))).tolist()
    moved = dict(zip(order, new_positions, strict=True))
    return others, [[moved[position] for position in group] for group in groups]
