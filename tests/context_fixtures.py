"""Documents, runs and attributions for the tests of tools/measure_context.py and tools/context/.

A test file takes them with ``pytest_plugins = ["context_fixtures"]``: they are made once.
The files import helpers from here, too, before pytest can rewrite them: PYTEST_DONT_REWRITE
"""

import gc
import importlib
import json
import sys
from pathlib import Path

import pytest
import skops.io
import torch
from conftest import LABELS, ROOT, make_records, write_dataset, write_tiny_model
from datasets import load_dataset
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    GPT2Config,
    MobileBertConfig,
    RobertaConfig,
    XLMConfig,
    XLNetConfig,
)

import measure_context
from context import models
from context.documents import Documents, read_documents

FEW = [
    *("--n_resamples", 300, "--n_permutations", 199, "--n_shuffles", 2, "--block_sizes", 1, 3),
    *("--n_surrogate_documents", 3, "--disable_tqdm"),
]
FEW_OF_ENCODERS = {"n_controls": 8, "window_sizes": [0, 2]}


def call(script, *arguments):
    """Run a script's main() with a command line, without a new interpreter that imports torch."""
    before = sys.argv
    sys.argv = [f"{script}.py", *map(str, arguments)]
    try:
        importlib.import_module(script).main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    finally:
        sys.argv = before


def read(folder):
    """The content of context.json."""
    return json.loads((folder / "context.json").read_text(encoding="utf-8"))


def write_svm(folder, data, length, labels=LABELS):
    """A run folder of an SVM of n-grams of up to length words."""
    texts = load_dataset(str(data))
    model = Pipeline(
        [
            ("counts", CountVectorizer(ngram_range=(1, length))),
            ("tfidf", TfidfTransformer()),
            ("svm", LinearSVC(random_state=0)),
        ]
    )
    model.fit(texts["train"]["abstract"], texts["train"]["label"])
    folder.mkdir()
    skops.io.dump(model, folder / "model.skops")
    rows = ["id,label,prediction," + ",".join(labels)]
    test = texts["test"]
    for identifier, label, prediction in zip(
        test["id"], test["label"], model.predict(test["abstract"]), strict=True
    ):
        rows.append(f"{identifier},{labels[label]},{labels[prediction]}" + "," * len(labels))
    (folder / "predictions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    record = {"script": "run_baseline.py", "labels": labels}
    (folder / "run_arguments.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """A dataset folder with 40 test documents of two sentences; half have 'convex bundle'."""
    records = make_records(80)
    for number, record in enumerate(records):
        words = record["abstract"].split()
        words.insert(3, "convex bundle" if number % 2 else "geodesic")
        words.insert(7, "holds. We")
        record["abstract"] = " ".join(words)
    return write_dataset(tmp_path_factory.mktemp("documents"), records)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, documents):
    """Run folders: steep (BERT whose logits depend on everything), flat (no layer), svm (words),
    svm2 (pairs, too)."""
    root = tmp_path_factory.mktemp("runs")
    write_tiny_model(root / "steep", seed=3, initializer_range=0.3)
    tokenizer = AutoTokenizer.from_pretrained(root / "steep")
    config = AutoConfig.from_pretrained(
        ROOT / "configs" / "shallow" / "layers-0.json",
        vocab_size=len(tokenizer),
        pad_token_id=0,
        hidden_size=48,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
        initializer_range=0.5,
    )
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(root / "flat")
    tokenizer.save_pretrained(root / "flat")
    write_svm(root / "svm", documents, 1)
    write_svm(root / "svm2", documents, 2)
    return root


@pytest.fixture(scope="session")
def attributions(tmp_path_factory, documents, runs):
    """Folders of run_attribution.py for steep and flat."""
    root = tmp_path_factory.mktemp("attributions")
    gc.freeze()  # the batch size search collects garbage for every document
    for name in ("steep", "flat"):
        flags = ["--dataset_name", documents, "--n_steps", 8, "--disable_tqdm"]
        flags += ["--model_name_or_path", runs / name, "--output_dir", root / name]
        call("run_attribution", *flags)
    gc.unfreeze()
    return root


@pytest.fixture(scope="session")
def everything(tmp_path_factory, documents, runs, attributions):
    """The folder of one command with all experiments, drawn: the whole chain of three scripts."""
    folder = tmp_path_factory.mktemp("context") / "out"
    flags = ["--model_name_or_path", runs / "steep", "--dataset_name", documents, *FEW]
    flags += ["--output_dir", folder, "--min_occurrences", 3, "--n_phrases", 4]
    flags += ["--n_controls", 8, "--window_sizes", 0, 2]
    flags += ["--compare", runs / "flat", runs / "svm", runs / "svm2"]
    flags += ["--attributions", attributions / "steep", attributions / "flat"]
    call("measure_context", *flags)
    return folder


@pytest.fixture
def context(run, documents, runs, monkeypatch):
    """context(folder, flags...) runs the tool on steep; the picture, of a second, is not drawn."""
    monkeypatch.setattr(measure_context, "draw", lambda result: b"")
    for flag, value in FEW_OF_ENCODERS.items():
        monkeypatch.setitem(measure_context.DEFAULTS, flag, value)

    def run_script(folder, *flags, model="steep", dataset=documents):
        arguments = ["--model_name_or_path", runs / model, "--dataset_name", dataset]
        return run("measure_context", *arguments, "--output_dir", folder, *FEW, *flags)

    return run_script


def read_split(arguments, split="test") -> Documents:
    """The documents of a split."""
    return read_documents(arguments.dataset_name, None, split, arguments.max_samples)


def loaded(folder, data, **changes):
    """A run and its documents, ready for evaluation, and the arguments."""
    settings = {"n_shuffles": 2, "block_sizes": [1, 3], "seed": 5}
    settings |= measure_context.DEFAULTS | FEW_OF_ENCODERS | changes
    arguments = measure_context.ContextArguments(
        "", str(folder), dataset_name=str(data), disable_tqdm=True, **settings
    )
    texts = read_split(arguments)
    run = models.load_encoder(str(folder), Path(folder).name, texts.classes, None, arguments)
    models.set_text_columns(run, texts, arguments)
    models.read_words(run, texts, arguments.seed)
    return run, texts, arguments


# Models that a practitioner has

DECODER = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.2}
XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "embed_init_std": 0.2, "init_std": 0.2}
BART = {
    "d_model": 32,
    "init_std": 0.2,
    "eos_token_id": 3,
    "bos_token_id": 2,
    "decoder_start_token_id": 3,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
    "max_position_embeddings": 130,
    "pad_token_id": 0,
}
MOBILEBERT = ENCODER | {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32}
FAMILIES = {
    "decoder": (GPT2Config, DECODER | {"pad_token_id": 0}),
    "decoder without PAD": (GPT2Config, DECODER),
    "roberta": (RobertaConfig, ENCODER),
    "xlnet": (XLNetConfig, XLNET),
    "bart": (BartConfig, BART | {"pad_token_id": 0}),
    "xlm": (XLMConfig, XLM | {"pad_token_id": 0}),
    "mobilebert": (MobileBertConfig, MOBILEBERT),
}


def write_family(folder, tokenizer_folder, config_class, settings):
    """A random classifier of a family with the tiny word-level tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(0)
    config = config_class(
        vocab_size=len(tokenizer),
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
        **settings,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
