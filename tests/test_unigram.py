"""Training Unigram pieces: seeds, expected counts, best spellings and pruning, against all spellings."""

import itertools

import numpy as np
import pytest
from tokenizers import models

from pretrain_zoo.training.unigram import Lattices, _prune, _seed, train_unigram

WORDS = {"abab": 3, "aba": 2, "bb": 1, "abc": 2, "ccab": 4, "a": 1}


def spellings(word, pieces):
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        at = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        parts = [word[a:b] for a, b in itertools.pairwise(at)]
        if pieces.issuperset(parts):
            yield parts


def lattices() -> tuple[Lattices, np.ndarray, list[str]]:
    made, _ = _seed(WORDS, 2)
    score = np.log(np.random.default_rng(0).dirichlet(np.ones(len(made.sizes))))
    return made, score, made.texts()


def test_seeds_are_all_repeated_substrings():
    made, score = _seed(WORDS, 2)
    counts: dict[str, int] = {}
    for word, count in WORDS.items():
        for i, j in itertools.combinations(range(len(word) + 1), 2):
            counts[word[i:j]] = counts.get(word[i:j], 0) + count
    expected = {text: n * len(text) for text, n in counts.items() if n >= 2 or len(text) == 1}
    assert set(made.texts()) == set(expected)
    total = sum(expected.values())
    for text, value in zip(made.texts(), score, strict=True):
        assert value == pytest.approx(np.log(expected[text] / total))


def test_expected_counts_by_all_spellings():
    made, score, texts = lattices()
    by_text = dict(zip(texts, score, strict=True))
    expected = dict.fromkeys(texts, 0.0)
    for word, count in WORDS.items():
        ways = list(spellings(word, set(texts)))
        weights = np.exp([sum(by_text[part] for part in way) for way in ways])
        for way, weight in zip(ways, count * weights / weights.sum(), strict=True):
            for part in way:
                expected[part] += weight
    np.testing.assert_allclose(made.expected_counts(score), [expected[text] for text in texts], rtol=1e-9)


@pytest.mark.parametrize("whole", [True, False])
def test_best_spellings_by_all_spellings(whole):
    made, score, texts = lattices()
    by_text = dict(zip(texts, score, strict=True))
    long = np.flatnonzero(made.sizes > 1)
    pieces, of = made.spell(score, made.first[long], made.sizes[long], whole=whole)
    for row, piece in enumerate(long):
        ways = [way for way in spellings(texts[piece], set(texts)) if whole or len(way) > 1]
        best = max(sum(by_text[part] for part in way) for way in ways)
        assert score[pieces[of == row]].sum() == pytest.approx(best)


def test_unigram_training():
    pieces = dict(train_unigram(WORDS, 6))
    assert len(pieces) <= 6 and {"a", "b", "c"} <= set(pieces)
    assert train_unigram(dict(reversed(WORDS.items())), 6) == list(pieces.items())
    scores = list(pieces.values())
    assert scores == sorted(scores, reverse=True) and sum(np.exp(scores)) <= 1 + 1e-9
    model = models.Unigram([("<unk>", -100.0), *pieces.items()], unk_id=0)
    assert sum(pieces[token.value] for token in model.tokenize("ababab")) == pytest.approx(
        max(sum(pieces[part] for part in way) for way in spellings("ababab", set(pieces)))
    )


def test_pruning_by_hand():
    """Pieces go whose replacement by their best other spelling costs the text least, counted in best spellings."""
    made, score, texts = lattices()
    by_text = dict(zip(texts, score, strict=True))

    def best(word, without=()):
        ways = [way for way in spellings(word, set(texts)) if list(without) != way]
        return max(ways, key=lambda way: sum(by_text[part] for part in way))

    used = dict.fromkeys(texts, 0.0)
    for word, count in WORDS.items():
        for part in best(word):
            used[part] += count
    total = sum(used.values())
    losses = {}
    for piece, count in used.items():
        if len(piece) > 1 and count:
            parts = best(piece, [piece])
            after = total + count * (len(parts) - 1)
            new = sum(np.log((used[part] + count) / after) for part in parts)
            losses[piece] = count * (np.log(count / total) - new)
    ranked = sorted(losses, key=lambda piece: -losses[piece])
    characters = [text for text in texts if len(text) == 1]
    assert len(ranked) > 2
    for size in range(len(characters), len(characters) + len(ranked) + 2):
        kept = {texts[i] for i in _prune(made, score, size)}
        assert kept == {*characters, *ranked[: size - len(characters)]}
