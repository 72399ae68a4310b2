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
"""Write an untrained model from a configuration, such as the bag-of-embeddings classifier of configs/shallow.

    python tools/make_model.py --config_name configs/shallow/layers-0.json --tokenizer_name MODEL \\
        --init_embeddings_from MODEL --output_dir models/layers-0
    python run_classification.py --model_name_or_path models/layers-0 --dataset_name data/arxiv --do_train ...

The weights are random (--seed); --init_embeddings_from copies the word embeddings of a pretrained model. The head is
not written: run_classification.py makes one for the classes of its dataset, with its own seed.

Writes to --output_dir: config.json, model.safetensors and the tokenizer.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import fail, one_line, open_output_dir, parse_arguments, start_logging
from transformers import AutoConfig, AutoModel, AutoTokenizer, set_seed

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    """What to make the model of, and where to write it."""

    config_name: str = field(metadata={"help": "Configuration: a file, a folder or a Hub id."})
    tokenizer_name: str = field(metadata={"help": "Tokenizer: a folder or a Hub id; its size is the vocabulary size."})
    output_dir: str = field(metadata={"help": "Model folder to write."})
    init_embeddings_from: str | None = field(
        default=None, metadata={"help": "Copy the word embeddings of this model: a folder or a Hub id."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of the tokenizer and the embeddings on the Hub."}
    )
    seed: int = field(default=42, metadata={"help": "Random seed of the weights."})


def main() -> None:
    # 1. Arguments
    start_logging()
    (arguments,) = parse_arguments(__doc__, ModelArguments)
    folder, revision = Path(arguments.output_dir), arguments.model_revision
    if not 0 <= arguments.seed < 2**32:
        fail(f"--seed must be 0 or more, not {arguments.seed}")
    open_output_dir(
        folder, r"(config|tokenizer|tokenizer_config|special_tokens_map)\.json|model\.safetensors|vocab\.\w+"
    )

    # 2. Tokenizer and configuration
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer_name, revision=revision)
    except Exception as error:  # OSError, ValueError, KeyError or TypeError, by type of model, and the Hub's own
        fail(f"cannot load --tokenizer_name {arguments.tokenizer_name}: {one_line(error)}")
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # transformers makes an empty one without files
        fail(f"--tokenizer_name {arguments.tokenizer_name} has no tokenizer files")
    try:
        config = AutoConfig.from_pretrained(arguments.config_name)
    except Exception as error:
        fail(f"cannot load --config_name {arguments.config_name}: {one_line(error)}")
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    if hasattr(config, "mask_token_id"):  # EuroBERT's default lies outside a smaller vocabulary
        config.mask_token_id = tokenizer.mask_token_id

    # 3. Model
    set_seed(arguments.seed)
    model = AutoModel.from_config(config, dtype=torch.float32)
    if arguments.init_embeddings_from:
        try:
            given = AutoModel.from_pretrained(arguments.init_embeddings_from, revision=revision, dtype=torch.float32)
        except Exception as error:
            fail(f"cannot load --init_embeddings_from {arguments.init_embeddings_from}: {one_line(error)}")
        source, own = given.get_input_embeddings().weight, model.get_input_embeddings().weight
        if source.shape != own.shape:
            fail(
                f"the embeddings of {arguments.init_embeddings_from} are {tuple(source.shape)}, the model needs "
                f"{tuple(own.shape)}; use its tokenizer and its hidden size"
            )
        own.data.copy_(source.data)
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {one_line(error)}")
    logger.info("%s parameters in %s", f"{model.num_parameters():,}", folder)
    logger.info("next: python run_classification.py --model_name_or_path %s --do_train ...", folder)


if __name__ == "__main__":
    main()
