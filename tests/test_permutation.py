"""Permutation LM: spans, budget, order, what may be seen, streams; leaks by gradient; memory."""

import numpy as np
import pytest
import torch

from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.permutation import permutation_mask, target_positions


@pytest.fixture(scope="module")
def vocabulary(wordpiece_tokenizer):
    return Vocabulary.from_tokenizer(wordpiece_tokenizer)


@pytest.fixture(scope="module")
def stream(vocabulary):
    """A corpus of distinct ordinary ids in documents of three sentences of 20 tokens."""
    ids = vocabulary.random_pool
    sentence = lambda n: ids[(np.arange(20) + 20 * n) % len(ids)].tolist()  # noqa: E731
    return from_lists([[sentence(3 * d + s) for s in range(3)] for d in range(80)])


def rows_of(objective, stream, vocabulary, length=64, batch=4, epoch=0):
    plan = objective.plan(stream, vocabulary, length=length, seed=5, epoch=epoch, global_batch=batch)
    return plan, plan.rows(np.arange(len(plan)))


def corrupted(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


@pytest.mark.parametrize("length", [31, 64, 65, 512])
def test_budget_is_met_exactly_and_inputs_are_untouched(length, vocabulary):
    objective = get_objective("plm")
    ids = vocabulary.random_pool
    rows = {"input_ids": Ragged.from_rows([np.resize(ids, length)] * 50)}
    out = corrupted(objective, rows, vocabulary)
    assert (out["label_positions"].lengths == round(length / 6)).all()
    assert np.array_equal(out["input_ids"].values, rows["input_ids"].values)
    flat = out["label_positions"].values + np.repeat(rows["input_ids"].offsets[:-1], out["label_positions"].lengths)
    assert np.array_equal(out["label_ids"].values, rows["input_ids"].values[flat])


def test_published_layout_predicts_85_of_512(stream, vocabulary):
    _, rows = rows_of(get_objective("plm"), stream, vocabulary, length=512, batch=2)
    out = corrupted(get_objective("plm"), rows, vocabulary)
    assert (rows["input_ids"].lengths == 512).all()
    assert (out["label_positions"].lengths == 85).all()
    first_half = out["label_positions"].keep(out["label_positions"].values < 256)
    assert (first_half.lengths == 43).all()


def test_special_tokens_are_ordered_but_never_predicted(stream, vocabulary):
    _, rows = rows_of(get_objective("plm"), stream, vocabulary)
    out = corrupted(get_objective("plm"), rows, vocabulary)
    special = ~vocabulary.maskable[rows["input_ids"].values]
    ranks = out["perm_ranks"].values
    labelled = np.zeros(len(ranks), bool)
    counts = out["label_positions"].lengths
    labelled[out["label_positions"].values + np.repeat(rows["input_ids"].offsets[:-1], counts)] = True
    assert not (special & labelled).any()
    assert ((ranks >= 0) == (special | labelled)).all()
    for row in out["perm_ranks"].tolist():  # each rank once
        ordered = sorted(r for r in row if r >= 0)
        assert ordered == list(range(len(ordered)))


def test_drawn_span_lengths_follow_one_over_n(vocabulary):
    objective = get_objective("plm", plm_probability=0.5)
    ids = np.resize(vocabulary.random_pool, 4000)
    rows = {"input_ids": Ragged.from_rows([ids] * 40)}
    words = np.ones(160_000, bool)
    key = np.arange(40, dtype=np.uint64) * np.uint64(7919)
    taken, _ = objective._spans(
        key, rows["input_ids"], np.full(40, 10**6), np.flatnonzero(words), np.zeros(160_000, bool)
    )
    changes = np.flatnonzero(np.diff(np.concatenate([[0], taken.astype(int), [0]])))
    runs = changes[1::2] - changes[::2]  # context keeps spans apart except where it is 0 on one side and 1 on the other
    share = np.bincount(runs, minlength=6)[1:6] / len(runs)
    expected = 1 / np.arange(1, 6) / (1 / np.arange(1, 6)).sum()
    # adjacent spans merge now and then (no context left of one, none right of the other): allow for it
    assert np.abs(share - expected).max() < 0.03


def visible_by_hand(ranks, targets, parts):
    """The rule of the paper's code, pair by pair; true where i may attend j."""
    length = len(ranks)
    allowed = np.zeros((length, length), bool)
    for i in range(length):
        for j in range(length):
            if parts[i] != parts[j]:
                allowed[i, j] = parts[i] > parts[j]
                continue
            own = ranks[i] if targets[i] else ranks[i] + 1
            functional_or_target = ranks[j] >= 0
            allowed[i, j] = not (functional_or_target and own <= ranks[j])
    return allowed


def test_mask_is_the_rule_pair_by_pair(stream, vocabulary):
    objective = get_objective("plm")
    _, rows = rows_of(objective, stream, vocabulary, length=41)
    out = corrupted(objective, rows, vocabulary)
    for b in range(4):
        ranks, parts = out["perm_ranks"].row(b), out["parts"].row(b)
        targets = np.zeros(len(ranks), bool)
        targets[out["label_positions"].row(b)] = True
        blocked = permutation_mask(*(torch.from_numpy(x)[None] for x in (ranks, targets, parts)))[0].numpy()
        assert np.array_equal(~blocked, visible_by_hand(ranks, targets, parts))


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


def tiny_model(objective, vocabulary, layers=2):
    transformers = pytest.importorskip("transformers")
    from pretrain_zoo.models.presets import Backbone

    config = transformers.XLNetConfig(
        vocab_size=vocabulary.size, d_model=16, n_layer=layers, n_head=2, d_inner=32, dropout=0.0, pad_token_id=0
    )
    torch.manual_seed(0)
    return objective.build(Backbone(config), vocabulary).double().eval()


@pytest.mark.parametrize("length", [24, 25])
def test_predictions_see_exactly_what_the_order_allows(length, wordpiece_tokenizer, vocabulary):
    """Gradient of each prediction with respect to each real token against reachability by the rule."""
    objective = get_objective("plm", plm_probability=0.3, mem_len=0)
    rng = np.random.default_rng(0)
    ids = rng.choice(vocabulary.random_pool, length)
    ids[[length // 2, length - 1]] = vocabulary.sep_id, vocabulary.cls_id
    batch = ObjectiveCollator(objective, wordpiece_tokenizer, seed=3, sparse_labels=True)([{"input_ids": ids}])
    model = tiny_model(objective, vocabulary)
    ranks, parts = batch["perm_ranks"][0].numpy(), batch["parts"][0].numpy()
    targets = np.zeros(length, bool)
    _, columns, _ = target_positions(batch, length)
    targets[columns.numpy()] = True
    visible = visible_by_hand(ranks, targets, parts)
    reach = visible | np.eye(length, dtype=bool)
    for _ in range(length):
        reach = reach.astype(int) @ reach.astype(int) > 0
    expected = visible.astype(int) @ reach.astype(int) > 0

    embedded = {}
    handle = model.main.transformer.word_embedding.register_forward_hook(
        lambda module, args, output: embedded.setdefault("x", output.detach().requires_grad_())
    )
    logits = model.run(dict(batch))["logits"]
    handle.remove()
    earlier_targets_seen = 0
    for n, i in enumerate(columns.tolist()):
        (gradient,) = torch.autograd.grad(logits[n].sum(), embedded["x"], retain_graph=True)
        seen = gradient[:, 0].abs().sum(-1).numpy() > 0
        assert np.array_equal(seen, expected[i]), f"prediction {i}"
        assert not seen[i]
        earlier_targets_seen += int((seen & targets).sum())
    assert earlier_targets_seen > 0  # autoregressive: predicted tokens are seen by later predictions


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


def batch_of(objective, plan, index, vocabulary):
    columns = corrupted(objective, plan.rows(np.array(index)), vocabulary)
    batch = to_tensors(pad_columns(columns, objective.columns, vocabulary))
    batch["stream_starts"] = torch.zeros(len(index), dtype=torch.bool)
    return batch


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


def test_other_backbones_are_refused(vocabulary):
    from transformers import BertConfig

    from pretrain_zoo.models.presets import Backbone

    with pytest.raises(ValueError, match="XLNet"):
        get_objective("plm").build(Backbone(BertConfig(vocab_size=100)), vocabulary)


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


def test_drop_in_collator_trains_a_stock_model(wordpiece_tokenizer, vocabulary):
    from transformers import XLNetConfig, XLNetLMHeadModel

    from pretrain_zoo.objectives.permutation import DataCollatorForPermutationLanguageModeling

    rng = np.random.default_rng(0)
    features = [{"input_ids": rng.choice(vocabulary.random_pool, n).tolist()} for n in (31, 40, 24)]
    batch = DataCollatorForPermutationLanguageModeling(wordpiece_tokenizer, seed=1)(features)
    assert batch["perm_mask"].shape == (3, 40, 40) and batch["labels"].shape == batch["target_mapping"].shape[:2]
    assert ((batch["labels"] != -100).sum(1) == torch.tensor([5, 7, 4])).all()
    picked = (batch["target_mapping"] @ batch["input_ids"].float()[..., None])[..., 0].long()
    assert (picked == batch["labels"])[batch["labels"] != -100].all()
    config = XLNetConfig(vocab_size=vocabulary.size, d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=0)
    torch.manual_seed(0)
    model = XLNetLMHeadModel(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
