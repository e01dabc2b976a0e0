"""Tokenizers, features and settings that collators refuse, and in what words."""

import copy

import numpy as np
import pytest
import torch

from pretrain_zoo.objectives import DataCollatorForCausalLM, DataCollatorForMaskedLM, ObjectiveCollator, get_objective


def without_pad(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None
    return tokenizer


def test_a_name_is_no_tokenizer():
    with pytest.raises(ValueError, match="a tokenizer is needed, not 'bert-base-uncased'; load one with AutoTokenizer"):
        ObjectiveCollator("mlm", "bert-base-uncased")
    with pytest.raises(ValueError, match="a tokenizer is needed, not NoneType"):
        ObjectiveCollator("mlm", None)


def test_a_tokenizer_without_padding(wordpiece_tokenizer):
    collator = DataCollatorForCausalLM(without_pad(wordpiece_tokenizer))
    assert collator([[20, 21], [22, 23]])["labels"].tolist() == [[-100, 21], [-100, 23]]
    with pytest.raises(ValueError, match="no pad token.*add_special_tokens"):
        collator([[20, 21], [22]])


def test_a_tokenizer_without_a_mask(wordpiece_tokenizer):
    tokenizer = copy.deepcopy(wordpiece_tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="no mask token, which this objective needs"):
        DataCollatorForMaskedLM(tokenizer)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "the batch has no features"),
        ([{"ids": [1]}], "need a column 'input_ids'; they have: ids"),
        ([{"input_ids": [5, 200]}], "input_ids hold 5 … 200, but the tokenizer's ids are 0 … 199"),
        ([{"input_ids": [5, -1]}], "input_ids hold -1 … 5"),
        ([{"input_ids": [5.5]}], "input_ids must hold integers"),
        ([{"input_ids": np.array([5.0])}], "input_ids must hold integers"),
        ([{"input_ids": "text"}], "column 'input_ids' must hold one list of numbers per example"),
        ([{"input_ids": [[5, 6]]}], "column 'input_ids' must hold one list of numbers per example"),
        ([{"input_ids": torch.tensor([[5, 6]])}], "more than one dimension"),
        ([{"input_ids": torch.tensor(5)}], "more than one dimension, or none"),
        ([{"input_ids": 5}], "column 'input_ids' must hold one list of numbers per example"),
        ([{"input_ids": [5], "text": "a"}], r"column 'text' holds str values.*remove_columns\('text'\)"),
        ([{"input_ids": [5], "text": ["a"]}], "column 'text' must hold one list of numbers"),
        ([{"input_ids": [5], "extra": None}], "column 'extra' holds NoneType values"),
        ([{"input_ids": [5], "more": [1, 2]}], "column 'more' must have one value per token"),
        ([{"input_ids": [5], "word_ids": [1, 2]}], "column 'word_ids' must have one value per token"),
        ([{"input_ids": [5], "more": [1]}, {"input_ids": [5]}], "column 'more' is missing in some features"),
        ([{"input_ids": [5]}, {"input_ids": [5], "more": [1]}], "column 'more' is missing in some features"),
    ],
)
def test_refused_features(features, message, wordpiece_tokenizer):
    for collator in (DataCollatorForMaskedLM, DataCollatorForCausalLM):
        with pytest.raises(ValueError, match=message):
            collator(wordpiece_tokenizer)(features)


def test_objects_and_settings(wordpiece_tokenizer):
    objective = get_objective("mlm", mlm_probability=0.3)
    assert ObjectiveCollator(objective, wordpiece_tokenizer).objective is objective
    with pytest.raises(ValueError, match="no setting 'mlm_prob'; did you mean 'mlm_probability'"):
        DataCollatorForMaskedLM(wordpiece_tokenizer, mlm_prob=0.3)
    with pytest.raises(ValueError, match="settings"):
        ObjectiveCollator(objective, wordpiece_tokenizer, mlm_probability=0.2)
