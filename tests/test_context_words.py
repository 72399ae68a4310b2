"""tools/context/words.py and the choice of phrases."""

import numpy as np

from context.phrases import typical_phrases
from context.words import (
    MIN_GAP,
    move_apart,
    occurrences,
    shuffle,
    span_starts,
    without_overlap,
)


def test_shuffle_keeps_words_and_blocks():
    words = [str(number) for number in range(23)]
    for size in (1, 2, 5, 30):
        shuffled = shuffle(words, size, [1, 2])
        assert sorted(shuffled) == sorted(words)
        for start in range(0, 23, size):
            assert " ".join(words[start : start + size]) in " ".join(shuffled)
        assert (shuffled == words) == (size == 30)


def test_sentences_are_shuffled_whole():
    text = "We prove A. It holds, e.g. for B. What of C? The end."
    sentences = {"We prove A.", "It holds, e.g. for B.", "What of C?", "The end."}
    orders = set()
    for seed in range(200):
        orders.add(" ".join(shuffle(text.split(), "sentence", [seed])))
    assert len(orders) == 24  # every order of four sentences
    for order in orders:
        assert all(sentence in order for sentence in sentences)


def test_phrases_are_found():
    words = "We study the unit disk, unit disk. Every Unit Disk (unit) disk".split()
    expected = ["We", "study", "the", "unit", "unit", "Every", "Unit", "Disk", "(unit)"]
    assert [words[start] for start in span_starts(words, 2)] == expected
    assert occurrences(words, ["unit", "disk"]) == [3, 5, 8, 10]
    assert occurrences(["a", "a", "a", "a", "a"], ["a", "a"]) == [0, 2]  # without overlap


def test_words_of_a_phrase_are_moved_apart():
    words = "We study the unit disk, unit disk. Every Unit Disk (unit) disk".split()
    generator = np.random.default_rng(0)
    places = set()
    for _ in range(1500):
        moved, ((unit,), (disk,)) = move_apart(words, [[3], [4]], generator)
        assert sorted(moved) == sorted(words)
        assert (moved[unit], moved[disk]) == ("unit", "disk,")
        others = [word for place, word in enumerate(moved) if place not in (unit, disk)]
        assert others == words[:3] + words[5:]
        assert abs(unit - disk) > MIN_GAP
        places.add((unit, disk))
    assert len(places) == 9 * 8  # every pair of places that far apart, in both orders
    assert move_apart(words[:4], [[0], [1], [2]], generator) is None


def test_all_occurrences_of_a_phrase_are_moved():
    generator = np.random.default_rng(0)
    moved, groups = move_apart(list("abcdefabijklmnopqr"), [[0, 6], [1, 7]], generator)
    letters = [[moved[place] for place in group] for group in groups]
    assert letters == [["a", "a"], ["b", "b"]]
    assert min(np.diff(sorted(np.ravel(groups)))) > MIN_GAP


def test_phrases_do_not_overlap():
    ranked = ["unit disk", "the unit disk", "disk", "unit", "floer theory", "ball"]
    assert without_overlap(ranked, 2) == ["unit disk", "floer theory"]
    assert without_overlap(ranked, 9) == ["unit disk", "floer theory", "ball"]
    assert without_overlap(ranked, 0) == []


def test_typical_phrases_are_those_of_a_class():
    texts = []
    for number in range(20):
        phrase = "unit disk" if number % 2 else "floer theory"
        texts.append(f"some common words and {phrase} here now".split())
    labels = [number % 2 for number in range(20)]
    assert set(typical_phrases(texts, labels)[:2]) == {"unit disk", "floer theory"}
    assert typical_phrases([["a", "b"], ["a", "b"]], [0, 1]) == []
