"""Word starts from pieces alone, against the rule on the text; what differs is listed."""

import numpy as np
import pytest

from pretrain_zoo.objectives import Ragged, Vocabulary
from pretrain_zoo.objectives.pieces import word_starts_from_ids
from pretrain_zoo.objectives.words import word_starts

PLAIN = "The miller, my sister, nobody counted every window after the war; 42 barrels of flour! A letter; so it goes..."


def both(tokenizer, text):
    """(pieces, word starts by the text, word starts by the pieces)."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = np.array(encoding["offset_mapping"])
    ids = Ragged.from_rows([encoding["input_ids"]], np.int64)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    exact = word_starts(text, offsets[:, 0], offsets[:, 1])
    return pieces, exact, word_starts_from_ids(ids, vocabulary.piece_flags)


def test_plain_text_gives_the_same_words(any_tokenizer):
    _, exact, told = both(any_tokenizer, PLAIN)
    assert told.tolist() == exact.tolist()


def test_nearly_all_words_of_the_fixture_are_the_same(any_tokenizer, texts):
    found = [both(any_tokenizer, text)[1:] for text in texts[:50]]
    exact, told = (np.concatenate(parts) for parts in zip(*found))
    assert (exact == told).mean() > 0.95


@pytest.mark.parametrize(
    ("kind", "text", "exact", "told"),
    [
        ("wordpiece", "my sister doesn't", 3, 5),  # white space is lost, so that an apostrophe cannot be joined
        ("wordpiece", "the 東京 office", 4, 4),  # Han characters are words of their own either way
        ("bpe", "my sister doesn't", 3, 3),
        ("byte_bpe", "my sister doesn't", 3, 3),
        ("unigram", "my sister doesn't", 3, 3),
        ("byte_bpe", "under a café table", 4, 4),
    ],
)
def test_differences(kind, text, exact, told, request):
    _, by_text, by_pieces = both(request.getfixturevalue(f"{kind}_tokenizer"), text)
    assert (by_text.sum(), by_pieces.sum()) == (exact, told)


def test_rows_and_special_tokens(any_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(any_tokenizer)
    rows = any_tokenizer([PLAIN, "", "nobody"])["input_ids"]
    ids = Ragged.from_rows(rows, np.int64)
    starts = word_starts_from_ids(ids, vocabulary.piece_flags)
    assert starts[ids.offsets[:-1]].all()
    special = ~vocabulary.maskable[ids.values]
    assert starts[special].all() and starts[1:][special[:-1]].all()
    empty = Ragged.from_rows([[], []], np.int64)
    assert word_starts_from_ids(empty, vocabulary.piece_flags).tolist() == []
