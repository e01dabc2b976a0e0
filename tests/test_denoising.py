"""Denoising: BART's five noises alone and in combination, on any rows, on rows of a corpus, and as collators."""

import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from bart_rows import BOS, EOS, MASK, corrupt, is_subsequence, make_rows, make_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration

from pretrain_zoo.objectives import DataCollatorForBartDenoisingLM, DataCollatorForDenoising, Draws, get_objective
from pretrain_zoo.objectives.documents import from_lists

NONE = {"mask_ratio": 0.0, "permute_sentence_ratio": 0.0}


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


NOISES = {
    "infilling": {"permute_sentence_ratio": 0.0},
    "permutation": {"mask_ratio": 0.0},
    "masking": NONE | {"token_mask_ratio": 0.3},
    "deletion": NONE | {"token_delete_ratio": 0.3},
    "a mask for each token": {"permute_sentence_ratio": 0.0, "replace_length": -1},
    "deleted spans": {"permute_sentence_ratio": 0.0, "replace_length": 0},
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
        if name in ("infilling", "masking", "deletion", "a mask for each token", "deleted spans"):
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


@pytest.mark.parametrize("framed", [True, False])
def test_a_row_or_sentence_that_begins_within_a_word_is_not_joined_to_the_one_before(vocabulary, framed):
    """⌈0.3 · words⌉ words are gone, a part of a word at the begin of a row or sentence being one of its own."""
    rows = make_rows([90] * 40, seed=4, framed=framed, word_rate=0.5)
    ids = rows["input_ids"]
    rows["word_starts"].values[rows["sentence_starts"].values] = False
    rows["word_starts"].values[ids.offsets[:-1] + framed] = False
    out = corrupt(get_objective("denoising"), rows, vocabulary)["input_ids"].tolist()
    columns = (ids.tolist(), rows["word_starts"].tolist(), rows["sentence_starts"].tolist())
    for source, words, sentences, left in zip(*columns, out, strict=True):
        text = [i for i, token in enumerate(source) if token not in (BOS, EOS)]
        begins = [n for n, i in enumerate(text) if words[i] or sentences[i] or n == 0]
        pieces = [{source[i] for i in text[a:b]} for a, b in itertools.pairwise([*begins, len(text)])]
        gone = [not piece & set(left) for piece in pieces]
        assert all(gone_ or piece <= set(left) for gone_, piece in zip(gone, pieces, strict=True))
        assert sum(gone) == math.ceil(0.3 * len(pieces) - 1e-9)


def test_a_mask_for_each_token_leaves_the_rest_in_its_place(vocabulary):
    rows = make_rows([100] * 20)
    objective = get_objective("denoising", replace_length=-1, permute_sentence_ratio=0.0, poisson_lambda=1.0)
    inputs, source = corrupt(objective, rows, vocabulary)["input_ids"], rows["input_ids"]
    masked = inputs.values == MASK
    assert (inputs.lengths == source.lengths).all() and (inputs.values == source.values)[~masked].all()
    words = rows["word_starts"].values.copy()
    words[source.offsets[:-1] + 1] = True
    number = np.cumsum(words)
    whole = [masked[number == n].all() for n in np.unique(number[masked])]
    count = np.add.reduceat(words, source.offsets[:-1]) - 2  # frame
    assert all(whole) and len(whole) == sum(math.ceil(0.3 * n - 1e-9) for n in count.tolist())


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
    tokenizer = copy.deepcopy(byte_bpe_tokenizer)
    tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="padding_side = 'right'"):
        DataCollatorForDenoising(tokenizer)
