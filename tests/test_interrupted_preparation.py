"""Preparing a corpus that is interrupted or killed: no half cache is left, and the next run goes on from there."""

import itertools
import os
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from tokenized_texts import ARRAYS, arrays, make_tokenizer

from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.training import cache as cache_module
from pretrain_zoo.training import documents as documents_module
from pretrain_zoo.training.cache import read_documents, write_documents
from pretrain_zoo.training.documents import tokenize_corpus


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_writing_leaves_nothing_to_be_taken_for_a_cache(tmp_path, error):
    target = tmp_path / "cache"
    part = from_lists([[[1, 2]]])

    def interrupted():
        yield part
        assert not target.exists()
        raise error

    with pytest.raises(error):
        write_documents(target, interrupted())
    assert list(tmp_path.iterdir()) == []


def test_writing_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "NOTE_EVERY", 2)
    parts = [from_lists([[[i, i + 1], [i]], [[7] * (i % 3)]]) for i in range(9)]
    parts[4] = from_lists([])
    asked = []

    def rest(done: int, stop: int | None = None):
        asked.append(done)
        for number, part in enumerate(parts[done:], done):
            if number == stop:
                raise KeyboardInterrupt
            yield part

    for stop in (1, 3, 7):  # before a note, after one, after another
        with pytest.raises(KeyboardInterrupt):
            write_documents(tmp_path / "cache", partial(rest, stop=stop))
        assert not (tmp_path / "cache").exists()
    write_documents(tmp_path / "cache", rest, lambda offsets: np.array([[0, len(offsets) - 2]]))
    assert asked == [0, 0, 2, 6]
    write_documents(tmp_path / "whole", parts, np.array([[0, 15]]))
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == [f"{name}.npy" for name in sorted([*ARRAYS, "translations"])]
    for name in files:
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "whole"]
    assert arrays(read_documents(tmp_path / "cache")) == {
        name: np.concatenate([getattr(part, name) for part in parts]).tolist() for name in ARRAYS if name != "offsets"
    } | {"offsets": np.cumsum([0, *(n for part in parts for n in np.diff(part.offsets))]).tolist()}


def test_killed_preparation_goes_on(tokenizer, tmp_path, monkeypatch):
    """A process killed while it tokenizes: the next one keeps what is written, and gives the same cache."""
    monkeypatch.setattr(documents_module, "BATCH_CHARACTERS", 40)
    monkeypatch.setattr(cache_module, "NOTE_EVERY", 8)
    texts = [f"the cat sat {'. The mat' * (i % 7)}" for i in range(200)]
    whole = tokenize_corpus(texts, tokenizer, tmp_path / "whole")
    encode_batches, batches = documents_module._encode_batches, []

    def kill():
        def killed(given, *args):
            return encode_batches((batch for n, batch in enumerate(given) if n < 30 or os.kill(os.getpid(), 9)), *args)

        documents_module._encode_batches = killed
        tokenize_corpus(texts, tokenizer, tmp_path / "killed", disable_tqdm=True)

    process = get_context("fork").Process(target=kill)
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert not list((tmp_path / "killed").glob("documents*"))

    monkeypatch.setattr(
        documents_module,
        "_encode_batches",
        lambda given, *args: encode_batches((batches.append(batch) or batch for batch in given), *args),
    )
    again = tokenize_corpus(texts, tokenizer, tmp_path / "killed")
    assert again.fingerprint == whole.fingerprint and arrays(again) == arrays(whole)
    before = list(itertools.islice(documents_module._batches(texts, bool), 24))
    assert [text for batch in before for text in batch] + [text for batch in batches for text in batch.texts] == texts
    folders = [sorted(path.iterdir()) for path in (tmp_path / "whole", tmp_path / "killed")]
    assert [path.name for path in folders[0]] == [path.name for path in folders[1]]  # nothing else is left there
