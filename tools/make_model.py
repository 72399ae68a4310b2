#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "PyYAML==6.0.3",
#     "scipy==1.17.1",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""Write an untrained model from a configuration, or the first layers of a pretrained model.

    python tools/make_model.py --config_name configs/shallow/layers-0.json --tokenizer_name MODEL \\
        --init_embeddings_from MODEL --output_dir models/layers-0
    python tools/make_model.py --model_name_or_path MODEL --num_hidden_layers 2 --output_dir models/first-2
    python run_classification.py --model_name_or_path models/layers-0 --dataset_name data/arxiv --do_train ...

Without --model_name_or_path the weights are random (--seed); --init_embeddings_from copies the word embeddings of a
pretrained model, as for the bag-of-embeddings classifier configs/shallow/layers-0.json. The head is not written:
run_classification.py makes one for the classes of its dataset, with its own seed.

Writes to --output_dir: config.json, model.safetensors and the tokenizer.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, set_seed

from common.cli import fail, one_line, parse_arguments, start_logging
from common.folders import model_commit, open_output_dir

logger = logging.getLogger(__name__)

UNTRAINED = (
    "config_name",
    "tokenizer_name",
    "init_embeddings_from",
    "seed",
)  # arguments of an untrained model


@dataclass
class ModelArguments:
    """What to make the model of, and where to write it."""

    output_dir: str = field(metadata={"help": "Model folder to write."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Pretrained model whose first layers are kept: a folder or a Hub id."},
    )
    num_hidden_layers: int | None = field(
        default=None, metadata={"help": "Number of layers that are kept."}
    )
    config_name: str | None = field(
        default=None,
        metadata={"help": "Configuration of an untrained model: a file, a folder or a Hub id."},
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Its tokenizer: a folder or a Hub id; its size is the vocabulary size."},
    )
    init_embeddings_from: str | None = field(
        default=None,
        metadata={"help": "Copy the word embeddings of this model: a folder or a Hub id."},
    )
    model_revision: str = field(
        default="main",
        metadata={"help": "Branch, tag or commit of everything that is loaded from the Hub."},
    )
    seed: int | None = field(
        default=None, metadata={"help": "Random seed of the weights. Default: 42."}
    )


def load(kind: type, flag: str, name: str, **options):
    """Return kind.from_pretrained(name); exit with status 2, naming the flag, if it cannot be loaded."""
    try:
        return kind.from_pretrained(name, **options)
    except (
        Exception
    ) as error:  # OSError, ValueError, KeyError or TypeError, by type of model, and the Hub's own
        fail(f"cannot load --{flag} {name}: {one_line(error)}")


def first_layers(arguments: ModelArguments) -> tuple:
    """Return a pretrained model without its last layers, and its tokenizer. Exits with status 2 if it has too few."""
    name, count, revision = (
        arguments.model_name_or_path,
        arguments.num_hidden_layers,
        arguments.model_revision,
    )
    available = getattr(
        load(AutoConfig, "model_name_or_path", name, revision=revision), "num_hidden_layers", None
    )
    if available is None or not 1 <= count <= available:
        fail(f"--num_hidden_layers must be from 1 to the {available} layers of {name}, not {count}")
    options = {"revision": revision, "num_hidden_layers": count, "dtype": torch.float32}
    model = load(AutoModel, "model_name_or_path", name, **options)
    return model, load(AutoTokenizer, "model_name_or_path", name, revision=revision)


def untrained(arguments: ModelArguments) -> tuple:
    """Return an untrained model and its tokenizer. Exits with status 2 if they or the embeddings do not fit."""
    revision = arguments.model_revision
    tokenizer = load(AutoTokenizer, "tokenizer_name", arguments.tokenizer_name, revision=revision)
    if tokenizer.vocab_size <= len(
        tokenizer.all_special_ids
    ):  # transformers makes an empty one without files
        fail(f"--tokenizer_name {arguments.tokenizer_name} has no tokenizer files")
    config = load(AutoConfig, "config_name", arguments.config_name, revision=revision)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    if hasattr(config, "mask_token_id"):  # EuroBERT's default lies outside a smaller vocabulary
        config.mask_token_id = tokenizer.mask_token_id
    set_seed(42 if arguments.seed is None else arguments.seed)
    model = AutoModel.from_config(config, dtype=torch.float32)
    if arguments.init_embeddings_from:
        options = {"revision": revision, "dtype": torch.float32}
        given = load(AutoModel, "init_embeddings_from", arguments.init_embeddings_from, **options)
        source, own = given.get_input_embeddings().weight, model.get_input_embeddings().weight
        if source.shape != own.shape:
            fail(
                f"the embeddings of {arguments.init_embeddings_from} are {tuple(source.shape)}, the model needs "
                f"{tuple(own.shape)}; use its tokenizer and its hidden size"
            )
        own.data.copy_(source.data)
    return model, tokenizer


def main() -> None:
    # 1. Arguments
    start_logging()
    (arguments,) = parse_arguments(__doc__, ModelArguments)
    folder = Path(arguments.output_dir)
    new = (arguments.config_name, arguments.tokenizer_name)
    unused = {
        "model_name_or_path": arguments.model_name_or_path,
        "num_hidden_layers": arguments.num_hidden_layers,
    }
    if arguments.model_name_or_path and arguments.num_hidden_layers is not None:
        unused = {key: getattr(arguments, key) for key in UNTRAINED}
    elif None in new:
        fail(
            "give either --model_name_or_path and --num_hidden_layers, or --config_name and --tokenizer_name"
        )
    for key, value in unused.items():
        if value is not None:
            fail(
                f"--{key} cannot be combined with the other arguments; an untrained model has {', '.join(UNTRAINED)}"
            )
    if arguments.seed is not None and not 0 <= arguments.seed < 2**32:
        fail(f"--seed must be 0 or more, not {arguments.seed}")
    open_output_dir(
        folder,
        r"(config|tokenizer|tokenizer_config|special_tokens_map)\.json|model\.safetensors|vocab\.\w+",
    )

    # 2. Model and tokenizer
    model, tokenizer = (
        first_layers(arguments) if arguments.model_name_or_path else untrained(arguments)
    )
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {one_line(error)}")
    sources = (arguments.model_name_or_path, arguments.config_name, arguments.tokenizer_name)
    remote = [source for source in sources if source and not Path(source).exists()]
    commits = {source: model_commit(source, arguments.model_revision) for source in remote}
    shown = ", ".join(f"{source} at {commit}" for source, commit in commits.items() if commit)
    logger.info(
        "%s parameters in %s%s",
        f"{model.num_parameters():,}",
        folder,
        shown and f", made from {shown}",
    )
    logger.info("next: python run_classification.py --model_name_or_path %s --do_train ...", folder)


if __name__ == "__main__":
    main()
