"""The tests of tools/measure_context.py: whether a model uses context. A module per experiment.

Each experiment exports the same names:

    NAME                                              key of its evaluations
    TITLE                                             heading of its section and of its panel
    evaluate(runs, documents, arguments, cache)       results.Evaluation: what the models compute
    summarize(measurement, arguments)                 results.Summary: keys of context.json
    describe(result)                                  results.Section: sentences and tables
    draw(axes, result)                                its panel; one with nothing drawn is removed

``runs`` (models.Run) are the models, the measured one first; ``documents`` what they read
(documents.Documents); ``arguments`` the ContextArguments of tools/measure_context.py; ``cache``
(models.Cache) computes logits and keeps them. ``result`` is the content of context.json.

A new experiment is a new file here and one more name in EXPERIMENTS. Their order is that of the
keys of context.json, of the sections and of the panels.
"""

from context import (
    additive_surrogate,
    attention_window,
    phrases,
    svm_agreement,
    word_order,
    word_variance,
)

EXPERIMENTS = (
    word_order,
    attention_window,
    additive_surrogate,
    phrases,
    word_variance,
    svm_agreement,
)
