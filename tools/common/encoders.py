"""Encoders: what their config.json remembers of a training, and how long a text they read."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.cli import fail

# How run_classification.py makes a text of a row and cuts it. It stores these in config.json, and
# whoever uses the model reads texts in the same way. A checkpoint of others may have something else
# under the same name, hence the types.
TEXT_SETTINGS = {
    "text_column_names": list,
    "text_column_delimiter": str,
    "text_prefix": str,
    "max_seq_length": int,
}
DEFAULT_LENGTH = 256  # of a model that was not trained by run_classification.py
NO_LIMIT = 10**9


def position_offset(model: PreTrainedModel) -> int:
    """Return the first position of a text: RoBERTa counts them from padding_idx + 1, others from 0.

    RoBERTa's table of positions is longer than the texts that it reads.
    """
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def maximum_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the maximum number of tokens of a text, at least NO_LIMIT where there is no limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or positions < 0:  # T5 has no such number, XLNet has -1
        limit = NO_LIMIT
    else:
        limit = positions - position_offset(model)
    return min(limit, tokenizer.model_max_length)


def check_max_seq_length(max_seq_length: int, limit: int, name: str) -> None:
    """Exit with status 2 if --max_seq_length is more than a model's positions, or nothing."""
    if 3 <= max_seq_length <= limit:
        return
    if limit >= NO_LIMIT:
        fail(f"--max_seq_length must be at least 3, not {max_seq_length}")
    fail(
        f"--max_seq_length must be between 3 and {limit}, the maximum of {name}, "
        f"not {max_seq_length}"
    )
