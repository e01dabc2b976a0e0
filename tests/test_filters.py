"""Filters and the survey: what is left out and counted, and when a corpus is read anew."""

import os
import sys
import types

import numpy as np
import pytest

from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.training import survey as survey_module
from pretrain_zoo.training.corpora import Corpus, CorpusError, open_corpus
from pretrain_zoo.training.filters import Filters, Tally
from pretrain_zoo.training.survey import Survey, summary, survey

TEXTS = ["a long document", "short", " ", "a long document", "another document", "a long document \n", "short"]


def kept(filters: Filters, rows) -> tuple[list, dict]:
    tally = Tally()
    found = list(filters.apply(iter(rows), tally))
    assert tally.documents == len(found) and tally.characters == sum(len(text) for row in found for text in row)
    return found, dict(tally.dropped)


def test_short_and_repeated_documents():
    rows = [(text,) for text in TEXTS]
    assert kept(Filters(), rows) == ([*rows[:2], *rows[3:]], {"blank": 1})
    found, dropped = kept(Filters(min_characters=6), rows)
    assert found == [rows[0], *rows[3:6]] and dropped == {"blank": 1, "shorter than 6 characters": 2}
    found, dropped = kept(Filters(deduplicate="exact"), rows)
    assert found == [rows[0], rows[1], rows[4]] and dropped == {"blank": 1, "duplicate": 3}


def test_pairs_are_judged_as_one():
    rows = [("one", "eins"), ("one", "ein"), ("one", "eins"), ("one", " "), ("", "zwei"), None, ("onee", "ins")]
    assert kept(Filters(deduplicate="exact", min_characters=3), rows) == (
        [rows[0], rows[1], rows[6]],
        {"duplicate": 1, "blank": 2},
    )


def test_each_pass_starts_afresh():
    corpus = Corpus("x", lambda tally: ((text,) for text in TEXTS), filters=Filters(deduplicate="exact"))
    assert list(corpus) == list(corpus) == ["a long document", "short", "another document"]
    with pytest.raises(CorpusError, match="is empty.*left out: 2 shorter than 20 characters"):
        list(Corpus("x", lambda tally: iter([("a",), ("b",)]), filters=Filters(min_characters=20)))


def test_near_duplicates_need_their_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(CorpusError, match="needs the library datasketch: pip install datasketch"):
        kept(Filters(deduplicate="near"), [("a",)])


def test_near_duplicates():
    """By datasketch where it is installed; a document with one word changed goes, one with half of them stays."""
    pytest.importorskip("datasketch")
    words = [f"word{i}" for i in range(400)]
    changed, half = [*words], [*words[:200], *(f"other{i}" for i in range(200))]
    changed[200] = "new"
    rows = [(" ".join(w),) for w in (words, changed, half, words)]
    found, dropped = kept(Filters(deduplicate="near"), rows)
    assert found == [rows[0], rows[2]] and dropped == {"near-duplicate": 1, "duplicate": 1}


def test_near_duplicates_ask_the_index(monkeypatch):
    """The shingles that go into a signature, with a stand-in that compares them exactly."""

    class MinHash:
        def __init__(self, num_perm, seed):
            self.elements: set[bytes] = set()

        def update_batch(self, elements):
            self.elements |= set(elements)

    class MinHashLSH:
        def __init__(self, threshold, num_perm):
            self.threshold, self.known = threshold, {}

        def insert(self, key, signature):
            assert key not in self.known
            self.known[key] = signature.elements

        def query(self, signature):
            ours = signature.elements
            return [k for k, s in self.known.items() if len(s & ours) >= self.threshold * len(s | ours)]

    monkeypatch.setitem(sys.modules, "datasketch", types.SimpleNamespace(MinHash=MinHash, MinHashLSH=MinHashLSH))
    texts = ["a b c d e f g h", "A  b c d e f g h i", "h g f e d c b a", "a b", "a b", "a  B"]
    found, dropped = kept(Filters(deduplicate="near", similarity=0.75), [(text,) for text in texts])
    # 4 sets of five of the first, the same and one more of the second: 4/5 alike
    assert [row[0] for row in found] == [texts[0], texts[2], texts[3]]
    assert dropped == {"near-duplicate": 2, "duplicate": 1}


@pytest.mark.parametrize("settings", [{"deduplicate": "fuzzy"}, {"similarity": 1.0}])
def test_settings(settings):
    with pytest.raises(ValueError, match="deduplicate|similarity"):
        Filters(**settings)


def test_files_are_surveyed_once(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n\none\n")
    cache = tmp_path / "cache"
    first = survey(open_corpus(str(path)), cache)
    assert (first.documents, first.characters, first.dropped) == (3, 9, {})
    exact = survey(open_corpus(str(path), filters=Filters(deduplicate="exact")), cache)
    assert (exact.documents, exact.dropped) == (2, {"duplicate": 1}) and exact.digest != first.digest

    reading = survey_module._read_corpus
    monkeypatch.setattr(survey_module, "_read_corpus", lambda corpus: pytest.fail("read again"))
    assert survey(open_corpus(str(path)), cache) == first
    monkeypatch.setattr(survey_module, "_read_corpus", reading)
    path.write_text("one\n\ntwo\n\nten\n")  # as long as before
    os.utime(path, ns=(1, 1))
    assert survey(open_corpus(str(path)), cache).digest not in (first.digest, exact.digest)
    for kept_file in cache.iterdir():
        kept_file.write_text("{")
    assert survey(open_corpus(str(path)), cache).documents == 3  # damaged notes are made anew


def test_a_survey_tells_texts_apart():
    digests = {survey(texts).digest for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", "d"], ["c", "ab"])}
    assert len(digests) == 5
    pairs = [("a", "b"), ("c", "d")]
    sides = survey(Corpus("x", lambda tally: iter(pairs), ("en", "de")))
    assert (
        sides.documents == 2
        and sides.digest != survey(Corpus("x", lambda tally: iter([p[::-1] for p in pairs]), ("en", "de"))).digest
    )


def test_summary():
    documents = from_lists([[[1, 2]], [[3]], [[4, 5, 6]], [[7]]])
    languages = np.array([0, 0, 1, 1], np.int16)
    parallel = type(documents)(
        *(getattr(documents, n) for n in ("tokens", "offsets", "word_starts", "sentence_starts")), languages
    )
    corpus = Corpus("train.en,train.de", lambda tally: iter(()), ("en", "de"))
    assert summary(corpus, Survey("", 3, 1234, {"blank": 2, "not UTF-8": 1000}), parallel) == (
        "train.en,train.de: 3 pairs of translations, 1,234 characters, 7 tokens (en 3, de 4)\n"
        "left out: 2 blank, 1,000 not UTF-8, 1 without tokens"
    )
    assert summary(Corpus("x", lambda tally: iter(())), Survey("", 4, 9), documents) == (
        "x: 4 documents, 9 characters, 7 tokens"
    )
