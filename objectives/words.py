"""Words: where they begin in a text and which tokens begin them, the same for every kind of tokenizer.

A tokenizer's own `word_ids()` follow its pre-tokenizer, and pre-tokenizers differ: Metaspace (T5, XLM-R) leaves
punctuation in the word, BERT's makes three words of "don't", byte-level BPE two of other letters. Here words are read
from the text by one rule, and character offsets say which token begins one:

* a word is a run of letters, digits and `_`, joined over a single apostrophe before a letter ("don't", "l’eau");
* each Han character is a word, since Chinese writes no spaces;
* every other character that is not white space is a word of its own (punctuation, symbols, emoji);
* combining marks, joiners and soft hyphens continue what they follow.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import regex

_SPACE, _LETTER, _WORD, _APOSTROPHE, _HAN, _OTHER, _EXTEND = range(7)
_CLASSES = {  # later entries win
    _LETTER: r"\p{L}",
    _WORD: r"[\p{N}_]",
    _HAN: r"\p{Han}",
    _APOSTROPHE: r"['’]",
    _EXTEND: r"[\p{M}\u00ad\u200c\u200d\u2060]",
    _SPACE: r"[\s\p{Cc}\u200b\ufeff]",  # zero-width space and byte order mark among them
}


@lru_cache
def _table(size: int) -> np.ndarray:
    """uint8 `[size]`: the class of each code point."""
    table = np.full(size, _OTHER, np.uint8)
    text = "".join(map(chr, range(size)))
    for kind, pattern in _CLASSES.items():
        for run in regex.finditer(f"{pattern}+", text):
            table[run.start() : run.end()] = kind
    return table


def character_words(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin in `text`.

    Returns:
        starts: bool `[N]` for `N` characters, true on the first character of each word.
        space: bool `[N]`, true on white space, which belongs to no word.

    >>> starts, _ = character_words("I don't know, 你好!")
    >>> [i for i, start in enumerate(starts) if start]
    [0, 2, 8, 12, 14, 15, 16]
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _table(0x110000 if codes.max(initial=0) >= 0x10000 else 0x10000)[codes]  # the larger takes half a second
    space = kinds == _SPACE
    before = np.concatenate([[np.uint8(_SPACE)], kinds[:-1]])
    extend = (kinds == _EXTEND) & (before != _SPACE)
    if extend.any():  # marks count as the character they follow
        base = np.maximum.accumulate(np.where(extend, 0, np.arange(len(kinds))))
        before[1:] = kinds[base[:-1]]
    wordlike, before_wordlike = ((k == _LETTER) | (k == _WORD) for k in (kinds, before))
    joined = np.zeros(len(kinds), bool)  # apostrophes inside a word
    joined[:-1] = (kinds[:-1] == _APOSTROPHE) & before_wordlike[:-1] & (kinds[1:] == _LETTER)
    after_joined = np.concatenate([[False], joined[:-1]])
    continues = extend | joined | (wordlike & (before_wordlike | after_joined))
    return ~(space | continues), space


def word_starts(text: str, token_starts: np.ndarray, token_ends: np.ndarray) -> np.ndarray:
    """Which tokens begin a word, bool `[T]`.

    A token begins a word if the first word it touches comes after the last word of the token before it. A token of
    white space alone (a lone `▁`, a `Ġ`) belongs to the word that follows; one that spans several words (`...` in
    some vocabularies) cannot be divided and stands for all of them.

    Args:
        text: what was tokenized; for many documents at once, their texts joined by a newline. The first token of each
            document then begins a word too, which is for the caller to set (white space may end a document).
        token_starts, token_ends: int `[T]`, each token's characters in `text`, end exclusive, in order of the text,
            as `offset_mapping` gives them. Whether they include neighbouring white space does not matter.

    >>> word_starts("don't go", np.array([0, 3, 4, 5]), np.array([3, 4, 5, 8])).tolist()
    [True, False, False, True]
    """
    starts, space = character_words(text)
    begun = np.zeros(len(text) + 1, np.int64)  # words begun before each character
    np.cumsum(starts, out=begun[1:])
    first = begun[1:] - ~space  # first word that ends after each character
    first = np.append(first, begun[-1])[token_starts]
    last = np.maximum(begun[token_ends] - 1, first)
    return first > np.concatenate([[-1], last[:-1]])[: len(first)]


def word_starts_from_word_ids(word_ids: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Which tokens begin a word by a tokenizer's `word_ids()`, bool `[T]`: where the id changes or is missing.

    Args:
        word_ids: int `[T]`, rows end to end, −1 for `None` (special tokens, each a word of its own).
        rows: int `[T]`, the row of each token (`Ragged.rows`); the first token of a row always begins a word.

    >>> word_starts_from_word_ids(np.array([-1, 0, 0, 1, -1, -1])).tolist()
    [True, True, False, True, True, True]
    """
    starts = word_ids < 0
    starts[:1] = True
    starts[1:] |= word_ids[1:] != word_ids[:-1]
    if rows is not None:
        starts[1:] |= rows[1:] != rows[:-1]
    return starts
