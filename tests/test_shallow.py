"""configs/shallow: the depth ladder. Without a layer the network is a deep averaging network, with layers it reads
order; all are trained and explained by the scripts that serve any encoder."""

import json

import pytest
import torch
from conftest import OWN_WORDS, ROOT, assert_user_error, write_tiny_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EuroBertForSequenceClassification,
)

CONFIGS = sorted((ROOT / "configs" / "shallow").glob("*.json"))
FAST = ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1, "--max_seq_length", 64]
FAST += ["--learning_rate", 1e-2, "--num_train_epochs", 3, "--disable_tqdm", "true", "--report_to", "none"]
EVERYTHING = ["--do_train", "--do_eval", "--do_predict"]


def build(layers: int, **changes) -> EuroBertForSequenceClassification:
    """The network of a config in float64, its dropout-free evaluation; small vocabulary, random weights."""
    torch.manual_seed(layers)
    config = AutoConfig.from_pretrained(ROOT / "configs" / "shallow" / f"layers-{layers}.json")
    settings = {"vocab_size": 50, "pad_token_id": 0, "num_labels": 5, "hidden_size": 64, "intermediate_size": 64}
    for name, value in (settings | {"num_attention_heads": 2, "num_key_value_heads": 2} | changes).items():
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
    assert torch.equal(logits(model, [[1, 2, 3, 4]]), logits(again, [[1, 2, 3, 4]]))


@pytest.mark.parametrize("layers", [0, 1])
def test_trains_and_is_explained_through_the_scripts(run, tiny_dataset, tiny_model, tmp_path, layers):
    folder = tmp_path / "run"
    result = run(
        "run_classification", "--config_name", ROOT / "configs" / "shallow" / f"layers-{layers}.json",
        "--tokenizer_name", tiny_model, "--dataset_name", tiny_dataset, "--output_dir", folder, *EVERYTHING, *FAST,
    )  # fmt: skip
    assert result.code == 0, result.err
    config = json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (config["vocab_size"], config["num_hidden_layers"]) == (len(tokenizer), layers)
    assert (config["pad_token_id"], config["mask_token_id"]) == (tokenizer.pad_token_id, tokenizer.mask_token_id)
    # Each class has a word of its own: ten documents are told apart by counting.
    assert json.loads((folder / "predict_results.json").read_text())["predict_accuracy"] >= 0.9
    result = run(
        "run_attribution", "--model_name_or_path", folder, "--dataset_name", tiny_dataset, "--output_dir",
        tmp_path / "attribution", "--disable_tqdm", "--render", "false", "--max_samples", 2, "--n_steps", 1000,
    )  # fmt: skip
    assert result.code == 0, result.err
    for line in (tmp_path / "attribution" / "attributions.jsonl").read_text().splitlines():
        document = json.loads(line)
        strongest = max(zip(document["word_attributions"], document["words"], strict=True))[1]
        assert strongest == OWN_WORDS[document["prediction"]]
        # PAD is the vector 0 here, where RMSNorm is steepest: such a path takes more points than a BERT's.
        assert document["relative_error"] < 0.05


def test_embeddings_are_taken_over_when_sizes_agree(run, tiny_dataset, tmp_path):
    given = write_tiny_model(tmp_path / "given", hidden_size=384, num_attention_heads=6)
    other = write_tiny_model(tmp_path / "other")
    arguments = ["--config_name", ROOT / "configs" / "shallow" / "layers-0.json", "--tokenizer_name", given]
    arguments += ["--dataset_name", tiny_dataset, *EVERYTHING, *FAST, "--max_steps", 1, "--eval_strategy", "steps"]
    arguments += ["--save_strategy", "steps", "--eval_steps", 1, "--save_steps", 1, "--learning_rate", 0]
    result = run("run_classification", *arguments, "--init_embeddings_from", given, "--output_dir", tmp_path / "run")
    assert result.code == 0, result.err
    source = AutoModelForSequenceClassification.from_pretrained(given).get_input_embeddings().weight
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").get_input_embeddings().weight
    assert torch.equal(source, trained)  # the learning rate is 0
    result = run("run_classification", *arguments, "--init_embeddings_from", other, "--output_dir", tmp_path / "bad")
    assert_user_error(result, "embeddings", "384", "tokenizer")


def test_another_tokenizer_is_another_run(run, tiny_dataset, tmp_path):
    first, second = (write_tiny_model(tmp_path / name) for name in ("first", "second"))
    arguments = ["--config_name", ROOT / "configs" / "shallow" / "layers-0.json", "--dataset_name", tiny_dataset]
    arguments += ["--output_dir", tmp_path / "run", "--do_train", *FAST, "--num_train_epochs", 1]
    assert run("run_classification", *arguments, "--tokenizer_name", first).code == 0
    assert_user_error(run("run_classification", *arguments, "--tokenizer_name", second), "tokenizer_name")
