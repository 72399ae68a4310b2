"""configs/shallow: the bag-of-embeddings classifier and shallow transformers.

They are made by tools/make_model.py, and trained and explained by the scripts for any encoder.
"""

import json
import shutil

import pytest
import torch
from conftest import OWN_WORDS, ROOT, assert_user_error, write_tiny_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EuroBertForSequenceClassification,
)

CONFIGS = sorted((ROOT / "configs" / "shallow").glob("*.json"))
FAST = [
    *("--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1),
    *("--max_seq_length", 64, "--learning_rate", 3e-3, "--num_train_epochs", 3),
    *("--disable_tqdm", "true", "--report_to", "none"),
]
EVERYTHING = ["--do_train", "--do_eval", "--do_predict"]


def build(layers: int, **changes) -> EuroBertForSequenceClassification:
    """The network of a config in float64 without dropout; small vocabulary, random weights."""
    torch.manual_seed(layers)
    config = AutoConfig.from_pretrained(ROOT / "configs" / "shallow" / f"layers-{layers}.json")
    settings = {
        "vocab_size": 50,
        "pad_token_id": 0,
        "num_labels": 5,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    for name, value in (settings | changes).items():
        setattr(config, name, value)
    config.head_dim = config.hidden_size // config.num_attention_heads
    config.initializer_range = 0.5
    return AutoModelForSequenceClassification.from_config(config).double().eval()


def logits(model, rows: list[list[int]], length: int | None = None) -> torch.Tensor:
    """Logits of rows of ids, padded with 0 on the right to the given length."""
    length = length or max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def test_the_ladder_is_zero_one_two_and_four_layers():
    configs = [AutoConfig.from_pretrained(path) for path in CONFIGS]
    assert [config.num_hidden_layers for config in configs] == [0, 1, 2, 4]
    assert {config.classifier_pooling for config in configs} == {"mean"}
    contents = [json.loads(path.read_text()) for path in CONFIGS]
    for content in contents:
        del content["num_hidden_layers"]
    assert all(content == contents[0] for content in contents)


def test_no_layer_is_indifferent_to_order_and_padding_and_layers_are_not():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 50, (20,), generator=generator).tolist() for _ in range(16)]
    shuffled = [[row[place] for place in torch.randperm(20, generator=generator)] for row in rows]
    for layers in (0, 1, 2):
        model = build(layers)
        order = (logits(model, rows) - logits(model, shuffled)).abs().max().item()
        padding = (logits(model, rows) - logits(model, rows, length=60)).abs().max().item()
        assert padding < 1e-12
        assert order < 1e-12 if layers == 0 else order > 1e-3


def test_no_layer_is_a_head_on_the_mean_of_the_words():
    model = build(0)
    rows = [[5, 6, 7], [9]]
    vectors = model.model.norm(model.model.embed_tokens.weight)
    means = torch.stack([vectors[row].mean(dim=0) for row in rows])
    expected = model.classifier(torch.nn.functional.gelu(model.dense(means)))
    assert torch.allclose(logits(model, rows), expected, atol=1e-12)


def test_saves_and_loads(tmp_path):
    model = build(0)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).double().eval()
    assert again.config.num_hidden_layers == 0
    # Weights elsewhere in memory may take another path through the BLAS: the last digit differs.
    assert torch.allclose(logits(model, [[1, 2, 3, 4]]), logits(again, [[1, 2, 3, 4]]), atol=1e-12)


def make_model(run, folder, tokenizer, *more, layers=0):
    """Write an untrained model of configs/shallow by tools/make_model.py."""
    config = ROOT / "configs" / "shallow" / f"layers-{layers}.json"
    flags = ["--config_name", config, "--tokenizer_name", tokenizer, "--output_dir", folder]
    return run("make_model", *flags, *more)


@pytest.mark.parametrize("layers", [0, 1])
def test_trains_and_is_explained_through_the_scripts(
    run, tiny_dataset, tiny_model, tmp_path, layers
):
    model = tmp_path / f"layers-{layers}"
    folder = tmp_path / "run"
    result = make_model(run, model, tiny_model, layers=layers)
    assert result.code == 0, result.err
    flags = ["--model_name_or_path", model, "--dataset_name", tiny_dataset]
    result = run("run_classification", *flags, "--output_dir", folder, *EVERYTHING, *FAST)
    assert result.code == 0, result.err
    config = json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config["vocab_size"] == len(tokenizer)
    assert config["num_hidden_layers"] == layers
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert config["mask_token_id"] == tokenizer.mask_token_id
    # Each class has a word of its own: counting words tells ten documents apart.
    assert json.loads((folder / "predict_results.json").read_text())["predict_accuracy"] >= 0.9
    flags = ["--model_name_or_path", folder, "--dataset_name", tiny_dataset, "--disable_tqdm"]
    flags += ["--max_samples", 2, "--n_steps", 1000, "--output_dir", tmp_path / "attribution"]
    result = run("run_attribution", *flags)
    assert result.code == 0, result.err
    for line in (tmp_path / "attribution" / "attributions.jsonl").read_text().splitlines():
        document = json.loads(line)
        strongest = max(zip(document["word_attributions"], document["words"], strict=True))[1]
        assert strongest == OWN_WORDS[document["prediction"]]
        # PAD is the zero vector here, where RMSNorm is steepest: such a path needs more steps
        # than a BERT's.
        assert document["relative_error"] < 0.05


def test_embeddings_are_copied_if_their_sizes_agree(run, tmp_path):
    given = write_tiny_model(tmp_path / "given", hidden_size=384, num_attention_heads=6)
    other = write_tiny_model(tmp_path / "other")
    result = make_model(run, tmp_path / "model", given, "--init_embeddings_from", given)
    assert result.code == 0, result.err
    source = AutoModelForSequenceClassification.from_pretrained(given)
    copied = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert torch.equal(source.get_input_embeddings().weight, copied.get_input_embeddings().weight)
    result = make_model(run, tmp_path / "bad", given, "--init_embeddings_from", other)
    assert_user_error(result, "embeddings", "384", "tokenizer")


def test_embeddings_of_other_tokens_are_refused(run, tmp_path):
    """A vocabulary of the same size may have the tokens in another order."""
    given = write_tiny_model(tmp_path / "given", hidden_size=384, num_attention_heads=6)
    other = shutil.copytree(given, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = OWN_WORDS["math.AG"], OWN_WORDS["math.CV"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = make_model(run, tmp_path / "model", given, "--init_embeddings_from", other)
    assert_user_error(result, f"tokens of {other}", f"--tokenizer_name {given}")
    for file in other.glob("*token*"):
        file.unlink()
    result = make_model(run, tmp_path / "model", given, "--init_embeddings_from", other)
    assert_user_error(result, f"--init_embeddings_from {other} has no tokenizer files")


def test_weights_depend_on_the_seed(run, tiny_model, tmp_path):
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        result = make_model(run, folder, tiny_model, "--seed", seed, layers=1)
        assert result.code == 0, result.err
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_first_layers_of_a_pretrained_model(run, tmp_path):
    given = write_tiny_model(tmp_path / "given", num_hidden_layers=3)
    folder = tmp_path / "first-2"
    flags = ("--model_name_or_path", given, "--output_dir", folder)
    result = run("make_model", *flags, "--num_hidden_layers", 2)
    assert result.code == 0, result.err
    whole = AutoModel.from_pretrained(given, output_hidden_states=True).eval()
    part = AutoModel.from_pretrained(folder, output_hidden_states=True).eval()
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    with torch.no_grad():
        assert torch.equal(part(ids).hidden_states[2], whole(ids).hidden_states[2])
    assert part.config.num_hidden_layers == 2
    assert_user_error(
        run("make_model", *flags, "--num_hidden_layers", 4), "--num_hidden_layers", "1 to the 3"
    )
    assert_user_error(run("make_model", *flags, "--num_hidden_layers", 1, "--seed", 1), "--seed")
    assert_user_error(run("make_model", *flags), "--num_hidden_layers", "--config_name")


def test_configuration_and_tokenizer_that_cannot_be_loaded(run, tiny_model, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    flags = ("--tokenizer_name", tiny_model, "--output_dir", tmp_path / "model")
    assert_user_error(
        run("make_model", "--config_name", tmp_path / "config.json", *flags), "--config_name"
    )
    assert_user_error(
        make_model(run, tmp_path / "model", tmp_path / "none"), "--tokenizer_name", "none"
    )
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    assert_user_error(make_model(run, tmp_path / "thesis", tiny_model), "thesis.tex")


def test_flag_that_moved_is_named(run, tiny_model, tiny_dataset, tmp_path):
    flags = ["--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset]
    flags += ["--output_dir", tmp_path / "run", "--do_train", "--config_name", "x.json"]
    result = run("run_classification", *flags)
    assert_user_error(result, "--config_name", "tools/make_model.py")
