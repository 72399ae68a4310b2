"""Integrated gradients on tiny random models of every family: completeness, captum's numbers,
batches, words.
"""

import json

import numpy as np
import pytest
import torch
from conftest import LABELS, assert_user_error
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    BigBirdConfig,
    CanineConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EuroBertConfig,
    Gemma3TextConfig,
    GPT2Config,
    IBertConfig,
    LlamaConfig,
    LongformerConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
    XLNetConfig,
)

import run_attribution

TEXTS = [
    r"Every Kähler-Einstein metric on \mathbb{CP}^n, with $L^2$-norm one, is rigid (Łojasiewicz).",
    "We prove convexity of the moment map.",
]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
WIDE = {"initializer_range": 0.12}
FAMILIES = {
    "bert": (BertConfig, "wordpiece", SMALL | WIDE),
    "roberta": (RobertaConfig, "bytes", SMALL | WIDE | {"max_position_embeddings": 130}),
    "distilbert": (
        DistilBertConfig,
        "wordpiece",
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64} | WIDE,
    ),
    "electra": (ElectraConfig, "wordpiece", SMALL | WIDE | {"embedding_size": 16}),
    "deberta-v2": (
        DebertaV2Config,
        "metaspace",
        SMALL | WIDE | {"relative_attention": True, "pos_att_type": ["p2c"]},
    ),
    "modernbert": (
        ModernBertConfig,
        "bytes",
        SMALL | WIDE | {"classifier_pooling": "mean", "local_attention": 8},
    ),
    "xlm-roberta": (XLMRobertaConfig, "metaspace", SMALL | WIDE | {"max_position_embeddings": 130}),
    "eurobert": (EuroBertConfig, "bytes", SMALL | WIDE | {"num_key_value_heads": 2}),
    "eurobert without layers": (
        EuroBertConfig,
        "wordpiece",
        SMALL
        | WIDE
        | {"num_hidden_layers": 0, "num_key_value_heads": 2, "classifier_pooling": "mean"},
    ),
    "gpt2": (GPT2Config, "bytes", {"n_embd": 32, "n_layer": 2, "n_head": 2} | WIDE),
    "llama": (LlamaConfig, "metaspace", SMALL | WIDE | {"num_key_value_heads": 2}),
    "qwen2": (Qwen2Config, "bytes", SMALL | WIDE | {"num_key_value_heads": 2}),
}
BLOCK_SPARSE = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
REFUSED = {
    "longformer": (
        LongformerConfig,
        SMALL | {"attention_window": [8, 8], "max_position_embeddings": 514, "sep_token_id": 2},
    ),
    "bigbird": (BigBirdConfig, SMALL | BLOCK_SPARSE | {"sep_token_id": 2}),
    "bart": (
        BartConfig,
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32},
    ),
    "t5": (T5Config, {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
    "canine": (CanineConfig, {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}),
    "ibert": (IBertConfig, SMALL),
    "xlnet": (XLNetConfig, {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32}),
}


def make_tokenizer(kind):
    """A small tokenizer trained on the texts, of one of the three kinds that encoders use."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=special, show_progress=False
        )
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
        special_tokens=[
            ("<s>", tokenizer.token_to_id("<s>")),
            ("</s>", tokenizer.token_to_id("</s>")),
        ],
    )
    names = {
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def write_model(folder, config_class, settings, kind):
    """A random classifier and its tokenizer."""
    tokenizer = make_tokenizer(kind)
    torch.manual_seed(1)
    labels = {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: number for number, name in enumerate(LABELS)},
    }
    tokens = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": 2}
    config = config_class(**({"vocab_size": len(tokenizer)} | tokens | labels | settings))
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Name, folder, model and tokenizer of every family."""
    config_class, kind, settings = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("family")
    return request.param, folder, *write_model(folder, config_class, settings, kind)


@pytest.fixture
def attribute(run, tmp_path):
    """attribute(folder, flags..., texts=TEXTS) returns the lines for the texts."""

    def call(folder, *flags, texts=TEXTS):
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        base = [
            "--model_name_or_path",
            folder,
            "--output_dir",
            out,
            "--text",
            *texts,
            "--max_seq_length",
            128,
        ]
        result = run("run_attribution", *base, *flags)
        assert result.code == 0, result.err
        return [
            json.loads(line)
            for line in (out / "attributions.jsonl").read_text().split("\n")
            if line
        ]

    return call


def test_completeness_and_words(attribute, family):
    name, folder, model, tokenizer = family
    lines = attribute(folder, "--n_steps", "auto")
    for line, text in zip(lines, TEXTS, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        target = LABELS.index(line["target"])
        assert line["f_input"] == pytest.approx(logits[0, target].item(), abs=1e-4)
        scale = np.abs(line["attributions"]).sum()
        # DistilBERT has a ReLU in its head: the integrand jumps, and the integral is exact to three
        # digits only.
        assert (
            scale > 1e-3
            and abs(line["delta"]) < (1e-3 if name == "distilbert" else 1e-4) * scale + 1e-6
        )
        assert line["attributions"][0] == pytest.approx(
            0, abs=1e-6
        )  # <s> is the same in text and baseline
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


def test_batches_of_one_and_of_all_agree(attribute, family):
    """One point a batch, and all of them, for search and captum; before, decoders were wrong by up
    to 140 percent.
    """
    _, folder, model, tokenizer = family
    for steps, texts in ((["--n_steps", 9], TEXTS), (["--n_steps", "auto"], TEXTS[1:])):
        one, all_points = (
            attribute(folder, *steps, "--internal_batch_size", size, texts=texts)
            for size in (1, 500)
        )
        for a, b, text in zip(one, all_points, texts, strict=True):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            assert a["f_input"] == pytest.approx(logits[LABELS.index(a["target"])].item(), abs=1e-4)
            assert (a["f_input"], a["f_baseline"]) == (b["f_input"], b["f_baseline"]) or steps[
                1
            ] == "auto"
            assert a["f_baseline"] == pytest.approx(b["f_baseline"], abs=1e-5)
            np.testing.assert_allclose(
                a["attributions"],
                b["attributions"],
                atol=2e-6 + 2e-4 * np.abs(a["attributions"]).max(),
            )


def test_the_search_has_captums_numbers(attribute, family):
    """--n_steps 50 is captum's; the search over 50 ...

    50 gives the rule with 50 points from its interpolant.
    """
    _, folder, _, _ = family
    fixed, searched = (
        attribute(folder, "--n_steps", 50),
        attribute(folder, "--n_steps_search", 50, 50),
    )
    for captum, line in zip(fixed, searched, strict=True):
        assert line["n_steps"] == captum["n_steps"] == 50 and captum["gradient_evaluations"] == 50
        assert abs(captum["captum_delta"] - captum["delta"]) < 1e-5
        scale = np.abs(captum["attributions"]).max()
        np.testing.assert_allclose(
            line["attributions"], captum["attributions"], atol=2e-5 * scale + 2e-6
        )


@pytest.mark.parametrize("name", ["eurobert", "llama"])
def test_pad_embedding_of_zero_needs_many_gradients_and_mask_does_not(
    attribute, tmp_path_factory, name
):
    """These models normalize before their first layer, which is steepest at 0."""
    config_class, kind, settings = FAMILIES[name]
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = write_model(folder, config_class, settings, kind)
    assert not model.get_input_embeddings().weight[tokenizer.pad_token_id].any()
    (pad,) = attribute(folder, texts=TEXTS[1:])
    (mask,) = attribute(folder, "--baseline", "mask", texts=TEXTS[1:])
    assert mask["converged"] and 4 * mask["gradient_evaluations"] < pad["gradient_evaluations"]


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_are_refused(run, tmp_path, name):
    """Encoder-decoders read a text twice, CANINE hashes characters, XLNet has another order of
    dimensions, I-BERT's embeddings come with a scale, Longformer and a block-sparse BigBird pad
    texts.
    """
    config_class, settings = REFUSED[name]
    write_model(tmp_path / "model", config_class, settings, "metaspace")
    base = [
        "--model_name_or_path",
        tmp_path / "model",
        "--output_dir",
        tmp_path / "out",
        "--text",
        *TEXTS,
    ]
    assert_user_error(
        run("run_attribution", *base),
        config_class.__name__.removesuffix("Config"),
        "cannot attribute",
    )
    assert not (tmp_path / "out").exists()


def test_the_method_that_ran_is_recorded(attribute, run, tmp_path):
    """The integral has no rule; a folder of version 0.2, which recorded one, is accepted."""
    write_model(tmp_path / "model", BertConfig, SMALL | WIDE, "wordpiece")
    for steps, method in (("auto", "integral"), (5, "gausslegendre")):
        for line in attribute(tmp_path / "model", "--n_steps", steps):
            assert line["method"] == method
    folders = sorted(tmp_path.glob("out-*/summary.json"))
    summaries = [json.loads(path.read_text()) for path in folders]
    methods = [summary["settings"]["method"] for summary in summaries]
    assert methods == [None, "gausslegendre"]
    summaries[0]["settings"]["method"] = "gausslegendre"
    folders[0].write_text(json.dumps(summaries[0]))
    flags = ["--model_name_or_path", tmp_path / "model", "--output_dir", folders[0].parent]
    flags += ["--text", *TEXTS, "--max_seq_length", 128, "--n_steps", "auto"]
    assert run("run_attribution", *flags).code == 0


def test_a_short_text_has_full_attention_in_a_big_bird(attribute, tmp_path):
    settings = SMALL | WIDE | BLOCK_SPARSE | {"sep_token_id": 2}
    write_model(tmp_path / "model", BigBirdConfig, settings, "metaspace")
    flags = ["--n_steps", 60, "--max_seq_length", 28]
    for line in attribute(tmp_path / "model", *flags):
        assert abs(line["delta"]) < 1e-2 * np.abs(line["attributions"]).sum()


def test_mean_is_of_what_the_embedding_layer_makes_of_tokens(tmp_path):
    """Gemma multiplies the weights by the root of the hidden size."""
    settings = SMALL | WIDE | {"num_key_value_heads": 2, "head_dim": 16}
    model, tokenizer = write_model(tmp_path, Gemma3TextConfig, settings, "bytes")
    arguments = run_attribution.AttributionArguments(baseline=["mean"])
    explainer = run_attribution.Explainer(model, tokenizer, arguments)
    with torch.no_grad():
        mean = model.get_input_embeddings()(torch.arange(len(tokenizer))).mean(0)
    torch.testing.assert_close(explainer.baselines[0].vector, mean)
    assert not torch.allclose(mean, model.get_input_embeddings().weight.mean(0), rtol=0.5)


def test_pad_is_taken_from_the_pooling_alone(tmp_path):
    """A decoder's base model and its config.json keep their PAD: the head pools another token."""
    model, tokenizer = write_model(tmp_path, *FAMILIES["llama"][::2], "bytes")
    ids = torch.full((1, 4), tokenizer.pad_token_id)
    seen = []
    model.model.layers[0].register_forward_hook(
        lambda *call: seen.append(model.config.pad_token_id)
    )
    with run_attribution.last_token_pooled(model), torch.no_grad():
        logits = model(ids).logits
        hidden = model.model(ids).last_hidden_state
    assert seen[0] == model.config.pad_token_id == tokenizer.pad_token_id
    torch.testing.assert_close(logits, model.score(hidden[:, -1]))


@pytest.mark.parametrize("config", [{}, {"pad_token_id": None}, {"pad_token_id": 2}], ids=str)
@pytest.mark.parametrize("pad", ["<pad>", None])
@pytest.mark.parametrize("steps", ["auto", 40])
def test_decoders_whose_texts_end_with_a_word(run, tmp_path, config, pad, steps):
    """GPT-2 and Llama add no token at the end, and have no PAD: their EOS stands for it, and is
    recorded.

    A decoder pools the last token that is not PAD: in the baseline, that must be the same place.
    """
    settings = {"n_embd": 32, "n_layer": 1, "n_head": 2, "initializer_range": 0.12}
    model, tokenizer = write_model(tmp_path / "model", GPT2Config, settings, "bytes")
    single = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.backend_tokenizer.post_processor = single
    tokenizer.pad_token = pad
    tokenizer.eos_token = "</s>"
    tokenizer.save_pretrained(tmp_path / "model")
    written = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(written | config))
    flags = ["--model_name_or_path", tmp_path / "model", "--output_dir", tmp_path / "out"]
    result = run("run_attribution", *flags, "--text", *TEXTS, "--n_steps", steps)
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    token = "</s>" if pad is None else "<pad>"
    assert summary["baseline_token"] == token
    assert summary["baseline"] == ("EOS" if pad is None else "PAD")
    assert ("EOS '</s>'" in result.log) == (pad is None)
    lines = (tmp_path / "out/attributions.jsonl").read_text().split("\n")[:2]
    model.config.pad_token_id = None  # the last token is pooled
    for line in map(json.loads, lines):
        ids = torch.tensor([tokenizer(line["text"])["input_ids"]])
        blank = torch.full_like(ids, tokenizer.convert_tokens_to_ids(token))
        target = LABELS.index(line["target"])
        assert line["f_input"] == pytest.approx(model(ids).logits[0, target].item(), abs=1e-5)
        assert line["f_baseline"] == pytest.approx(model(blank).logits[0, target].item(), abs=1e-5)
        assert abs(line["delta"]) < 1e-4 * np.abs(line["attributions"]).sum() + 1e-6


def test_no_limit_of_positions(run, tmp_path):
    """Models with relative positions: -1 stands for no limit."""
    settings = FAMILIES["qwen2"][2] | {"max_position_embeddings": -1}
    write_model(tmp_path / "model", Qwen2Config, settings, "bytes")
    flags = ["--model_name_or_path", tmp_path / "model", "--output_dir", tmp_path / "out"]
    result = run("run_attribution", *flags, "--text", TEXTS[1], "--n_steps", 5)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out/summary.json").read_text())["max_seq_length"] == 256


def test_a_tokenizer_with_more_tokens_than_the_model(run, tmp_path):
    _, tokenizer = write_model(tmp_path / "model", *FAMILIES["bert"][::2], "wordpiece")
    tokenizer.add_tokens(["convexity"])
    tokenizer.save_pretrained(tmp_path / "model")
    flags = ["--model_name_or_path", tmp_path / "model", "--output_dir", tmp_path / "out"]
    result = run("run_attribution", *flags, "--text", TEXTS[1], "--max_seq_length", 128)
    assert_user_error(result, "tokens, the model", "embeddings")


def test_pad_baseline_does_not_shift_positions(run, tmp_path):
    """The baseline of a RoBERTa has the positions of the text: its logit is that with explicit
    position ids.
    """
    model, tokenizer = write_model(
        tmp_path / "model", RobertaConfig, FAMILIES["roberta"][2], "bytes"
    )
    flags = ["--text", TEXTS[1], "--max_seq_length", 128, "--n_steps", 5, "--target", "math.DG"]
    run(
        "run_attribution",
        "--model_name_or_path",
        tmp_path / "model",
        "--output_dir",
        tmp_path / "out",
        *flags,
    )
    line = json.loads((tmp_path / "out/attributions.jsonl").read_text())
    ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
    ids[0, 1:-1] = tokenizer.pad_token_id
    ones = torch.ones_like(ids)
    positions = torch.arange(ids.shape[1])[None] + tokenizer.pad_token_id + 1
    explicit = model(input_ids=ids, attention_mask=ones, position_ids=positions).logits[0, 2].item()
    shifted = model(input_ids=ids, attention_mask=ones).logits[0, 2].item()
    assert line["f_baseline"] == pytest.approx(explicit, abs=1e-5)
    assert abs(shifted - explicit) > 1e-3
