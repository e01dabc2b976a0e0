"""Every registered objective on arbitrary rows by tokenizers of every kind: no exception, and what always holds."""

import copy

import numpy as np
import pytest
from conftest import TOKENIZER_KINDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain_zoo.objectives import ObjectiveCollator, Vocabulary, list_objectives

PAIRS = {"nsp", "sop", "tlm"}
"""Their collators read documents or pairs; see test_sentence_pair_collators and test_translation."""
MASKED = {"mlm", "whole_word_mlm", "ngram_mlm", "span_mlm"}

NAMES = [name for name in list_objectives() if name not in PAIRS]

_collators: dict = {}


def collator_for(name: str, kind: str, request) -> ObjectiveCollator:
    """One collator for all examples of a test, its tokenizer given the special tokens that some objectives need."""
    if (name, kind) not in _collators:
        tokenizer = copy.deepcopy(request.getfixturevalue(f"{kind}_tokenizer"))
        extra = [f"<extra_id_{i}>" for i in range(20)] + ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
        extra += ["[R]", "[S]", "[X]", "[NLU]", "[S2S]", "[NLG]"]
        tokenizer.add_tokens(extra, special_tokens=True)
        if tokenizer.cls_token is None:
            tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
        _collators[name, kind] = ObjectiveCollator(name, tokenizer, seed=0, return_tensors="np")
    return _collators[name, kind]


def rows_for(vocabulary: Vocabulary):
    """Batches of rows: ordinary text, anything at all, special tokens alone, one long word, one token, none."""
    special = sorted(set(vocabulary.special.values()) - {vocabulary.pad_id})
    pool = vocabulary.random_pool.tolist()
    continuing = [i for i in pool if not vocabulary.piece_flags[i] & 7][:20] or pool
    text = st.lists(st.sampled_from(pool), max_size=40).map(lambda t: [*vocabulary.prefix, *t, *vocabulary.suffix])
    row = st.one_of(
        text,
        text,
        st.lists(st.integers(0, vocabulary.size - 1).filter(lambda i: i != vocabulary.pad_id), max_size=30),
        st.lists(st.sampled_from(special), max_size=5),
        st.lists(st.sampled_from(continuing), min_size=10, max_size=60),
        st.lists(st.integers(0, vocabulary.size - 1), min_size=1, max_size=1),
        st.just([]),
    )
    return st.lists(row, min_size=1, max_size=5)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_any_rows(name, kind, data, request):
    collator = collator_for(name, kind, request)
    vocabulary = collator.vocabulary
    rows = data.draw(rows_for(vocabulary))
    features = [{"input_ids": row, "example_id": i} for i, row in enumerate(rows)]
    batch = collator(features)
    again = collator(features)
    assert all(np.array_equal(batch[column], again[column]) for column in batch)

    for column, values in batch.items():
        if column.endswith("input_ids"):
            assert values.shape[0] == len(rows)
            assert ((values >= 0) & (values < vocabulary.size)).all()
        if column.endswith("attention_mask"):
            assert np.isin(values, (0, 1)).all()
    labels = batch["labels"] if "labels" in batch else batch["label_ids"]
    assert ((labels == -100) | ((labels >= 0) & (labels < vocabulary.size))).all()

    for b in range(len(rows)):  # a row is the same alone, but for padding
        alone = collator([features[b]])
        for column, values in alone.items():
            if values.ndim == 2 and batch[column].shape[0] == len(rows):
                width = values.shape[1]
                assert np.array_equal(batch[column][b, :width], values[0])
                assert len(set(batch[column][b, width:].tolist())) <= 1

    if name in MASKED:
        for b, row in enumerate(rows):
            original = np.array(row, np.int64)
            selected = batch["labels"][b][: len(row)] != -100
            assert (batch["labels"][b][len(row) :] == -100).all()
            assert np.array_equal(batch["labels"][b][: len(row)][selected], original[selected])
            assert np.array_equal(batch["input_ids"][b][: len(row)][~selected], original[~selected])
            assert vocabulary.maskable[original[selected]].all()
            if name in ("ngram_mlm", "whole_word_mlm"):
                assert selected.sum() <= max(1, round(0.15 * len(row)))
