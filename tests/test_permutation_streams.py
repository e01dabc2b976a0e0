"""Streams of permutation LM: rows that continue, two segments, backward streams, all text read once."""

import numpy as np
import pytest
import torch
from permutation_rows import batch_of, make_stream, rows_of, tiny_model

from pretrain_zoo.objectives import get_objective
from pretrain_zoo.objectives.permutation import target_positions


@pytest.fixture(scope="module")
def stream(vocabulary):
    return make_stream(vocabulary)


def test_streams_continue_from_row_to_row(stream, vocabulary):
    objective = get_objective("plm", two_segments=False)
    plan, rows = rows_of(objective, stream, vocabulary, length=64, batch=4)
    per_stream = plan.per_stream
    ids = rows["input_ids"]
    for s in range(4):
        for t in range(per_stream - 1):
            now, following = ids.row(s * per_stream + t), ids.row(s * per_stream + t + 1)
            assert np.array_equal(now[32:], following[:32])
    assert rows["stream_starts"].sum() == 4


def test_two_segments_layout(stream, vocabulary):
    objective = get_objective("plm")
    plan, rows = rows_of(objective, stream, vocabulary, length=64, batch=4)
    text = np.where(stream.tokens < 0, vocabulary.separator, stream.tokens)
    continued = 0
    for b in range(len(plan)):
        ids, types = rows["input_ids"].row(b), rows["token_type_ids"].row(b)
        stream_index, segment = divmod(b, plan.per_stream)
        start = stream_index * (len(text) // 4) + segment * 32
        assert np.array_equal(ids[:32], text[start : start + 32])
        assert ids[-1] == vocabulary.cls_id and ids[-2] == vocabulary.sep_id
        assert types[-1] == 2 and set(types[32:-1]) == {0, 1}
        a_end = 32 + int((types[32:-1] == 0).sum()) - 1
        assert ids[a_end] == vocabulary.sep_id
        assert np.array_equal(ids[32:a_end], text[start + 32 : start + a_end])
        after = start + a_end
        continued += np.array_equal(ids[a_end + 1 : -2], text[after : after + 64 - a_end - 3])
    share = continued / len(plan)
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / len(plan))


def test_backward_streams_read_the_text_reversed(stream, vocabulary):
    objective = get_objective("plm", two_segments=False, bi_data=True)
    plan, rows = rows_of(objective, stream, vocabulary, length=64, batch=4)
    text = np.where(stream.tokens < 0, vocabulary.separator, stream.tokens)
    half = len(text) // 2
    for number, begun in enumerate([text, text[half - 1 :: -1], text[half:], text[::-1]]):
        assert np.array_equal(rows["input_ids"].row(number * plan.per_stream), begun[:64])


@pytest.mark.parametrize("two_segments", [False, True])
@pytest.mark.parametrize("bi_data, times", [(False, 1), (True, 2)])
def test_streams_read_all_text_in_each_direction(bi_data, times, two_segments, stream, vocabulary):
    objective = get_objective("plm", two_segments=two_segments, bi_data=bi_data)
    plan = objective.plan(stream, vocabulary, length=64, seed=0, epoch=0, global_batch=4)
    slots, backwards = plan.slots(np.arange(len(plan)), 0, plan.advance)
    for direction in (False, True)[:times]:
        read = np.bincount(slots[backwards == direction], minlength=len(stream.tokens))
        assert read.max() == 1  # nothing twice
        assert (read == 0).sum() < 4 * (plan.size + 1)  # only the rest of each stream is left out


def test_epochs_pair_other_segments(stream, vocabulary):
    objective = get_objective("plm")
    _, one = rows_of(objective, stream, vocabulary, epoch=0)
    _, two = rows_of(objective, stream, vocabulary, epoch=1)
    assert not np.array_equal(one["input_ids"].values, two["input_ids"].values)


def test_backward_rows_are_read_backwards_in_training_only(stream, vocabulary, tmp_path):
    """Turned-round positions for odd rows while training; the plain model, also from its checkpoint, knows none."""
    from transformers import AutoModel

    logits = {}
    for bi_data in (False, True):
        objective = get_objective("plm", two_segments=False, mem_len=0, bi_data=bi_data)
        model = tiny_model(objective, vocabulary)  # weights and biases from one seed, also these
        for layer in model.main.transformer.layer:
            layer.rel_attn.r.data.normal_()
            layer.rel_attn.r_r_bias.data.normal_()
        plan = get_objective("plm", two_segments=False).plan(
            stream, vocabulary, length=32, seed=0, epoch=0, global_batch=2
        )
        batch = batch_of(objective, plan, [0, 0, 1, 1], vocabulary)
        logits[bi_data] = model.run(batch)["logits"], target_positions(batch, 32)[0]
    (forwards, row), (mixed, _) = logits[False], logits[True]
    even = row % 2 == 0
    model.save_pretrained(tmp_path)
    for plain in (model.main.transformer, AutoModel.from_pretrained(tmp_path).double().eval()):
        assert not plain.config.bi_data
        hidden = plain(batch["input_ids"][[0, 0]]).last_hidden_state
        torch.testing.assert_close(hidden[0], hidden[1])
    assert torch.allclose(forwards[even], mixed[even]) and not torch.allclose(forwards[~even], mixed[~even])
