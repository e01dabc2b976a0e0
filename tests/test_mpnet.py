"""MPNet: what may be seen, by a hand-written rule and by gradient; every query sees as many keys as the row is long."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, DebertaV2Config, MPNetConfig

from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.mpnet import COMPENSATION, CONTEXT, QUERY, TARGET, compensated_mask


def batch_for(objective, vocabulary, lengths, seed=0):
    rng = np.random.default_rng(seed)
    text = [rng.choice(vocabulary.random_pool, n - 2) for n in lengths]
    rows = Ragged.from_rows([np.concatenate([vocabulary.prefix, t, vocabulary.suffix]) for t in text], np.int64)
    columns = {"input_ids": rows, "word_starts": rows.with_values(np.ones(len(rows.values), bool))}
    count = np.arange(len(lengths))
    out = objective.corrupt(columns, Draws.of(seed, count, 0, count), vocabulary)
    return rows, out, to_tensors(pad_columns(out, objective.columns, vocabulary))


def test_layout(vocabulary):
    objective = get_objective("mpnet", whole_words=False, mask_replace_prob=1.0, random_replace_prob=0.0)
    rows, out, batch = batch_for(objective, vocabulary, [40, 21])
    for b, (length, q) in enumerate([(40, 6), (21, 3)]):
        ids, roles, places = (out[n].row(b) for n in ("input_ids", "roles", "position_ids"))
        assert len(ids) == length + 2 * q
        assert np.array_equal(ids[:length], rows.row(b))  # real tokens stay
        assert (ids[length:] == vocabulary.mask_id).all()
        assert (roles[length : length + q] == COMPENSATION).all() and (roles[length + q :] == QUERY).all()
        targets = np.flatnonzero(roles[:length] == TARGET)
        assert np.array_equal(places[length : length + q], targets)
        assert np.array_equal(places[length + q :], targets)
        assert np.array_equal(out["label_ids"].row(b), rows.row(b)[targets])
        assert np.array_equal(np.sort(out["perm_ranks"].row(b)[length + q :]), np.arange(q))
        assert roles[0] == CONTEXT and roles[length - 1] == CONTEXT  # special tokens are not predicted
    picked = batch["roles"].flatten()[batch["label_positions"]]
    assert (picked == QUERY).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_nobody_sees_padding_that_rows_came_with(side, wordpiece_tokenizer, vocabulary):
    ids = [*vocabulary.prefix, *vocabulary.random_pool[:20].tolist(), *vocabulary.suffix]
    padding, text = [vocabulary.pad_id] * 9, [1] * len(ids)
    row, mask = (ids + padding, text + [0] * 9) if side == "right" else (padding + ids, [0] * 9 + text)
    collator = ObjectiveCollator("mpnet", wordpiece_tokenizer, seed=0, sparse_labels=True)
    batch = collator([{"input_ids": row, "attention_mask": mask}])
    seen = compensated_mask(batch["roles"], batch["perm_ranks"])[0]
    assert not seen[:, torch.tensor(mask + [1] * (seen.shape[1] - len(mask))) == 0].any()
    assert (seen[batch["label_positions"]].sum(1) == len(ids)).all()


def sees(role_i, rank_i, role_j, rank_j):
    """The paper's rule in words, one pair."""
    if role_j == CONTEXT:
        return True
    if role_j == QUERY:
        return False
    if role_i in (CONTEXT, COMPENSATION):
        return role_j == COMPENSATION
    if role_i == TARGET:
        return rank_j <= rank_i if role_j == TARGET else rank_j > rank_i
    return rank_j < rank_i if role_j == TARGET else rank_j >= rank_i


def test_mask_is_the_rule_and_every_query_sees_the_whole_sentence(vocabulary):
    _, out, batch = batch_for(get_objective("mpnet"), vocabulary, [40, 33])
    mask = compensated_mask(batch["roles"], batch["perm_ranks"]).numpy()
    for b, length in enumerate([40, 33]):
        roles, ranks = out["roles"].row(b), out["perm_ranks"].row(b)
        by_hand = [[sees(*i, *j) for j in zip(roles, ranks)] for i in zip(roles, ranks)]
        assert np.array_equal(mask[b, : len(roles), : len(roles)], by_hand)
        assert (mask[b, : len(roles)].sum(1)[roles == QUERY] == length).all()
        assert not mask[b, :, len(roles) :].any()  # padding


def tiny(kind, vocabulary):
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = {"mpnet": MPNetConfig, "bert": BertConfig}[kind](vocab_size=vocabulary.size, **sizes, **drops)
    return Backbone(config)


@pytest.mark.parametrize("kind", ["mpnet", "bert"])
def test_no_prediction_depends_on_its_own_token_or_later_ones(kind, vocabulary):
    objective = get_objective("mpnet", mlm_probability=0.3, mask_replace_prob=1.0, random_replace_prob=0.0)
    _, out, batch = batch_for(objective, vocabulary, [24])
    torch.manual_seed(0)
    model = objective.build(tiny(kind, vocabulary), vocabulary).double().eval()
    seen = {}
    table = model.main.get_input_embeddings()
    handle = table.register_forward_hook(lambda m, a, o: seen.setdefault("x", o.detach().requires_grad_()))
    logits = model.run(batch, None, ())["logits"]
    handle.remove()
    roles, ranks = out["roles"].row(0), out["perm_ranks"].row(0)
    query_ranks = ranks[roles == QUERY]
    for n, rank in enumerate(query_ranks):
        (gradient,) = torch.autograd.grad(logits[n].sum(), seen["x"], retain_graph=True)
        touched = gradient[0].abs().sum(-1).numpy() > 0
        assert np.array_equal(touched[roles == TARGET], ranks[roles == TARGET] < rank)
        assert touched[roles == CONTEXT].all()


def test_single_prediction_equals_masked_lm(vocabulary):
    """With q = 1 and nothing else predicted, the query is an ordinary masked LM's prediction."""
    objective = get_objective(
        "mpnet", whole_words=False, mlm_probability=0.05, mask_replace_prob=1.0, random_replace_prob=0
    )
    rows, out, batch = batch_for(objective, vocabulary, [20])
    assert out["label_positions"].lengths.tolist() == [1]
    torch.manual_seed(0)
    model = objective.build(tiny("mpnet", vocabulary), vocabulary).double().eval()
    logits = model.run(batch, None, ())["logits"]
    target = int(out["position_ids"].row(0)[-1])
    ids = torch.from_numpy(rows.row(0).copy())[None]
    ids[0, target] = vocabulary.mask_id
    stock = model.main(input_ids=ids, position_ids=torch.arange(20)[None] + 2).logits[0, target]
    torch.testing.assert_close(logits[0], stock, rtol=0, atol=1e-9)


def test_exported_model_is_stock_after_training(vocabulary):
    objective = get_objective("mpnet")
    _, _, batch = batch_for(objective, vocabulary, [40, 33])
    model = objective.build(tiny("mpnet", vocabulary), vocabulary).eval()
    model.main.mpnet.encoder.relative_attention_bias.weight.data.normal_()
    plain = objective.export(model)[""]
    ids = batch["input_ids"]  # of the same shape
    before, short = plain(ids).logits, plain(ids[:, :7]).logits
    model(**batch)
    torch.testing.assert_close(plain(ids).logits, before)
    torch.testing.assert_close(plain(ids[:, :7]).logits, short)


def test_one_step_lowers_the_loss(vocabulary):
    objective = get_objective("mpnet")
    _, _, batch = batch_for(objective, vocabulary, [40, 33, 25])
    torch.manual_seed(0)
    model = objective.build(tiny("mpnet", vocabulary), vocabulary)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(5):
        loss = model(**batch).sums["mpnet"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_families_that_cannot_are_refused(vocabulary):
    with pytest.raises(ValueError, match="deberta-v2"):
        get_objective("mpnet").build(Backbone(DebertaV2Config(vocab_size=vocabulary.size)), vocabulary)


def test_padding_that_rows_bring_stays_masked_whatever_the_other_rows(wordpiece_tokenizer, vocabulary):
    from pretrain_zoo.objectives import ObjectiveCollator

    collator = ObjectiveCollator("mpnet", wordpiece_tokenizer)
    word = int(vocabulary.random_pool[0])
    features = [{"input_ids": [vocabulary.pad_id], "example_id": 0}, {"input_ids": [word], "example_id": 1}]
    for batch in (collator(features), collator(features[:1])):
        assert batch["attention_mask"][0].sum() == 0
    assert collator(features)["attention_mask"][1].tolist() == [1, 1, 1]  # the word, its stand-in and its query
