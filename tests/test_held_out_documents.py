"""Documents held out for validation: the split, and loading text with it or with a file of its own."""

import json

import numpy as np
import pytest
from tokenized_texts import make_tokenizer

from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.training import split as split_module
from pretrain_zoo.training.corpora import CorpusArguments
from pretrain_zoo.training.documents import load_documents, split_documents


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def numbered(count: int):
    """Documents of which number `d` holds the token `d`, `d` % 4 + 1 times."""
    return from_lists([[[d] * (d % 4 + 1)] for d in range(count)], "abc")


def numbers(documents) -> list[int]:
    return documents.tokens[documents.offsets[:-1]].tolist()


@pytest.mark.parametrize("on_disk", [False, True])
def test_split(tmp_path, monkeypatch, on_disk):
    monkeypatch.setattr(split_module, "PART_TOKENS", 13)  # several parts
    documents = numbered(50)
    train, validation = split_documents(documents, 0.1, 3, tmp_path if on_disk else None)
    assert len(validation) == 5
    assert sorted(numbers(train) + numbers(validation)) == list(range(50))
    for part in (train, validation):
        assert numbers(part) == sorted(numbers(part))
        assert np.diff(part.offsets).tolist() == [d % 4 + 2 for d in numbers(part)]
        assert part.sentence_starts.sum() == len(part)
        assert isinstance(part.tokens, np.memmap) is on_disk
    in_memory = split_documents(documents, 0.1, 3)
    assert [d.fingerprint for d in in_memory] == [train.fingerprint, validation.fingerprint]
    assert len({documents.fingerprint, train.fingerprint, validation.fingerprint}) == 3
    other = split_documents(documents, 0.1, 4)
    assert numbers(other[1]) != numbers(validation)


def test_selection_fingerprint_depends_on_every_index():
    documents = numbered(100)
    first, second = np.arange(99), np.append(np.arange(98), 99)
    assert documents.select(first).fingerprint != documents.select(second).fingerprint


def test_split_keeps_a_document_on_each_side():
    train, validation = split_documents(numbered(2), 0.01)
    assert len(train) == len(validation) == 1
    with pytest.raises(ValueError, match=r"1 document\(s\), too few.*blank lines.*--validation_file"):
        split_documents(numbered(1), 0.01)
    for fraction in (0, 1, -0.1, 1.5):
        with pytest.raises(ValueError, match="validation_fraction must lie between 0 and 1"):
            split_documents(numbered(10), fraction)


def test_load_documents(tokenizer, tmp_path):
    (tmp_path / "train.txt").write_text("the cat\n\nthe mat\n\nsat\n")
    (tmp_path / "dev.jsonl").write_text(json.dumps({"text": "mr. smith"}) + "\n")
    settings = {"corpus": str(tmp_path / "train.txt"), "cache_dir": str(tmp_path / "cache")}
    train, validation = load_documents(CorpusArguments(**settings, validation_fraction=0), tokenizer)
    assert len(train) == 3 and validation is None
    train, validation = load_documents(CorpusArguments(**settings, validation_fraction=0.4), tokenizer)
    assert (len(train), len(validation)) == (2, 1)
    file = str(tmp_path / "dev.jsonl")
    train, validation = load_documents(CorpusArguments(**settings, validation_file=file), tokenizer)
    assert len(train) == 3 and validation.tokens.tolist() == [12, 6, 13, -1]
