"""Prefix LM and UniLM: what is predicted, who sees whom (by gradients), and which backbones are refused."""

import numpy as np
import pytest
import torch
from training_runs import build, text

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.ranked_attention import ranked_mask
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, get_objective

ROWS = 6000


def corrupted(name, lengths, **settings):
    """Rows of ascending ordinary ids, corrupted."""
    vocabulary = text()[1]
    pool = vocabulary.random_pool
    ids = [pool[np.arange(n) % len(pool)] for n in lengths]
    number = np.arange(len(lengths))
    objective = get_objective(name, **settings)
    return ids, objective.corrupt({"input_ids": Ragged.from_rows(ids)}, Draws.of(2, number, 0, number), vocabulary)


def visible(model, ids, ranks):
    """bool `[L, L]`: whether the output at i changes with the input at j, by gradients."""
    embedded = model.main.get_input_embeddings()(ids[None]).detach().requires_grad_()
    mask = ranked_mask(ranks[None], model.dtype)
    logits = model.main(inputs_embeds=embedded, attention_mask=mask).logits[0]
    seen = []
    for i in range(len(ids)):
        (gradient,) = torch.autograd.grad(logits[i].square().sum(), embedded, retain_graph=True)
        seen.append((gradient[0] != 0).any(-1))
    return torch.stack(seen)


def test_prefix_lm_predicts_what_follows_the_prefix():
    ids, columns = corrupted("prefix_lm", [1, 2, *[6] * ROWS])
    ranks, position, label = (columns[n].tolist() for n in ("attention_ranks", "label_positions", "label_ids"))
    assert position[:2] == [[], [0]]
    lengths = []
    for b in range(2, ROWS):
        k = sum(r == 0 for r in ranks[b])
        assert ranks[b] == [0] * k + list(range(1, 7 - k))
        assert position[b] == list(range(k - 1, 5))
        assert label[b] == ids[b][k:].tolist()
        lengths.append(k)
    counts = np.bincount(lengths, minlength=7)
    assert counts[0] == counts[6] == 0
    assert np.abs(counts[1:6] - len(lengths) / 5).max() < 5 * (len(lengths) * 0.16) ** 0.5


@pytest.mark.parametrize("model", ["gpt2-tiny", "llama-tiny", "bert-tiny", "roberta-tiny"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prefix_lm_leaks_nothing(model, attention):
    tokenizer, vocabulary, _ = text()
    objective = get_objective("prefix_lm")
    parts = backbone(model, tokenizer, max_length=16, dtype=torch.float64, attn_implementation=attention)
    torch.manual_seed(0)
    built = objective.build(parts, vocabulary).double().eval()
    _, columns = corrupted("prefix_lm", [8] * 4)
    for b in range(4):
        ids, ranks = (torch.tensor(columns[n].row(b)) for n in ("input_ids", "attention_ranks"))
        k = int((ranks == 0).sum())
        expected = torch.tensor([[j <= i or (i < k and j < k) for j in range(8)] for i in range(8)])
        assert torch.equal(visible(built, ids, ranks), expected)


@pytest.mark.parametrize("name", ["prefix_lm", "unilm"])
def test_padding_changes_no_prediction(name):
    objective, model = build(name)
    collator = ObjectiveCollator(objective, text()[0], sparse_labels=True)
    features = [{"input_ids": list(range(20, 20 + n)), "example_id": n} for n in (5, 9, 6, 7, 5, 8, 5, 6, 7, 5)]
    model.eval()
    together = model(**collator(features), want=("logits",)).outputs["logits"]
    alone = [model(**collator([f]), want=("logits",)).outputs["logits"] for f in features]
    assert torch.allclose(together, torch.cat(alone), atol=1e-12)


def test_unilm_reads_rows_in_four_ways():
    vocabulary = text()[1]
    _, columns = corrupted("unilm", [9] * ROWS)
    ids, ranks = columns["input_ids"], columns["attention_ranks"].tolist()
    around = len(vocabulary.pair_prefix) + len(vocabulary.middle) + len(vocabulary.pair_suffix)
    length = 9 + around
    assert (ids.lengths == length).all()
    kinds, cuts = [], []
    for b in range(ROWS):
        row = ids.row(b).tolist()
        cut = row[1:].index(vocabulary.sep_id) + 2  # source with its separator
        ways = {
            "both": [0] * length,
            "seq2seq": [0] * cut + list(range(1, length - cut + 1)),
            "right": list(range(length)),
            "left": list(range(length))[::-1],
        }
        kinds.append(next(way for way in ways if ways[way] == ranks[b]))
        cuts.append(cut - 2)
    for way, share in {"both": 1 / 3, "seq2seq": 1 / 3, "right": 1 / 6, "left": 1 / 6}.items():
        assert abs(kinds.count(way) / ROWS - share) < 5 * (share * (1 - share) / ROWS) ** 0.5
    assert set(cuts) == set(range(1, 9))


def test_unilm_masks_text_of_both_segments():
    vocabulary = text()[1]
    ids, columns = corrupted("unilm", [60] * 1000)
    position, label = columns["label_positions"], columns["label_ids"]
    assert (position.lengths == round(0.15 * 63)).all()
    assert vocabulary.maskable[label.values].all()
    first = len(vocabulary.pair_prefix)
    kept = columns["input_ids"].values.copy()
    offsets = columns["input_ids"].offsets[:-1]
    kept[position.values + np.repeat(offsets, position.lengths)] = label.values
    text_of = kept[vocabulary.maskable[kept]].reshape(1000, 60)
    assert np.array_equal(text_of, np.stack(ids))
    counts = np.bincount(position.values, minlength=63)
    assert counts[first] > 0 and counts[60] > 0
    touching = sum((np.diff(row) == 1).sum() for row in position.tolist()) / len(position.values)
    singles = corrupted("unilm", [60] * 1000, ngram_rate=0.0)[1]["label_positions"]
    assert touching > 1.3 * sum((np.diff(row) == 1).sum() for row in singles.tolist()) / len(singles.values)


def test_unilm_takes_three_neighbours_in_one_visit_of_ten():
    position = corrupted("unilm", [60] * ROWS, mlm_probability=3 / 63)[1]["label_positions"]
    assert (position.lengths == 3).all()
    runs = np.diff(position.values.reshape(ROWS, 3), axis=1).sum(1) == 2
    by_chance = 0.02  # smaller ones that touch: one and two in a third of the visits, at 2 of 58 places
    error = 5 * (0.1 * 0.9 / ROWS) ** 0.5
    assert 0.1 - error < runs.mean() < 0.1 + by_chance + error


def test_unilm_leaks_nothing():
    _, model = build("unilm")
    model.eval()
    _, columns = corrupted("unilm", [6] * 12)
    for b in range(12):
        ids, ranks = (torch.tensor(columns[n].row(b)) for n in ("input_ids", "attention_ranks"))
        expected = torch.tensor([[ranks[j] <= ranks[i] for j in range(len(ids))] for i in range(len(ids))])
        assert torch.equal(visible(model, ids, ranks), expected)


@pytest.mark.parametrize(
    ("name", "model"),
    [("unilm", "deberta-v3-tiny"), ("unilm", "xlm-tiny"), ("unilm", "modernbert-tiny"), ("prefix_lm", "xlnet-tiny")],
)
def test_backbones_that_take_no_such_mask_are_refused(name, model):
    tokenizer, vocabulary, _ = text()
    with pytest.raises(ValueError, match="backbone|local attention"):
        get_objective(name).build(backbone(model, tokenizer, max_length=16), vocabulary)


def test_global_layers_heed_the_mask_beside_a_window():
    """ModernBERT's config keeps a window that no layer uses."""
    tokenizer, vocabulary, _ = text()
    parts = backbone("modernbert-tiny", tokenizer, max_length=16, layer_types=["full_attention"] * 2)
    model = get_objective("unilm").build(parts, vocabulary).eval()
    ids, ranks = torch.tensor([10, 11, 12, 13, 14]), torch.tensor([0, 0, 1, 2, 3])
    assert torch.equal(visible(model, ids, ranks), ranks[None, :] <= ranks[:, None])


def test_settings_out_of_range():
    for name, settings in (
        ("prefix_lm", {"document_attention": True}),
        ("unilm", {"bidirectional_rate": 0.9}),
        ("unilm", {"ngram_rate": 2.0}),
        ("unilm", {"max_ngram": 5}),
    ):
        with pytest.raises(ValueError):
            get_objective(name, **settings)
