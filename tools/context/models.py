"""The models that are measured: load a run, encode texts, compute logits and keep them.

A run is an encoder (run_classification.py or a model of the Hub) or an SVM (run_baseline.py).
Everything that a run was trained with is taken from it: text columns, delimiter, prefix, length.
"""

import csv
import hashlib
import io
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import skops.io
import torch
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import ModelOutput

from common.cli import fail, one_line
from common.data import MULTI_LABEL, split_names
from common.encoders import (
    DEFAULT_LENGTH,
    check_max_seq_length,
    maximum_length,
    position_offset,
)
from common.folders import model_commit, read_json, run_name, write_files
from context.documents import Documents
from context.words import shuffle

logger = logging.getLogger(__name__)

DEFAULT_COLUMNS = ["abstract"]  # of a run that does not say what it was trained on
# The flags of a run that truncate its splits
LIMITS = {
    "train": "max_train_samples",
    "validation": "max_eval_samples",
    "test": "max_predict_samples",
}
ROUNDING = 1e-5  # of logits in single precision


@dataclass
class Run:
    """A model and what its evaluation needs. What follows prefix is for encoders only."""

    folder: str
    name: str
    kind: str  # svm or encoder
    model: object  # a scikit-learn pipeline or a transformers model
    fingerprint: str  # SHA-256 of all that determines the logits
    # For each class of the dataset, its column in the model's output; -1 if it has none.
    class_columns: list[int]
    order_free: bool  # whether the model's input does not contain the word order
    weights: str | None = None  # SHA-256 of an encoder's weights, as run_attribution.py has it
    commit: str | None = None  # of a model from the Hub
    text_columns: list[str] = field(default_factory=lambda: list(DEFAULT_COLUMNS))
    delimiter: str = " "  # between two text columns
    prefix: str = ""
    tokenizer: object = None
    max_length: int = 0
    pad_id: int | None = None
    position_offset: int = 0  # RoBERTa's first position; 0 lets the model count the positions
    can_pad: bool = True  # whether padding a batch leaves the logits as they are
    bf16: bool = False
    # Set by read_words
    words: list[list[str]] = field(default_factory=list)  # of each document, as far as it is read
    cut_documents: int = 0  # how many are longer than the model reads
    joined: list[bool] = field(default_factory=list)  # tokens of a document = those of its words
    first_tokens: dict[str, list[int]] = field(default_factory=dict)  # of a word at the start
    other_tokens: dict[str, list[int]] = field(default_factory=dict)  # of a word after a blank
    start: list[int] = field(default_factory=list)  # token ids before the words
    end: list[int] = field(default_factory=list)  # token ids after the words


# Names: of runs, columns and classes


def unique_names(folders: list[str]) -> list[str]:
    """Return the names of runs.

    Runs of the same name are named with the folder around them, then with numbers.
    """
    plain_names = [run_name(folder) for folder in folders]
    longer_names = []
    for name, folder in zip(plain_names, folders, strict=True):
        if plain_names.count(name) > 1:
            name = "/".join(Path(folder).absolute().parts[-2:])
        longer_names.append(name)
    names = []
    for number, name in enumerate(longer_names, start=1):
        if longer_names.count(name) > 1:
            name = f"{name} ({number})"
        names.append(name)
    return names


def check_classes(folder: str, names: list[str], classes: list[str]) -> None:
    """Exit with status 2 if the classes of a run are not those of the dataset, by name."""
    if set(names) == set(classes):
        return
    only_run = [repr(name) for name in names if name not in classes]
    only_dataset = [repr(name) for name in classes if name not in names]
    fail(
        f"the classes of {folder} are not those of the dataset: "
        f"only the run has {', '.join(only_run) or 'none'}, "
        f"only the dataset has {', '.join(only_dataset) or 'none'}; "
        "give a run of these classes, or rename those of the dataset with "
        "tools/prepare_dataset.py"
    )


# Loading


def read_run_record(folder: str) -> dict:
    """Return run_arguments.json of a run; empty where there is none (a model of the Hub)."""
    path = Path(folder, "run_arguments.json")
    if not path.exists():
        return {}
    record = read_json(path)
    for key in ("arguments", "data_fingerprints"):
        if not isinstance(record.get(key) or {}, dict):
            fail(f"{path} is damaged: {key!r} is not an object; make the run again")
    columns = (record.get("arguments") or {}).get("text_column_names") or []
    columns = columns if isinstance(columns, list) else [columns]
    if not all(isinstance(name, str) for name in columns):
        fail(f"{path} is damaged: text_column_names is {columns!r:.80}; make the run again")
    return record


def check_single_label(folder: str, record: dict) -> None:
    """Exit with status 2 if a run, by its record or its config, has several labels per document."""
    if record.get("problem_type") == MULTI_LABEL:
        fail(
            f"{folder} has several labels per document, which measure_context.py does not support; "
            "give runs of one label per document"
        )


def load_runs(arguments, documents: Documents) -> list[Run]:
    """Load --model_name_or_path and the runs of --compare, each folder once.

    Warns where a flag is not what a run was trained with, and where a run is of other data.
    """
    classes = documents.classes
    folders = list(dict.fromkeys([arguments.model_name_or_path, *arguments.compare]))
    for folder in folders:
        check_single_label(folder, read_run_record(folder))
    runs = []
    for folder, name in zip(folders, unique_names(folders), strict=True):
        if Path(folder, "model.skops").exists():
            run = load_svm(folder, name, classes)
        else:
            revision = None if runs else arguments.model_revision
            run = load_encoder(folder, name, classes, revision, arguments)
        set_text_columns(run, documents, arguments)
        runs.append(run)
    return runs


def set_text_columns(run: Run, documents: Documents, arguments) -> None:
    """Set the text columns of a run: those of its training, or --text_column_names.

    Warns if these differ, and if the run was made with other data.
    """
    record = read_run_record(run.folder)
    recorded = record.get("arguments") or {}
    config = run.model.config if run.kind == "encoder" else None
    # config.json goes where the model goes; runs of earlier versions have the record alone.
    trained = getattr(config, "text_column_names", None) or recorded.get("text_column_names")
    delimiter = getattr(config, "text_column_delimiter", None)
    if delimiter is None:
        delimiter = recorded.get("text_column_delimiter")
    if delimiter is not None:
        run.delimiter = delimiter
    if trained:
        run.text_columns = split_names(trained)
    warn_of_other_data(run, record, documents)
    wanted = arguments.text_column_names
    if wanted is not None:
        if trained and wanted != run.text_columns:
            logger.warning(
                "%s was trained on %s, not on --text_column_names %s",
                run.name,
                run.text_columns,
                wanted,
            )
        run.text_columns = wanted


def warn_of_other_data(run: Run, record: dict, documents: Documents) -> None:
    """Warn if the split that is measured was another one when the run was made.

    The run can have been trained on documents that are measured now. Runs of earlier versions and
    models of the Hub have no fingerprints.
    """
    recorded = (record.get("data_fingerprints") or {}).get(documents.split)
    has_columns = set(run.text_columns) <= set(documents.table.column_names)
    if recorded is None or not has_columns:
        return
    limit = (record.get("arguments") or {}).get(LIMITS.get(documents.split))
    if documents.fingerprint(run.text_columns, run.delimiter, limit) != recorded:
        logger.warning(
            "%s was made with other data of split %r: it may have been trained on documents that "
            "are measured",
            run.name,
            documents.split,
        )


def svm_class_names(folder: str) -> list[str]:
    """Return the class names of an SVM in the order of their numbers, from its record.

    In runs of earlier versions they are in the header of predictions.csv only. Exits with status 2
    if there are none: numbers would have to be matched with the dataset's blindly.
    """
    names = read_run_record(folder).get("labels") or []
    if names:
        return names
    path = Path(folder, "predictions.csv")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
    except FileNotFoundError:
        header = []
    except (OSError, ValueError, csv.Error) as error:
        fail(f"cannot read {path}: {one_line(error)}; run run_baseline.py again")
    if "prediction" in header:
        names = header[header.index("prediction") + 1 :]
    if not names:
        fail(f"{folder} does not say which classes it has; run run_baseline.py again")
    return names


def load_svm(folder: str, name: str, classes: list[str]) -> Run:
    """Load a run of run_baseline.py.

    Exits with status 2 if it cannot be read or has other classes. skops loads no type that it does
    not trust.
    """
    path = Path(folder, "model.skops")
    try:
        content = path.read_bytes()
        model = skops.io.loads(content)
        counts = model["counts"]
        known = [int(class_number) for class_number in model["svm"].classes_]
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        fail(f"cannot load {path}: {one_line(error)}; run run_baseline.py again")
    names = svm_class_names(folder)
    check_classes(folder, names, classes)
    if len(known) < 2 or max(known) >= len(names):
        fail(f"{path} has {len(known)} classes and {len(names)} names; run run_baseline.py again")
    # A class without training documents is no column of the SVM.
    column_of = {names[class_number]: column for column, class_number in enumerate(known)}
    class_columns = [column_of.get(label, -1) for label in classes]
    fingerprint = hashlib.sha256(content)
    if class_columns != sorted(class_columns):
        fingerprint.update(repr(class_columns).encode())
    order_free = tuple(counts.ngram_range) == (1, 1)
    return Run(folder, name, "svm", model, fingerprint.hexdigest(), class_columns, order_free)


def load_encoder(
    folder: str, name: str, classes: list[str], revision: str | None, arguments
) -> Run:
    """Load a run of run_classification.py or a model of the Hub.

    Exits with status 2 if it is not a trained classifier of the dataset's classes with a tokenizer.
    """
    # No pickle is loaded, and no code of a model's folder is run.
    options = {"revision": revision or "main", "trust_remote_code": False}
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # tokenizers raises Exception itself, others many kinds
        fail(
            f"{folder} holds neither model.skops nor a classifier with its tokenizer: "
            f"{one_line(error)}"
        )
    if loading["missing_keys"]:
        fail(
            f"{folder} is not a trained classifier: {min(loading['missing_keys'])} has no weights; "
            "fine-tune it"
        )
    # transformers makes an empty tokenizer where the files are missing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        fail(f"{folder} has no tokenizer files; save the tokenizer next to the model")
    embedded = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embedded:
        fail(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens, the model embeds {embedded}; "
            "save the tokenizer that it was trained with"
        )

    config = model.config
    check_single_label(folder, config.to_dict())
    label2id = {label: class_number for class_number, label in config.id2label.items()}
    check_classes(folder, list(label2id), classes)
    class_columns = [label2id[label] for label in classes]
    # configs/shallow/layers-0.json: the mean of word embeddings
    order_free = config.model_type == "eurobert" and not config.num_hidden_layers
    order_free &= getattr(config, "classifier_pooling", None) != "bos"
    run = Run(folder, name, "encoder", model, "", class_columns, order_free)
    run.commit = model_commit(folder, revision)
    run.tokenizer = tokenizer
    run.prefix = getattr(config, "text_prefix", None) or ""
    run.bf16 = arguments.bf16
    set_length(run, arguments.max_seq_length)

    # What determines the logits. The folder may move.
    settings = config.to_dict()
    settings.pop("_name_or_path", None)
    content = json.dumps([settings, class_columns, run.bf16], default=str)
    digest = hashlib.sha256(content.encode())
    weights = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.numpy().tobytes())
        weights.update(key.encode() + tensor.numpy().tobytes())
    run.weights = weights.hexdigest()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model.eval()
    model.requires_grad_(False)
    model.to(device)
    probe_padding(run)
    if not run.can_pad:
        digest.update(b"batches of one length")
    run.fingerprint = digest.hexdigest()
    return run


def set_length(run: Run, max_seq_length: int | None) -> None:
    """Set the maximum number of tokens and the first position of an encoder.

    Exits with status 2 if --max_seq_length is more than the model's positions.
    """
    run.position_offset = position_offset(run.model)
    limit = maximum_length(run.model, run.tokenizer)
    trained = getattr(run.model.config, "max_seq_length", None)
    if max_seq_length is None:
        run.max_length = min(limit, trained or DEFAULT_LENGTH)
        return
    check_max_seq_length(max_seq_length, limit, run.folder)
    if trained and trained != max_seq_length:
        logger.warning(
            "%s was trained with %d tokens, not with --max_seq_length %d",
            run.name,
            trained,
            max_seq_length,
        )
    run.max_length = max_seq_length


def probe_padding(run: Run) -> None:
    """Find out what padding does to the logits of an encoder and set pad_id and can_pad.

    Decoders such as GPT-2 classify the last token that is not PAD, and do not notice PAD tokens
    behind it. With PAD in the place of a word they would classify another token. They get -1 for
    PAD, which no text contains, and, like models that padding on the right disturbs (XLNet), only
    batches of one length.
    """
    config = run.model.config
    run.pad_id = run.tokenizer.pad_token_id
    if run.pad_id is None:
        run.pad_id = config.pad_token_id
    if config.pad_token_id is None:
        config.pad_token_id = -1
    ids = tuple(run.tokenizer("a text of a few words")["input_ids"])
    longer = ids + (run.pad_id or 0,) * 3
    bf16 = run.bf16
    run.bf16 = False
    try:
        alone = encoder_logits(run, [ids])[0]
        padded = encoder_logits(run, [longer, ids])[1]
        unmasked = encoder_logits(run, [longer])[0]  # the mask calls PAD a token of the text
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        # Models that take no token ids, or no mask
        fail(f"{run.folder} cannot classify a text: {one_line(error)}; give another model")
    run.bf16 = bf16
    if not np.isfinite([alone, padded, unmasked]).all():
        fail(f"{run.folder} gives NaN or infinite logits; train it again or give another model")
    tolerance = 1e-4 * max(1, np.abs(alone).max())
    ignores_padding = np.abs(unmasked - alone).max() < tolerance
    run.can_pad = not ignores_padding and bool(np.abs(padded - alone).max() < tolerance)
    if ignores_padding:
        config.pad_token_id = -1


# Tokens


def read_words(run: Run, documents: Documents, seed: int) -> None:
    """Set the words of each document as far as the run reads them, and the tokens of each word."""
    prepare_words(run, documents.words(run.text_columns, run.delimiter), seed)


def prepare_words(run: Run, texts: list[list[str]], seed: int) -> None:
    """Set the tokens of each distinct word, and the texts as far as they fit the maximum length.

    A text keeps the words that are not truncated, so that a shuffled text consists of the words of
    the original. run.joined says of each text whether the tokens of its words, joined, are the
    tokenizer's tokens of a shuffled text; otherwise its shuffled texts are tokenized as a whole.
    """
    if run.kind == "svm":
        run.words = texts
        return

    # 1. Tokens of a word at the start of a text, and after a blank
    vocabulary = sorted({word for words in texts for word in words})
    run.first_tokens = tokenize_words(run, vocabulary, "")
    run.other_tokens = tokenize_words(run, vocabulary, " ")
    if run.prefix:
        run.first_tokens = run.other_tokens

    # 2. Special tokens and prefix around the words
    bare = run.tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = run.tokenizer("a")["input_ids"]
    before = 0
    for start in range(len(whole)):
        if whole[start : start + len(bare)] == bare:
            before = start
            break
    prefix = run.tokenizer(run.prefix.rstrip(), add_special_tokens=False)["input_ids"]
    run.start = whole[:before] + prefix
    run.end = whole[before + len(bare) :]

    # 3. The words that fit
    room = run.max_length - len(run.start) - len(run.end)
    run.words = []
    for words in texts:
        # Any word can be the first one after shuffling.
        lengths = [max(len(run.first_tokens[word]), len(run.other_tokens[word])) for word in words]
        kept = int(np.searchsorted(np.cumsum(lengths), room, side="right"))
        run.words.append(words[: max(1, kept)])
    run.cut_documents = sum(
        len(kept) < len(words) for kept, words in zip(run.words, texts, strict=True)
    )
    if run.cut_documents and run.tokenizer.truncation_side == "left":
        fail(
            f"the tokenizer of {run.folder} cuts the beginning of long texts, which is not "
            "supported; give a larger --max_seq_length or shorter documents"
        )

    # 4. Can tokens of words be joined?
    shuffled = [shuffle(words, 1, [seed, index]) for index, words in enumerate(run.words)]
    strings = [run.prefix + " ".join(words) for words in shuffled]
    expected = run.tokenizer(strings, verbose=False)["input_ids"]
    run.joined = []
    for words, ids in zip(shuffled, expected, strict=True):
        run.joined.append(len(ids) <= run.max_length and join_tokens(run, words) == ids)


def tokenize_words(run: Run, vocabulary: list[str], before: str) -> dict[str, list[int]]:
    """Return the token ids of each word after the text ``before``, without special tokens."""
    strings = [before + word for word in vocabulary]
    ids = run.tokenizer(strings, add_special_tokens=False, verbose=False)["input_ids"]
    return dict(zip(vocabulary, ids, strict=True))


def join_tokens(run: Run, words: list[str], masked: frozenset[int] = frozenset()) -> list[int]:
    """Return the token ids of a text from those of its words.

    Every token of a word at a masked position becomes PAD.
    """
    ids = list(run.start)
    for position, word in enumerate(words):
        tokens = run.first_tokens[word] if position == 0 else run.other_tokens[word]
        if position in masked:
            ids += [run.pad_id] * len(tokens)
        else:
            ids += tokens
    return ids + run.end


def encode(run: Run, texts: list[list[str]], numbers: list[int]) -> list:
    """Return the model's input for each text, given as words of the document with that number.

    An input is a string for an SVM and a list of token ids for an encoder.
    """
    if run.kind == "svm":
        return [" ".join(words) for words in texts]
    inputs = []
    not_joined = []
    for index, (words, document) in enumerate(zip(texts, numbers, strict=True)):
        if run.joined[document]:
            inputs.append(join_tokens(run, words))
        else:
            inputs.append(None)
            not_joined.append(index)
    if not_joined:
        strings = [run.prefix + " ".join(texts[index]) for index in not_joined]
        tokenized = run.tokenizer(strings, truncation=True, max_length=run.max_length)
        for index, ids in zip(not_joined, tokenized["input_ids"], strict=True):
            inputs[index] = ids
    return inputs


# Logits


@dataclass
class Cache:
    """Logits that were computed are kept, so that an interrupted command continues."""

    folder: Path
    batch_size: int

    def evaluate(
        self, run: Run, inputs: list, bar: tqdm, window: int | str | None = None
    ) -> np.ndarray:
        """Return logits or decision values (inputs, classes). Equal inputs are computed once.

        For window, see window_mask. The values are kept under the hash of model and inputs.
        Exits with status 2 if they are not finite.
        """
        path = self.path(run, inputs, window)
        values = self.read(path, len(inputs))
        if values is not None:
            bar.update(len(inputs))
            return values
        keys = [item if isinstance(item, str) else tuple(item) for item in inputs]
        counts = Counter(keys)
        # Sorted by length, so that there is little padding
        distinct = sorted(counts, key=lambda key: (-len(key), key))
        rows = []
        for batch in batches(run, distinct, self.batch_size):
            if run.kind == "svm":
                rows.append(svm_values(run, batch))
            else:
                rows.append(encoder_logits(run, batch, window))
            bar.update(sum(counts[key] for key in batch))
        row_of = {key: row for row, key in enumerate(distinct)}
        values = np.concatenate(rows)[[row_of[key] for key in keys]]
        known = np.array(run.class_columns) >= 0
        if not np.isfinite(values[:, known]).all():
            fail(f"{run.folder} gives NaN or infinite scores; train it again or give another run")
        write_array(path, values)
        return values

    def path(self, run: Run, inputs: list, window: int | str | None) -> Path:
        """Return the file of the logits of a run's inputs."""
        text = run.fingerprint
        if window is not None:
            text += f"window {window}"
        digest = hashlib.sha256(text.encode())
        for item in inputs:
            digest.update(repr(item).encode())
        return self.folder / f"{digest.hexdigest()[:32]}.npy"

    def read(self, path: Path, size: int) -> np.ndarray | None:
        """Return the logits in a file; None if there is none, or a damaged one."""
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values if len(values) == size else None

    def document_logits(self, run: Run, bar: tqdm) -> np.ndarray:
        """Return the logits of the documents as they are (documents, classes)."""
        inputs = encode(run, run.words, list(range(len(run.words))))
        return self.evaluate(run, inputs, bar)

    def predictions(self, run: Run) -> np.ndarray:
        """Return the number of the predicted class of each document (documents,)."""
        with tqdm(disable=True) as bar:
            return self.document_logits(run, bar).argmax(axis=-1)


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy. Exits with status 2 if that fails."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_files(path.parent, {path.name: buffer.getvalue()})


def batches(run: Run, inputs: list, size: int) -> Iterator[list]:
    """Yield the inputs, sorted by length, in batches.

    Batches are of one length where padding changes the logits.
    """
    for _, group in groupby(inputs, key=lambda item: run.can_pad or len(item)):
        items = list(group)
        for start in range(0, len(items), size):
            yield items[start : start + size]


def svm_values(run: Run, texts: list[str]) -> np.ndarray:
    """Return decision values by the dataset's classes (texts, classes).

    They are minus infinity for a class that the SVM does not know.
    """
    scores = run.model.decision_function(texts)
    if scores.ndim == 1:  # two classes: one value, positive for the second
        scores = np.column_stack([-scores, scores])
    unknown = np.full(len(texts), -np.inf)  # the last column, -1
    return np.column_stack([scores, unknown])[:, run.class_columns]


def window_mask(
    lengths: list[int], window: int | str, has_first: bool, has_last: bool
) -> torch.Tensor:
    """Return an attention mask (texts, 1, queries, keys), true where a token sees another one.

    A token sees itself and window tokens on either side ("all": all tokens). The first special
    token, which encoders classify, sees all tokens and is seen by none: otherwise it would pass the
    whole text on to every token in the next layer. The last special token sees only itself, so it
    carries nothing, and is seen by all: encoders attend to it where they attend to nothing. With
    "full", all tokens see all.
    """
    size = max(lengths)
    places = torch.arange(size)
    length = torch.tensor(lengths)[:, None, None]
    mask = torch.ones((len(lengths), size, size), dtype=torch.bool)
    if window != "full":
        last = (places == length - 1) if has_last else torch.zeros_like(mask)
        distance = (places[:, None] - places).abs()
        reach = size if window == "all" else window
        mask &= (distance <= reach) | last
        mask &= ~last.transpose(1, 2) | (distance == 0)
        if has_first:
            mask[:, :, 0] = False
            mask[:, 0, :] = True
    # What padding sees does not matter, but it must see something: softmax of nothing is NaN.
    is_padding = places[:, None] >= length
    return ((mask | is_padding) & (places < length))[:, None]


def encoder_logits(
    run: Run, batch: list[tuple[int, ...]], window: int | str | None = None
) -> np.ndarray:
    """Return the logits of one batch of token ids by the dataset's classes (texts, classes)."""
    output = run_encoder(run, run.model, batch, window)
    return output.logits[:, run.class_columns].double().cpu().numpy()


def encoder_states(
    run: Run, batch: list[tuple[int, ...]], window: int | str | None = None
) -> np.ndarray:
    """Return the last hidden states of one batch of token ids (texts, tokens, hidden size)."""
    output = run_encoder(run, run.model.base_model, batch, window)
    return output.last_hidden_state.double().cpu().numpy()


def run_encoder(
    run: Run,
    model: PreTrainedModel,
    batch: list[tuple[int, ...]],
    window: int | str | None,
) -> ModelOutput:
    """Return what a run's model, or its base model, makes of one batch of token ids."""
    lengths = [len(ids) for ids in batch]
    device = model.device
    ids = torch.full((len(batch), max(lengths)), run.pad_id or 0)
    mask = torch.zeros(ids.shape, dtype=torch.long)
    for row, item in enumerate(batch):
        ids[row, : len(item)] = torch.tensor(item)
        mask[row, : len(item)] = 1
    if window is not None:
        mask = window_mask(lengths, window, bool(run.start), bool(run.end))
        # Other implementations than sdpa add the mask to the attention scores.
        if model.config._attn_implementation != "sdpa":
            lowest = torch.finfo(torch.float32).min
            mask = torch.zeros(mask.shape).masked_fill(~mask, lowest)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if run.position_offset:  # PAD in the place of a word must not shift the positions
        positions = torch.arange(ids.shape[1]) + run.position_offset
        inputs["position_ids"] = positions.repeat(len(batch), 1).to(device)
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
            return model(**inputs)
    except torch.OutOfMemoryError:
        fail("out of memory; lower --per_device_eval_batch_size, the same command continues")
