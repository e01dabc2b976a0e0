"""Span corruption: a reference written as loops, round trips, plans, sentinels of tokenizers, collators."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from t5_rows import END, FIRST, PAD, SENTINELS, corrupt, make_tokenizer, make_vocabulary, rows_of, spliced
from transformers import T5Config, T5ForConditionalGeneration

from pretrain_zoo.objectives import DataCollatorForT5MLM, Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.sentinels import noise_counts, random_spans_noise_mask, raw_length


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def reference(tokens, mask, sentinels):
    """What the released preprocessors say, token by token."""
    out, runs = [], 0
    for i, token in enumerate(tokens):
        if not mask[i]:
            out.append(token)
        elif i == 0 or not mask[i - 1]:
            out.append(sentinels[runs])
            runs += 1
    return out


@pytest.mark.parametrize("length", [3, 5, 17, 64, 128, 511, 512, 513])
def test_raw_rows_fill_inputs_and_targets_exactly(length, vocabulary):
    raw, target = raw_length(length, 0.15, 3.0)
    out = corrupt(get_objective("span_corruption"), rows_of([raw] * 4), vocabulary)
    assert (out["input_ids"].lengths == length).all()
    assert (out["label_ids"].lengths == target).all()
    assert (out["decoder_input_ids"].lengths == target).all()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    density=st.floats(0.05, 0.95),
    mean=st.floats(1, 20),
    seed=st.integers(0, 1000),
)
def test_any_rows_come_back_whole_and_agree_with_the_loop(vocabulary, lengths, density, mean, seed):
    objective = get_objective("span_corruption", noise_density=density, mean_noise_span_length=mean)
    rows = rows_of(lengths, seed)
    out = corrupt(objective, rows, vocabulary, seed)
    draws = Draws.of(seed, np.arange(len(lengths)), 0, np.arange(len(lengths)))
    count, spans = noise_counts(np.array(lengths), density, mean)
    mask = Ragged(random_spans_noise_mask(draws.key, np.array(lengths), count, spans), np.array(lengths)).tolist()
    for i, tokens in enumerate(rows["input_ids"].tolist()):
        inputs, targets = out["input_ids"].tolist()[i], out["label_ids"].tolist()[i]
        assert inputs == reference(tokens, mask[i], SENTINELS) + [END]
        wanted = reference(tokens, [not m for m in mask[i]], SENTINELS) if len(tokens) > 1 else []
        assert targets == wanted + [END]
        assert spliced(inputs, targets, SENTINELS) == tokens
        assert [t for t in inputs if t in SENTINELS] == [t for t in targets if t in SENTINELS]
        assert sum(mask[i]) == (max(1, min(round(len(tokens) * density), len(tokens) - 1)) if len(tokens) > 1 else 0)
        assert out["decoder_input_ids"].tolist()[i] == [PAD, *targets[:-1]]
        assert out["label_positions"].tolist()[i] == list(range(len(targets)))


def test_a_row_does_not_depend_on_its_batch(vocabulary):
    objective, rows = get_objective("span_corruption"), rows_of([40, 7, 100, 0, 33])
    draws = Draws.of(3, np.arange(5), 0, np.arange(5))
    whole = objective.corrupt(rows, draws, vocabulary)
    for i in range(5):
        alone = objective.corrupt(
            {"input_ids": rows["input_ids"].take(np.array([i]))}, draws.take(np.array([i])), vocabulary
        )
        assert alone["input_ids"].tolist()[0] == whole["input_ids"].tolist()[i]
        assert alone["label_ids"].tolist()[0] == whole["label_ids"].tolist()[i]


def test_special_tokens_around_stay_out_and_sentinels_in_the_text_are_dropped(vocabulary):
    text = rows_of([30])["input_ids"].values
    framed = {"input_ids": Ragged.from_rows([np.append(text, END)])}
    plain = {"input_ids": Ragged.from_rows([text])}
    confusing = {"input_ids": Ragged.from_rows([np.insert(text, [4, 9], [SENTINELS[0], SENTINELS[7]])])}
    results = [corrupt(get_objective("span_corruption"), rows, vocabulary) for rows in (framed, plain, confusing)]
    for name in ("input_ids", "label_ids"):
        assert results[0][name].tolist() == results[1][name].tolist() == results[2][name].tolist()


# plans


def test_blocks_hold_all_tokens_and_no_document_ends(vocabulary):
    rng = np.random.default_rng(0)
    texts = [rng.integers(FIRST, 900, n).tolist() for n in (3, 0, 50, 1, 400, 0, 17, 29)]
    documents = from_lists([[text] if text else [] for text in texts])
    objective = get_objective("span_corruption")
    plan = objective.plan(documents, vocabulary, length=64, seed=0, epoch=0, global_batch=1)
    rows = plan.rows(np.arange(len(plan)))["input_ids"]
    assert (rows.lengths[:-1] == raw_length(64, 0.15, 3.0)[0]).all()
    assert rows.values.tolist() == sum(texts, [])
    assert plan.rows(np.array([2, 0]))["input_ids"].tolist() == [rows.tolist()[2], rows.tolist()[0]]
    out = corrupt(objective, {"input_ids": rows}, vocabulary)
    assert (out["input_ids"].lengths[:-1] == 64).all()


@pytest.mark.parametrize("settings", [{}, {"mean_noise_span_length": 8.0}, {"noise_density": 0.4}])
@pytest.mark.parametrize("prefix", [(), (2,)])
def test_blocks_fill_the_inputs_at_any_setting(settings, prefix, vocabulary):
    begins = dataclasses.replace(vocabulary, prefix=prefix)
    documents = from_lists([[rows_of([3000])["input_ids"].values.tolist()]])
    objective = get_objective("span_corruption", **settings)
    plan = objective.plan(documents, begins, length=64, seed=0, epoch=0, global_batch=1)
    out = corrupt(objective, plan.rows(np.arange(len(plan) - 1)), begins)
    assert set(out["input_ids"].lengths.tolist()) == {64}
    assert all(row[: len(prefix)] == list(prefix) for row in out["input_ids"].tolist())


@pytest.mark.parametrize("packing", ["full_sentences", "doc_sentences", "documents"])
def test_other_packings_fit_the_length(packing, vocabulary):
    rng = np.random.default_rng(0)
    documents = from_lists([[rng.integers(FIRST, 900, 9).tolist() for _ in range(12)] for _ in range(5)])
    objective = get_objective("span_corruption", packing=packing)
    plan = objective.plan(documents, vocabulary, length=40, seed=0, epoch=0, global_batch=1)
    out = corrupt(objective, plan.rows(np.arange(len(plan))), vocabulary)
    assert out["input_ids"].lengths.max() <= 40


@pytest.mark.parametrize("name", ["span_corruption", "ul2", "seq2seq_prefix_lm"])
def test_a_corpus_without_text_and_lengths_without_room_are_refused(name, vocabulary):
    def plan(documents, length):
        get_objective(name).plan(from_lists(documents), vocabulary, length=length, seed=0, epoch=0, global_batch=1)

    with pytest.raises(ValueError, match="no documents with text"):
        plan([[], []], 16)
    with pytest.raises(ValueError, match="length 1 leaves no room|length 0 leaves no room"):
        plan([[[20, 21, 22]]], 1)


# tokenizers


def test_too_few_sentinels_are_refused_with_the_fix(tokenizer, wordpiece_tokenizer):
    objective = get_objective("span_corruption")
    with pytest.raises(ValueError, match=r"0 sentinels.*add_tokens"):
        objective.check(Vocabulary.from_tokenizer(wordpiece_tokenizer))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    objective.check(vocabulary)
    documents = from_lists([[[5] * 9000]])
    with pytest.raises(ValueError, match=r"4096|sentinels"):
        objective.plan(documents, vocabulary, length=4096, seed=0, epoch=0, global_batch=1)
    with pytest.raises(ValueError, match="sentinels"):
        corrupt(objective, {"input_ids": Ragged.from_rows([[5] * 9000])}, vocabulary)


def test_sentinels_are_found_by_text_when_tokens_were_added(tokenizer):
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens(["<new>", "<newer>"])
    sentinels = get_objective("span_corruption").sentinels(Vocabulary.from_tokenizer(changed))
    assert changed.convert_ids_to_tokens(sentinels.tolist()) == [f"<extra_id_{i}>" for i in range(100)]
    assert len(changed) - 1 not in sentinels


@pytest.mark.parametrize(
    "settings", [{"noise_density": 0}, {"noise_density": 1.0}, {"mean_noise_span_length": 0.5}, {"sentinel": "<x>"}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        get_objective("span_corruption", **settings)


# collator


def test_collator_feeds_a_stock_t5(tokenizer):
    features = [tokenizer(" ".join(f"w{i * k % 500}" for i in range(1, n))) for k, n in ((3, 60), (7, 9), (11, 140))]
    batch = DataCollatorForT5MLM(tokenizer, seed=0)(features)
    assert set(batch) == {"input_ids", "attention_mask", "decoder_input_ids", "labels"}
    ids = {
        f"<extra_id_{k}>": i
        for k, i in enumerate(tokenizer.convert_tokens_to_ids([f"<extra_id_{j}>" for j in range(100)]))
    }
    for row, labels, feature in zip(batch["input_ids"], batch["labels"], features, strict=True):
        inputs, targets = row[row != PAD].tolist(), labels[labels != -100].tolist()
        assert spliced(inputs, targets, set(ids.values())) == feature["input_ids"][:-1]
    assert (batch["attention_mask"] == (batch["input_ids"] != PAD)).all()
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config).eval()
    assert torch.equal(
        model._shift_right(batch["labels"])[batch["labels"] != -100],
        batch["decoder_input_ids"][batch["labels"] != -100],
    )
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    padded = tokenizer.pad(features, padding="max_length", max_length=200)
    again = DataCollatorForT5MLM(tokenizer, seed=0)([{k: v[i] for k, v in padded.items()} for i in range(3)])
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_collator_checks_lengths_as_the_flax_example_does(tokenizer):
    raw, target = raw_length(32, 0.15, 3.0)
    collator = DataCollatorForT5MLM(tokenizer, input_length=32, target_length=target)
    batch = collator([{"input_ids": list(range(4, 4 + raw))}] * 2)
    assert batch["input_ids"].shape == (2, 32)
    assert batch["labels"].shape == (2, target)
    with pytest.raises(ValueError, match="input_ids have 33 tokens where 32"):
        collator([{"input_ids": list(range(4, 5 + raw))}])
    with pytest.raises(ValueError, match="input_ids have 11 tokens where 32"):  # a shorter one among them
        collator([{"input_ids": list(range(4, 4 + raw))}, {"input_ids": list(range(4, 15))}])
    with pytest.raises(ValueError, match=f"labels have {target} tokens where {target - 1}"):
        DataCollatorForT5MLM(tokenizer, target_length=target - 1)([{"input_ids": list(range(4, 4 + raw))}])
