"""Training tokenizers: case, accents and normal forms, alphabets and scripts, Korean, what is refused."""

import unicodedata

import pytest
from tokenizer_texts import TEXTS, UNIGRAM
from transformers import AutoTokenizer

from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.training.tokenizer import KINDS, train_tokenizer

TOO_SMALL = {"unigram": 3, "albert": 5, "deberta-v3": 5, "xlm-roberta": 5}


# alphabets and spaces


def test_wordpiece_case_and_accents():
    cased = train_tokenizer(TEXTS, vocab_size=400, lowercase=False)
    assert cased.convert_ids_to_tokens(cased("The café", add_special_tokens=False).input_ids) == ["The", "café"]
    # stripping accents takes Hangul apart; without it, syllables stay whole
    assert "한" in train_tokenizer(TEXTS, vocab_size=400, strip_accents=False).get_vocab()
    assert "한" not in train_tokenizer(TEXTS, vocab_size=400).get_vocab()


def test_wordpiece_alphabet_leaves_out_rare_characters():
    texts = ["aa bb ab ba " * 9, "x y z q"]
    tokenizer = train_tokenizer(texts, vocab_size=20)  # a quarter: five characters
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) <= 20
    assert {"a", "b", "##a", "##b", "q", "x", "y"} <= set(vocabulary) and "z" not in vocabulary
    assert tokenizer("z", add_special_tokens=False).input_ids == [tokenizer.unk_token_id]


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_add_prefix_space(kind):
    tokenizer = train_tokenizer(TEXTS, kind, 400, add_prefix_space=True)
    first = tokenizer.convert_ids_to_tokens(tokenizer("the cat", add_special_tokens=False).input_ids)
    assert first == ["Ġthe", "Ġcat"]


@pytest.mark.parametrize("kind", [*UNIGRAM, "llama"])
def test_pieces_do_not_mix_scripts(kind):
    texts = ["cats, 12cats 한국어text, 한국어text. (mats) mats... abc中文"] * 9
    tokenizer = train_tokenizer(texts, kind, 360)
    vocabulary = set(tokenizer.get_vocab()) - set(Vocabulary.from_tokenizer(tokenizer).special)
    assert {"▁cats", "▁mats", "text", "12"} & vocabulary
    for token in vocabulary - {f"<0x{byte:02X}>" for byte in range(256)}:
        kinds = {
            unicodedata.name(c).split()[0] if c.isalpha() else unicodedata.category(c)[0] for c in token.strip("▁")
        }
        assert len(kinds) <= 1, token


# normalization and Korean

KOREAN = [
    "이 영화는 정말 재미있었다. 배우들의 연기가 훌륭했고 음악도 좋았다.",
    "한국어 문장은 띄어쓰기가 있다. 고양이가 café에서 잠을 잤다.",
    "정말 좋은 영화였다! 다시 보고 싶은 영화, 음악이 좋았다. ＡＢＣ",
] * 5
OPTIONS = [
    ("wordpiece", {"lowercase": False}),
    ("wordpiece", {"strip_accents": False}),
    ("wordpiece", {"normalization": "nfc"}),
    ("bpe", {"lowercase": True, "normalization": "nfc"}),
    ("unigram", {}),
    ("xlm-roberta", {"lowercase": True}),
    ("albert", {}),
    ("llama", {}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_korean(kind, options, tmp_path):
    """Syllables stay whole, decomposed text has the ids of composed text where it is normalized."""
    train_tokenizer(KOREAN, kind, 600, **options).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = tokenizer.get_vocab()
    assert not any(0x1100 <= ord(c) < 0x1200 for token in vocabulary for c in token)  # conjoining letters
    if kind != "bpe":
        assert any("영화" in token for token in vocabulary)
    text = "영화는 정말 좋았다 café"
    decoded = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    stripped = kind in ("albert", "bpe") or "normalization" in options or options.get("lowercase") is True
    assert decoded == (text.replace("é", "e") if stripped else text)
    if kind in UNIGRAM or "normalization" in options:
        assert tokenizer(unicodedata.normalize("NFD", text)).input_ids == tokenizer(text).input_ids


def test_normalization_forms():
    def words(**options):
        tokenizer = train_tokenizer([*TEXTS, "ＡＢ Ab café"], "bpe", 400, **options)
        return tokenizer.decode(tokenizer("ＡＢ Ab café").input_ids, skip_special_tokens=True)

    assert words() == "ＡＢ Ab café"
    assert words(normalization="nfkc") == "AB Ab café"
    assert words(normalization="nfkc", lowercase=True, strip_accents=False) == "ab ab café"
    assert words(lowercase=True) == "ａｂ ab cafe"
    assert words(strip_accents=True) == "ＡＢ Ab cafe"


# arguments


@pytest.mark.parametrize("kind", KINDS)
def test_bad_arguments(kind):
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        train_tokenizer(["", " \n"], kind, 400)
    size = TOO_SMALL.get(kind, 8)
    with pytest.raises(ValueError, match=f"vocab_size {size} is too small"):
        train_tokenizer(TEXTS, kind, size)
    with pytest.raises(ValueError, match="vocab_size 204 is too small.*203 more special tokens"):
        objective = get_objective("ul2")
        train_tokenizer(TEXTS, kind, 204, special_tokens=objective.special_tokens)
    with pytest.raises(ValueError, match="nfc, nfkc or none, not 'nfd'"):
        train_tokenizer(TEXTS, kind, 400, normalization="nfd")
    with pytest.raises(TypeError, match="can be read only once"):
        train_tokenizer(iter(TEXTS), kind, 400)


def test_unknown_kind():
    with pytest.raises(
        ValueError, match="no kind of tokenizer 'wordpeice'; choose one of wordpiece, bpe, gpt2, unigram"
    ):
        train_tokenizer(TEXTS, "wordpeice", 400)
