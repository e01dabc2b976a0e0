"""Windows of a corpus: the same whoever reads them and from where, nothing lost or repeated, few of them kept."""

import json
import pickle

import numpy as np
import pytest

from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training import windows as windows_module
from pretrain_zoo.training.corpora import Corpus, CorpusArguments, open_corpus
from pretrain_zoo.training.dataset import PretrainingDataset
from pretrain_zoo.training.documents import load_documents
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.windows import Windows

SIZE = 1500


@pytest.fixture
def path(texts, tmp_path):
    """The texts as a file."""
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path / "corpus.jsonl"


def expected_windows(texts: list[str]) -> list[list[str]]:
    """Documents until there are `SIZE` characters, over and over."""
    windows, size = [[]], 0
    for text in texts:
        if size >= SIZE:
            windows.append([])
            size = 0
        windows[-1].append(text)
        size += len(text)
    return windows


def make(path, tokenizer, folder, **options) -> Windows:
    return Windows(open_corpus(str(path)), tokenizer, folder, SIZE, **options)


def test_windows_are_the_corpus_in_order(path, texts, wordpiece_tokenizer, tmp_path):
    windows = make(path, wordpiece_tokenizer, tmp_path / "cache")
    expected = expected_windows(texts)
    assert len(expected) > 8
    for number in range(2 * len(expected) + 3):  # two passes and a little more
        found, part = windows[number], expected[number % len(expected)]
        assert found.tokens.tolist() == encode(wordpiece_tokenizer.backend_tokenizer, part).tokens.tolist()


def test_any_reader_finds_the_same_and_few_are_kept(path, wordpiece_tokenizer, tmp_path):
    one = make(path, wordpiece_tokenizer, tmp_path / "one")
    read = [one[number].tokens.tolist() for number in range(14)]
    assert len(list(one.folder.glob("window-*"))) == windows_module.KEPT + 1
    elsewhere = pickle.loads(pickle.dumps(make(path, wordpiece_tokenizer, tmp_path / "two")))  # noqa: S301 - as data workers get it
    for number in (9, 3, 13, 4, 4, 0):  # forwards and back, in a new folder
        assert elsewhere[number].tokens.tolist() == read[number]
    assert one.folder.name == elsewhere.folder.name
    other = Windows(open_corpus(str(path)), wordpiece_tokenizer, tmp_path, SIZE + 1)
    assert other.folder.name != one.folder.name


def test_two_readers_of_one_folder(path, wordpiece_tokenizer, tmp_path):
    """As data workers do: each asks for windows that the other made, or has put away already."""
    alone = make(path, wordpiece_tokenizer, tmp_path / "alone")
    pair = [make(path, wordpiece_tokenizer, tmp_path / "both") for _ in range(2)]
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 1, 8, 2):
        for reader in pair if number % 2 else pair[::-1]:
            assert reader[number].tokens.tolist() == alone[number].tokens.tolist()


def dataset(path, tokenizer, folder, objective="mlm", steps=60):
    arguments = CorpusArguments(str(path), cache_dir=str(folder), window_characters=SIZE, validation_fraction=0.2)
    train, held_out = load_documents(arguments, tokenizer, seed=1)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    built = get_objective(objective, packing="documents")
    return PretrainingDataset(built, train, vocabulary, length=256, global_batch=8, max_steps=steps, seed=3), held_out


def rows(data, first: int, last: int) -> list[bytes]:
    ids = data.__getitems__(list(range(first, last))).rows["input_ids"]
    return [row.tobytes() for row in np.split(ids.values, np.cumsum(ids.lengths)[:-1])]


def test_a_run_loses_and_repeats_nothing(path, texts, wordpiece_tokenizer, tmp_path):
    data, held_out = dataset(path, wordpiece_tokenizer, tmp_path / "cache")
    trained = len(set(texts)) - len(held_out)
    seen = rows(data, 0, trained)
    assert len(set(seen)) == trained == len(texts) - len(held_out)  # every document once in the first pass
    second = rows(data, trained, 2 * trained)
    assert set(second) == set(seen) and second != seen
    vocabulary = data.vocabulary
    for start, end in zip(held_out.offsets[:-1], held_out.offsets[1:]):
        ids = [*vocabulary.prefix, *held_out.tokens[start : end - 1].tolist(), *vocabulary.suffix]
        assert np.array(ids, np.int64).tobytes() not in set(seen)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(path, wordpiece_tokenizer, tmp_path):
    whole, _ = dataset(path, wordpiece_tokenizer, tmp_path / "cache")
    expected = rows(whole, 0, 480)
    state = json.loads(json.dumps(whole.state(20)))
    resumed, _ = dataset(path, wordpiece_tokenizer, tmp_path / "anew")  # its windows are gone
    resumed.restore(state)
    assert rows(resumed, 160, 480) == expected[160:]


def test_parallel_text_in_windows(texts, wordpiece_tokenizer, tmp_path):
    pairs = list(zip(texts, texts[::-1]))
    corpus = Corpus("pairs", lambda tally: iter(pairs), ("en", "de"))
    windows = Windows(corpus, wordpiece_tokenizer, tmp_path, SIZE, fraction=0.5)
    documents = windows.training(3)
    assert len(documents.translations) == len(documents) // 2 == len(windows[3].translations) > 2
    assert len(windows.training(0).translations) + len(windows.held_out().translations) == len(windows[0].translations)


def test_a_run(path, tmp_path, capsys):
    command = (
        f"--corpus {path} --window_characters 3000 --cache_dir {tmp_path / 'cache'} --output_dir {tmp_path / 'run'} "
        "--use_cpu --vocab_size 200 --max_seq_length 32 --per_device_train_batch_size 4 --max_steps 30 --eval_steps 30"
    )
    assert main(command.split()) == 0, capsys.readouterr().err
    assert "read in windows" in " ".join(capsys.readouterr().out.split())
    kept = list((tmp_path / "cache").glob("windows-*/window-*"))
    assert 2 <= len(kept) <= windows_module.KEPT + 1
    assert main([*command.split(), "--num_train_epochs=1", "--max_steps=-1", "--overwrite_output_dir"]) == 2
    assert "give --max_steps" in capsys.readouterr().err
