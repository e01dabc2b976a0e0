"""Collators alone: the same batch from every form of features that Hugging Face's accept, padding, other columns."""

import copy

import numpy as np
import pytest
import torch
from collator_features import MASKED, make_features
from datasets import Dataset
from transformers import BatchEncoding

from pretrain_zoo.objectives import (
    DataCollatorForCausalLM,
    DataCollatorForMaskedLM,
    DataCollatorForWholeWordMask,
    Ragged,
    Vocabulary,
)
from pretrain_zoo.objectives.base import Column
from pretrain_zoo.objectives.collator import pad_columns


@pytest.fixture(scope="module")
def features(wordpiece_tokenizer, texts):
    return make_features(wordpiece_tokenizer, texts)


def ids_only(features):
    return [{"input_ids": f["input_ids"]} for f in features]


def batch_of(tokenizer, features, collator=DataCollatorForMaskedLM, **settings):
    return {k: v.tolist() for k, v in collator(tokenizer, seed=5, **settings)(features).items()}


def pads(features, side="right"):
    length = max(len(f["input_ids"]) for f in features) + 3
    out = []
    for f in features:
        fill = [0] * (length - len(f["input_ids"]))
        out.append({k: v + fill if side == "right" else fill + v for k, v in f.items()})
    return out


def test_a_batch(wordpiece_tokenizer, features):
    batch = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=5)(features)
    lengths = [len(f["input_ids"]) for f in features]
    assert isinstance(batch, BatchEncoding)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert all(v.dtype == torch.int64 and v.shape == (6, max(lengths)) for v in batch.values())
    for b, (feature, n) in enumerate(zip(features, lengths)):
        original = torch.tensor(feature["input_ids"])
        selected = batch["labels"][b] != -100
        assert not selected[n:].any() and selected.any()
        assert torch.equal(batch["labels"][b][selected], original[selected[:n]])
        assert torch.equal(batch["input_ids"][b][:n][~selected[:n]], original[~selected[:n]])
        assert batch["input_ids"][b][n:].tolist() == [wordpiece_tokenizer.pad_token_id] * (max(lengths) - n)
        assert batch["attention_mask"][b].tolist() == [1] * n + [0] * (max(lengths) - n)


# forms of features

FORMS = {
    "int32 arrays": lambda f: [{k: np.array(v, np.int32) for k, v in x.items()} for x in f],
    "uint16 arrays": lambda f: [{k: np.array(v, np.uint16) for k, v in x.items()} for x in f],
    "tensors": lambda f: [{k: torch.tensor(v) for k, v in x.items()} for x in f],
    "BatchEncoding": lambda f: [BatchEncoding(x) for x in f],
    "tuples": lambda f: [{k: tuple(v) for k, v in x.items()} for x in f],
    "lists and arrays": lambda f: [{k: np.array(v) if i % 2 else v for k, v in x.items()} for i, x in enumerate(f)],
    "arrays and lists": lambda f: [{k: v if i % 2 else np.array(v) for k, v in x.items()} for i, x in enumerate(f)],
    "old labels": lambda f: [x | {"labels": x["input_ids"]} for x in f],
    "Dataset": lambda f: list(Dataset.from_list(f)),
    "Dataset of tensors": lambda f: list(Dataset.from_list(f).with_format("torch")),
    "Dataset of arrays": lambda f: list(Dataset.from_list(f).with_format("numpy")),
    "Dataset slice": lambda f: Dataset.from_list(f).__getitems__(list(range(6))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("collator", MASKED + [DataCollatorForCausalLM])
def test_every_form_gives_the_same_batch(form, collator, wordpiece_tokenizer, features):
    given = FORMS[form](copy.deepcopy(features))
    assert batch_of(wordpiece_tokenizer, given, collator) == batch_of(wordpiece_tokenizer, features, collator)


@pytest.mark.parametrize("collator", MASKED + [DataCollatorForCausalLM])
def test_ids_alone(collator, wordpiece_tokenizer, features):
    expected = batch_of(wordpiece_tokenizer, features, collator)
    del expected["token_type_ids"]
    bare = [f["input_ids"] for f in features]
    for given in (ids_only(features), bare, [np.array(x) for x in bare], [torch.tensor(x) for x in bare]):
        assert batch_of(wordpiece_tokenizer, given, collator) == expected


@pytest.mark.parametrize("collator", MASKED + [DataCollatorForCausalLM])
@pytest.mark.parametrize("names", [("input_ids", "attention_mask"), ("input_ids",)])
def test_padded_beforehand(collator, names, wordpiece_tokenizer, features):
    """The same predictions as without padding, and no attention to it, with or without a mask that says so."""
    expected = batch_of(wordpiece_tokenizer, ids_only(features), collator)
    length = max(len(f["input_ids"]) for f in features)
    given = [{name: f[name] for name in names} for f in pads(features)]
    batch = batch_of(wordpiece_tokenizer, given, collator)
    for name, rows in batch.items():
        fill = -100 if name == "labels" else 0
        assert [row[:length] for row in rows] == expected[name]
        assert [row[length:] for row in rows] == [[fill] * 3] * 6


def test_padded_on_the_left(wordpiece_tokenizer, features):
    tokenizer = copy.deepcopy(wordpiece_tokenizer)
    tokenizer.padding_side = "left"
    length = max(len(f["input_ids"]) for f in features)
    for collator in (*MASKED, DataCollatorForCausalLM):
        right, left = batch_of(wordpiece_tokenizer, features, collator), batch_of(tokenizer, features, collator)
        for name in right:
            for b, feature in enumerate(features):
                n = len(feature["input_ids"])
                assert left[name][b][length - n :] == right[name][b][:n]
                assert left[name][b][: length - n] == right[name][b][n:]
    given = [{k: f[k] for k in ("input_ids", "attention_mask")} for f in pads(features, "left")]
    batch = batch_of(wordpiece_tokenizer, given, DataCollatorForCausalLM)
    for b, feature in enumerate(features):  # neither padding nor the first token is a target
        ids = feature["input_ids"]
        assert batch["labels"][b] == [-100] * (length + 3 - len(ids) + 1) + ids[1:]


def test_empty_rows(wordpiece_tokenizer):
    for collator in (*MASKED, DataCollatorForCausalLM):
        for empty in ([], np.array([]), torch.tensor([])):
            batch = collator(wordpiece_tokenizer)([{"input_ids": [2, 20, 21, 3]}, {"input_ids": empty}])
            assert batch["attention_mask"].tolist() == [[1] * 4, [0] * 4]
            assert batch["input_ids"][1].tolist() == [0] * 4


# columns


def test_special_tokens_mask_is_kept_to_and_not_handed_on(wordpiece_tokenizer, features):
    given = [f | {"special_tokens_mask": [i % 2 for i in range(len(f["input_ids"]))]} for f in features]
    for collator in MASKED:
        batch = collator(wordpiece_tokenizer, seed=0, mlm_probability=0.5)(given)
        assert "special_tokens_mask" not in batch
        assert (batch["labels"][:, ::2] != -100).any() and (batch["labels"][:, 1::2] == -100).all()


def test_other_columns(wordpiece_tokenizer, features):
    given = [
        f | {"label": i, "weight": i / 4, "flag": i > 2, "offsets": [0.5] * len(f["input_ids"])}
        for i, f in enumerate(features)
    ]
    for form in (given, list(Dataset.from_list(given).with_format("torch"))):
        batch = DataCollatorForMaskedLM(wordpiece_tokenizer)(form)
        assert batch["label"].tolist() == list(range(6)) and batch["label"].dtype == torch.int64
        assert batch["weight"].tolist() == [i / 4 for i in range(6)] and batch["weight"].dtype == torch.float32
        assert batch["flag"].tolist() == [i > 2 for i in range(6)]
        assert batch["offsets"].dtype == torch.float32
        assert batch["offsets"].sum() == 0.5 * sum(len(f["input_ids"]) for f in features)


def test_word_ids(wordpiece_tokenizer, texts):
    encoding = wordpiece_tokenizer(texts[0])
    words = encoding.word_ids()
    feature = {"input_ids": encoding["input_ids"], "word_ids": words}
    collator = DataCollatorForWholeWordMask(wordpiece_tokenizer, seed=0, mlm_probability=0.3)
    for _ in range(5):
        batch = collator([feature])
        assert "word_ids" not in batch and "word_starts" not in batch
        chosen = {words[i] for i in np.flatnonzero(batch["labels"][0] != -100)}
        assert None not in chosen
        expected = [w in chosen for w in words]
        assert (batch["labels"][0] != -100).tolist() == expected


# layout of the batch


def test_return_tensors_and_multiples(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer, pad_to_multiple_of=16, return_tensors="np")
    batch = collator(features)
    assert all(isinstance(v, np.ndarray) and v.shape == (6, 64) for v in batch.values())
    assert isinstance(collator(features, return_tensors="pt")["labels"], torch.Tensor)
    with pytest.raises(ValueError, match="return_tensors must be 'pt' or 'np', not 'tf'"):
        DataCollatorForMaskedLM(wordpiece_tokenizer, return_tensors="tf")
    with pytest.raises(ValueError, match="return_tensors must be 'pt' or 'np', not 'tf'"):
        collator(features, return_tensors="tf")


def test_sparse_labels(wordpiece_tokenizer, features):
    dense = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=5)(features)
    sparse = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=5, sparse_labels=True)(features)
    assert "labels" not in sparse
    flat = dense["labels"].flatten()
    assert sparse["label_positions"].tolist() == (flat != -100).nonzero().flatten().tolist()
    assert sparse["label_ids"].tolist() == flat[flat != -100].tolist()


def test_padding_columns_by_hand(wordpiece_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    columns = {
        "input_ids": Ragged.from_rows([[5, 6, 7], [8]], np.int64),
        "other": Ragged.from_rows([[1], [1, 2]], np.int64),
        "row": np.array([1, 2]),
        "label_positions": Ragged.from_rows([[0, 2], [0]], np.int64),
        "label_ids": Ragged.from_rows([[50, 70], [80]], np.int64),
    }
    flat = Column(axis="flat")
    spec = {
        "other": Column(pad=9, axis="target"),
        "label_positions": Column(axis="flat", index="input"),
        "label_ids": flat,
    }
    batch = pad_columns(columns, spec, vocabulary, min_lengths={"target": 3})
    assert {k: v.tolist() for k, v in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "other": [[1, 9, 9], [1, 2, 9]],
        "row": [1, 2],
        "label_positions": [0, 2, 3],
        "label_ids": [50, 70, 80],
    }
    batch = pad_columns(columns, spec, vocabulary, padding_side="left", pad_to_multiple_of=4, dense_labels=True)
    assert batch["input_ids"].tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]]
    assert batch["labels"].tolist() == [[-100, 50, -100, 70], [-100, -100, -100, 80]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
