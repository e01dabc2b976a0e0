"""Tokenized documents: their tokens, words and sentences by hand, however they are made; texts that are refused."""

import itertools

import numpy as np
import pytest
from tokenized_texts import ARRAYS, TEXTS, arrays, make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from pretrain_zoo.objectives.documents import DOCUMENT_END
from pretrain_zoo.training import documents as documents_module
from pretrain_zoo.training.documents import tokenize_corpus
from pretrain_zoo.training.encode import encode, sentence_offsets


@pytest.fixture
def tokenizer():
    return make_tokenizer()


# sentences


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


# tokens


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
    before, at_once = tokenize_corpus(TEXTS, tokenizer, tmp_path), encode(tokenizer.backend_tokenizer, TEXTS)
    tokenizer(["the cat"], truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.truncation is not None
    after = tokenize_corpus(TEXTS, tokenizer, tmp_path)
    assert (before.fingerprint, arrays(before)) == (after.fingerprint, arrays(after))
    assert arrays(encode(tokenizer.backend_tokenizer, TEXTS)) == arrays(at_once)
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


# refusals


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
