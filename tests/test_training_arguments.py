"""Every argument of TrainingArguments: what run_classification.py does with it.

A new version of transformers with another argument fails here, so that someone decides.
"""

import dataclasses
import json
import sys

import pytest
from conftest import assert_user_error
from test_run_classification import command
from transformers import TrainingArguments

# Identifies the run: another value in the same folder is another run.
IDENTITY = """learning_rate num_train_epochs max_steps warmup_steps weight_decay max_grad_norm
lr_scheduler_type lr_scheduler_kwargs optim optim_args optim_target_modules adam_beta1 adam_beta2
adam_epsilon label_smoothing_factor neftune_noise_alpha eval_strategy eval_steps eval_delay
eval_on_start load_best_model_at_end metric_for_best_model greater_is_better
train_sampling_strategy seed data_seed full_determinism bf16_full_eval fp16_full_eval
average_tokens_across_devices ignore_data_skip restore_callback_states_from_checkpoint"""
# Refused with one line; with a value to try.
REFUSED = {
    "prediction_loss_only": "true",  # predictions and metrics need the logits
    "batch_eval_metrics": "true",  # macro F1 is not a mean over batches
    "dataloader_drop_last": "true",  # would drop documents of the validation and test splits
    "auto_find_batch_size": "true",  # would change the batch, and the record would be wrong
    "include_for_metrics": "inputs",  # the metrics use predictions and labels only
    "use_liger_kernel": "true",  # no kernels for encoders
    "remove_unused_columns": "false",  # the length column would reach the model
    "length_column_name": "size",  # the script makes the batches
    "eval_do_concat_batches": "false",  # predictions would be lists of batches
}
# Honored by the Trainer as documented; changes how a run is computed, shown or stored, not which
# run it is (bf16 and fp16 count as mixed_precision).
HONORED = """output_dir per_device_train_batch_size per_device_eval_batch_size
gradient_accumulation_steps bf16 fp16 tf32 activation_checkpointing activation_checkpointing_kwargs
gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend
torch_compile_mode torch_empty_cache_steps logging_strategy logging_steps logging_first_step
log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica
disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
eval_use_gather_object eval_accumulation_steps save_only_model save_strategy save_steps
save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token hub_private_repo
hub_model_id hub_strategy hub_always_push hub_revision use_cpu accelerator_config
parallelism_config dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics do_train do_eval do_predict
resume_from_checkpoint"""
# Without effect here, whatever the value, and without harm
IRRELEVANT = {
    "use_cache": "encoders have no key-value cache",
    "liger_kernel_config": "use_liger_kernel is refused",
    "local_rank": "the launcher sets it",
    "label_names": "the flag of this name is DataArguments': names of classes",
}


def test_every_argument_is_in_the_table_once():
    known = [*IDENTITY.split(), *REFUSED, *HONORED.split(), *IRRELEVANT]
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(known) - fields == set(), "these arguments no longer exist"
    assert fields - set(known) == set(), "decide what these new arguments do"
    assert len(known) == len(set(known))


def test_record_of_a_run_holds_what_identifies_it(trained):
    """test_run_classification.py shows that another value is another run."""
    folder = trained("run", "--num_train_epochs", 1, "--do_predict", "false")
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    recorded = json.loads((folder / "run_arguments.json").read_text())["arguments"]
    assert fields & set(recorded) - {"label_names"} == set(IDENTITY.split())
    own = set(recorded) - fields
    assert own == {
        "model_name_or_path", "tokenizer_name", "model_revision", "attn_implementation",
        "attention_dropout", "text_prefix", "max_seq_length", "long_texts", "class_weights",
        "threshold", "metric_name", "early_stopping_patience", "dataset_config_name",
        "dataset_revision", "text_column_names", "text_column_delimiter", "label_column_name",
        "label_delimiter", "validation_fraction", "test_fraction", "split_seed", "drop_bad_rows",
        "shuffle_train_dataset", "max_train_samples", "max_eval_samples", "mixed_precision",
        "total_train_batch_size",
    }  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(run, tiny_model, tiny_dataset, tmp_path, name):
    result = run(
        "run_classification",
        *command(tiny_model, tiny_dataset, tmp_path / "run", f"--{name}", REFUSED[name]),
    )
    assert_user_error(result, f"--{name}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "-1"),
        ("learning_rate", "nan"),
        ("per_device_train_batch_size", "0"),
        ("per_device_eval_batch_size", "0"),
        ("gradient_accumulation_steps", "0"),
        ("num_train_epochs", "0"),
        ("weight_decay", "-0.1"),
        ("label_smoothing_factor", "1"),
        ("metric_for_best_model", "nonsense"),
        ("early_stopping_patience", "-1"),
        ("attention_dropout", "-0.5"),
        ("seed", "-1"),
        ("resume_from_checkpoint", "no-such-folder"),
        ("optim", "adamw_bnb_8bit"),
        ("report_to", "wandb"),
        ("eval_strategy", "no"),
        ("metric_for_best_model", ""),
        ("logging_steps", "-3"),
        ("eval_steps", "-0.5"),
        ("save_steps", "0"),
        ("dataloader_num_workers", "-1"),
        ("dataloader_persistent_workers", "true"),
        ("dataloader_multiprocessing_context", "fork"),
        ("accelerator_config", '{"split_batches": true}'),
        ("accelerator_config", '{"use_seedable_sampler": false}'),
    ],
)
def test_values_without_meaning_or_without_their_package(
    run, tiny_model, tiny_dataset, tmp_path, name, value
):
    result = run(
        "run_classification",
        *command(tiny_model, tiny_dataset, tmp_path / "run", f"--{name}", value),
    )
    words = {
        "optim": ["--optim", "bitsandbytes"],
        "report_to": ["--report_to", "wandb"],
        "eval_strategy": ["--load_best_model_at_end"],
        "metric_for_best_model": ["--metric_for_best_model", f"not {value!r}", "accuracy"],
        "label_smoothing_factor": ["--label_smoothing_factor must be at least 0 and below 1"],
    }
    assert_user_error(result, *words.get(name, [f"--{name}"]))
    assert not list(tmp_path.glob("run/*"))


def report(run, model, dataset, tmp_path, package):
    flags = ("--report_to", package, "--project", "geometry", "--num_train_epochs", 1)
    flags += ("--do_predict", "false")
    return run("run_classification", *command(model, dataset, tmp_path / "run", *flags))


@pytest.mark.parametrize("package", ["tensorboard", "trackio"])
def test_report_to_a_package_that_is_not_installed(
    run, tiny_model, tiny_dataset, tmp_path, monkeypatch, package
):
    """Where the package is installed, transformers is told that it is not."""
    for name in (package, "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("is_tensorboard_available", "is_trackio_available"):
        monkeypatch.setattr(f"transformers.integrations.integration_utils.{name}", lambda: False)
    result = report(run, tiny_model, tiny_dataset, tmp_path, package)
    assert_user_error(result, "--report_to", package, "install")
    assert not list((tmp_path / "run").iterdir())


def test_report_to_tensorboard(run, tiny_model, tiny_dataset, tmp_path):
    """The losses are found where docs/training.md says."""
    pytest.importorskip("tensorboard")
    result = report(run, tiny_model, tiny_dataset, tmp_path, "tensorboard")
    assert result.code == 0, result.err
    assert list(tmp_path.glob("run/runs/*/events.out.tfevents.*"))


def test_report_to_trackio(run, tiny_model, tiny_dataset, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    result = report(run, tiny_model, tiny_dataset, tmp_path, "trackio")
    assert result.code == 0, result.err
    assert (tmp_path / "trackio" / "geometry.db").exists()


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--group_by_length", "--train_sampling_strategy group_by_length"),
        ("--evaluation_strategy", "--eval_strategy"),
        ("--warmup_ratio", "--warmup_steps"),
        ("--overwrite_output_dir", "--output_dir"),
        ("--no_cuda", "--use_cpu"),
        ("--save_safetensors", "safetensors"),
        ("--logging_dir", "TENSORBOARD_LOGGING_DIR"),
        ("--pad_to_max_length", "--pad_to_multiple_of"),
    ],
)
def test_renamed_flags_name_their_successor(run, tiny_model, tiny_dataset, tmp_path, flag, word):
    result = run(
        "run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", flag, "1")
    )
    assert_user_error(result, flag, word)


# Arguments that the script's own loss, sampler or saving could bypass


@pytest.fixture
def trained(run, tiny_model, tiny_dataset, tmp_path):
    """``trained(name, *flags)`` trains into a folder of that name and returns it."""

    def train(name, *flags):
        result = run(
            "run_classification", *command(tiny_model, tiny_dataset, tmp_path / name, *flags)
        )
        assert result.code == 0, result.err
        return tmp_path / name

    return train


def results(folder, split):
    return json.loads((folder / f"{split}_results.json").read_text())


def test_label_smoothing_changes_the_loss(trained):
    folders = [
        trained(
            str(factor),
            "--label_smoothing_factor",
            factor,
            "--num_train_epochs",
            1,
            "--do_predict",
            "false",
        )
        for factor in (0, 0.5)
    ]
    losses = [results(folder, "train")["train_loss"] for folder in folders]
    assert abs(losses[0] - losses[1]) > 1e-3
    assert (
        json.loads((folders[1] / "run_arguments.json").read_text())["arguments"][
            "label_smoothing_factor"
        ]
        == 0.5
    )


@pytest.mark.parametrize("metric", ["f1", "eval_accuracy"])
def test_larger_is_better_for_metrics_that_are_not_losses(
    run, trained, tiny_model, tiny_dataset, tmp_path, metric
):
    flags = ("--metric_for_best_model", metric, "--num_train_epochs", 4, "--learning_rate", 0.002)
    folder = trained("run", *flags)
    state = json.loads((folder / "trainer_state.json").read_text())
    key = f"eval_{metric.removeprefix('eval_')}"
    values = {
        row["step"]: row[key] for row in state["log_history"] if key in row and row["step"] > 0
    }
    assert len(set(values.values())) > 1
    assert values[state["best_global_step"]] == max(values.values()) == state["best_metric"]
    other = run("run_classification", *command(tiny_model, tiny_dataset, folder, *flags[2:]))
    assert_user_error(other, folder, "metric_for_best_model")


def test_early_stopping_without_evaluations(run, tiny_model, tiny_dataset, tmp_path):
    flags = ("--eval_strategy", "no", "--load_best_model_at_end", "false")
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *flags))
    assert_user_error(result, "--early_stopping_patience 0")


def test_training_without_evaluation_keeps_the_last_model(trained):
    more = (
        "--early_stopping_patience",
        0,
        "--load_best_model_at_end",
        "false",
        "--num_train_epochs",
        2,
    )
    folder = trained("run", "--eval_strategy", "no", *more)
    assert json.loads((folder / "trainer_state.json").read_text())["best_global_step"] is None
    assert "last step" in (folder / "README.md").read_text()
    assert results(folder, "predict")["predict_samples"] == 10


def test_batch_rebalance_follows_the_seed(trained):
    flags = (
        "--train_sampling_strategy",
        "batch_rebalance",
        "--num_train_epochs",
        2,
        "--gradient_accumulation_steps",
        2,
    )
    losses = [
        results(trained(name, *flags, "--seed", 1, "--data_seed", seed), "train")["train_loss"]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_resume_from_checkpoint_true_means_the_last_one(trained):
    folder = trained(
        "run", "--resume_from_checkpoint", "true", "--num_train_epochs", 1, "--do_predict", "false"
    )
    assert (folder / "eval_results.json").exists()
