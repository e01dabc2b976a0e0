"""Words by one rule for every kind of tokenizer."""

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from pretrain_zoo.objectives.words import character_words, word_starts, word_starts_from_word_ids

TEXT = "Hello, world! I don't know: it’s 3.5 (or l'eau)... 我们 go 你好吗。 naïve_x Straße-42 “quoted” e-mail 😀!"

# The rule as one regular expression, each alternative with what continues it.
EXTEND = r"[\p{M}\u00ad\u200c\u200d\u2060]"
SPACE = r"[\s\p{Cc}\u200b\ufeff]"
LETTER = rf"[[\p{{L}}]--[\p{{Han}}]--{EXTEND}]"
WORD = rf"(?:[[\p{{L}}\p{{N}}_]--[\p{{Han}}]--{EXTEND}]{EXTEND}*)"
RULE = regex.compile(rf"(?V1){WORD}+(?:['’](?={LETTER}){WORD}+)*|(?!{SPACE}).{EXTEND}*", regex.DOTALL)


def expected_starts(text: str) -> list[int]:
    return [match.start() for match in RULE.finditer(text)]


def byte_level(add_prefix_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = "Hello world I don't know we go it’s quoted mail naïve Straße"  # no merges across words of the rule
    tokenizer.train_from_iterator([words] * 3, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator([TEXT] * 3, trainers.WordPieceTrainer(vocab_size=100, special_tokens=["[UNK]"]))
    return tokenizer


def metaspace_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(vocab_size=75, special_tokens=["<unk>"]))
    return tokenizer


def unigram() -> Tokenizer:
    """Pieces keep to one script, as SentencePiece makes them; some words have no piece with the leading space."""
    pieces = ["▁Hello", "▁world", "▁don", "▁know", "▁it", "go", "we", "mail", "▁(", "▁“", "quot", "ed", "▁na", "St"]
    scores = (
        [("<unk>", 0.0)] + [(c, -10.0) for c in sorted(set(TEXT + "▁中文，") - {" "})] + [(p, -3.0) for p in pieces]
    )
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


KINDS = {
    "wordpiece": wordpiece,
    "byte-level": lambda: byte_level(False),
    "byte-level, prefix space": lambda: byte_level(True),
    "metaspace bpe": metaspace_bpe,
    "unigram": unigram,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [TEXT, "  leading " + TEXT, "don't", "中文，好。"])
def test_same_words_for_every_kind_of_tokenizer(kind, text):
    encoding = KINDS[kind]().encode(text, add_special_tokens=False)
    starts, ends = np.array(encoding.offsets).T
    words = word_starts(text, starts, ends)
    # the character where each word begins: the first after the token's start that is not white space
    found = [next(i for i in range(starts[t], len(text)) if not text[i].isspace()) for t in np.flatnonzero(words)]
    assert found == expected_starts(text)


def test_a_token_of_several_words_begins_one():
    assert word_starts("so ... 你好", np.array([0, 2, 6]), np.array([2, 6, 9])).tolist() == [True, True, True]


def test_word_ids_differ_where_the_rule_does_not():
    """Why `word_ids` will not do: the same text, unlike numbers of words."""
    counts = {kind: len(set(KINDS[kind]().encode("I don't, 你好").word_ids)) for kind in ("wordpiece", "unigram")}
    assert counts == {"wordpiece": 7, "unigram": 3}


def test_white_space_tokens_belong_to_the_next_word():
    #        a  _  _  b  .  _   (the last one has no word to belong to)
    starts = np.array([0, 1, 2, 3, 4, 5])
    assert word_starts("a  b. ", starts, starts + 1).tolist() == [True, True, False, False, True, True]


def test_empty():
    none = np.zeros(0, np.int64)
    assert word_starts("", none, none).tolist() == []
    assert character_words("")[0].tolist() == []


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("ab1_'’ .,\n\t你好のé\u0301\u200d\u200b\ufe0f❤😀-한국\u2028\x00"), max_size=30)
    | st.text(max_size=20)
)
@example("'a'b'' 'c d'1 e'f1'g")
@example("❤\ufe0flove \u0301x 你\u0301a")
def test_character_words_follow_the_rule(text):
    starts, space = character_words(text)
    assert np.flatnonzero(starts).tolist() == expected_starts(text)
    assert np.flatnonzero(space).tolist() == [i for i, c in enumerate(text) if regex.match(SPACE, c)]


def test_from_word_ids():
    ids = np.array([-1, 0, 0, 1, -1, 1, 1, 2])
    rows = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    assert word_starts_from_word_ids(ids, rows).tolist() == [True, True, False, True, True, True, False, True]
    assert word_starts_from_word_ids(np.array([3, 3]), np.array([0, 1])).tolist() == [True, True]
    assert word_starts_from_word_ids(np.array([3, 3])).tolist() == [True, False]
