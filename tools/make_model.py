#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "PyYAML==6.0.3",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Write an untrained model from a configuration, or the first layers of a pretrained model.

    python tools/make_model.py --config_name configs/shallow/layers-0.json --tokenizer_name MODEL \\
        --init_embeddings_from MODEL --output_dir models/layers-0
    python tools/make_model.py --model_name_or_path MODEL --num_hidden_layers 2 \\
        --output_dir models/first-2
    python run_classification.py --model_name_or_path models/layers-0 --dataset_name data/arxiv \\
        --do_train ...

Without --model_name_or_path the weights are random (--seed); --init_embeddings_from copies the word
embeddings of a pretrained model, as for the bag-of-embeddings classifier
configs/shallow/layers-0.json. The head is not written: run_classification.py makes one for the
classes of its dataset, with its own seed.

Writes to --output_dir: config.json, model.safetensors, the tokenizer and make_model.json, the
record of the arguments.
"""

import json
import logging
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.encoders import TEXT_SETTINGS
from common.folders import (
    check_names,
    check_revision,
    model_commit,
    open_output_dir,
    short_path,
    write_files,
)

logger = logging.getLogger(__name__)

# Arguments of an untrained model
UNTRAINED = ("config_name", "tokenizer_name", "init_embeddings_from", "seed")
SOURCES = ("model_name_or_path", "config_name", "tokenizer_name", "init_embeddings_from")
RECORD = "make_model.json"
# What save_pretrained of models and tokenizers writes, and the record
OWN_FILES = (
    r"make_model\.json|(config|generation_config|tokenizer|tokenizer_config|special_tokens_map"
    r"|added_tokens|vocab)\.json|model(-\d{5}-of-\d{5})?\.safetensors"
    r"|model\.safetensors\.index\.json|(vocab|merges)\.txt|chat_template\.jinja"
    r"|(sentencepiece\.bpe|spiece|spm|tokenizer)\.model"
)


# Arguments


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
    model_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of everything that is loaded from the Hub."},
    )
    seed: int | None = field(
        default=None, metadata={"help": "Random seed of the weights. Default: 42."}
    )


def check_arguments(arguments: ModelArguments) -> None:
    """Exit with status 2 unless the arguments are those of one of the two kinds of models."""
    first_layers = ("model_name_or_path", "num_hidden_layers")
    is_pretrained = all(getattr(arguments, name) is not None for name in first_layers)
    is_untrained = arguments.config_name is not None and arguments.tokenizer_name is not None
    if not is_pretrained and not is_untrained:
        fail(
            "give either --model_name_or_path and --num_hidden_layers, or --config_name and "
            "--tokenizer_name"
        )
    for name in UNTRAINED if is_pretrained else first_layers:
        if getattr(arguments, name) is not None:
            fail(
                f"--{name} cannot be combined with the other arguments; an untrained model has "
                f"{', '.join(UNTRAINED)}"
            )
    given = [getattr(arguments, flag) for flag in SOURCES]
    sources = [source for source in given if source is not None]
    if arguments.model_revision and all(Path(source).exists() for source in sources):
        check_revision("model_revision", sources[0], arguments.model_revision)
    if arguments.seed is not None and not 0 <= arguments.seed < 2**32:
        fail(f"--seed must be between 0 and 4294967295, not {arguments.seed}")


# The model


def load(kind: type, flag: str, name: str, revision: str | None, **options):
    """Return kind.from_pretrained(name). Exit with status 2, naming the flag, if that fails.

    Weights are read from safetensors files only, and no code of the model's folder runs.
    """
    if kind is AutoModel:
        options["use_safetensors"] = True
    try:
        return kind.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False, **options
        )
    # OSError, ValueError, KeyError or TypeError, by type of model, the Hub's own, and those of
    # tokenizers and safetensors, which derive from Exception alone
    except Exception as error:
        fail(f"cannot load --{flag} {name}: {one_line(error)}")


def load_tokenizer(flag: str, name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Return a tokenizer. Exit with status 2, naming the flag, if there is none."""
    tokenizer = load(AutoTokenizer, flag, name, revision)
    # transformers makes an empty tokenizer where there are no files.
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        fail(f"--{flag} {name} has no tokenizer files")
    return tokenizer


def first_layers(arguments: ModelArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a pretrained model without its last layers, and its tokenizer.

    Exits with status 2 if it has too few.
    """
    name = arguments.model_name_or_path
    count = arguments.num_hidden_layers
    revision = arguments.model_revision
    config = load(AutoConfig, "model_name_or_path", name, revision)
    available = getattr(config, "num_hidden_layers", None)
    if available is None:
        fail(f"the configuration of {name} does not say how many layers there are")
    if not 1 <= count <= available:
        fail(f"--num_hidden_layers must be from 1 to the {available} layers of {name}, not {count}")
    tokenizer = load(AutoTokenizer, "model_name_or_path", name, revision)
    model = load(
        AutoModel,
        "model_name_or_path",
        name,
        revision,
        num_hidden_layers=count,
        dtype=torch.float32,
    )
    forget_task(model.config)
    return model, tokenizer


def forget_task(config: PreTrainedConfig) -> None:
    """Remove what belongs to the head and the data of a classifier; the new model has neither."""
    config.problem_type = None
    config.num_labels = 2  # the default of transformers; names its classes LABEL_0, LABEL_1
    prefix = getattr(config, "text_prefix", None)
    if prefix:
        logger.warning(
            "the texts of this model began with %r, which the new one does not remember; "
            "give it as --text_prefix to run_classification.py",
            prefix,
        )
    for key in (*TEXT_SETTINGS, "thresholds", "label_delimiter"):
        if hasattr(config, key):
            delattr(config, key)


def untrained_model(arguments: ModelArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return an untrained model and its tokenizer.

    Exits with status 2 if they or the embeddings do not fit.
    """
    revision = arguments.model_revision
    tokenizer = load_tokenizer("tokenizer_name", arguments.tokenizer_name, revision)
    config = load(AutoConfig, "config_name", arguments.config_name, revision)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    if hasattr(config, "mask_token_id"):  # EuroBERT's default lies outside a smaller vocabulary
        config.mask_token_id = tokenizer.mask_token_id
    set_seed(42 if arguments.seed is None else arguments.seed)
    model = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    if arguments.init_embeddings_from:
        copy_embeddings(model, tokenizer, arguments)
    return model, tokenizer


def copy_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments
) -> None:
    """Copy the word embeddings of --init_embeddings_from into a model, in place.

    Exits with status 2 if they have another shape, (vocabulary, hidden size), or are those of other
    tokens than the tokenizer's.
    """
    source_model = load(
        AutoModel,
        "init_embeddings_from",
        arguments.init_embeddings_from,
        arguments.model_revision,
        dtype=torch.float32,
    )
    source = source_model.get_input_embeddings().weight
    target = model.get_input_embeddings().weight
    if source.shape != target.shape:
        fail(
            f"the embeddings of {arguments.init_embeddings_from} are {tuple(source.shape)}, the "
            f"model needs {tuple(target.shape)}; use its tokenizer and its hidden size"
        )
    # Vocabularies of the same size may have other tokens, or the same in another order.
    source_tokenizer = load_tokenizer(
        "init_embeddings_from", arguments.init_embeddings_from, arguments.model_revision
    )
    if source_tokenizer.get_vocab() != tokenizer.get_vocab():
        fail(
            f"the tokens of {arguments.init_embeddings_from} are not those of --tokenizer_name "
            f"{arguments.tokenizer_name}; give --tokenizer_name {arguments.init_embeddings_from}"
        )
    target.data.copy_(source.data)


# The folder


def write_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: ModelArguments,
) -> dict[str, str]:
    """Write the model folder; return the commits of what came from the Hub.

    Exits with status 2 if the folder cannot be written.
    """
    # The record comes first, and without its arguments: an interrupted command is known by it and
    # may be run again, and a whole record stands beside a whole model.
    write_files(folder, {RECORD: json.dumps({"script": "make_model.py"}) + "\n"})
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        fail(
            f"cannot write into --output_dir {folder}: {one_line(error)}; free some space and run "
            "the command again"
        )
    shown = asdict(arguments)
    commits = {}
    for flag in SOURCES:
        name = getattr(arguments, flag)
        if name is None:
            continue
        shown[flag] = short_path(name)
        if not Path(name).exists():
            commits[name] = model_commit(name, arguments.model_revision)
    shown["output_dir"] = short_path(arguments.output_dir)
    record = {
        "script": "make_model.py",
        "arguments": shown,
        "commits": commits,
        "num_parameters": model.num_parameters(),
        "versions": versions("torch", "transformers"),
    }
    write_files(folder, {RECORD: json.dumps(record, ensure_ascii=False, indent=2) + "\n"})
    return {name: commit for name, commit in commits.items() if commit}


def main() -> None:
    # 1. Arguments
    start_logging()
    (arguments,) = parse_arguments(__doc__, ModelArguments)
    check_names(arguments)
    check_arguments(arguments)
    folder = Path(arguments.output_dir)
    open_output_dir(folder, "make_model.py", [RECORD], OWN_FILES)

    # 2. Model and tokenizer
    if arguments.model_name_or_path:
        model, tokenizer = first_layers(arguments)
    else:
        model, tokenizer = untrained_model(arguments)

    # 3. The folder
    commits = write_model(folder, model, tokenizer, arguments)
    logger.info("%s parameters in %s", f"{model.num_parameters():,}", folder)
    for name, commit in commits.items():
        logger.info("made from %s at %s", name, commit)
    logger.info(
        "next: python run_classification.py --model_name_or_path %s --dataset_name data/arxiv "
        "--do_train --do_eval --do_predict --output_dir %s",
        shlex.quote(str(folder)),
        shlex.quote(f"runs/{short_path(arguments.output_dir)}"),
    )


if __name__ == "__main__":
    main()
