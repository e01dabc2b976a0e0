"""The tokenized cache: what is in it, that it is reused, and that it is whole or not there."""

import itertools
import json
import os
import re
import resource
import sys
import threading
import time
import tracemalloc
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pretrain_zoo.objectives.documents import DOCUMENT_END, from_lists
from pretrain_zoo.training import cache as cache_module
from pretrain_zoo.training import documents as documents_module
from pretrain_zoo.training import split as split_module
from pretrain_zoo.training.cache import read_documents, write_documents
from pretrain_zoo.training.corpora import CorpusArguments
from pretrain_zoo.training.documents import load_documents, split_documents, tokenize_corpus
from pretrain_zoo.training.encode import encode, sentence_offsets

VOCABULARY = ["[UNK]", "[MASK]", "the", "cat", "##s", "sat", ".", ",", "don", "'", "t", "mat", "mr", "smith", "[", "]"]
ARRAYS = ("tokens", "offsets", "word_starts", "sentence_starts")
TEXTS = [
    "The cats sat. Mr. Smith sat, don't!\nThe mat",
    "",
    " \n\t ",
    "\u200b\x00",  # characters that BERT's normaliser removes: no tokens
    "the mat.",
    "[MASK] sat",
]


def make_tokenizer(vocabulary=VOCABULARY) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", mask_token="[MASK]")


def arrays(documents) -> dict[str, list]:
    return {name: getattr(documents, name).tolist() for name in ARRAYS}


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def test_sentence_offsets():
    text = "A Title\nMr. Smith came.  He left! \n\n  Next: e.g. this.\n"
    assert [text[i : i + 4] for i in sentence_offsets(text)] == ["A Ti", "Mr. ", "He l", "Next"]
    assert sentence_offsets("") == sentence_offsets(" \n ") == []
    assert sentence_offsets("你好。再见。", "zh") == [0, 3]
    assert sentence_offsets("안녕하세요. 반갑습니다.", "ko") == [0, 7]


@pytest.mark.parametrize("space", ["\x85", "\u2028", "\xa0", "\u3000", "\x0c"])
def test_sentence_offsets_survive_odd_white_space(space):
    """White space beyond ASCII before a full stop makes sentencex 1.0 panic."""
    text = f"It is A{space}. So it is."
    assert sentence_offsets(text) in ([0, 10], [0])


def test_contents_by_hand(tokenizer, tmp_path):
    documents = tokenize_corpus(TEXTS, tokenizer, tmp_path, disable_tqdm=True)
    # the cat ##s sat . | mr . smith sat , don ' t [UNK](!) | the mat END / the mat . END / [ [UNK](mask) ] sat END
    assert documents.tokens.tolist() == (
        [2, 3, 4, 5, 6, 12, 6, 13, 5, 7, 8, 9, 10, 0, 2, 11, -1] + [2, 11, 6, -1] + [14, 0, 15, 5, -1]
    )
    assert documents.offsets.tolist() == [0, 17, 21, 26]
    assert np.flatnonzero(~documents.word_starts).tolist() == [2, 11, 12]  # ##s and 't
    assert np.flatnonzero(documents.sentence_starts).tolist() == [0, 5, 14, 17, 21]
    assert documents.word_starts[documents.tokens == DOCUMENT_END].all()
    assert {name: getattr(documents, name).dtype for name in ARRAYS} == {
        "tokens": np.int32,
        "offsets": np.int64,
        "word_starts": np.bool_,
        "sentence_starts": np.bool_,
    }
    assert isinstance(documents.tokens, np.memmap)


def test_names_of_special_tokens_are_text(tokenizer, tmp_path):
    mask = tokenizer.mask_token_id
    assert mask in tokenizer("[MASK] sat").input_ids
    assert mask not in tokenize_corpus(["[MASK] sat"], tokenizer, tmp_path).tokens


def test_truncation_and_padding_of_the_tokenizer_are_ignored(tokenizer, tmp_path):
    before = tokenize_corpus(TEXTS, tokenizer, tmp_path)
    tokenizer(["the cat"], truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.truncation is not None
    after = tokenize_corpus(TEXTS, tokenizer, tmp_path)
    assert (before.fingerprint, arrays(before)) == (after.fingerprint, arrays(after))
    assert tokenizer.backend_tokenizer.truncation is not None  # nor are they changed


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_a_batch_is_its_documents_one_by_one(add_prefix_space):
    """Byte-level tokens include spaces and line breaks, at the ends of texts too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    texts = ["He sat. \n", "\n She left.\nI don't.", "é 你好。 Ok", "x", " \n"]
    together = encode(backend, texts)
    apart = [encode(backend, [text]) for text in texts]
    for name in ("tokens", "word_starts", "sentence_starts"):
        assert getattr(together, name).tolist() == list(itertools.chain(*(getattr(d, name).tolist() for d in apart)))
    # a sentence begins with a word, and its first word's characters are the sentence's first
    assert together.word_starts[together.sentence_starts].all()
    characters = dict(enumerate(alphabet)) | {-1: "|"}
    text = "".join(characters[t] for t in together.tokens)
    starts = [text[i:].lstrip("ĠĊ")[:2] for i in np.flatnonzero(together.sentence_starts)]
    assert starts == ["He", "Sh", "IĠ", "Ã©", "Ok", "x|", "|"]


def test_any_number_of_processes_gives_the_same(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "BATCH_CHARACTERS", 40)
    texts = [f"the cat sat {'. The mat' * (i % 7)}" for i in range(60)]
    one = tokenize_corpus(texts, tokenizer, tmp_path / "one")
    two = tokenize_corpus(texts, tokenizer, tmp_path / "two", num_proc=2)
    assert one.fingerprint == two.fingerprint
    assert arrays(one) == arrays(two) == arrays(encode(tokenizer.backend_tokenizer, texts))
    assert len(one) == 60


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


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["ok", 3], TypeError, "Document 1 is not a string but int"),
        (["ok", "a\ud800b"], ValueError, "Document 1 holds half a surrogate pair.*at character 1"),
        (["", "\u200b"], ValueError, "no document with any token"),
        ([], ValueError, "no document with any token"),
        (iter(["a"]), TypeError, "can be read only once"),
    ],
)
def test_bad_texts(tokenizer, tmp_path, texts, error, message):
    with pytest.raises(error, match=message):
        tokenize_corpus(texts, tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_slow_tokenizers_are_refused(tmp_path):
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow is a slow tokenizer.*load a fast one"):
        tokenize_corpus(["a"], Slow(), tmp_path)


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
