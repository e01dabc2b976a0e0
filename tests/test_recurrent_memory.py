"""Memory of recurrent and permutation LM: what it passes on and what not, against one run over all text."""

import numpy as np
import pytest
import torch
from permutation_rows import batch_of, make_stream, tiny_model

from pretrain_zoo.objectives import Draws, ObjectiveCollator, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors


@pytest.fixture(scope="module")
def stream(vocabulary):
    return make_stream(vocabulary)


def test_memory_passes_no_gradient_and_is_read(stream, vocabulary, wordpiece_tokenizer):
    objective = get_objective("recurrent_clm", mem_len=16)
    model = tiny_model(objective, vocabulary)
    plan = objective.plan(stream, vocabulary, length=16, seed=0, epoch=0, global_batch=2)
    first = batch_of(objective, plan, [0, plan.per_stream], vocabulary)
    second = batch_of(objective, plan, [1, plan.per_stream + 1], vocabulary)
    carry = model.run(first)["carry"]
    assert len(carry) == 2 and carry[0].shape == (2, 16, 16) and not carry[0].requires_grad
    with_memory = model.run(second, carry=carry)["logits"]
    without = model.run(second)["logits"]
    assert (with_memory - without).abs().max() > 1e-6


def test_two_segments_with_memory_equal_one_long_segment(stream, vocabulary):
    objective = get_objective("recurrent_clm", mem_len=16)
    # a memory of layer inputs lets one layer reach a segment back exactly; more layers reach further than one segment
    model = tiny_model(objective, vocabulary, layers=2)
    short = objective.plan(stream, vocabulary, length=16, seed=0, epoch=0, global_batch=1)
    long = objective.plan(stream, vocabulary, length=32, seed=0, epoch=0, global_batch=1)
    whole = model.run(batch_of(objective, long, [0], vocabulary))["logits"]
    carry = model.run(batch_of(objective, short, [0], vocabulary))["carry"]
    second = model.run(batch_of(objective, short, [1], vocabulary), carry=carry)["logits"]
    torch.testing.assert_close(second, whole[16:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("two_segments", [True, False])
def test_permuted_rows_with_memory_equal_one_run_over_both(two_segments, stream, vocabulary):
    objective = get_objective("plm", two_segments=two_segments, mem_len=384)
    model = tiny_model(objective, vocabulary)
    plan = objective.plan(stream, vocabulary, length=64, seed=0, epoch=0, global_batch=1)
    reuse = plan.advance
    first, second = (batch_of(objective, plan, [n], vocabulary) for n in (0, 1))
    with_memory = model.run(second, carry=model.run(first)["carry"])["logits"]
    whole = {n: torch.cat([first[n][:, :reuse], second[n]], 1) for n in ("input_ids", "perm_ranks", "attention_mask")}
    whole["parts"] = torch.cat([first["parts"][:, :reuse], second["parts"] + 1], 1)
    if two_segments:
        whole["token_type_ids"] = torch.cat([first["token_type_ids"][:, :reuse], second["token_type_ids"]], 1)
    before = first["label_positions"][first["label_positions"] < reuse]
    whole["label_positions"] = torch.cat([before, second["label_positions"] + reuse])
    torch.testing.assert_close(with_memory, model.run(whole)["logits"][len(before) :], rtol=0, atol=1e-10)


def test_recurrent_rows_that_come_with_padding_predict_text_only(wordpiece_tokenizer, vocabulary):
    text, pad = vocabulary.random_pool[:6].tolist(), [vocabulary.pad_id] * 3
    collator = ObjectiveCollator("recurrent_clm", wordpiece_tokenizer)
    rows = [(text + pad, [1] * 6 + [0] * 3), (pad + text, [0] * 3 + [1] * 6)]
    batch = collator([{"input_ids": ids, "attention_mask": mask} for ids, mask in rows])
    assert batch["attention_mask"].tolist() == [[1] * 6 + [0] * 2, [0] * 3 + [1] * 5]
    assert batch["labels"].tolist() == [[*text[1:], -100, -100, -100], [-100, -100, -100, *text[1:]]]


def test_memory_is_dropped_where_streams_begin_anew(stream, vocabulary):
    objective = get_objective("recurrent_clm", mem_len=16)
    model = tiny_model(objective, vocabulary)
    plan = objective.plan(stream, vocabulary, length=16, seed=0, epoch=0, global_batch=2)
    batch = batch_of(objective, plan, [0, plan.per_stream], vocabulary)
    carry = model.run(batch)["carry"]
    batch["stream_starts"][:] = True
    torch.testing.assert_close(model.run(batch, carry=carry)["logits"], model.run(batch)["logits"])


@pytest.mark.parametrize("name", ["plm", "recurrent_clm"])
def test_weights_in_half_precision(name, stream, vocabulary):
    from transformers import XLNetConfig

    from pretrain_zoo.models.presets import Backbone

    objective = get_objective(name, mem_len=16)
    config = XLNetConfig(vocab_size=vocabulary.size, d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=0)
    model = objective.build(Backbone(config, dtype=torch.bfloat16), vocabulary)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    plan = objective.plan(stream, vocabulary, length=32, seed=0, epoch=0, global_batch=2)
    batch = batch_of(objective, plan, [0, plan.per_stream], vocabulary)
    output = model(carry=model(**batch).carry, **batch)
    assert torch.isfinite(output.sums[name])


@pytest.mark.parametrize("two_segments", [True, False])
def test_no_row_reads_its_own_text_from_the_memory(two_segments, stream, vocabulary):
    """What the next row of a stream predicts must not reach it through the memory of this row."""
    objective = get_objective("plm", two_segments=two_segments, mem_len=384)
    model = tiny_model(objective, vocabulary)
    plan = objective.plan(stream, vocabulary, length=64, seed=0, epoch=0, global_batch=1)
    index = np.array([0])
    columns = objective.corrupt(plan.rows(index), Draws.of(0, index, 0, index), vocabulary)
    changed = columns["input_ids"].values.copy()
    changed[plan.advance :] = vocabulary.random_pool[0]  # read again by the next row
    carries = []
    for ids in (columns["input_ids"].values, changed):
        rows = {**columns, "input_ids": columns["input_ids"].with_values(ids)}
        carries.append(model.run(to_tensors(pad_columns(rows, objective.columns, vocabulary)))["carry"])
    for one, other in zip(*carries):
        assert one.shape[1] == plan.advance
        torch.testing.assert_close(one, other, rtol=0, atol=0)
