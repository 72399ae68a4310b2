"""Phrases: does a phrase contribute more than its words, other spans, or its words moved apart?"""

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.feature_selection import chi2
from tqdm import tqdm

from common.cli import fail
from common.folders import read_attributions
from common.pages import p_cell, p_text, plain
from common.statistics import ALPHA, add_holm, mean_interval
from context.documents import Documents, read_documents
from context.models import Cache, Run, join_tokens
from context.results import Evaluation, Measurement, Section, Summary, Table
from context.significance import mean_tests
from context.text import COLORS, interval, number, verdict
from context.words import (
    move_apart,
    ngrams,
    normalize,
    normalize_phrase,
    occurrences,
    span_starts,
    without_overlap,
)

logger = logging.getLogger(__name__)

NAME = "phrases"
TITLE = "Phrases"
MIN_CHOICE_DOCUMENTS = 3  # that contain a phrase, where phrases are chosen
MIN_PHRASE_DOCUMENTS = 6  # with fewer, no test of their signs could reach p < 0.05
MAX_PHRASE_DOCUMENTS = 50  # in which a phrase is tested
PHRASE_WORDS = range(2, 5)  # length of the phrases that are taken from attributions
SHOWN_PHRASES = 12
SOURCES = {
    "given": "as given",
    "attributions": "strong n-grams in the attributions of other documents",
    "typical n-grams": "n-grams typical of a class in other documents",
}
CONTROLS = {
    "spans": "other neighboring words of the same documents",
    "moved": "the same words moved apart in the same documents",
}


# Which phrases


@dataclass
class Choice:
    """The phrases to test, in order."""

    source: str  # a key of SOURCES
    phrases: list[str]


def reason_to_leave_out(run: Run) -> str | None:
    """Return why a run cannot be tested; None if it can."""
    if run.kind == "svm":
        return "it needs an encoder"
    if run.pad_id is None:
        return f"the tokenizer of {run.name} has no padding token"
    if not any(run.joined):
        return f"the tokenizer of {run.name} does not split texts at blanks"
    return None


def choose_phrases(run: Run, documents: Documents, arguments) -> Choice:
    """Return the phrases of --phrases, or those that are strong or typical in other documents.

    Phrases are chosen on other documents than they are tested on: on the attributed documents that
    are not tested, or else on those of --phrase_split. Only the tested documents' number of
    occurrences matters.
    """
    if arguments.phrases:
        return Choice("given", [normalize_phrase(phrase) for phrase in arguments.phrases])
    attributed = []
    if arguments.attributions:
        tested = set(documents.ids)
        for document in read_attributions(Path(arguments.attributions[0]))[0]:
            if str(document["id"]) not in tested:
                attributed.append(document)
    if attributed:
        source = "attributions"
        ranked = attributed_phrases(attributed)
    elif arguments.phrase_split == arguments.split:
        fail(
            f"--phrase_split {arguments.split} is --split: choose phrases on other documents, "
            "or give --phrases"
        )
    else:
        source = "typical n-grams"
        others = read_documents(
            arguments.dataset_name,
            arguments.dataset_revision,
            arguments.phrase_split,
            arguments.max_samples,
        )
        ranked = typical_phrases(others.words(run.text_columns, run.delimiter), others.labels)
    frequency = Counter()
    for words in run.words:
        frequency.update(set(ngrams(words, PHRASE_WORDS)))
    ranked = [phrase for phrase in ranked if frequency[phrase] >= MIN_PHRASE_DOCUMENTS]
    return Choice(source, without_overlap(ranked, arguments.n_phrases))


def typical_phrases(texts: list[list[str]], labels: list[int]) -> list[str]:
    """Return bigrams and trigrams of texts, given as words.

    The first ones depend most on the class (chi-squared of their presence).
    """
    counter = CountVectorizer(
        analyzer=lambda words: ngrams(words, range(2, 4)), min_df=MIN_CHOICE_DOCUMENTS
    )
    try:
        present = counter.fit_transform(texts) > 0
    except ValueError:  # no phrase is in so many documents
        return []
    order = np.argsort(-chi2(present, labels)[0], kind="stable")
    return counter.get_feature_names_out()[order].tolist()


def attributed_phrases(documents: list[dict]) -> list[str]:
    """Return n-grams of words with positive attributions.

    Those with the largest attribution over documents come first. Attributions are divided by the
    absolute sum of their document.
    """
    strength = defaultdict(float)
    for document in documents:
        words = [normalize(word) for word in document["words"]]
        scores = np.array(document["word_attributions"])
        scores = scores / (np.abs(scores).sum() or 1)
        for size in PHRASE_WORDS:
            for start in range(len(words) - size + 1):
                ngram = words[start : start + size]
                share = scores[start : start + size]
                if not all(ngram) or min(share) <= 0:
                    continue
                if {ngram[0], ngram[-1]} & ENGLISH_STOP_WORDS:
                    continue
                strength[" ".join(ngram)] += share.sum()
    return sorted(strength, key=lambda phrase: (-strength[phrase], phrase))


# Evaluation


@dataclass
class Arrangement:
    """A text with a phrase or a control: words that are masked together and one by one."""

    document: int
    kind: str  # phrase, spans (other neighboring words) or moved (the phrase's words moved apart)
    words: list[str]
    groups: list[list[int]]  # the places of each word, one for each occurrence of the phrase


def evaluate(runs: list[Run], documents: Documents, arguments, cache: Cache) -> Evaluation:
    """Evaluate the first run on texts in which phrases, their words and controls are masked.

    Exits with status 2 if --phrases cannot be tested or are not in the documents.
    """
    run = runs[0]
    record = {"source": "given", "phrases": [], "not_found": [], "left_out": []}
    reason = reason_to_leave_out(run)
    if reason is None and not (arguments.n_phrases or arguments.phrases):
        reason = "--n_phrases is 0"
    if reason and arguments.phrases:
        fail(f"--phrases cannot be tested: {reason}")
    if reason:
        record["left_out"].append(f"The phrase test is left out: {reason}.")
        return Evaluation(record)

    choice = choose_phrases(run, documents, arguments)
    record["source"] = choice.source
    predictions = cache.predictions(run)
    with tqdm(total=0, desc="phrases", unit="text", disable=arguments.disable_tqdm) as bar:
        for phrase in choice.phrases:
            by_document = evaluate_phrase(run, phrase, predictions, arguments, cache, bar)
            if by_document:
                record["phrases"].append({"phrase": phrase, "occurrences": by_document})
            else:
                record["not_found"].append(phrase)
    if record["not_found"]:
        names = ", ".join(repr(phrase) for phrase in record["not_found"])
        message = f"not in the {len(documents.ids)} documents: {names}"
        if choice.source == "given" and not record["phrases"]:
            fail(f"--phrases are {message}; give others")
        logger.warning(message)
    if not record["phrases"]:
        record["left_out"].append(
            f"The phrase test is left out: no phrase is in {MIN_PHRASE_DOCUMENTS} documents."
        )
    return Evaluation(record)


def word_positions(starts: list[int], size: int) -> list[list[int]]:
    """Return the positions of each word of a phrase of size words, given where it starts."""
    groups = []
    for offset in range(size):
        groups.append([start + offset for start in starts])
    return groups


def arrange_phrase(run: Run, phrase: str, arguments) -> list[Arrangement]:
    """Return the texts of the phrase test.

    Each document has the phrase first, then its controls: other neighboring words, with all their
    occurrences, and the text with all words of the phrase moved apart.
    """
    target = phrase.split()
    size = len(target)
    with_phrase = []
    for document, words in enumerate(run.words):
        starts = occurrences(words, target) if run.joined[document] else []
        if starts:
            with_phrase.append((document, starts))
    with_phrase = with_phrase[:MAX_PHRASE_DOCUMENTS]
    # Controls of each kind in each document, rounded up
    controls = -(-arguments.n_controls // (2 * max(1, len(with_phrase))))
    arrangements = []
    for document, starts in with_phrase:
        words = run.words[document]
        own = word_positions(starts, size)
        arrangements.append(Arrangement(document, "phrase", words, own))
        generator = np.random.default_rng([arguments.seed, document, *phrase.encode()])
        others = []
        for start in span_starts(words, size):
            if all(abs(start - own_start) >= size for own_start in starts):
                others.append(start)
        for start in generator.permutation(others)[:controls].tolist():
            span = [normalize(word) for word in words[start : start + size]]
            positions = word_positions(occurrences(words, span), size)
            arrangements.append(Arrangement(document, "spans", words, positions))
        for _ in range(controls):
            moved = move_apart(words, own, generator)
            if moved is not None:
                arrangements.append(Arrangement(document, "moved", *moved))
    return arrangements


def masks(arrangement: Arrangement) -> dict[object, frozenset[int]]:
    """Return which positions are masked in each of the texts of which the synergy is made.

    The keys are "whole" (nothing is masked), "nothing" (all words of the phrase are), ("alone",
    word) and, for phrases, ("without", word) with the number of a word.
    """
    everything = frozenset(position for group in arrangement.groups for position in group)
    masked = {"whole": frozenset(), "nothing": everything}
    for word, group in enumerate(arrangement.groups):
        masked["alone", word] = everything - set(group)
    if arrangement.kind == "phrase":
        for word, group in enumerate(arrangement.groups):
            masked["without", word] = frozenset(group)
    return masked


def evaluate_phrase(
    run: Run, phrase: str, predictions: np.ndarray, arguments, cache: Cache, bar: tqdm
) -> list[dict]:
    """Return the synergy of a phrase and of its controls, for each document that contains it.

    F is the logit of the predicted class; PAD replaces a word that is taken out, as in
    run_attribution.py, at all occurrences of the phrase. With v(T) = F(only T of the phrase is
    left) - F(nothing of it is left), the synergy is v(phrase) - sum of v(word): what the whole adds
    to its parts. For two words it is the second difference F(ij) - F(i) - F(j) + F(none), the term
    of the Shapley and Banzhaf interaction indices with all other words present (Grabisch & Roubens,
    Int. J. of Game Theory 28:547-565, 1999); for more, the sum of the Harsanyi dividends of all
    subsets of two words or more.
    """
    arrangements = arrange_phrase(run, phrase, arguments)
    keys = []
    inputs = []
    for index, arrangement in enumerate(arrangements):
        for key, masked in masks(arrangement).items():
            keys.append((index, key))
            inputs.append(join_tokens(run, arrangement.words, masked))
    if not inputs:
        return []
    bar.total += len(inputs)
    logits = dict(zip(keys, cache.evaluate(run, inputs, bar), strict=True))

    words = range(len(phrase.split()))
    by_document = []
    for index, arrangement in enumerate(arrangements):
        target = predictions[arrangement.document]
        whole = logits[index, "whole"][target]
        nothing = logits[index, "nothing"][target]
        alone = np.array([logits[index, ("alone", word)][target] - nothing for word in words])
        synergy = float(whole - nothing - alone.sum())
        if arrangement.kind == "phrase":
            drops = [float(whole - logits[index, ("without", word)][target]) for word in words]
            by_document.append(
                {
                    "document": arrangement.document,
                    "synergy": synergy,
                    "whole": float(whole - nothing),
                    "alone": alone.tolist(),
                    "drops": drops,
                    # Synergies of the controls in this document
                    "spans": [],
                    "moved": [],
                }
            )
        else:
            by_document[-1][arrangement.kind].append(synergy)
    return by_document


# Statistics


def documents_test(values: list[float], arguments) -> dict | None:
    """Test whether the mean of one value per document is 0; None for too few documents."""
    if len(values) < MIN_PHRASE_DOCUMENTS:
        return None
    return mean_tests(np.array([values]), arguments.n_resamples, arguments.seed)[0]


def summarize(measurement: Measurement, arguments) -> Summary:
    """Test each phrase against its controls, and all phrases together.

    The unit is the document: its value is the synergy of the phrase minus the mean synergy of its
    controls in the same document; for all phrases together, the mean over the phrases that the
    document contains.
    """
    record = measurement.evaluations[NAME].record
    if not record["phrases"]:
        return Summary({"phrases": None}, record["left_out"])
    rows = []
    # By kind of control and document, one value for each phrase
    by_document = {kind: defaultdict(list) for kind in CONTROLS}
    for phrase in record["phrases"]:
        row = phrase_means(phrase)
        for kind in CONTROLS:
            differences = []
            for occurrence in phrase["occurrences"]:
                if occurrence[kind]:
                    difference = occurrence["synergy"] - np.mean(occurrence[kind])
                    differences.append(difference)
                    by_document[kind][occurrence["document"]].append(difference)
            row |= control_means(phrase, kind)
            row[f"against_{kind}"] = documents_test(differences, arguments)
        rows.append(row)

    result = {"source": record["source"], "not_found": record["not_found"], "phrases": rows}
    for kind in CONTROLS:
        tests = [row[f"against_{kind}"] for row in rows if row[f"against_{kind}"]]
        add_holm(tests)
        means = [np.mean(values) for values in by_document[kind].values()]
        together = documents_test(means, arguments)
        if together:
            significant = [test for test in tests if test["p_holm"] < ALPHA]
            together["tested"] = len(tests)
            together["more"] = sum(test["mean"] > 0 for test in significant)
            together["less"] = sum(test["mean"] < 0 for test in significant)
        result[f"against_{kind}"] = together
    return Summary({"phrases": result}, record["left_out"])


def phrase_means(phrase: dict) -> dict:
    """Return means over the documents that contain a phrase."""
    documents = phrase["occurrences"]
    return {
        "phrase": phrase["phrase"],
        "documents": len(documents),
        "whole": float(np.mean([document["whole"] for document in documents])),
        "sum_of_words_alone": float(np.mean([sum(document["alone"]) for document in documents])),
        "sum_of_single_drops": float(np.mean([sum(document["drops"]) for document in documents])),
        "synergy": mean_interval([document["synergy"] for document in documents]),
    }


def control_means(phrase: dict, kind: str) -> dict:
    """Return the number of a phrase's controls of one kind, and their mean synergy."""
    counts = [len(document[kind]) for document in phrase["occurrences"]]
    means = [np.mean(document[kind]) for document in phrase["occurrences"] if document[kind]]
    return {
        f"{kind}_controls": sum(counts),
        f"{kind}_synergy": float(np.mean(means)) if means else None,
    }


# Text


def describe(result: dict) -> Section:
    """Return the section of the phrase test."""
    section = Section(TITLE)
    phrases = result["phrases"]
    if phrases is None:
        return section
    number_of_phrases = len(phrases["phrases"])
    section.sentences.append(
        f"{number_of_phrases} {'phrase was' if number_of_phrases == 1 else 'phrases were'} masked "
        f"({SOURCES[phrases['source']]}) as a whole and word by word, at all occurrences. The "
        "synergy of a phrase is what the whole "
        f"phrase adds to the logit of the class that {result['model']} predicts, minus the sum of "
        "what each of its words adds alone. A synergy of 0 means that the words act independently."
    )
    section.answer = answer(phrases["against_moved"])
    for kind, text in CONTROLS.items():
        section.sentences.append(comparison_sentence(phrases[f"against_{kind}"], text))
    section.sentences.append(
        "Strong words saturate a logit, so a strong phrase can differ from other words without any "
        "use of context. Only the second comparison keeps the words and changes nothing but their "
        "places, so only it speaks for or against the use of context."
    )
    if phrases["not_found"]:
        section.sentences.append(f"Not in the documents: {', '.join(phrases['not_found'])}.")
    section.tables.append(phrase_table(phrases["phrases"]))
    return section


def answer(together: dict | None) -> str:
    """Return whether phrases add more than their words moved apart.

    The mean is over documents, and a mean may be found although no phrase has more by itself; so
    the answer also counts those that have.
    """
    if not together:
        return ""
    details = f"({interval(together, number)}, p {p_text(together['p'])})"
    change = number(abs(together["mean"]))
    if together["p"] >= ALPHA:
        text = (
            "It is undecided whether phrases add more to the logit than the same words moved "
            f"apart: {number(together['mean'])} {details}"
        )
    else:
        more = "more" if together["mean"] > 0 else "less"
        text = (
            f"On average over {together['documents']:,} documents, phrases add {change} {more} to "
            f"the logit than the same words moved apart {details}"
        )
    if together["tested"] == 0:
        return f"{text}; no phrase has documents enough to be tested alone."
    noun = "phrase" if together["tested"] == 1 else "phrases"
    return (
        f"{text}; of the {together['tested']} {noun} tested alone, {together['more']} "
        f"{'has' if together['more'] == 1 else 'have'} more and {together['less']} less."
    )


def comparison_sentence(together: dict | None, controls: str) -> str:
    """Return how all phrases differ from one kind of controls."""
    if not together:
        return (
            f"A comparison with {controls} needs {MIN_PHRASE_DOCUMENTS} documents that are long "
            "enough."
        )
    if together["tested"]:
        alone = (
            f"{together['more']} of {together['tested']} phrases have more and {together['less']} "
            f"less (p < {ALPHA} after Holm)."
        )
    else:
        alone = (
            f"No phrase was compared in {MIN_PHRASE_DOCUMENTS} documents, so none is tested alone."
        )
    return (
        f"Compared with {controls}, the synergy of phrases differs by {number(together['mean'])} "
        f"logits ({interval(together, number)}; studentized bootstrap over {together['documents']} "
        f"documents, p {p_text(together['p'])}): {verdict(together['p'], 'no difference')}. {alone}"
    )


def phrase_table(phrases: list[dict]) -> Table:
    """Return the table of the phrases."""
    header = ["phrase", "documents", "whole", "sum of words alone", "sum of single drops"]
    header += ["synergy", "of other words", "p (Holm)", "moved apart", "p (Holm)"]
    rows = []
    for phrase in phrases:
        row = [
            phrase["phrase"],
            phrase["documents"],
            number(phrase["whole"]),
            number(phrase["sum_of_words_alone"]),
            number(phrase["sum_of_single_drops"]),
            number(phrase["synergy"]["mean"]),
        ]
        for kind in CONTROLS:
            test = phrase[f"against_{kind}"]
            if test:
                row += [number(phrase[f"{kind}_synergy"]), p_cell(test["p_holm"])]
            else:
                row += ["-", "-"]
        rows.append(row)
    return Table("Logits, means over the documents", header, rows)


# Drawing


def shown_phrases(phrases: list[dict]) -> list[dict]:
    """Return the phrases that differ most from their words moved apart."""

    def difference(phrase: dict) -> float:
        test = phrase["against_moved"] or phrase["synergy"]
        return abs(test["mean"])

    return sorted(phrases, key=difference, reverse=True)[:SHOWN_PHRASES]


def draw(axes: plt.Axes, result: dict) -> None:
    """Draw the synergy of some phrases and of their controls."""
    if result["phrases"] is None:
        return
    rows = shown_phrases(result["phrases"]["phrases"])
    for y, row in enumerate(rows):
        synergy = row["synergy"]
        if synergy["low"] is not None:
            axes.hlines(y, synergy["low"], synergy["high"], color=COLORS[0], linewidth=1.2)
    series = {
        "phrase (95% CI)": [row["synergy"]["mean"] for row in rows],
        "other neighboring words": [row["spans_synergy"] for row in rows],
        "same words moved apart": [row["moved_synergy"] for row in rows],
    }
    styles = [(COLORS[0], "o"), (COLORS[4], "x"), (COLORS[1], "D")]
    for (label, values), (color, marker) in zip(series.items(), styles, strict=True):
        places = [y for y, value in enumerate(values) if value is not None]
        shown = [values[y] for y in places]
        axes.plot(shown, places, marker, color=color, markersize=4.5, label=label)
    axes.set_yticks(range(len(rows)), [plain(row["phrase"]) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("synergy, logit")
    # Below the panel: inside, it would lie on the intervals of some phrases.
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16),
                ncols=3, columnspacing=1, handletextpad=0.2)  # fmt: skip
