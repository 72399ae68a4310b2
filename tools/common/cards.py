"""What a document's card says, on the page and in a notebook."""

NUMBERS = {1: "strongest word", 2: "two strongest words", 3: "three strongest words"}


def as_list(classes: str | list[str] | None) -> list[str]:
    """Return the classes of a label or prediction: one, several, or none.

    Raises TypeError if they are neither a text nor a list of texts nor None.
    """
    names = [] if classes is None else classes if isinstance(classes, list) else [classes]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"a class is not a text: {classes!r}")
    return names


def without_sentence(document: dict, measured: dict | None = None) -> str | None:
    """Return what the model says without the words that speak most for the target.

    document is a line of attributions.jsonl. measured is what tools/measure_faithfulness.py found,
    with the words deleted, too. None if neither knows, or if no word speaks for the target.
    """
    without = document.get("without_top_words") or measured
    probabilities = document.get("probabilities")
    if not without or not without["words"] or not probabilities:
        return None
    words = [document["words"][number] for number in without["words"]]
    strongest = NUMBERS.get(len(words), f"{len(words)} strongest words")
    target = document["target"]
    sentence = (
        f"Without the {strongest} ({', '.join(words)}): {target} "
        f"{without['probabilities'][target]:.2f} instead of {probabilities[target]:.2f}"
    )
    deleted = (
        measured and measured["words"] == without["words"] and measured["probabilities_deleted"]
    )
    if deleted:
        sentence += f" ({deleted[target]:.2f} with these words deleted, not replaced)"
    # Where the model chooses one class, and that is the explained one, it may choose another now.
    highest = max(without["probabilities"], key=without["probabilities"].get)
    if document["prediction"] == target != highest:
        sentence += f"; the prediction would be {highest}"
    return sentence + "."
