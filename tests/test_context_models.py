"""tools/context/models.py: tokens, batches, masks and windows; synergies of the model itself."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHARED_WORDS, assert_user_error, make_records, write_dataset
from context_fixtures import FAMILIES, loaded, read_split, write_family
from tokenizers import Tokenizer, trainers
from tokenizers import models as tokenizer_models
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from context import attention_window, models, phrases
from context.words import shuffle

pytest_plugins = ["context_fixtures"]


# Tokens


def test_joined_tokens_are_those_of_the_tokenizer(runs, documents, minilm):
    run, _, _ = loaded(runs / "steep", documents)
    assert all(run.joined)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    text = "Kähler--Einstein metrics ($c_1<0$) on non-compact $\\mathbb{C}^n$: L\\'evy's 3.14 test."
    real = text.split()
    other = replace(run, tokenizer=tokenizer, prefix="query: ", max_length=64, pad_id=0)
    models.prepare_words(other, [real], 0)
    assert other.joined == [True]
    for seed in range(20):
        words = shuffle(real, 1, [seed])
        expected = tokenizer("query: " + " ".join(words))["input_ids"]
        assert models.join_tokens(other, words) == expected
    masked = models.join_tokens(other, real, frozenset({0}))
    length = len(tokenizer(real[0], add_special_tokens=False)["input_ids"])
    assert masked.count(0) == length
    assert len(masked) == len(models.join_tokens(other, real))


def test_tokens_that_depend_on_their_neighbors_are_not_joined(runs, documents, tmp_path):
    """The tokenizer does not split at blanks, so tokens cannot be joined word by word; whole texts
    are tokenized."""
    tokenizer = Tokenizer(tokenizer_models.BPE(unk_token="[UNK]"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts = [" ".join(SHARED_WORDS)] * 5
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=200, special_tokens=special)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    folder = tmp_path / "joint"
    model = AutoModelForSequenceClassification.from_pretrained(runs / "steep")
    model.resize_token_embeddings(len(fast))
    model.save_pretrained(folder)
    fast.model_max_length = 128
    fast.save_pretrained(folder)
    run, _, _ = loaded(folder, documents, max_seq_length=40)
    words = [shuffle(words, 1, [number]) for number, words in enumerate(run.words)]
    assert not all(run.joined)
    inputs = models.encode(run, words, list(range(len(words))))
    for item, text in zip(inputs, words, strict=True):
        assert item == run.tokenizer(" ".join(text), truncation=True, max_length=40)["input_ids"]


def test_long_texts_are_cut_before_they_are_shuffled(runs, documents):
    run, texts, _ = loaded(runs / "steep", documents, max_seq_length=10)
    whole = texts.words(["abstract"], " ")
    assert run.cut_documents == len(whole)
    for words, original in zip(run.words, whole, strict=True):
        assert words == original[: len(words)]
        assert 0 < len(words) < len(original)
        assert len(models.join_tokens(run, words)) <= 10
        assert len(models.join_tokens(run, original[: len(words) + 1])) > 10


# Phrases


def test_phrases_are_not_tested_where_they_were_chosen(
    context, runs, documents, attributions, tmp_path
):
    run, texts, arguments = loaded(runs / "steep", documents, n_phrases=3)
    choice = phrases.choose_phrases(run, texts, arguments)
    validation = read_split(arguments, "validation")
    words = validation.words(["abstract"], " ")
    typical = phrases.typical_phrases(words, validation.labels)
    assert choice.source == "typical n-grams"
    assert len(choice.phrases) == 3
    assert choice.phrases == sorted(choice.phrases, key=typical.index)
    # The attributed documents are the tested ones: their attributions must not choose.
    arguments.attributions = [str(attributions / "steep")]
    assert phrases.choose_phrases(run, texts, arguments) == choice
    other = shutil.copytree(attributions / "steep", tmp_path / "other")
    text = (other / "attributions.jsonl").read_text()
    (other / "attributions.jsonl").write_text(re.sub(r'"id": "', '"id": "validation.', text))
    arguments.attributions = [str(other)]
    assert phrases.choose_phrases(run, texts, arguments).source == "attributions"
    result = context(tmp_path / "o", "--phrase_split", "test")
    assert_user_error(result, "--phrase_split test", "--phrases")


def synergy_by_hand(run, words, places, target):
    """whole - sum of parts from the model itself, with PAD in the places."""

    def value(hidden):
        ids = torch.tensor([models.join_tokens(run, words, frozenset(hidden))])
        with torch.no_grad():
            logits = run.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits[0, target].item()

    hidden = {place for group in places for place in group}
    nothing = value(hidden)
    parts = sum(value(hidden - set(group)) - nothing for group in places)
    return value([]) - nothing - parts


@pytest.mark.parametrize("phrase", ["convex bundle", "convex bundle flow"])
def test_synergy_is_the_interaction_of_the_words(runs, tmp_path, phrase):
    records = make_records(80)
    for record in records:
        record["abstract"] = f"On every {phrase} we prove {record['abstract']} And a {phrase}"
    data = write_dataset(tmp_path / "data", records)
    run, _, arguments = loaded(runs / "steep", data)
    targets = np.arange(len(run.words)) % 5
    size = len(phrase.split())
    with tqdm(total=0, disable=True) as bar:
        cache = models.Cache(tmp_path, 32)
        found = phrases.evaluate_phrase(run, phrase, targets, arguments, cache, bar)
    assert [document["document"] for document in found] == list(range(40))
    for document in found[:5]:
        words = run.words[document["document"]]
        both = [[2 + word, len(words) - size + word] for word in range(size)]
        expected = synergy_by_hand(run, words, both, targets[document["document"]])
        assert document["synergy"] == pytest.approx(expected, abs=1e-4)
        assert abs(expected) > 1e-4
        if size == 2:
            # The second difference: the drop of the whole less the single drops, other sign
            second = sum(document["drops"]) - document["whole"]
            assert document["synergy"] == pytest.approx(second, abs=1e-4)
    assert all(document["spans"] and document["moved"] for document in found)


# Windows


def window_by_hand(run, ids, window):
    """Logits of one text with attention limited by adding minus infinity to the scores."""
    size = len(ids)
    model = run.model
    seen = np.zeros((size, size), dtype=bool)
    for i in range(size):
        for j in range(size):
            near = abs(i - j) <= window or j == size - 1
            if i == 0:
                seen[i, j] = True
            elif i == size - 1:
                seen[i, j] = i == j
            else:
                seen[i, j] = near and j > 0
    mask = torch.where(torch.tensor(seen), 0.0, -torch.inf)
    heads = model.config.num_attention_heads
    with torch.no_grad():
        states = model.bert.embeddings(torch.tensor([ids]))
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            projected = []
            for part in (attention.query, attention.key, attention.value):
                projected.append(part(states).reshape(size, heads, -1).transpose(0, 1))
            query, key, value = projected
            scores = query @ key.transpose(1, 2) / np.sqrt(query.shape[-1])
            mixed = (scores + mask).softmax(dim=-1) @ value
            states = layer.attention.output(mixed.transpose(0, 1).reshape(1, size, -1), states)
            states = layer.output(layer.intermediate(states), states)
        return model.classifier(model.bert.pooler(states)).numpy()[0]


def test_window_limits_what_a_token_sees(runs, documents):
    run, _, _ = loaded(runs / "steep", documents)
    texts = [tuple(ids) for ids in models.encode(run, run.words[:6], list(range(6)))]
    assert attention_window.takes_windows(run)
    for window in (0, 1, 3):
        values = models.encoder_logits(run, texts, window)
        expected = [window_by_hand(run, ids, window) for ids in texts]
        np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_array_equal(
        models.window_mask([4, 3], 0, True, True)[:, 0].int(),
        [
            [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]],
            [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]],
        ],
    )


# Models that a practitioner has


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_and_masked_words_do_not_change_what_a_model_classifies(
    family, runs, documents, tmp_path
):
    """Decoders classify the last token that is not PAD: neither padding nor a masked last word may
    move it. An embedding of MobileBERT joins three tokens, so a window would not limit it."""
    folder = write_family(tmp_path / "model", runs / "steep", *FAMILIES[family])
    run, texts, arguments = loaded(folder, documents)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def alone(inputs):
        with torch.no_grad():
            logits = [model(input_ids=torch.tensor([ids])).logits.numpy() for ids in inputs]
        return np.concatenate(logits)

    inputs = models.encode(run, run.words, list(range(len(run.words))))
    masked = []
    for words in run.words:
        masked.append(models.join_tokens(run, words, frozenset({len(words) - 1})))
    cache = models.Cache(tmp_path, 32)
    with tqdm(disable=True) as bar:
        values = cache.evaluate(run, inputs, bar)
        together = cache.evaluate(run, masked, bar)
        one_by_one = np.concatenate([cache.evaluate(run, [ids], bar) for ids in masked])
    # MobileBERT's logits differ by 4e-5 on processors without avx512.
    tolerance = 1e-4 if family == "mobilebert" else 1e-5
    np.testing.assert_allclose(values, alone(inputs), atol=tolerance)
    np.testing.assert_allclose(together, one_by_one, atol=tolerance)
    assert np.abs(together - values).max() > 0.05
    if family in ("xlnet", "bart", "xlm", "mobilebert"):
        windows = attention_window.evaluate([run], texts, arguments, cache)
        assert windows.record == {"runs": [{"conditions": []}]}
        assert windows.logits == {}
    if family.startswith("decoder"):
        model.config.pad_token_id = -1  # it classifies the last token, also if it is PAD
        np.testing.assert_allclose(together, alone(masked), atol=1e-5)
