"""Cuts between characters: the token that a cut goes through is spelled anew in two parts.

    the| c|at        cut after "ca"    →    the| c|a | t

For byte-level vocabularies, whose pieces are bytes of the text, and which can therefore spell any part of a token. Each
part becomes the longest pieces there are, from left to right; the tokens around stay as they are. So the text comes
back exactly. Words of one token are mostly spelled as the tokenizer would spell the part; of a word of several tokens
the tokenizer would begin anew, and may find others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .ragged import Ragged, row_sums, running_total, slices

SPARE = 3
"""Tokens that a cut may add; one that would add more moves to the beginning of its token."""


class Spelling:
    """What the pieces of a byte-level vocabulary spell.

    Args:
        pieces: uint8, the bytes of each id; none for special tokens.

    Attributes:
        characters: int64 `[size]`, how many characters begin in each piece.
        whole: bool `[size]`, which pieces begin with a character rather than inside one.
    """

    def __init__(self, pieces: Ragged):
        self.pieces = pieces
        begins = (pieces.values & 0xC0) != 0x80  # all but the inner bytes of a character in UTF-8
        self.characters = row_sums(begins, pieces.offsets)
        present = np.flatnonzero(pieces.lengths)
        self.whole = np.zeros(len(pieces), bool)
        self.whole[present] = begins[pieces.offsets[present]]
        self.ids = {pieces.row(i).tobytes(): i for i in present[::-1].tolist()}
        self.longest = int(pieces.lengths.max(initial=1))
        self._splits: dict[tuple[int, ...], list[list[int]]] = {}

    def spell(self, text: bytes) -> list[int]:
        """The longest pieces that make up `text`, from left to right.

        >>> pieces = Ragged.from_rows([np.frombuffer(p, np.uint8) for p in (b"a", b"b", b"c", b"ab", b"abc")])
        >>> Spelling(pieces).spell(b"abab")
        [3, 3]
        """
        found, at = [], 0
        while at < len(text):
            size = next(n for n in range(min(self.longest, len(text) - at), 0, -1) if text[at : at + n] in self.ids)
            found.append(self.ids[text[at : at + size]])
            at += size
        return found

    def split(self, token: int, cuts: Sequence[int]) -> list[list[int]]:
        """The parts of a token cut before its characters `cuts`, ascending, counted from 0, as lists of ids."""
        key = (token, *cuts)
        if key not in self._splits:
            data = self.pieces.row(token)
            starts = np.flatnonzero((data & 0xC0) != 0x80)[list(cuts)].tolist()
            edges = [0, *starts, len(data)]
            parts = [self.spell(data[a:b].tobytes()) for a, b in zip(edges, edges[1:])]
            if sum(map(len, parts)) > 1 + SPARE * len(cuts):
                parts = [[] for _ in cuts] + [[token]]
            self._splits[key] = parts
        return self._splits[key]


def cut_between_characters(ids: Ragged, cuts: np.ndarray, spelling: Spelling) -> tuple[Ragged, np.ndarray]:
    """Rows in which the tokens that cuts go through are spelled anew, and where the cuts are then.

    Args:
        ids: the rows.
        cuts: int64 `[C, B]`, ascending in each row, each the number of characters before it, the row's at most.

    Returns the rows, and int64 `[C, B]`, the number of tokens before each cut.
    """
    ends = running_total(spelling.characters[ids.values])
    before = ends[ids.offsets[:-1]]  # characters in earlier rows
    place = cuts + before
    token = np.searchsorted(ends[1:], place, "right")  # the one that the character behind the cut begins in
    last = place >= ends[ids.offsets[1:]]  # behind the last character: behind the row's last token, too
    token = np.where(last, ids.offsets[1:], token)
    inside, through = np.zeros_like(cuts), ~last
    inside[~last] = place[~last] - ends[token[~last]]
    through[~last] = (inside[~last] > 0) | ~spelling.whole[ids.values[token[~last]]]  # bytes stand before the cut

    counts, shift = np.ones(len(ids.values), np.int64), np.zeros(cuts.shape, np.int64)
    parts: dict[int, list[list[int]]] = {}
    numbers: dict[int, list[tuple[int, int]]] = {}
    for which, row in zip(*(index.tolist() for index in np.nonzero(through.T)[::-1])):
        numbers.setdefault(int(token[which, row]), []).append((which, row))
    for at, members in numbers.items():  # two cuts may go through one token
        split = spelling.split(int(ids.values[at]), [int(inside[member]) for member in members])
        parts[at], counts[at] = split, sum(map(len, split))
        for number, member in enumerate(members, 1):
            shift[member] = sum(map(len, split[:number]))
    starts = running_total(counts)
    values = np.repeat(ids.values, counts)
    if parts:
        where = np.fromiter(parts, np.int64, len(parts))
        values[slices(starts[where], counts[where])] = [i for split in parts.values() for part in split for i in part]
    out = Ragged(values, starts[ids.offsets[1:]] - starts[ids.offsets[:-1]])
    return out, starts[token] + shift - starts[ids.offsets[:-1]]
