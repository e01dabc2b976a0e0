"""Training Unigram tokenizers (Kudo 2018, arXiv 1804.10959), reproducibly.

The trainer of the library `tokenizers` walks over hash tables whose order is another in every run: sums are rounded
differently, ties fall differently, and the same text gives other pieces and scores each time. This is the same
algorithm, SentencePiece's, as array programs over all words side by side:

    all substrings that repeat  →  [ EM, EM, drop a quarter of the pieces ] until few are left  →  the best by score

Where they differ: seeds are all repeated substrings by frequency in the text (SentencePiece takes those that end where
texts branch), and characters are never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

MAX_PIECE = 16
"""Longest piece, in characters."""
MAX_WORD = 64
"""Longer words are not trained on."""
SEEDS = 1_000_000
"""Pieces to begin with, at most."""
SHRINKING_FACTOR = 0.75
"""Share of the pieces that a round keeps."""
SURPLUS = 1.1
"""Rounds go on until so many times the vocabulary is left; then scores choose."""
SUB_ITERATIONS = 2
"""EM steps of a round."""


def train_unigram(words: Mapping[str, int], vocab_size: int, min_frequency: int = 2) -> list[tuple[str, float]]:
    """Pieces with their log probabilities, the most probable first.

    Args:
        words: how often each word occurs.
        vocab_size: number of pieces at most. All single characters are among them.
        min_frequency: how often a piece of several characters occurs at least.

    >>> pieces = train_unigram({"abab": 9, "ab": 9, "ba": 1}, 3)
    >>> [piece for piece, _ in pieces]
    ['ab', 'b', 'a']
    """
    lattices, score = _seed(words, min_frequency)
    while True:
        for _ in range(SUB_ITERATIONS):
            lattices, score = _m_step(lattices, lattices.expected_counts(score))
        if len(score) <= SURPLUS * vocab_size:
            break
        size = int(max(SURPLUS * vocab_size, SHRINKING_FACTOR * len(score)))
        keep = _prune(lattices, score, size)
        lattices, score = lattices.keep(keep), score[keep]
    texts = lattices.texts()
    order = sorted(range(len(score)), key=lambda i: (len(texts[i]) > 1, -score[i], texts[i]))[:vocab_size]
    return [(texts[i], float(score[i])) for i in sorted(order, key=lambda i: (-score[i], texts[i]))]


@dataclass
class Lattices:
    """The ways to spell each word by pieces. Words stand end to end, the longest first.

    A word of n characters has n + 1 nodes; character `i` of word `w` leads away from node `i + w`.

    Attributes:
        codes: uint32 `[C]`, the words' characters.
        starts, lengths: int64 `[W]`, where a word begins, and its characters.
        counts: float64 `[W]`.
        table: int32 `[N, C]`, which piece of n + 1 characters begins there; −1 for none.
        first, sizes: int64 `[P]`, where each piece occurs first, and its characters.
    """

    codes: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    table: np.ndarray
    first: np.ndarray
    sizes: np.ndarray

    @property
    def nodes(self) -> np.ndarray:
        """int64 `[W]`: the first node of each word."""
        return self.starts + np.arange(len(self.starts))

    def texts(self) -> list[str]:
        """The pieces."""
        text = self.codes.tobytes().decode("utf-32-le")
        return [text[i : i + n] for i, n in zip(self.first.tolist(), self.sizes.tolist())]

    def keep(self, pieces: np.ndarray) -> Lattices:
        """With these pieces alone, int64 `[P']`, numbered anew."""
        number = np.full(len(self.sizes) + 1, -1, np.int32)  # the last is where −1 points to
        number[pieces] = np.arange(len(pieces))
        sizes = self.sizes[pieces]
        table = number[self.table[: sizes.max()]]
        return Lattices(self.codes, self.starts, self.lengths, self.counts, table, self.first[pieces], sizes)

    def expected_counts(self, score: np.ndarray) -> np.ndarray:
        """float64 `[P]`: how often each piece is expected in all spellings of all words, by these log probabilities."""
        score = np.append(score, -np.inf)
        total, nodes, longest = len(self.codes) + len(self.starts), self.nodes, len(self.table)
        forward, backward = np.zeros(total), np.zeros(total + longest)
        for t in range(1, int(self.lengths[0]) + 1):
            k = int(np.searchsorted(-self.lengths, -t, "right"))
            ways = [
                forward[nodes[:k] + (t - n)] + score[self.table[n - 1, self.starts[:k] + (t - n)]]
                for n in range(1, min(t, longest) + 1)
            ]
            forward[nodes[:k] + t] = _log_sum(ways)
        for t in range(int(self.lengths[0]) - 1, -1, -1):
            k = int(np.searchsorted(-self.lengths, -t, "left"))
            ways = [
                backward[nodes[:k] + (t + n)] + score[self.table[n - 1, self.starts[:k] + t]]
                for n in range(1, longest + 1)
            ]
            backward[nodes[:k] + t] = _log_sum(ways)
        word = np.repeat(np.arange(len(self.starts)), self.lengths)
        whole = forward[nodes + self.lengths] - np.log(self.counts)
        expected = np.zeros(len(self.sizes))
        for n in range(1, longest + 1):
            at = np.flatnonzero(self.table[n - 1] >= 0)
            piece, of = self.table[n - 1, at], word[at]
            mass = np.exp(forward[at + of] + score[piece] + backward[at + of + n] - whole[of])
            expected += np.bincount(piece, mass, len(expected))
        return expected

    def best(self, score: np.ndarray) -> np.ndarray:
        """float64 `[P]`: how often each piece stands in the most probable spellings of all words."""
        pieces, of = self.spell(score, self.starts, self.lengths)
        return np.bincount(pieces, self.counts[of], len(score))

    def spell(
        self, score: np.ndarray, starts: np.ndarray, lengths: np.ndarray, whole: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Most probable spellings of stretches of text: (pieces, which stretch each belongs to).

        Args:
            starts, lengths: int64 `[S]`, stretches inside words, in any order.
            whole: whether a piece may be all of a stretch.
        """
        score = np.append(score, -np.inf)
        order = np.argsort(-lengths, kind="stable")
        starts, lengths = starts[order], lengths[order]
        nodes = np.cumsum(lengths + 1) - lengths - 1
        best, size = np.zeros(int((lengths + 1).sum())), np.zeros(int((lengths + 1).sum()), np.int64)
        for t in range(1, int(lengths.max(initial=0)) + 1):
            k = int(np.searchsorted(-lengths, -t, "right"))
            ways = np.stack(
                [
                    best[nodes[:k] + (t - n)] + score[self.table[n - 1, starts[:k] + (t - n)]]
                    for n in range(1, min(t, len(self.table)) + 1)
                ]
            )
            if not whole and t <= len(ways):
                ways[t - 1, lengths[:k] == t] = -np.inf
            size[nodes[:k] + t] = ways.argmax(0) + 1
            best[nodes[:k] + t] = ways.max(0)
        pieces, of = [], []
        at, rows = lengths.copy(), np.flatnonzero(lengths > 0)
        while len(rows):
            n = size[nodes[rows] + at[rows]]
            at[rows] -= n
            pieces.append(self.table[n - 1, starts[rows] + at[rows]])
            of.append(order[rows])
            rows = rows[at[rows] > 0]
        return np.concatenate(pieces), np.concatenate(of)


def _log_sum(ways: list[np.ndarray]) -> np.ndarray:
    top = np.max(ways, axis=0)
    total = np.zeros_like(top)
    for way in ways:
        total += np.exp(way - top)
    return top + np.log(total)


def _seed(words: Mapping[str, int], min_frequency: int) -> tuple[Lattices, np.ndarray]:
    """All repeated substrings as pieces, with log probabilities by frequency times length."""
    texts = sorted((word for word in words if 0 < len(word) <= MAX_WORD), key=lambda word: (-len(word), word))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.array([words[text] for text in texts], np.float64)
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    starts = np.cumsum(lengths) - lengths
    left = np.repeat(starts + lengths, lengths) - np.arange(len(codes))
    weight = np.repeat(counts, lengths)

    _, first, character = np.unique(codes, return_index=True, return_inverse=True)
    table = np.full((min(MAX_PIECE, int(lengths[0])), len(codes)), -1, np.int32)
    table[0] = character
    firsts, totals, known = [first], [np.bincount(character, weight)], len(first)
    for n in range(2, len(table) + 1):
        at = np.flatnonzero((left >= n) & (table[n - 2] >= 0))
        key = table[n - 2, at].astype(np.int64) * len(first) + character[at + n - 1]
        _, where, piece = np.unique(key, return_index=True, return_inverse=True)
        total = np.bincount(piece, weight[at], len(where))
        kept = total >= max(min_frequency, 2)
        number = np.where(kept, np.cumsum(kept) - 1 + known, -1)
        table[n - 1, at] = number[piece]
        firsts.append(at[where[kept]])
        totals.append(total[kept])
        known += int(kept.sum())
    sizes = np.repeat(np.arange(1, len(firsts) + 1), [len(part) for part in firsts])
    lattices = Lattices(codes, starts, lengths, counts, table, np.concatenate(firsts), sizes)
    mass = np.concatenate(totals) * sizes
    rank = np.argsort(np.where(sizes == 1, -np.inf, -mass), kind="stable")
    keep = np.sort(rank[: max(SEEDS, len(first))])
    return lattices.keep(keep), np.log(mass[keep] / mass[keep].sum())


def _m_step(lattices: Lattices, expected: np.ndarray) -> tuple[Lattices, np.ndarray]:
    """Drop what is hardly used, and the log probabilities of the rest under a sparse prior (SentencePiece's)."""
    keep = np.flatnonzero((expected >= 0.5) | (lattices.sizes == 1))
    count = np.maximum(expected[keep], 0.5)
    digamma = torch.digamma(torch.from_numpy(np.append(count, count.sum()))).numpy()
    return lattices.keep(keep), digamma[:-1] - digamma[-1]


def _prune(lattices: Lattices, score: np.ndarray, size: int) -> np.ndarray:
    """int64: characters, and the pieces without which the text would be least probable, `size` in all."""
    used = lattices.best(score)
    long = np.flatnonzero((lattices.sizes > 1) & (used > 0))
    parts, of = lattices.spell(score, lattices.first[long], lattices.sizes[long], whole=False)
    number = np.bincount(of, minlength=len(long))
    total = used.sum()
    instead = np.bincount(of, np.log(used[parts] + used[long[of]]), len(long))
    instead -= number * np.log(total + used[long] * (number - 1))
    loss = used[long] * (np.log(used[long]) - np.log(total) - instead)
    characters = np.flatnonzero(lattices.sizes == 1)
    best = long[np.argsort(-loss, kind="stable")[: max(size - len(characters), 0)]]
    return np.sort(np.concatenate([characters, best]))
