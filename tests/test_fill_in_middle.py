"""Fill in the middle: the text back from its parts, rates, orders, ends of documents, collator."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from pretrain_zoo.objectives import DataCollatorForFillInMiddle, Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists

END, PRE, SUF, MID, FIRST, SIZE = 0, 1, 2, 3, 10, 500
NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.arange(SIZE) >= FIRST
    special = dict(zip(NAMES, (PRE, SUF, MID), strict=True))
    return Vocabulary(SIZE, maskable, np.flatnonzero(maskable), eos_id=END, special=special)


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def restored(row):
    """(text, order, lengths of prefix and middle) of a rearranged row."""
    assert row[-1] == END
    assert [row.count(token) for token in (PRE, SUF, MID)] == [1, 1, 1]
    assert row[0] == PRE
    a, b = row.index(SUF), row.index(MID)
    suffix, rest = row[a + 1 : b], row[b + 1 : -1]
    if a > 1:  # the prefix is in its place
        return row[1:a] + rest + suffix, "psm"
    return rest + suffix, "spm or empty"


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    closed=st.booleans(),
    seed=st.integers(0, 500),
)
def test_parts_make_the_text(vocabulary, lengths, rate, closed, seed):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(FIRST, SIZE, n).tolist() for n in lengths]
    rows = {"input_ids": Ragged.from_rows([t + [END] * closed for t in texts], np.int64)}
    out = corrupt(get_objective("fim", fim_rate=rate), rows, vocabulary, seed)
    for text, row, positions, labels in zip(
        texts, *(out[n].tolist() for n in ("input_ids", "label_positions", "label_ids")), strict=True
    ):
        if PRE in row:
            assert rate > 0
            assert restored(row)[0] == text
        else:
            assert rate < 1
            assert row == text + [END] * closed
        assert positions == list(range(max(len(row) - 1, 0)))
        assert labels == row[1:]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_what_begins_a_text_stays_in_front(vocabulary, spm, closed):
    """`<s> a b` → `<s> <prefix> … `, never `<s>` in the middle; and the text's parts are drawn as without it."""
    begin = 5
    framed = replace(vocabulary, prefix=(begin,))
    texts = [[10, 11, 12]] * 500 + [[]] * 5
    plain = Ragged.from_rows([text + [END] * closed for text in texts], np.int64)
    rows = Ragged.from_rows([[begin, *text] + [END] * closed for text in texts], np.int64)
    objective = get_objective("fim", fim_rate=0.8, fim_spm_rate=spm)
    expected = corrupt(objective, {"input_ids": plain}, vocabulary)["input_ids"].tolist()
    assert corrupt(objective, {"input_ids": rows}, framed)["input_ids"].tolist() == [[begin, *row] for row in expected]


def test_rates_orders_and_cuts(vocabulary):
    count, n = 30_000, 4
    rows = {"input_ids": Ragged(np.tile([10, 11, 12, 13], count), np.full(count, n))}
    out = corrupt(get_objective("fim", fim_rate=0.7, fim_spm_rate=0.3), rows, vocabulary)["input_ids"].tolist()
    moved = [row for row in out if PRE in row]
    assert abs(len(moved) / count - 0.7) < 5 * math.sqrt(0.21 / count)
    late = [row for row in moved if row[1] == SUF]  # also those with an empty prefix
    empty = 1 - (1 - 1 / (n + 1)) ** 2  # one of two cuts at the beginning
    p = 0.3 + 0.7 * empty
    assert abs(len(late) / len(moved) - p) < 5 * math.sqrt(p * (1 - p) / len(moved))
    suffixes = np.array([row.index(MID) - row.index(SUF) - 1 for row in moved])
    for size in range(n + 1):  # the later of two uniform cuts stands n − size from the beginning
        at = n - size
        p = ((at + 1) ** 2 - at**2) / (n + 1) ** 2
        assert abs((suffixes == size).mean() - p) < 5 * math.sqrt(p * (1 - p) / len(moved))


def test_plan_fits_and_ends_documents(vocabulary):
    rng = np.random.default_rng(0)
    texts = [rng.integers(FIRST, SIZE, n).tolist() for n in (5, 28, 29, 100)]
    documents = from_lists([[text] for text in texts])
    objective = get_objective("fim", fim_rate=1.0)
    plan = objective.plan(documents, vocabulary, length=32, seed=0, epoch=0, global_batch=1)
    rows = plan.rows(np.arange(len(plan)))
    pieces = [t[i : i + 28] + [END] * (i + 28 >= len(t)) for t in texts for i in range(0, len(t), 28)]
    assert sorted(rows["input_ids"].tolist()) == sorted(pieces)
    out = corrupt(objective, rows, vocabulary)
    assert out["input_ids"].lengths.max() == 32


def test_collator_feeds_a_stock_gpt2(byte_bpe_tokenizer, texts):
    import copy

    tokenizer = copy.deepcopy(byte_bpe_tokenizer)
    with pytest.raises(ValueError, match="lacks <fim_prefix>, <fim_suffix>, <fim_middle>"):
        DataCollatorForFillInMiddle(tokenizer)
    tokenizer.add_tokens(NAMES, special_tokens=True)
    encoded = tokenizer(texts[:6], add_special_tokens=False, padding=True)
    batch = DataCollatorForFillInMiddle(tokenizer, fim_rate=1.0, seed=0)(
        [{name: encoded[name][i] for name in ("input_ids", "attention_mask")} for i in range(6)]
    )
    real = batch["attention_mask"] == 1
    assert torch.equal(batch["labels"][:, 1:][real[:, 1:]], batch["input_ids"][:, 1:][real[:, 1:]])
    assert (batch["labels"][~real] == -100).all()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).eval()
    assert torch.isfinite(model(**batch).loss)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="fim_rate"):
        get_objective("fim", fim_rate=2)
    with pytest.raises(ValueError, match="packing"):
        get_objective("fim", packing="blocks")


@pytest.fixture(scope="module")
def byte_tokenizer(byte_bpe_tokenizer):
    import copy

    tokenizer = copy.deepcopy(byte_bpe_tokenizer)
    tokenizer.add_tokens(NAMES, special_tokens=True)
    return tokenizer


def _alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, the others are counted from 256 on."""
    printable = [b for b in range(256) if 33 <= b < 127 or 161 <= b < 173 or 174 <= b < 256]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTES = _alphabet()


def spelled(tokenizer, ids) -> bytes:
    """The bytes that tokens stand for."""
    return bytes(BYTES[letter] for piece in tokenizer.convert_ids_to_tokens(ids) for letter in piece)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), spm=st.sampled_from([0.0, 1.0]), closed=st.booleans(), start=st.integers(0, 3))
def test_characters_come_back(byte_tokenizer, texts, seed, spm, closed, start):
    """P + M + S is the row's text, byte by byte, and the parts are whole characters; some rows begin inside one."""
    vocabulary = Vocabulary.from_tokenizer(byte_tokenizer)
    rng = np.random.default_rng(seed)
    chosen = [texts[i] for i in rng.integers(len(texts), size=6)] + ["", "a", "東京", "naïve naïve"]
    rows = [byte_tokenizer(text, add_special_tokens=False).input_ids[start:] for text in chosen]
    end = byte_tokenizer.eos_token_id
    ids = Ragged.from_rows([row + [end] * closed for row in rows], np.int64)
    objective = get_objective("fim", fim_rate=1.0, fim_spm_rate=spm, fim_unit="character")
    pre, suf, mid = byte_tokenizer.convert_tokens_to_ids(NAMES)
    for row, out in zip(
        rows, corrupt(objective, {"input_ids": ids}, vocabulary, seed)["input_ids"].tolist(), strict=True
    ):
        assert out[0] == pre and out[-1] == end and [out.count(t) for t in (pre, suf, mid, end)] == [1, 1, 1, 1]
        a, b = out.index(suf), out.index(mid)
        prefix, suffix, middle = out[1:a], out[a + 1 : b], out[b + 1 : -1]
        assert len(out) <= len(row) + 4 + 6
        assert spelled(byte_tokenizer, prefix + middle + suffix) == spelled(byte_tokenizer, row)
        for later in (middle, suffix):  # cuts are never inside a character
            data = spelled(byte_tokenizer, later)
            assert spm or not data or data[0] & 0xC0 != 0x80


def test_characters_are_cut_evenly(byte_tokenizer):
    """Each of the n + 1 places between the characters of one text is as likely as any other."""
    vocabulary, count = Vocabulary.from_tokenizer(byte_tokenizer), 20_000
    text = " the 東京 baker"
    ids = byte_tokenizer(text, add_special_tokens=False).input_ids
    data = spelled(byte_tokenizer, ids).decode()
    assert data.strip() == text.strip() and len(ids) < len(data)
    rows = {"input_ids": Ragged(np.tile(ids, count), np.full(count, len(ids)))}
    objective = get_objective("fim", fim_rate=1.0, fim_spm_rate=0.0, fim_unit="character")
    pre, suf, mid = byte_tokenizer.convert_tokens_to_ids(NAMES)
    found = np.zeros(len(data) + 1)
    memo: dict[tuple, int] = {}
    for row in corrupt(objective, rows, vocabulary)["input_ids"].tolist():
        a, b = row.index(suf), row.index(mid)
        for part in (tuple(row[1:a]), tuple(row[1:a] + row[b + 1 : -1])):  # before the first, the second cut
            if part not in memo:
                memo[part] = len(spelled(byte_tokenizer, list(part)).decode())
            found[memo[part]] += 1
    p = 1 / (len(data) + 1)
    tokens = np.cumsum([0] + [len(spelled(byte_tokenizer, [i])) for i in ids])
    assert len(tokens) < len(data) + 1  # so some of the places are inside tokens
    assert (abs(found / count - 2 * p) < 5 * np.sqrt(2 * p / count)).all(), found


def test_parts_of_words_are_the_tokenizers(byte_tokenizer):
    """Nine in ten parts of words of one token are what the tokenizer's own merges make of them."""
    vocabulary, model = Vocabulary.from_tokenizer(byte_tokenizer), byte_tokenizer.backend_tokenizer.model
    same = total = 0
    for i in np.flatnonzero(vocabulary.spelling.characters > 2).tolist():
        piece = byte_tokenizer.convert_ids_to_tokens(i)
        if not piece.isascii():
            continue
        for cut in range(1, len(piece)):
            left, right = vocabulary.spelling.split(i, [cut])
            if left:
                same += [t.id for t in model.tokenize(piece[:cut])] == left
                same += [t.id for t in model.tokenize(piece[cut:])] == right
                total += 2
    assert total > 150 and same / total > 0.9, (same, total)


def test_long_spellings_move_the_cut():
    from pretrain_zoo.objectives.character_cuts import Spelling

    pieces = [bytes([b]) for b in b"abcdefgh"] + [b"abcdefgh", b"ab"]
    spelling = Spelling(Ragged.from_rows([np.frombuffer(piece, np.uint8) for piece in pieces]))
    assert spelling.split(9, [1]) == [[0], [1]]
    assert spelling.split(8, [2]) == [[], [8]]  # "ab" and six letters: five more than before
    assert spelling.split(8, [2, 2]) == [[9], [], [2, 3, 4, 5, 6, 7]]  # two cuts may add six


def test_rows_of_characters_fit_the_model(byte_tokenizer, texts):
    from pretrain_zoo.training.encode import encode

    vocabulary = Vocabulary.from_tokenizer(byte_tokenizer)
    documents = encode(byte_tokenizer.backend_tokenizer, texts)
    objective = get_objective("fim", fim_rate=0.5, fim_unit="character")
    plan = objective.plan(documents, vocabulary, length=32, seed=0, epoch=0, global_batch=1)
    rows = plan.rows(np.arange(len(plan)))
    out = corrupt(objective, rows, vocabulary)["input_ids"]
    assert 22 + 4 < out.lengths.max() <= 32
    pre = byte_tokenizer.convert_tokens_to_ids(NAMES[0])
    same = [row == given for row, given in zip(out.tolist(), rows["input_ids"].tolist(), strict=True) if pre not in row]
    assert same and all(same)


def test_characters_need_bytes(wordpiece_tokenizer, bpe_tokenizer):
    import copy

    for tokenizer in (wordpiece_tokenizer, bpe_tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens(NAMES, special_tokens=True)
        assert Vocabulary.from_tokenizer(tokenizer).piece_bytes is None
        with pytest.raises(ValueError, match="byte-level"):
            DataCollatorForFillInMiddle(tokenizer, fim_unit="character")
    with pytest.raises(ValueError, match="fim_unit"):
        get_objective("fim", fim_unit="word")


def test_characters_behind_what_begins_a_text(byte_tokenizer, texts):
    """As without it, behind it."""
    vocabulary, begin = Vocabulary.from_tokenizer(byte_tokenizer), byte_tokenizer.convert_tokens_to_ids(NAMES[2])
    rows = [byte_tokenizer(text, add_special_tokens=False).input_ids for text in [*texts[:50], ""]]
    objective = get_objective("fim", fim_rate=0.8, fim_unit="character")
    expected = corrupt(objective, {"input_ids": Ragged.from_rows(rows, np.int64)}, vocabulary)["input_ids"].tolist()
    framed = Ragged.from_rows([[begin, *row] for row in rows], np.int64)
    found = corrupt(objective, {"input_ids": framed}, replace(vocabulary, prefix=(begin,)))["input_ids"].tolist()
    assert found == [[begin, *row] for row in expected]


def test_rows_that_begin_inside_a_character():
    """A token of the last byte of one character and two letters: cut before its first letter, or left alone."""
    pieces = [b""] * 4 + [bytes([b]) for b in range(256)] + [b"\x9dab"]
    table = Ragged.from_rows([np.frombuffer(piece, np.uint8) for piece in pieces])
    special = dict(zip(NAMES, (PRE, SUF, MID), strict=True))
    vocabulary = Vocabulary(261, np.arange(261) > 3, np.arange(4, 261), eos_id=END, special=special, piece_bytes=table)
    rows = {"input_ids": Ragged.from_rows([[260, 4 + ord("c")]] * 400, np.int64)}
    left = corrupt(get_objective("fim", fim_rate=0.0, fim_unit="character"), rows, vocabulary)["input_ids"]
    assert left.tolist() == rows["input_ids"].tolist()
    moved = corrupt(get_objective("fim", fim_rate=1.0, fim_spm_rate=0.0, fim_unit="character"), rows, vocabulary)
    prefixes = {tuple(row[1 : row.index(SUF)]) for row in moved["input_ids"].tolist()}
    byte, a, b, c = 4 + 0x9D, *(4 + ord(letter) for letter in "abc")
    assert prefixes == {(byte,), (byte, a), (260,), (260, c)}  # before "a", "b", "c", and the end
    assert b in {token for row in moved["input_ids"].tolist() for token in row}
