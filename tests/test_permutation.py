"""Permutation LM: spans, budget and order, what each prediction may see (leaks by gradient), the drop-in collator."""

import numpy as np
import pytest
import torch
from permutation_rows import corrupted, make_stream, rows_of, tiny_model, visible_by_hand

from pretrain_zoo.objectives import ObjectiveCollator, Ragged, get_objective
from pretrain_zoo.objectives.permutation import permutation_mask, target_positions


@pytest.fixture(scope="module")
def stream(vocabulary):
    return make_stream(vocabulary)


# spans and budget


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


# what may be seen


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


# models


def test_other_backbones_are_refused(vocabulary):
    from transformers import BertConfig

    from pretrain_zoo.models.presets import Backbone

    with pytest.raises(ValueError, match="XLNet"):
        get_objective("plm").build(Backbone(BertConfig(vocab_size=100)), vocabulary)


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
