"""Where words and sentences begin, told from the pieces alone: for features that carry no columns that say so.

The rule that whole-word masking was released with (BERT's `##`), extended to `▁` (SentencePiece) and `Ġ` (byte-level
BPE), where a change between letters and anything else also begins a word. `words` reads the text and is exact; this
cannot know the white space that WordPiece dropped ("don't" is three words here).
"""

from __future__ import annotations

import numpy as np
import regex

from .ragged import Ragged

STARTS, OPENS, CLOSES, BLANK, STOP = 1, 2, 4, 8, 16
"""Flags of a piece: begins a word by itself; its first, its last character is no letter or digit; is a mark alone;
ends a sentence."""

_STOP = regex.compile(r"(##|[▁Ġ])?[.!?。！？]+")


def piece_flags(tokenizer, size: int) -> np.ndarray:
    """uint8 `[size]`: flags of each id of a tokenizer."""
    flags = np.full(size, STARTS | OPENS | CLOSES, np.uint8)
    vocabulary = {i: piece for piece, i in tokenizer.get_vocab().items()}
    wordpiece = any(piece.startswith("##") and len(piece) > 2 for piece in vocabulary.values())
    mark = None
    if not wordpiece:
        mark = "▁" if sum(p.startswith("▁") for p in vocabulary.values()) > 1 else "Ġ"
    for i, piece in vocabulary.items():
        flags[i] = _wordpiece(piece) if mark is None else _marked(piece, mark)
        if _STOP.fullmatch(piece):
            flags[i] |= STOP
    return flags


def piece_bytes(tokenizer, ordinary: np.ndarray) -> Ragged | None:
    """The bytes that the pieces of a byte-level vocabulary stand for; `None` for a vocabulary of another kind.

    Args:
        tokenizer: a Hugging Face tokenizer.
        ordinary: bool `[size]`, false for ids whose pieces are not text; they get no bytes.
    """
    pieces = [""] * len(ordinary)
    for piece, i in tokenizer.get_vocab().items():
        if ordinary[i]:
            pieces[i] = piece
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    codes = np.frombuffer("".join(pieces).encode("utf-32-le"), np.uint32)
    if not len(codes) or codes.max() >= len(_BYTES) or len(np.unique(codes[np.repeat(lengths == 1, lengths)])) < 256:
        return None
    values = _BYTES[codes]
    return None if (values < 0).any() else Ragged(values.astype(np.uint8), lengths)


def _byte_alphabet() -> np.ndarray:
    """int16: the byte that a character of GPT-2's alphabet stands for, by its code point; −1 for others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = np.full(256 + len(others), -1, np.int16)
    table[printable] = printable
    table[256:] = others
    return table


_BYTES = _byte_alphabet()


def _wordpiece(piece: str) -> int:
    return 0 if piece.startswith("##") and len(piece) > 2 else STARTS


def _marked(piece: str, mark: str) -> int:
    text = piece.lstrip(mark)
    flags = STARTS if text != piece else 0
    if not text:
        return flags | BLANK
    if mark == "Ġ":  # bytes of longer UTF-8 sequences are written as letters: ASCII decides, the rest counts as letters
        text = regex.sub(r"[^\x00-\x7f]", "a", text)
    letter = r"[\p{L}\p{M}\p{N}_]"
    opens = not regex.match(rf"{letter}|['’]\p{{L}}", text) or regex.match(r"\p{Han}", text)
    closes = not regex.search(rf"{letter}$", text) or regex.search(r"\p{Han}$", text)
    return flags | (OPENS if opens else 0) | (CLOSES if closes else 0)


def word_starts_from_ids(ids: Ragged, flags: np.ndarray) -> np.ndarray:
    """bool `[T]`: which tokens begin a word by their pieces' flags; the first token of a row always does."""
    kinds = flags[ids.values]
    starts = (kinds & (STARTS | OPENS)) > 0
    before = kinds[:-1]
    starts[1:] |= (before & CLOSES) > 0
    starts[1:] &= (before & BLANK) == 0
    starts[ids.offsets[:-1][ids.lengths > 0]] = True
    return starts


def sentence_starts_from_ids(ids: Ragged, flags: np.ndarray) -> np.ndarray:
    """bool `[T]`: which tokens begin a sentence: the first of a row, and any after a full stop or the like.

    The rule of fairseq's denoising, which knows the full stop alone. Abbreviations end sentences, too.
    """
    stops = (flags[ids.values] & STOP) > 0
    starts = np.zeros(len(stops), bool)
    starts[1:] = stops[:-1] & ~stops[1:]
    starts[ids.offsets[:-1][ids.lengths > 0]] = True
    return starts
