"""Span masking and the span-boundary objective: drawn lengths, a sequential loop, replacement, targets, leaks."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from pretrain_zoo.models.heads import SpanBoundaryHead
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.pretraining import HEADS_FILE
from pretrain_zoo.objectives import (
    DataCollatorForSpanMask,
    Draws,
    ObjectiveCollator,
    Ragged,
    Vocabulary,
    get_objective,
    keyed,
)
from pretrain_zoo.objectives.spans import SPAN
from pretrain_zoo.training.dataset import DrawCollator, PretrainingDataset

CLS, SEP, PAD, MASK, FIRST, SIZE = 1, 2, 0, 3, 10, 3000


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.arange(SIZE) >= FIRST
    return Vocabulary(
        size=SIZE, maskable=maskable, random_pool=np.flatnonzero(maskable), pad_id=PAD, mask_id=MASK, cls_id=CLS
    )


def make_rows(count, length, seed=0, words=0.7, special=True):
    """Rows of random ordinary ids with special tokens around, in the middle of every third row too."""
    rng = np.random.default_rng(seed)
    rows, starts = [], []
    for row in range(count):
        ids = rng.integers(FIRST, SIZE, length)
        if special:
            ids[0], ids[-1] = CLS, SEP
            if row % 3 == 0:
                ids[length // 2] = SEP
        rows.append(ids)
        starts.append(rng.random(length) < words)
    return {"input_ids": Ragged.from_rows(rows), "word_starts": Ragged.from_rows(starts)}


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def runs(positions):
    """(first, last) of runs of neighbouring numbers."""
    found = []
    for position in positions:
        if found and position == found[-1][1] + 1:
            found[-1][1] = position
        else:
            found.append([position, position])
    return found


def test_lengths_are_geometric_over_one_to_ten():
    objective = get_objective("span_mlm")
    count = 1_000_000
    lengths = objective.span_lengths((np.arange(count) + 0.5) / count)
    assert (lengths.min(), lengths.max()) == (1, 10)
    assert lengths.mean() == pytest.approx(3.797, abs=5e-4)
    weights = [0.2 * 0.8**i for i in range(10)]
    assert np.bincount(lengths)[1:] / count == pytest.approx(np.array(weights) / sum(weights), abs=2e-6)
    assert (lengths == 1).mean() == pytest.approx(0.224, abs=5e-4)
    assert (lengths == 10).mean() == pytest.approx(0.030, abs=5e-4)
    assert objective.span_lengths(np.array([0.0, 1 - 2.0**-32])).tolist() == [1, 10]


@pytest.mark.parametrize("length", [3, 12, 64, 130])
def test_budget_is_met_exactly(length, vocabulary):
    rows = make_rows(60, length)
    ordinary = [int((ids >= FIRST).sum()) for ids in np.array(rows["input_ids"].tolist())]
    out = corrupt(get_objective("span_mlm"), rows, vocabulary)
    assert out["label_positions"].lengths.tolist() == [math.ceil(Fraction(15, 100) * n) for n in ordinary]
    out = corrupt(get_objective("span_mlm", max_predictions_per_seq=2), rows, vocabulary)
    assert (out["label_positions"].lengths <= 2).all()
    everything = corrupt(get_objective("span_mlm", mlm_probability=1.0), rows, vocabulary)
    assert everything["label_positions"].lengths.tolist() == ordinary


def reference_choice(ids, starts, key, objective):
    """The visits of SpanBERT's masking, token by token, with the same draws."""
    ordinary = [i for i, token in enumerate(ids) if token >= FIRST]
    budget = math.ceil(Fraction(str(objective.mlm_probability)) * len(ordinary))
    begins = [
        i == 0 or bool(starts[i]) or ids[i] < FIRST or ids[i - 1] < FIRST for i in range(len(ids))
    ]  # special tokens are words of their own
    taken, visit = set(), 0
    while len(taken) < budget:
        bits = int(keyed.bits_at(np.array([key]), np.array([visit]), SPAN)[0])
        visit += 1
        words = int(objective.span_lengths(np.array([(bits & 0xFFFFFFFF) * 2.0**-32]))[0])
        anchor = ordinary[(bits >> 32) * len(ordinary) >> 32]
        if anchor in taken:
            continue
        while not begins[anchor]:
            anchor -= 1
        while words and anchor < len(ids) and ids[anchor] >= FIRST and len(taken) < budget:
            taken.add(anchor)
            anchor += 1
            if anchor == len(ids) or begins[anchor]:
                words -= 1
    return sorted(taken)


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_choice_is_what_a_sequential_loop_gives(rate, vocabulary):
    rows = make_rows(40, 90, seed=4)
    objective = get_objective("span_mlm", mlm_probability=rate)
    out = corrupt(objective, rows, vocabulary, seed=9)
    keys = Draws.of(9, np.arange(40), 0, np.arange(40)).key
    ids, starts = rows["input_ids"].tolist(), rows["word_starts"].tolist()
    expected = [reference_choice(ids[i], starts[i], keys[i], objective) for i in range(40)]
    assert out["label_positions"].tolist() == expected
    flat = [[ids[i][p] for p in positions] for i, positions in enumerate(expected)]
    assert out["label_ids"].tolist() == flat


def test_observed_spans_are_whole_words_but_for_the_last(vocabulary):
    rows = make_rows(200, 200, words=0.4)
    out = corrupt(get_objective("span_mlm"), rows, vocabulary)
    cut = 0
    for ids, starts, positions in zip(
        rows["input_ids"].tolist(), rows["word_starts"].tolist(), out["label_positions"].tolist(), strict=True
    ):
        whole = 0
        for first, last in runs(positions):
            assert starts[first] or ids[first - 1] < FIRST
            whole += not (starts[last + 1] or ids[last + 1] < FIRST)
        assert whole <= 1
        cut += whole
    assert cut > 20  # the budget does end within words


def test_observed_spans_are_a_little_longer_than_drawn(vocabulary):
    rows = make_rows(400, 512, words=1.0)
    out = corrupt(get_objective("span_mlm"), rows, vocabulary)
    lengths = np.array([last - first + 1 for p in out["label_positions"].tolist() for first, last in runs(p)])
    assert 3.85 < lengths.mean() < 4.05  # 3.96 by simulation of the published algorithm
    assert 0.01 < (lengths > 10).mean() < 0.022


def test_mask_random_or_unchanged_is_decided_per_span(vocabulary):
    rows = make_rows(1200, 128)
    out = corrupt(get_objective("span_mlm"), rows, vocabulary)
    kinds, replaced = [], []
    for before, after, positions in zip(
        rows["input_ids"].tolist(), out["input_ids"].tolist(), out["label_positions"].tolist(), strict=True
    ):
        chosen = set(positions)
        assert all(after[i] == before[i] for i in range(len(before)) if i not in chosen)
        for first, last in runs(positions):
            old, new = before[first : last + 1], after[first : last + 1]
            if all(token == MASK for token in new):
                kinds.append(0)
            elif old == new:
                kinds.append(1)
            else:
                assert MASK not in new
                kinds.append(2)
                replaced += [token for a, token in zip(old, new, strict=True)]
    share = np.bincount(kinds, minlength=3) / len(kinds)
    assert len(kinds) > 4000
    for found, expected in zip(share, (0.8, 0.1, 0.1), strict=True):
        assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / len(kinds))
    assert min(replaced) >= FIRST
    mean = (FIRST + SIZE - 1) / 2
    assert abs(np.mean(replaced) - mean) < 5 * SIZE / math.sqrt(12 * len(replaced))


@pytest.mark.parametrize("special", [True, False])  # without, spans at the ends of two rows are neighbours
def test_rows_do_not_depend_on_their_batch(special, vocabulary):
    rows = make_rows(30, 50, special=special)
    objective = get_objective("span_mlm", mlm_probability=0.15 if special else 0.9)
    whole = {name: column.tolist() for name, column in corrupt(objective, rows, vocabulary).items()}
    draws = Draws.of(0, np.arange(30), 0, np.arange(30))
    for i in range(30):
        one = np.array([i])
        alone = objective.corrupt({n: c.take(one) for n, c in rows.items()}, draws.take(one), vocabulary)
        assert {name: column.tolist()[0] for name, column in alone.items()} == {n: c[i] for n, c in whole.items()}


def reference_targets(ids, labels, limit):
    """[(left, right, place, token)] of one row."""
    found = []
    for first, last in runs(labels):
        if first == 0 or last == len(ids) - 1 or ids[first - 1] < FIRST or ids[last + 1] < FIRST:
            continue
        found += [(first - 1, last + 1, i - first, ids[i]) for i in range(first, last + 1)][:limit]
    return found


@pytest.mark.parametrize("settings", [{}, {"max_pair_targets": 3}, {"mlm_probability": 0.6}])
def test_boundary_targets(settings, vocabulary):
    objective = get_objective("span_mlm", **settings)
    rows = make_rows(60, 70, special=True)
    bare = make_rows(60, 70, special=False, seed=1)
    for given in (rows, bare):
        out = corrupt(objective, given, vocabulary)
        columns = [out[n].tolist() for n in ("sbo_left", "sbo_right", "sbo_offsets", "sbo_label_ids")]
        ids, labels = given["input_ids"].tolist(), out["label_positions"].tolist()
        edges = 0
        for row in range(60):
            found = list(zip(*(column[row] for column in columns), strict=True))
            assert found == reference_targets(ids[row], labels[row], objective.max_pair_targets)
            assert not {p for left, right, *_ in found for p in (left, right)} & set(labels[row])
            edges += len(runs(labels[row])) > len({left for left, *_ in found})
        assert edges  # some spans have no targets
        limit = objective.max_pair_targets
        assert max(max(c, default=0) for c in columns[2]) < limit


def test_no_ordinary_tokens_no_spans(vocabulary):
    rows = {
        "input_ids": Ragged.from_rows([np.array([CLS, SEP]), np.array([], np.int64), np.array([CLS, 20, SEP])]),
        "word_starts": Ragged.from_rows([np.ones(2, bool), np.ones(0, bool), np.ones(3, bool)]),
    }
    out = corrupt(get_objective("span_mlm"), rows, vocabulary)
    assert out["label_positions"].tolist() == [[], [], [1]]
    assert out["sbo_left"].lengths.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"geometric_p": 0.0}, "geometric_p"),
        ({"max_span_length": 0}, "max_span_length"),
        ({"sbo_weight": -1.0}, "sbo_weight"),
        ({"selection": "independent"}, "selection must be 'exact'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective("span_mlm", **settings)


# models


@pytest.fixture(scope="module")
def trained(documents, wordpiece_tokenizer):
    """(objective, model in eval mode, batch) of a tiny BERT."""
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    objective = get_objective("span_mlm")
    torch.manual_seed(0)
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer, hidden_dropout_prob=0.0), vocabulary).eval()
    data = PretrainingDataset(objective, documents, vocabulary, length=48, global_batch=8, max_steps=1)
    return objective, model, DrawCollator(objective, vocabulary)(data.__getitems__(list(range(8))))


def test_boundary_head_by_hand(trained):
    objective, model, batch = trained
    outputs = model(**batch, want=("sbo", "hidden")).outputs
    head = model.heads["sbo"]
    hidden = outputs["hidden"]
    length = hidden.shape[1]
    for i in range(0, len(batch["sbo_left"]), 5):
        left, right = (divmod(int(batch[name][i]), length) for name in ("sbo_left", "sbo_right"))
        assert left[0] == right[0]
        place = head.positions.weight[batch["sbo_offsets"][i]]
        x = torch.cat([hidden[left], hidden[right], place])
        for layer, norm in ((head.first, head.first_norm), (head.second, head.second_norm)):
            x = torch.nn.functional.gelu(layer.weight @ x + layer.bias)
            x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + norm.eps) * norm.weight + norm.bias
        logits = model.get_input_embeddings().weight @ x + head.bias
        assert torch.allclose(outputs["sbo"][i], logits, atol=1e-5)


def test_boundary_predictions_read_the_boundaries_alone(trained):
    objective, model, batch = trained
    head = model.heads["sbo"]
    hidden = torch.randn(*batch["input_ids"].shape, model.config.hidden_size, requires_grad=True)
    logits = head({"hidden": hidden}, batch)
    length = hidden.shape[1]
    for i in range(0, len(logits), 3):
        (gradient,) = torch.autograd.grad(logits[i].square().sum(), hidden, retain_graph=True)
        reached = {tuple(p) for p in gradient.abs().sum(-1).nonzero().tolist()}
        assert reached == {divmod(int(batch[name][i]), length) for name in ("sbo_left", "sbo_right")}


def test_losses_and_counts_are_separate_and_fall(trained, documents, wordpiece_tokenizer):
    objective, _, batch = trained
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    torch.manual_seed(1)
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer, hidden_dropout_prob=0.0), vocabulary)
    counts = objective.counts(batch)
    assert counts["span_mlm"] == len(batch["label_ids"]) and counts["sbo"] == len(batch["sbo_label_ids"])
    assert 0 < counts["sbo"] < counts["span_mlm"]
    output = model(**batch, want=("logits", "sbo"))
    for term, logits, labels in (("span_mlm", "logits", "label_ids"), ("sbo", "sbo", "sbo_label_ids")):
        expected = torch.nn.functional.cross_entropy(output.outputs[logits], batch[labels], reduction="sum")
        assert torch.isclose(output.sums[term], expected)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = {name: output.sums[name].item() for name in objective.terms}
    for _ in range(10):
        sums = model(**batch).sums
        optimizer.zero_grad()
        sum(sums[name] / counts[name] for name in objective.terms).backward()
        optimizer.step()
    assert all(model(**batch).sums[name].item() < 0.9 * first[name] for name in first)


def test_checkpoint_is_a_stock_masked_lm_and_the_head_goes_on(trained, documents, wordpiece_tokenizer, tmp_path):
    objective, model, batch = trained
    model.save_pretrained(tmp_path)
    plain, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(plain) is BertForMaskedLM and not report["missing_keys"] and not report["unexpected_keys"]
    assert (tmp_path / HEADS_FILE).exists()
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    again = objective.build(backbone(str(tmp_path), wordpiece_tokenizer), vocabulary).eval()
    assert torch.equal(again(**batch, want=("sbo",)).outputs["sbo"], model(**batch, want=("sbo",)).outputs["sbo"])
    alone = get_objective("span_mlm", sbo_weight=0.0)
    assert not alone.build(backbone(str(tmp_path), wordpiece_tokenizer), vocabulary).heads


def test_weights_in_half_precision(trained, wordpiece_tokenizer):
    objective, _, batch = trained
    parts = replace(backbone("bert-tiny", wordpiece_tokenizer), dtype=torch.bfloat16)
    model = objective.build(parts, Vocabulary.from_tokenizer(wordpiece_tokenizer))
    assert model.heads["sbo"].decoder.weight is model.main.get_input_embeddings().weight  # still tied
    assert all(torch.isfinite(value) for value in model(**batch).sums.values())


def test_factorised_embeddings(documents, unigram_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(unigram_tokenizer)
    parts = backbone("albert-mini", unigram_tokenizer)
    assert parts.config.embedding_size != parts.config.hidden_size
    model = get_objective("span_mlm").build(parts, vocabulary)
    head = model.heads["sbo"]
    assert isinstance(head, SpanBoundaryHead)
    batch = {n: torch.zeros(3, dtype=torch.long) for n in ("sbo_left", "sbo_right", "sbo_offsets")}
    assert head({"hidden": torch.randn(1, 4, parts.config.hidden_size)}, batch).shape == (3, parts.config.vocab_size)


def test_collator_alone(wordpiece_tokenizer, texts):
    features = [wordpiece_tokenizer(text, truncation=True, max_length=64) for text in texts[:20]]
    batch = DataCollatorForSpanMask(wordpiece_tokenizer, seed=0)(features)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    ordinary = [len(f["input_ids"]) - 2 for f in features]
    expected = [math.ceil(Fraction(15, 100) * n) for n in ordinary]
    assert (batch["labels"] != -100).sum(1).tolist() == expected
    model = backbone("bert-tiny", wordpiece_tokenizer).load(AutoModelForMaskedLM)
    assert torch.isfinite(model(**batch).loss)
    with_targets = ObjectiveCollator("span_mlm", wordpiece_tokenizer, seed=0)(features)
    assert torch.equal(with_targets["labels"], batch["labels"]) and "sbo_left" in with_targets
