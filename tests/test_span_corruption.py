"""Span corruption and UL2: a reference written as loops, round trips, lengths, statistics, sentinels, collators."""

import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from pretrain_zoo.objectives import DataCollatorForT5MLM, Draws, ObjectiveCollator, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.sentinels import (
    noise_counts,
    noise_span_to_unique_sentinel,
    random_segmentation,
    random_spans_noise_mask,
    raw_length,
)
from pretrain_zoo.objectives.ul2 import DENOISERS

PAD, END, FIRST, SIZE = 0, 1, 10, 1000
SENTINELS = [SIZE - 1 - k for k in range(100)]
MODES = {"[R]": 3, "[S]": 4, "[X]": 5}


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.zeros(SIZE, bool)
    maskable[FIRST:900] = True
    special = {f"<extra_id_{k}>": i for k, i in enumerate(SENTINELS)} | MODES
    return Vocabulary(SIZE, maskable, np.flatnonzero(maskable), pad_id=PAD, eos_id=END, suffix=(END,), special=special)


@pytest.fixture(scope="module")
def tokenizer():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)] + [(f"▁w{i}", -3.0) for i in range(500)]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    return T5Tokenizer(vocab=pieces, extra_ids=100)


def rows_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return {"input_ids": Ragged.from_rows([rng.integers(FIRST, 900, n) for n in lengths], np.int64)}


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


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


def spliced(inputs, targets, sentinels):
    """The source rebuilt: each sentinel of the input replaced by what follows it in the target."""
    parts, current = {}, None
    for token in targets:
        if token in sentinels:
            current = parts.setdefault(token, [])
        elif token != END:
            current.append(token)
    return [t for token in inputs if token != END for t in (parts[token] if token in sentinels else [token])]


# lengths


@pytest.mark.parametrize(
    ("length", "density", "mean", "expected"),
    [
        (512, 0.15, 3.0, (568, 114)),
        (1024, 0.15, 3.0, (1137, 229)),
        (128, 0.15, 3.0, (141, 29)),
        (512, 0.15, 8.0, (588, 100)),
        (512, 0.5, 3.0, (766, 512)),
        (512, 0.5, 64.0, (1006, 512)),
        (512, 0.15, 64.0, (600, 92)),
    ],
)
def test_published_lengths(length, density, mean, expected):
    assert raw_length(length, density, mean) == expected


@pytest.mark.parametrize("length", [3, 5, 17, 64, 128, 511, 512, 513])
def test_raw_rows_fill_inputs_and_targets_exactly(length, vocabulary):
    raw, target = raw_length(length, 0.15, 3.0)
    out = corrupt(get_objective("span_corruption"), rows_of([raw] * 4), vocabulary)
    assert (out["input_ids"].lengths == length).all()
    assert (out["label_ids"].lengths == target).all()
    assert (out["decoder_input_ids"].lengths == target).all()


def test_counts_round_half_to_even():
    count, spans = noise_counts(np.array([10, 30, 50, 0, 1, 2]), 0.25, 2.0)
    assert count.tolist() == [2, 8, 12, 0, 0, 1]  # 2.5, 7.5 and 12.5
    assert spans.tolist() == [1, 4, 6, 1, 1, 1]
    assert noise_counts(np.array([10]), 0.9, 1.0)[1].tolist() == [1]  # one clean token leaves room for one span


# masks


def test_sentinels_by_hand():
    rows = Ragged.from_rows([[10, 11, 12, 13, 14, 15], [20, 21], []], np.int64)
    mask = np.array([0, 1, 1, 0, 0, 1, 1, 0], bool)
    ids = np.array([99, 98, 97])
    assert noise_span_to_unique_sentinel(rows, mask, ids).tolist() == [[10, 99, 13, 14, 98], [99, 21], []]
    assert noise_span_to_unique_sentinel(rows, ~mask, ids).tolist() == [[99, 11, 12, 98, 15], [20, 99], []]


def test_every_division_is_equally_likely():
    total, parts, rows = 7, 3, 30_000
    key = np.random.default_rng(1).integers(0, 2**63, rows).astype(np.uint64)
    drawn = random_segmentation(key, np.full(rows, total), np.full(rows, parts), 5).values.reshape(rows, parts)
    assert (drawn.sum(1) == total).all()
    assert (drawn > 0).all()
    expected = {(a, b - a, total - b) for a, b in combinations(range(1, total), 2)}
    seen, counts = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(row) for row in seen.tolist()} == expected
    p = 1 / len(expected)
    assert (abs(counts - rows * p) < 5 * math.sqrt(rows * p * (1 - p))).all()


def test_clean_and_noise_spans_are_drawn_independently():
    rows, each = 30_000, np.full(30_000, 4)
    key = np.random.default_rng(3).integers(0, 2**63, rows).astype(np.uint64)
    mask = random_spans_noise_mask(key, 2 * each, each, each // 2)
    seen, counts = np.unique(mask.reshape(rows, 8), axis=0, return_counts=True)
    assert len(seen) == 9  # three divisions of four into two, times three
    assert (abs(counts - rows / 9) < 5 * math.sqrt(rows * 8 / 81)).all()


def test_a_row_ends_in_noise_at_the_published_rates():
    rows, length = 20_000, 568
    key = np.random.default_rng(2).integers(0, 2**63, rows).astype(np.uint64)
    lengths = np.full(rows, length)
    count, spans = noise_counts(lengths, 0.15, 3.0)
    assert (int(count[0]), int(spans[0])) == (85, 28)
    mask = random_spans_noise_mask(key, lengths, count, spans).reshape(rows, length)
    assert (mask.sum(1) == 85).all()
    assert not mask[:, 0].any()
    assert mask[:, -1].all()
    assert ((np.diff(mask.astype(int), axis=1) == 1).sum(1) == 28).all()
    one = 27 / 84  # probability that the last noise span is a single token
    third = (1 - one) * (1 - 27 / 83) + one * 27 / 482
    for place, p in ((-2, 1 - one), (-3, third)):
        assert abs(mask[:, place].mean() - p) < 5 * math.sqrt(p * (1 - p) / rows)
    assert abs(1 - one - 0.68) < 0.005
    assert abs(third - 0.48) < 0.005


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


@pytest.mark.parametrize("packing", ["full_sentences", "doc_sentences", "documents"])
def test_other_packings_fit_the_length(packing, vocabulary):
    rng = np.random.default_rng(0)
    documents = from_lists([[rng.integers(FIRST, 900, 9).tolist() for _ in range(12)] for _ in range(5)])
    objective = get_objective("span_corruption", packing=packing)
    plan = objective.plan(documents, vocabulary, length=40, seed=0, epoch=0, global_batch=1)
    out = corrupt(objective, plan.rows(np.arange(len(plan))), vocabulary)
    assert out["input_ids"].lengths.max() <= 40


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
    import copy

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


# UL2


def ul2_draws(count):
    return Draws.of(0, np.arange(count), 0, np.arange(count))


def test_ul2_draws_denoisers_evenly_with_their_densities_and_spans(vocabulary):
    objective, count, length = get_objective("ul2"), 7000, 400
    chosen = objective.denoisers(ul2_draws(count).key)
    seen = np.bincount(chosen, minlength=7)
    assert (abs(seen - count / 7) < 5 * math.sqrt(count / 7 * 6 / 7)).all()
    noise, spans = noise_counts(np.full(count, length), *objective.noise({"denoisers": chosen}, ul2_draws(count)))
    expected = {0: (60, 20), 1: (60, 8), 2: (100, 1), 3: (200, 67), 4: (200, 25), 5: (60, 1), 6: (200, 3)}
    for denoiser, pair in expected.items():
        assert set(zip(noise[chosen == denoiser].tolist(), spans[chosen == denoiser].tolist(), strict=True)) == {pair}


def test_ul2_rows_come_back_whole_behind_their_mode_token(vocabulary):
    objective, lengths = get_objective("ul2"), [0, 1, 2, 5, 30, 120, 121, 122] * 20
    rows = rows_of(lengths)
    out = corrupt(objective, rows, vocabulary)
    chosen = objective.denoisers(ul2_draws(len(lengths)).key)
    names = ["[R]", "[S]", "[X]"]
    for tokens, inputs, targets, denoiser in zip(
        *(c.tolist() for c in (rows["input_ids"], out["input_ids"], out["label_ids"])), chosen, strict=True
    ):
        assert inputs[0] == MODES[names[DENOISERS[denoiser][0]]]
        assert not set(targets) & set(MODES.values())
        assert spliced(inputs[1:], targets, SENTINELS) == tokens
        if DENOISERS[denoiser][0] == 1 and len(tokens) > 1:  # one span, up to the end
            assert inputs[-2] == SENTINELS[0]
            assert targets == [SENTINELS[0], *tokens[len(inputs) - 3 :], END]


def test_ul2_never_outgrows_the_length(vocabulary):
    objective = get_objective("ul2")
    for length in (64, 128, 200):
        raw = objective.raw_length(length, vocabulary)
        out = corrupt(objective, rows_of([raw] * 200), vocabulary)
        assert out["input_ids"].lengths.max() == length
        assert out["label_ids"].lengths.max() <= length


@pytest.mark.parametrize("length", [64, 128, 512])
def test_ul2_fills_the_inputs_of_each_denoiser(length, vocabulary):
    """Against the largest row found by trying; at 512, one slot is the mode token's."""

    def sizes(tokens: int, mean: float, density: float) -> tuple[int, int]:
        noise = min(max(round(tokens * density), 1), tokens - 1)
        spans = min(max(round(noise / mean), 1), noise, tokens - noise)
        return tokens - noise + spans + 2, noise + spans + 1  # mode token and end

    expected = []
    for _, mean, density in DENOISERS:
        largest = max(t for t in range(2, 3 * length) if sizes(t, mean, density)[0] <= length)
        if density == 0.5 and sizes(largest, mean, density)[1] > sizes(largest, mean, density)[0] - 1:
            largest -= 1  # as T5 does where targets would outgrow inputs
        expected.append((largest, *sizes(largest, mean, density)))
    rng = np.random.default_rng(0)
    big = dataclasses.replace(
        vocabulary, special={**vocabulary.special, **{f"<extra_id_{i}>": 2000 + i for i in range(200)}}
    )
    documents = from_lists([[rng.integers(FIRST, 900, 3000).tolist()] for _ in range(40)])
    objective, seen = get_objective("ul2"), []
    for epoch in (0, 1):
        plan = objective.plan(documents, big, length=length, seed=5, epoch=epoch, global_batch=1)
        index = np.arange(len(plan))
        rows = plan.rows(index)
        assert rows["input_ids"].lengths.sum() == documents.num_tokens  # every token once
        out = objective.corrupt(rows, Draws.of(5, index, epoch, index), big)
        found = np.stack([rows["input_ids"].lengths, out["input_ids"].lengths, out["label_ids"].lengths], 1)[:-1]
        wanted = np.array(expected)[rows["denoisers"][:-1]]
        assert (found == wanted).all() and (found[:, 1] >= length - 1).all() and found[:, 1].max() == length
        assert (found[:, 2] <= length).all()
        seen.append(rows["denoisers"].tolist())
    assert seen[0][:50] != seen[1][:50] and objective.replans and not get_objective("ul2", packing="documents").replans
    share = np.bincount(seen[0] + seen[1], minlength=7) / (len(seen[0]) + len(seen[1]))
    assert (abs(share - 1 / 7) < 5 * math.sqrt(6 / 49 / (len(seen[0]) + len(seen[1])))).all()


def test_ul2_rows_are_shorter_where_sentinels_run_out(vocabulary):
    """Half of 766 tokens in spans of three takes 128 sentinels, and there are 100."""
    raw = get_objective("ul2").raw_lengths(512, vocabulary)
    assert raw.tolist() == [567, 587, 679, 602, 906, 599, 1004]


def test_ul2_reports_each_kind(vocabulary):
    """Losses by kind, against a loop over the labels; together they are the whole."""
    objective, rows = get_objective("ul2"), rows_of([60] * 30)
    draws = ul2_draws(30)
    out = objective.corrupt(rows, draws, vocabulary)
    assert out["denoisers"].tolist() == objective.denoisers(draws.key).tolist()
    batch = to_tensors(pad_columns(out, objective.columns, vocabulary))
    torch.manual_seed(0)
    logits = torch.randn(len(batch["label_ids"]), vocabulary.size)
    sums, metrics = objective.loss({"logits": logits}, batch)
    expected = {name: [0.0, 0] for name in "rsx"}
    at = 0
    for labels, denoiser in zip(out["label_ids"].tolist(), out["denoisers"], strict=True):
        for label in labels:
            entry = expected["rsx"[DENOISERS[denoiser][0]]]
            entry[0] -= logits[at].log_softmax(-1)[label].item()
            entry[1] += 1
            at += 1
    for name, (total, count) in expected.items():
        assert metrics[f"loss_{name}"][0].item() == pytest.approx(total, rel=1e-4)
        assert metrics[f"loss_{name}"][1].item() == count
    assert sums["ul2"].item() == pytest.approx(sum(total for total, _ in expected.values()), rel=1e-4)


def test_ul2_needs_mode_tokens(tokenizer):
    with pytest.raises(ValueError, match=r"lacks \[R\], \[S\], \[X\].*add_tokens"):
        ObjectiveCollator("ul2", tokenizer)
    with pytest.raises(ValueError, match="three"):
        get_objective("ul2", mode_tokens=("[R]",))
