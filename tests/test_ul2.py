"""UL2: its seven denoisers, their rates and lengths, mode tokens, round trips, losses by kind."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from t5_rows import END, FIRST, MODES, SENTINELS, corrupt, make_tokenizer, make_vocabulary, rows_of, spliced

from pretrain_zoo.objectives import Draws, ObjectiveCollator, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.sentinels import noise_counts
from pretrain_zoo.objectives.ul2 import DENOISERS


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


def ul2_draws(count):
    return Draws.of(0, np.arange(count), 0, np.arange(count))


def test_ul2_draws_denoisers_evenly_with_their_densities_and_spans(vocabulary):
    objective, count, length = get_objective("ul2"), 7000, 400
    chosen = objective.denoisers(ul2_draws(count).key)
    seen = np.bincount(chosen, minlength=7)
    assert (abs(seen - count / 7) < 5 * math.sqrt(count / 7 * 6 / 7)).all()
    noise, spans = noise_counts(np.full(count, length), *objective.noise({"denoisers": chosen}, ul2_draws(count)))
    assert [mode for mode, _, _ in DENOISERS] == [0, 0, 1, 2, 2, 2, 2]
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
    other = objective.plan(documents, big, length=length, seed=6, epoch=1, global_batch=1)
    assert other.chosen[:50].tolist() != seen[1][:50]
    share = np.bincount(seen[0] + seen[1], minlength=7) / (len(seen[0]) + len(seen[1]))
    assert (abs(share - 1 / 7) < 5 * math.sqrt(6 / 49 / (len(seen[0]) + len(seen[1])))).all()


def test_ul2_makes_room_for_what_stands_before_a_text(vocabulary):
    begins = dataclasses.replace(vocabulary, prefix=(2, 6))
    documents = from_lists([[rows_of([9000])["input_ids"].values.tolist()]])
    objective = get_objective("ul2")
    plan = objective.plan(documents, begins, length=64, seed=0, epoch=0, global_batch=1)
    out = corrupt(objective, plan.rows(np.arange(len(plan) - 1)), begins)
    assert set(out["input_ids"].lengths.tolist()) <= {63, 64} and out["input_ids"].lengths.max() == 64
    assert all(row[:2] == [2, 6] and row[2] in MODES.values() for row in out["input_ids"].tolist())


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


def test_ul2_needs_mode_tokens():
    with pytest.raises(ValueError, match=r"lacks \[R\], \[S\], \[X\].*add_tokens"):
        ObjectiveCollator("ul2", make_tokenizer())
    with pytest.raises(ValueError, match="three"):
        get_objective("ul2", mode_tokens=("[R]",))
