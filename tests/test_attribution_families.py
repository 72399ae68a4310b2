"""Integrated gradients on tiny random models of every encoder family: completeness holds and words line up."""

import json

import numpy as np
import pytest
import torch
from conftest import LABELS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EuroBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

TEXTS = [
    r"Every Kähler-Einstein metric on \mathbb{CP}^n, with $L^2$-norm one, is rigid (Łojasiewicz).",
    "We prove convexity of the moment map.",
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WIDE = {"initializer_range": 0.12}
FAMILIES = {
    "bert": (BertConfig, "wordpiece", SMALL | WIDE),
    "roberta": (RobertaConfig, "bytes", SMALL | WIDE | {"max_position_embeddings": 130}),
    "distilbert": (DistilBertConfig, "wordpiece", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64} | WIDE),
    "electra": (ElectraConfig, "wordpiece", SMALL | WIDE | {"embedding_size": 16}),
    "deberta-v2": (DebertaV2Config, "metaspace", SMALL | WIDE | {"relative_attention": True, "pos_att_type": ["p2c"]}),
    "modernbert": (ModernBertConfig, "bytes", SMALL | WIDE | {"classifier_pooling": "mean", "local_attention": 8}),
    "xlm-roberta": (XLMRobertaConfig, "metaspace", SMALL | WIDE | {"max_position_embeddings": 130}),
    "eurobert": (EuroBertConfig, "bytes", SMALL | WIDE | {"num_key_value_heads": 2}),
    "eurobert without layers": (
        EuroBertConfig,
        "wordpiece",
        SMALL | WIDE | {"num_hidden_layers": 0, "num_key_value_heads": 2, "classifier_pooling": "mean"},
    ),
}


def make_tokenizer(kind):
    """A small tokenizer trained on the texts, of one of the three kinds that encoders use."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))],
    )
    names = {
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def write_family(folder, family):
    """A random classifier of the family and its tokenizer."""
    config_class, kind, settings = FAMILIES[family]
    tokenizer = make_tokenizer(kind)
    torch.manual_seed(1)
    config = config_class(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=0,
        eos_token_id=2,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
        **settings,
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_completeness_and_words(run, tmp_path, family):
    model, tokenizer = write_family(tmp_path / "model", family)
    flags = ["--text", *TEXTS, "--max_seq_length", 128, "--n_steps", "auto", "--render", "false"]
    base = ["--model_name_or_path", tmp_path / "model", "--output_dir", tmp_path / "out"]
    result = run("run_attribution", *base, *flags)
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (tmp_path / "out/attributions.jsonl").read_text().split("\n") if line]
    for line, text in zip(lines, TEXTS, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        target = LABELS.index(line["target"])
        assert line["f_input"] == pytest.approx(logits[0, target].item(), abs=1e-4)
        scale = np.abs(line["attributions"]).sum()
        # DistilBERT has a ReLU in its head: the integrand jumps, and 257 points are exact to three digits only.
        assert scale > 1e-3 and abs(line["delta"]) < (1e-3 if family == "distilbert" else 1e-4) * scale + 1e-6
        assert line["attributions"][0] == pytest.approx(0, abs=1e-6)  # <s> is the same in text and baseline
        assert sum(line["word_attributions"]) == pytest.approx(sum(line["attributions"]), abs=1e-6)
        for word, (start, end) in zip(line["words"], line["word_spans"], strict=True):
            assert text[start:end] == word
    expected = [
        "Every",
        "Kähler-Einstein",
        "metric",
        "on",
        r"\mathbb{CP}^n",
        ",",
        "with",
        "$L^2$-norm",
        "one",
        ",",
        "is",
    ]
    assert lines[0]["words"][: len(expected)] == expected
    assert "".join(lines[0]["words"]) == TEXTS[0].replace(" ", "")


def test_pad_baseline_does_not_shift_positions(run, tmp_path):
    """The baseline of a RoBERTa has the positions of the text: its logit is that with explicit position ids."""
    model, tokenizer = write_family(tmp_path / "model", "roberta")
    flags = ["--text", TEXTS[1], "--max_seq_length", 128, "--n_steps", 5, "--target", "math.DG", "--render", "false"]
    run("run_attribution", "--model_name_or_path", tmp_path / "model", "--output_dir", tmp_path / "out", *flags)
    line = json.loads((tmp_path / "out/attributions.jsonl").read_text())
    ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
    ids[0, 1:-1] = tokenizer.pad_token_id
    ones = torch.ones_like(ids)
    positions = torch.arange(ids.shape[1])[None] + tokenizer.pad_token_id + 1
    explicit = model(input_ids=ids, attention_mask=ones, position_ids=positions).logits[0, 2].item()
    shifted = model(input_ids=ids, attention_mask=ones).logits[0, 2].item()
    assert line["f_baseline"] == pytest.approx(explicit, abs=1e-5)
    assert abs(shifted - explicit) > 1e-3
