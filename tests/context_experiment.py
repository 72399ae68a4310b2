"""A seventh experiment for tools/measure_context.py: how long are the documents?"""

from context.results import Evaluation, Section, Summary

NAME = "document_length"
TITLE = "Length of the documents"


def evaluate(runs, documents, arguments, cache):
    return Evaluation({"words": [len(words) for words in runs[0].words]})


def summarize(measurement, arguments):
    words = measurement.evaluations[NAME].record["words"]
    return Summary({"lengths": {"shortest": min(words), "longest": max(words)}})


def describe(result):
    lengths = result["lengths"]
    return Section(TITLE, [f"{lengths['shortest']} to {lengths['longest']} words are read."])


def draw(axes, result):
    axes.bar(["shortest", "longest"], result["lengths"].values())
