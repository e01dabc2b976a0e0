"""The tokenized cache: reused for the same input only, written by one, read back, damage refused."""

import itertools
import threading
import time
from functools import partial

import numpy as np
import pytest
from tokenized_texts import ARRAYS, TEXTS, VOCABULARY, arrays, make_tokenizer

from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.training import cache as cache_module
from pretrain_zoo.training import documents as documents_module
from pretrain_zoo.training.cache import read_documents, write_documents
from pretrain_zoo.training.documents import tokenize_corpus


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def test_reused_only_for_the_same_input(tokenizer, tmp_path, monkeypatch):
    first = tokenize_corpus(TEXTS, tokenizer, tmp_path)
    other = [
        tokenize_corpus([*TEXTS, "sat"], tokenizer, tmp_path),
        tokenize_corpus(["".join(TEXTS)], tokenizer, tmp_path),
        tokenize_corpus(TEXTS, make_tokenizer([*VOCABULARY, "!"]), tmp_path),
        tokenize_corpus(TEXTS, tokenizer, tmp_path, language="de"),
    ]
    assert len({d.fingerprint for d in [first, *other]}) == 5

    def unwanted(*args):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(documents_module, "write_documents", unwanted)
    again = tokenize_corpus(tuple(TEXTS), make_tokenizer(), tmp_path)
    assert (first.fingerprint, arrays(first)) == (again.fingerprint, arrays(again))
    with pytest.raises(AssertionError, match="tokenized again"):
        tokenize_corpus(TEXTS[:1], tokenizer, tmp_path)


def test_of_two_that_write_the_same_one_waits(tmp_path):
    target = tmp_path / "cache"
    part = from_lists([[[1, 2], [3]]])
    written = []

    def parts(name, started=None):
        written.append(name)
        if started is not None:
            other = threading.Thread(target=write_documents, args=(target, partial(parts, "second")))
            started.append(other)
            other.start()
            time.sleep(0.2)
        yield part

    threads: list[threading.Thread] = []
    write_documents(target, lambda done: parts("first", threads))
    threads[0].join(10)
    assert written == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert arrays(read_documents(target)) == arrays(part)


def test_parts_are_joined_and_languages_kept(tmp_path):
    lists = [[[[1, 2], [3]]], [], [[[4]], [[5, 6]]]]
    write_documents(tmp_path / "plain", map(from_lists, lists))
    assert arrays(read_documents(tmp_path / "plain")) == arrays(from_lists(list(itertools.chain(*lists))))
    assert read_documents(tmp_path / "plain").languages is None
    bilingual = from_lists([[[1]], [[2]]])
    bilingual = type(bilingual)(**{n: getattr(bilingual, n) for n in ARRAYS}, languages=np.array([1, 0]))
    write_documents(tmp_path / "bilingual", [bilingual, bilingual])
    assert read_documents(tmp_path / "bilingual").languages.tolist() == [1, 0, 1, 0]


def test_damaged_cache(tmp_path):
    write_documents(tmp_path / "cache", [from_lists([[[1, 2]]])])
    with open(tmp_path / "cache" / "tokens.npy", "r+b") as file:
        file.truncate(130)
    with pytest.raises(ValueError, match="damaged.*delete that folder"):
        read_documents(tmp_path / "cache")
    (tmp_path / "cache" / "tokens.npy").unlink()
    with pytest.raises(ValueError, match="damaged.*delete that folder"):
        read_documents(tmp_path / "cache")


def test_pickled_arrays_are_refused(tmp_path):
    write_documents(tmp_path / "cache", [from_lists([[[1, 2]]])])
    np.save(tmp_path / "cache" / "tokens.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        read_documents(tmp_path / "cache")


def test_header_has_room_for_any_size(tmp_path):
    """A header rewritten for more elements may not be longer than the one written for none."""
    array = cache_module._ArrayFile(tmp_path / "x.npy", np.int32)
    with array.file as file:
        start = file.tell()
        array.size = 10**18
        array.finish()
        assert file.tell() == start
