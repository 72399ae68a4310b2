"""Parts of tools/measure_faithfulness.py, a module per subject.

    models.py           the attributed model, and its logits without some words
    perturbations.py    the measures of rankings of words, by replacing and by deleting words
    methods.py          other attribution methods of captum, on the same words
    mosaics.py          texts of two documents of different classes: a test with a known answer
    baselines.py        attributions with other baselines, compared word by word
    estimates.py        means, intervals and paired differences over documents, and their table

A new method is a function of methods.py and its name in METHODS; the rest follows.
"""
