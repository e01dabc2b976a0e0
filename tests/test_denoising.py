"""BART's five noises: each by brute force or by hand, in combination, and as collators."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration

from pretrain_zoo.objectives import (
    DataCollatorForBartDenoisingLM,
    DataCollatorForDenoising,
    Draws,
    Ragged,
    Vocabulary,
    get_objective,
)
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.text_noise import (
    document_rotation,
    place_spans,
    poisson_spans,
    sentence_permutation,
    text_infilling,
    token_deletion,
    token_masking,
)

BOS, PAD, EOS, MASK, FIRST, SIZE = 0, 1, 2, 4, 10, 5000
NONE = {"mask_ratio": 0.0, "permute_sentence_ratio": 0.0}


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.arange(SIZE) >= FIRST
    return Vocabulary(
        SIZE,
        maskable,
        np.flatnonzero(maskable),
        mask_id=MASK,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        prefix=(BOS,),
        suffix=(EOS,),
    )


def keys(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, count).astype(np.uint64)


def make_rows(lengths, seed=0, framed=True, word_rate=0.7, sentence_rate=0.1):
    """Rows of distinct ids with words and sentences, special tokens around them."""
    rng = np.random.default_rng(seed)
    ids, words, sentences = [], [], []
    for n in lengths:
        row = FIRST + rng.permutation(SIZE - FIRST)[:n]
        begin, end = rng.random(n) < word_rate, rng.random(n) < sentence_rate
        begin |= end
        if framed:
            row = np.concatenate([[BOS], row, [EOS]])
            begin, end = (np.concatenate([[True], x, [True]]) for x in (begin, end))
        ids.append(row.astype(np.int64))
        words.append(begin)
        sentences.append(end)
    return {
        "input_ids": Ragged.from_rows(ids),
        "word_starts": Ragged.from_rows(words),
        "sentence_starts": Ragged.from_rows(sentences),
    }


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(token in rest for token in part)


# infilling


def test_drawn_lengths_are_poisson():
    budget = 30_000
    spans = poisson_spans(keys(8), np.full(8, budget), 3.0)
    assert (np.add.reduceat(spans.values, spans.offsets[:-1]) == budget).all()
    drawn = np.concatenate([row[:-1] for row in np.split(spans.values, spans.offsets[1:-1])])  # the last may be cut
    for length in range(12):
        p = math.exp(-3) * 3**length / math.factorial(length)
        assert abs((drawn == length).mean() - p) < 5 * math.sqrt(p * (1 - p) / len(drawn)), length
    assert drawn.max() < 25


def test_spans_meet_any_budget_and_insertions_never_outgrow_it():
    budget = np.array([0, 1, 2, 3, 10, 500])
    for lam in (0.05, 0.5, 3.0, 40.0):
        spans = poisson_spans(keys(6, seed=int(lam)), budget, lam)
        for b, row in zip(budget, spans.tolist(), strict=True):
            assert sum(row) == b
            assert len(row) <= b
    one = poisson_spans(keys(1), np.array([500]), 3.0)
    many = poisson_spans(np.repeat(keys(1), 2), np.array([500, 90_000]), 3.0)  # more draws are made, the same first
    assert one.tolist()[0] == many.tolist()[0]


def test_every_placement_without_overlap_is_equally_likely():
    rows, units, lengths = 40_000, 6, (2, 1, 0)
    spans = Ragged.from_rows([np.array(lengths)] * rows)
    begin, placed = place_spans(keys(rows), np.full(rows, units), spans)
    seen = Counter()
    for b, n in zip(begin.values.reshape(rows, 3).tolist(), placed.values.reshape(rows, 3).tolist(), strict=True):
        assert sorted(n) == sorted(lengths)
        assert all(b[i] + n[i] <= b[i + 1] for i in range(2))
        assert b[-1] + n[-1] <= units
        seen[tuple(zip(b, n, strict=True))] += 1
    items = units - sum(lengths) + len(lengths)
    expected = set()
    for places in itertools.combinations(range(items), 3):
        for order in itertools.permutations(lengths):
            starts = [place - i + sum(order[:i]) for i, place in enumerate(places)]
            expected.add(tuple(zip(starts, order, strict=True)))
    assert set(seen) == expected
    p = 1 / len(expected)
    assert all(abs(n - rows * p) < 5 * math.sqrt(rows * p * (1 - p)) for n in seen.values())


def explain(source_words, output, budget):
    """Whether masks in `output` can stand for spans of words, `budget` in all, so that the rest is as in the source."""
    at = covered = 0
    for token in output:
        if token == MASK:
            continue
        while at < len(source_words) and (not source_words[at] or source_words[at][0] != token):
            covered += 1
            at += 1
        if at == len(source_words):
            return False
        source_words[at] = source_words[at][1:]
        if not source_words[at]:
            at += 1
    covered += len(source_words) - at
    return covered == budget


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    ratio=st.floats(0, 1),
    lam=st.floats(0.3, 8),
    seed=st.integers(0, 1000),
)
def test_infilling_removes_whole_words_exactly_to_the_budget(vocabulary, lengths, ratio, lam, seed):
    rows = make_rows(lengths, seed, framed=False)
    ids, starts = rows["input_ids"], rows["word_starts"].values
    out = text_infilling(
        ids,
        starts,
        vocabulary.maskable[ids.values],
        keys(len(ids), seed),
        mask_ratio=ratio,
        poisson_lambda=lam,
        mask_id=MASK,
    )
    for tokens, begins, output in zip(ids.tolist(), rows["word_starts"].tolist(), out.tolist(), strict=True):
        words = []
        for i, token in enumerate(tokens):
            if i == 0 or begins[i]:
                words.append([])
            words[-1].append(token)
        assert explain(words, output, math.ceil(len(words) * ratio - 1e-9))
        assert len(output) <= len(tokens)


def test_a_mask_stands_at_the_place_of_each_span_and_insertion(vocabulary):
    rows = make_rows([40] * 200, framed=False)
    ids, starts = rows["input_ids"], rows["word_starts"].values
    starts[ids.offsets[:-1]] = True
    out = text_infilling(
        ids, starts, np.ones(len(starts), bool), keys(200), mask_ratio=0.5, poisson_lambda=2, mask_id=MASK
    )
    words = [
        np.split(np.array(tokens), np.flatnonzero(begins)[1:])
        for tokens, begins in zip(ids.tolist(), rows["word_starts"].tolist(), strict=True)
    ]
    count = np.array([len(row) for row in words])
    spans = poisson_spans(keys(200), np.ceil(count * 0.5).astype(np.int64), 2)
    begin, spans = place_spans(keys(200), count, spans)
    inserted = 0
    for row, begins, lengths, output in zip(words, begin.tolist(), spans.tolist(), out.tolist(), strict=True):
        expected, at = [], 0
        for b, n in zip(begins, lengths, strict=True):
            expected += [*itertools.chain(*row[at:b]), MASK]
            at = b + n
        assert output == expected + [*itertools.chain(*row[at:])]
        inserted += lengths.count(0)
    assert inserted > 200


def test_the_stated_rate_is_the_real_one(vocabulary):
    rows = make_rows([512] * 100, word_rate=1.0)
    out = corrupt(get_objective("denoising", permute_sentence_ratio=0), rows, vocabulary)
    left = [sum(token != MASK for token in row) for row in out["input_ids"].tolist()]
    assert left == [514 - math.ceil(0.3 * 512)] * 100
    masks = np.array([row.count(MASK) for row in out["input_ids"].tolist()])
    assert abs(masks.mean() - 154 / 3) < 5 * math.sqrt(154 / 9 / 100) + 1  # spans needed to reach 154 words
    zero = math.exp(-3)
    runs = [
        sum(1 for _ in group) for row in out["input_ids"].tolist() for k, group in itertools.groupby(row) if k == MASK
    ]
    assert 0.5 * zero < np.mean(np.array(runs) > 1) < 1


def test_protected_tokens_stay_even_inside_a_span(vocabulary):
    ids = Ragged.from_rows([[50, 51, EOS, 52, 53]] * 300, np.int64)
    starts = np.ones(1500, bool)
    out = text_infilling(ids, starts, vocabulary.maskable[ids.values], keys(300), mask_ratio=1.0, mask_id=MASK)
    for row in out.tolist():
        assert [token for token in row if token != MASK] == [EOS]
    assert {tuple(row) for row in out.tolist()} >= {(MASK, EOS), (MASK, EOS, MASK)}
    joined = np.tile([True, False, False, False, False], 300)  # a word ends at a special token, and one begins after it
    out = text_infilling(ids, joined, vocabulary.maskable[ids.values], keys(300), mask_ratio=1.0, mask_id=MASK)
    assert {tuple(row) for row in out.tolist()} >= {(MASK, EOS), (MASK, EOS, MASK)}
    assert not np.isin(out.values, [50, 51, 52, 53]).any()


def test_replace_length(vocabulary):
    rows = make_rows([60] * 50)
    kwargs = {"permute_sentence_ratio": 0.0, "mask_ratio": 0.4}
    one, each, none = (
        corrupt(get_objective("denoising", replace_length=n, **kwargs), rows, vocabulary)["input_ids"].tolist()
        for n in (1, -1, 0)
    )
    for a, b, c in zip(one, each, none, strict=True):
        assert [t for t in a if t != MASK] == [t for t in b if t != MASK] == c
        assert b.count(MASK) >= a.count(MASK)
        assert b.count(MASK) - 62 + len(c) >= 0  # one for each token that is gone, and insertions


def test_random_tokens_instead_of_masks(vocabulary):
    rows = make_rows([500] * 40)
    for length in (1, -1):
        plain, noisy = (
            corrupt(get_objective("denoising", random_replace_prob=p, replace_length=length), rows, vocabulary)[
                "input_ids"
            ]
            for p in (0.0, 0.25)
        )
        masks = plain.values == MASK
        assert np.array_equal(plain.lengths, noisy.lengths)
        assert np.array_equal(plain.values[~masks], noisy.values[~masks])
        n, share = masks.sum(), (noisy.values[masks] != MASK).mean()
        assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / n)
        drawn = noisy.values[masks & (noisy.values != MASK)]
        assert vocabulary.maskable[drawn].all()
        assert len(np.unique(drawn)) > len(drawn) / 2


# sentences and rotation


def test_sentences_are_permuted_whole_and_uniformly():
    rows = 30_000
    text = Ragged.from_rows([[1, 2, 3, 4, 5, 6]] * rows)
    starts = np.tile([True, False, False, True, True, False], rows)
    order = sentence_permutation(text, starts, keys(rows))
    seen = Counter(map(tuple, text.values[order].reshape(rows, 6).tolist()))
    sentences = [(1, 2, 3), (4,), (5, 6)]
    assert set(seen) == {sum(p, ()) for p in itertools.permutations(sentences)}
    assert all(abs(n - rows / 6) < 5 * math.sqrt(rows * 5 / 36) for n in seen.values())


def test_a_share_of_the_sentences_is_permuted():
    text = Ragged.from_rows([np.arange(10)] * 2000)
    order = sentence_permutation(text, np.ones(20_000, bool), keys(2000), 0.31).reshape(2000, 10) % 10
    moved = (order != np.arange(10)).sum(1)
    assert moved.max() == 4  # ⌈0.31 · 10⌉
    assert (np.sort(order, 1) == np.arange(10)).all()
    places = (order != np.arange(10)).mean(0)
    assert abs(places - places.mean()).max() < 0.05  # anywhere
    assert abs(moved.mean() - 3) < 5 * math.sqrt(1 / 2000)  # a permutation of n keeps one in its place on average


def test_rotation_is_cyclic_and_uniform():
    rows = 20_000
    text = Ragged.from_rows([[1, 2, 3, 4, 5], []] * rows)
    turned = text.values[document_rotation(text, keys(2 * rows))].reshape(rows, 5).tolist()
    offsets = Counter(row[0] for row in turned)
    assert all(row == [(row[0] - 1 + i) % 5 + 1 for i in range(5)] for row in turned)
    assert set(offsets) == {2, 3, 4, 5}
    assert all(abs(n - rows / 4) < 5 * math.sqrt(rows * 3 / 16) for n in offsets.values())
    some = text.values[document_rotation(text, keys(2 * rows), 0.3)].reshape(rows, 5)
    assert abs((some[:, 0] != 1).mean() - 0.3) < 5 * math.sqrt(0.21 / rows)


# tokens


def test_token_noise_rates_and_what_stays(vocabulary):
    rows = make_rows([1000] * 40, framed=False)
    text = rows["input_ids"]
    maskable = vocabulary.maskable[text.values] & (np.arange(40_000) % 7 > 0)
    masked = token_masking(text, maskable, keys(40), 0.3, MASK)
    hit = masked.values == MASK
    assert not hit[~maskable].any()
    assert np.array_equal(masked.values[~hit], text.values[~hit])
    assert abs(hit[maskable].mean() - 0.3) < 5 * math.sqrt(0.21 / maskable.sum())
    deleted = token_deletion(text, maskable, keys(40), 0.3)
    gone = maskable.sum() - (len(deleted.values) - (~maskable).sum())
    assert abs(gone / maskable.sum() - 0.3) < 5 * math.sqrt(0.21 / maskable.sum())
    assert MASK not in deleted.values
    for before, after in zip(text.tolist(), deleted.tolist(), strict=True):
        assert is_subsequence(after, before)
    masked_places, deleted_places = set(np.flatnonzero(hit)), set(np.flatnonzero(~np.isin(text.values, deleted.values)))
    assert len(masked_places & deleted_places) < 0.5 * len(masked_places)  # draws of their own


# the objective


NOISES = {
    "infilling": {"permute_sentence_ratio": 0.0},
    "permutation": {"mask_ratio": 0.0},
    "masking": NONE | {"token_mask_ratio": 0.3},
    "deletion": NONE | {"token_delete_ratio": 0.3},
    "rotation": NONE | {"rotate_probability": 1.0},
    "paper": {},
    "all": {"token_mask_ratio": 0.1, "token_delete_ratio": 0.2, "rotate_probability": 0.7, "unit": "token"},
}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(NOISES)),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    framed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_rows_under_any_noises(vocabulary, name, lengths, framed, seed):
    rows = make_rows(lengths, seed, framed)
    out = corrupt(get_objective("denoising", **NOISES[name]), rows, vocabulary, seed)
    for source, inputs, target, read in zip(
        *(c.tolist() for c in (rows["input_ids"], out["input_ids"], out["label_ids"], out["decoder_input_ids"])),
        strict=True,
    ):
        assert target == source
        assert read == [EOS, *source[:-1]][: len(source)]
        assert len(inputs) <= len(source)
        left = Counter(inputs) - Counter({MASK: len(inputs)})
        assert not left - Counter(source)
        if framed:
            assert (inputs[0], inputs[-1]) == (BOS, EOS)
        if name in ("infilling", "masking", "deletion"):
            assert is_subsequence([t for t in inputs if t != MASK], source)
        if name in ("permutation", "rotation"):
            assert sorted(inputs) == sorted(source)
    for i in range(len(lengths)):  # rows do not depend on their batch
        one = {name: column.take(np.array([i])) for name, column in rows.items()}
        draws = Draws.of(seed, np.array([i]), 0, np.array([i]))
        alone = get_objective("denoising", **NOISES[name]).corrupt(one, draws, vocabulary)
        assert alone["input_ids"].tolist()[0] == out["input_ids"].tolist()[i]


def test_paper_recipe_keeps_a_subsequence_of_the_permuted_source(vocabulary):
    rows = make_rows([200] * 20)
    out = corrupt(get_objective("denoising"), rows, vocabulary)
    permuted = corrupt(get_objective("denoising", mask_ratio=0.0), rows, vocabulary)
    for a, b in zip(out["input_ids"].tolist(), permuted["input_ids"].tolist(), strict=True):
        assert is_subsequence([t for t in a if t != MASK], b)


def test_words_are_infilled_whole_wherever_their_sentence_lands(vocabulary):
    rows = make_rows([120] * 20, word_rate=0.4)
    ids, starts = rows["input_ids"], rows["word_starts"].values
    starts[ids.offsets[:-1] + 1] = True
    out = corrupt(get_objective("denoising"), rows, vocabulary)
    for i, left in enumerate(map(set, out["input_ids"].tolist())):
        row = slice(ids.offsets[i], ids.offsets[i + 1])
        words = np.split(ids.values[row], np.flatnonzero(starts[row])[1:])
        kept = [left >= set(word.tolist()) for word in words]
        assert all(keep or not left & set(word.tolist()) for keep, word in zip(kept, words, strict=True))
        assert 0 < sum(kept) < len(words)


def test_without_noise_nothing_changes(vocabulary):
    rows = make_rows([0, 1, 5, 80])
    out = corrupt(get_objective("denoising", **NONE), rows, vocabulary)
    assert out["input_ids"].tolist() == rows["input_ids"].tolist() == out["label_ids"].tolist()


def test_sentences_of_the_corpus_are_what_is_permuted(vocabulary):
    documents = from_lists([[[20, 21, 22], [30], [40, 41]], [[50, 51], [60]]])
    objective = get_objective("denoising", mask_ratio=0.0)
    plan = objective.plan(documents, vocabulary, length=64, seed=0, epoch=0, global_batch=1)
    rows = plan.rows(np.zeros(60, np.int64))
    assert rows["input_ids"].tolist()[0] == [BOS, 20, 21, 22, 30, 40, 41, EOS]
    seen = {tuple(row[1:-1]) for row in corrupt(objective, rows, vocabulary)["input_ids"].tolist()}
    assert seen == {sum(p, ()) for p in itertools.permutations([(20, 21, 22), (30,), (40, 41)])}


@pytest.mark.parametrize(
    ("name", "value"),
    [("mask_ratio", 1.5), ("poisson_lambda", 0), ("replace_length", 2), ("rotate_probability", -1), ("unit", "byte")],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        get_objective("denoising", **{name: value})


# collators


def test_collator_feeds_a_stock_bart(byte_bpe_tokenizer, texts):
    features = [byte_bpe_tokenizer(text) for text in texts[:12]]
    batch = DataCollatorForDenoising(byte_bpe_tokenizer, seed=0)(features)
    pad, bos, eos = (byte_bpe_tokenizer.convert_tokens_to_ids(t) for t in ("<pad>", "<s>", "</s>"))
    assert set(batch) == {"input_ids", "attention_mask", "decoder_input_ids", "labels"}
    for labels, feature in zip(batch["labels"], features, strict=True):
        assert labels[labels != -100].tolist() == feature["input_ids"]
    assert (batch["decoder_input_ids"][:, :2] == torch.tensor([eos, bos])).all()
    config = BartConfig(
        vocab_size=len(byte_bpe_tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=pad, bos_token_id=bos,
        eos_token_id=eos, decoder_start_token_id=eos, dropout=0.0,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    shifted = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    predicted = batch["labels"] != -100
    assert torch.equal(shifted[predicted], batch["decoder_input_ids"][predicted])
    loss = model(**batch).loss
    del batch["decoder_input_ids"]  # the stock model makes its own of the labels
    torch.testing.assert_close(loss, model(**batch).loss)


def test_flax_name_and_arguments(byte_bpe_tokenizer, texts):
    features = [byte_bpe_tokenizer(text) for text in texts[:4]]
    collator = DataCollatorForBartDenoisingLM(
        byte_bpe_tokenizer, 7, mask_ratio=0.5, poisson_lambda=2.0, permute_sentence_ratio=0.5, pad_to_multiple_of=16
    )
    batch = collator(features)
    assert batch["labels"].shape[1] % 16 == batch["input_ids"].shape[1] % 16 == 0
    assert (batch["decoder_input_ids"][:, 0] == 7).all()
    assert collator.objective.mask_ratio == 0.5


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "unigram", "bpe"])
def test_sentences_are_found_in_the_pieces(kind, request):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    if tokenizer.padding_side == "left":
        tokenizer = tokenizer.__class__.from_pretrained(tokenizer.name_or_path, padding_side="right")
    text = "The miller forgot a letter. Nobody mends the well-known clock! The committee counted nothing?"
    feature = tokenizer(text)
    collator = DataCollatorForDenoising(tokenizer, mask_ratio=0.0)
    seen = {tuple(row) for row in collator([feature] * 80)["input_ids"].tolist()}
    assert len(seen) == 6
    assert all(sorted(row) == sorted(feature["input_ids"]) for row in seen)
    given_starts = collator([{**feature, "sentence_starts": [0] * len(feature["input_ids"])}] * 8)
    assert {tuple(row) for row in given_starts["input_ids"].tolist()} == {tuple(feature["input_ids"])}


def test_left_padding_and_missing_masks_are_refused(byte_bpe_tokenizer):
    import copy

    tokenizer = copy.deepcopy(byte_bpe_tokenizer)
    tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="padding_side = 'right'"):
        DataCollatorForDenoising(tokenizer)
