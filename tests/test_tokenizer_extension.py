"""Extended tokenizers: text without new tokens keeps its ids, new tokens and their pieces, what is refused."""

import json

import numpy as np
import pytest
from extended_tokenizers import KINDS, NEW, OLD, PLAIN, make_extensions, train
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pretrain_zoo.objectives import Vocabulary
from pretrain_zoo.training.tokenizer import train_tokenizer
from pretrain_zoo.training.tokenizer_extension import extend_tokenizer


@pytest.fixture(scope="module")
def extensions():
    return make_extensions()


def pieces_by_hand(old, kind, token):
    """Ids by the old tokenizer's rules, in plain Python (WordPiece: greedy; others: by text that holds the token)."""
    vocabulary = old.get_vocab()
    if kind == "wordpiece":
        inside = token.startswith("##")
        rest, ids = token.removeprefix("##"), []
        while rest:
            fits = [n for n in range(len(rest), 0, -1) if ("##" if inside or ids else "") + rest[:n] in vocabulary]
            if not fits:
                return [old.unk_token_id]
            ids.append(vocabulary[("##" if inside or ids else "") + rest[: fits[0]]])
            rest = rest[fits[0] :]
        return ids
    if kind == "bpe":  # no space before: the byte-level alphabet is one character per byte
        ranks = {tuple(m): i for i, m in enumerate(json.loads(old.backend_tokenizer.to_str())["model"]["merges"])}
        parts = list(token)
        while pairs := [(ranks[p], i) for i, p in enumerate(zip(parts, parts[1:])) if p in ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [vocabulary[part] for part in parts]
    return [piece.id for piece in old.backend_tokenizer.model.tokenize(token)]


# what stays as it was


@pytest.mark.parametrize("kind", KINDS)
def test_old_text_keeps_its_ids(extensions, kind):
    old, extension = extensions[kind]
    new = extension.tokenizer
    assert {t: i for t, i in new.get_vocab().items() if i < extension.first_id} == old.get_vocab()
    assert new.convert_ids_to_tokens(range(extension.first_id, len(new))) == list(extension.tokens)
    for text in [*PLAIN, *OLD, "<extra_id_1> a <mask> cat", "日 cat"]:
        ids = new(text, text).input_ids
        assert ids == old(text, text).input_ids or max(ids) >= extension.first_id
    assert all(max(new(text).input_ids) < extension.first_id for text in PLAIN)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_differ_only_where_new_tokens_stand(extensions, kind):
    """Random strings of old and new text: each word without new tokens has the pieces that it had."""
    old, extension = extensions[kind]
    rng = np.random.default_rng(0)
    texts = OLD[:3] + NEW[:2]
    changed = 0
    for _ in range(400):
        parts = [texts[rng.integers(5)][(at := rng.integers(60)) : at + rng.integers(1, 9)] for _ in range(3)]
        before, after = (t("".join(parts), add_special_tokens=False).input_ids for t in (old, extension.tokenizer))
        if not after or max(after) < extension.first_id:
            assert after == before, parts
        changed += after != before
    assert 20 < changed < 390


def test_no_merge_gives_an_old_token():
    """abc is in the vocabulary, but "abc" is spelled ab c, since a b is merged first: it stays so."""
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(("a", "b", "c", "d", "ab", "bc", "abc"))}, merges))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    old = PreTrainedTokenizerFast(tokenizer_object=backend)
    extension = extend_tokenizer(old, ["abc " * 9 + "cd " * 8], 9)
    assert extension.tokens == ("cd",) and extension.pieces == ((2, 3),)
    assert old("abc cd").input_ids == [4, 2, 2, 3]
    assert extension.tokenizer("abc cd").input_ids == [4, 2, 7]
    assert extension.tokenizer.get_vocab() == old.get_vocab() | {"cd": 7}


@pytest.mark.parametrize("kind", ["bpe", "llama", "unigram"])
def test_an_old_token_never_comes_about_anew(kind):
    """What spells the name of a special token stays plain text to a corpus, however often it stands there."""
    old = train_tokenizer(OLD, kind, 420, special_tokens=["qmqsx"])
    extension = extend_tokenizer(old, ["aqmqsx bqmqsx cqmqsx dqmqsx"] * 20, 60, min_frequency=30)
    assert len(set(extension.tokens)) == len(extension.tokens) == len(extension.tokenizer) - len(old)
    assert not set(extension.tokens) & set(old.get_vocab())
    backend = extension.tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    ids = backend.encode("aqmqsx bqmqsx", add_special_tokens=False).ids
    assert old.convert_tokens_to_ids("qmqsx") not in ids and max(ids) >= extension.first_id


# new tokens


@pytest.mark.parametrize("kind", KINDS)
def test_new_text_has_fewer_tokens_and_comes_back(extensions, kind):
    old, extension = extensions[kind]
    text = "Acute myocardial infarction, 심근경색 환자"
    before, after = old.tokenize(text), extension.tokenizer.tokenize(text)
    assert len(extension.tokens) <= 140
    if kind == "wordpiece":
        assert "myocardial" in after and extension.unknown > 0
    else:
        assert len(after) < 0.7 * len(before)
        assert extension.tokenizer.decode(extension.tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert extension.tokenizer.unk_token_id not in extension.tokenizer(text).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_those_of_the_old_tokenizer(extensions, kind):
    old, extension = extensions[kind]
    for token, pieces in zip(extension.tokens, extension.pieces, strict=True):
        assert list(pieces) == pieces_by_hand(old, kind, token), token


def test_unknown_characters_take_half_of_the_new_tokens_at_most():
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    old = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    extension = extend_tokenizer(old, ["ab " * 9 + "".join(f"{c} " * (20 - i) for i, c in enumerate("cdefghij"))], 6)
    assert extension.tokens == ("c", "d", "e", "ab")  # the most frequent ones, and what is to be learned beside them


def test_unknown_characters_cost_what_they_did():
    """An unknown character costs 10 more than the least probable piece, so no new piece is less probable than that."""
    pieces = {"abcdefghi": -1.0} | dict.fromkeys(("qa", "bc", "de", "fg", "hi", "v", "w"), -3.0)
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), *pieces.items()], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    old = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    # v w, -6, becomes vw, log(8 / 2008) = -5.5; an unknown character at -15.5 would be dearer than five pieces at -3
    extension = extend_tokenizer(old, ["vw " * 8 + "v " * 2000], 9)
    assert extension.tokens == ("vw",)
    assert json.loads(extension.tokenizer.backend_tokenizer.to_str())["model"]["vocab"][-1] == ["vw", -3.0]
    for tokenizer in (old, extension.tokenizer):
        assert tokenizer("qabcdefghi").input_ids == [0, 1]  # -13 - 1, not 5 · -3


# again and from disk


@pytest.mark.parametrize("kind", KINDS)
def test_same_text_same_extension(extensions, kind):
    again = extend_tokenizer(train(kind), list(NEW), 140, min_frequency=3)
    assert again.tokenizer.backend_tokenizer.to_str() == extensions[kind][1].tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_comes_back(extensions, kind, tmp_path):
    old, extension = extensions[kind]
    extension.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == extension.tokenizer.get_vocab()
    assert loaded.special_tokens_map == old.special_tokens_map and loaded.padding_side == old.padding_side
    texts = [*PLAIN, *NEW, "a <mask>, <extra_id_0> b"]
    assert loaded(texts).input_ids == extension.tokenizer(texts).input_ids
    before, after = Vocabulary.from_tokenizer(old), Vocabulary.from_tokenizer(loaded)
    assert after.special == before.special and after.maskable[: before.size].tolist() == before.maskable.tolist()
    assert (after.prefix, after.suffix, after.mask_id) == (before.prefix, before.suffix, before.mask_id)


def test_bad_arguments(extensions):
    old, _ = extensions["bpe"]
    with pytest.raises(ValueError, match="no new tokens"):
        extend_tokenizer(old, ["The cat sat on the mat"] * 9, 10)
    with pytest.raises(ValueError, match="new_tokens must be 1 or more"):
        extend_tokenizer(old, NEW, 0)
    with pytest.raises(TypeError, match="only once"):
        extend_tokenizer(old, iter(NEW), 10)
