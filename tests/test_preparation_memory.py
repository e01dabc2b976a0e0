"""Memory that preparing a corpus takes: it does not grow with the text."""

import os
import re
import resource
import sys
import tracemalloc
from multiprocessing import get_context
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pretrain_zoo.training import documents as documents_module
from pretrain_zoo.training import split as split_module
from pretrain_zoo.training.corpora import CorpusArguments
from pretrain_zoo.training.documents import load_documents


def test_memory_does_not_grow_with_the_corpus(wordpiece_tokenizer, tmp_path, monkeypatch):
    """What preparing more text takes more of it is less than a tenth of that text: a few numbers per document."""
    monkeypatch.setattr(documents_module, "BATCH_CHARACTERS", 4000)
    monkeypatch.setattr(split_module, "PART_TOKENS", 4000)

    def peak(count: int) -> tuple[int, int]:
        path = tmp_path / f"{count}.txt"
        with open(path, "w") as file:
            for i in range(count):
                file.write(f"{i} the miller mends every window by the river. " * 20 + "\n\n")
        tracemalloc.start()
        train, validation = load_documents(
            CorpusArguments(str(path), cache_dir=str(tmp_path / "cache")), wordpiece_tokenizer
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(train) + len(validation) == count
        return peak, path.stat().st_size

    peak(10)  # with whatever is made once
    (small, few), (large, many) = peak(100), peak(800)
    assert large - small < (many - few) / 10, (small, large)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_ten_times_as_large_as_the_memory_allowed(tmp_path, monkeypatch):
    """A process that has prepared 1 MiB of text may allocate 2 MiB more, native memory included, and prepares 20."""
    monkeypatch.setattr(documents_module, "BATCH_CHARACTERS", 50_000)
    monkeypatch.setattr(split_module, "PART_TOKENS", 10_000)
    words = [f"{i}" * 10 for i in range(100, 200)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    for mebibytes in (1, 20):
        with open(tmp_path / f"{mebibytes}.txt", "w") as file:
            for i in range(mebibytes * 340):
                file.write(f"{i:6} {' '.join(words[i * j % 100] for j in range(100))}.\n\n")
        assert os.path.getsize(tmp_path / f"{mebibytes}.txt") > mebibytes << 20

    def load(mebibytes: int) -> int:
        arguments = CorpusArguments(str(tmp_path / f"{mebibytes}.txt"), cache_dir=str(tmp_path / "cache"))
        return sum(map(len, load_documents(arguments, tokenizer)))

    def within_limit():
        load(1)
        allocated = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
        limit = (int(allocated[1]) << 10) + (2 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        os._exit(0 if load(20) > 6000 else 1)

    process = get_context("fork").Process(target=within_limit)
    process.start()
    process.join(120)
    assert process.exitcode == 0
