"""Masked LM, whole words and n-grams: exact counts, published rates, and the same noise whatever the batch."""

from collections import Counter

import numpy as np
import pytest

from pretrain_zoo.objectives import Draws, Ragged, Vocabulary, get_objective, keyed, noise
from pretrain_zoo.objectives.mlm import word_starts
from pretrain_zoo.objectives.segments import pack

KINDS = ("mlm", "whole_word_mlm", "ngram_mlm")
SELECTIONS = [("mlm", "independent"), ("mlm", "exact"), ("whole_word_mlm", "independent"), ("whole_word_mlm", "exact")]
SELECTIONS.append(("ngram_mlm", "exact"))


@pytest.fixture(scope="module")
def vocabulary(wordpiece_tokenizer):
    return Vocabulary.from_tokenizer(wordpiece_tokenizer)


@pytest.fixture(scope="module")
def rows(documents, vocabulary):
    """The fixture's documents in examples of 128 tokens, with word starts."""
    plan = pack(documents, vocabulary, length=128, columns=("word_starts",))
    return plan.rows(np.arange(len(plan)))


def random_rows(vocabulary, count: int, length: int, mean_word: float = 1.0, seed: int = 0):
    """Rows of random ordinary tokens, `[CLS] … [SEP]`, where each token begins a word by a coin."""
    rng = np.random.default_rng(seed)
    text = rng.choice(vocabulary.random_pool, (count, length - 2))
    ids = np.concatenate([np.full((count, 1), vocabulary.cls_id), text, np.full((count, 1), vocabulary.sep_id)], 1)
    batch = Ragged(ids.reshape(-1), np.full(count, length))
    return {"input_ids": batch, "word_starts": batch.with_values(rng.random(count * length) < 1 / mean_word)}


def draws_of(rows, seed=0, epoch=0, progress=0.0) -> Draws:
    example = np.arange(len(rows["input_ids"]))
    return Draws.of(seed, example, epoch, example, progress)


def corrupt(objective, rows, vocabulary, **draw):
    """(original ids, corrupted ids, bool selected), flat."""
    out = objective.corrupt(rows, draws_of(rows, **draw), vocabulary)
    ids = rows["input_ids"]
    selected = np.zeros(len(ids.values), bool)
    flat = np.repeat(ids.offsets[:-1], out["label_positions"].lengths) + out["label_positions"].values
    assert (np.diff(flat) > 0).all()
    selected[flat] = True
    assert np.array_equal(out["label_ids"].values, ids.values[flat])  # labels are the originals
    assert np.array_equal(out["label_ids"].lengths, out["label_positions"].lengths)
    assert np.array_equal(out["input_ids"].lengths, ids.lengths)
    return ids.values, out["input_ids"].values, selected


def within(count: float, trials: float, probability: float) -> bool:
    """Whether a binomial count lies within five standard errors."""
    return abs(count - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_what_is_selected_and_what_is_left(name, selection, any_tokenizer, texts):
    vocabulary = Vocabulary.from_tokenizer(any_tokenizer)
    ids = Ragged.from_rows(any_tokenizer(texts).input_ids)
    words = ids.with_values(np.random.default_rng(0).random(len(ids.values)) < 0.6)
    rows = {"input_ids": ids, "word_starts": words}
    before = ids.values.copy()
    original, corrupted, selected = corrupt(get_objective(name, selection=selection), rows, vocabulary)
    assert np.array_equal(ids.values, before)  # the input stays as it was
    assert np.array_equal(original[~selected], corrupted[~selected])
    special = list(vocabulary.special.values())
    assert not np.isin(original[selected], special).any()
    changed = corrupted[selected & (original != corrupted)]
    assert set(changed[np.isin(changed, special)]) == {vocabulary.mask_id}  # a random token is never special
    assert len(set(changed)) > 10


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_rates_and_replacement(name, selection, vocabulary):
    """80 % masked, 10 % random, 10 % as they were; a random token is the original once in the size of the pool."""
    rows = random_rows(vocabulary, 400, 256, mean_word=1.3)
    objective = get_objective(name, selection=selection)
    original, corrupted, selected = corrupt(objective, rows, vocabulary)
    maskable, count = 400 * 254, int(selected.sum())
    if selection == "exact":
        assert abs(count - 400 * round(0.15 * 256)) <= (0 if name == "mlm" else 20)
    else:  # words are chosen whole, so that their lengths add to the variance
        assert abs(count - 0.15 * maskable) < 5 * np.sqrt(maskable * 0.15 * 0.85) * (1 if name == "mlm" else 1.7)
    masked = corrupted[selected] == vocabulary.mask_id
    same = corrupted[selected] == original[selected]
    pool = len(vocabulary.random_pool)
    observed = np.array([masked.sum(), same.sum(), (~masked & ~same).sum()])
    expected = count * np.array([0.8, 0.1 + 0.1 / pool, 0.1 * (1 - 1 / pool)])
    assert ((observed - expected) ** 2 / expected).sum() < 2 + 5 * 2  # χ², 2 degrees of freedom
    random = corrupted[selected][~masked & ~same]
    counts = np.bincount(random, minlength=vocabulary.size)[vocabulary.random_pool]
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(statistic - (pool - 1)) < 5 * np.sqrt(2 * (pool - 1))  # every token alike


def test_random_tokens_are_unchanged_once_in_the_size_of_the_pool(vocabulary):
    rows = random_rows(vocabulary, 400, 256)
    objective = get_objective("mlm", mlm_probability=1.0, mask_replace_prob=0.0, random_replace_prob=1.0)
    original, corrupted, selected = corrupt(objective, rows, vocabulary)
    assert selected.sum() == 400 * 254
    assert within((original == corrupted)[selected].sum(), 400 * 254, 1 / len(vocabulary.random_pool))


def test_pure_masking_and_nothing_at_all(vocabulary, rows):
    objective = get_objective("mlm", mask_replace_prob=1.0, random_replace_prob=0.0)
    _, corrupted, selected = corrupt(objective, rows, vocabulary)
    assert (corrupted[selected] == vocabulary.mask_id).all()
    original, corrupted, selected = corrupt(get_objective("mlm", mlm_probability=0.0), rows, vocabulary)
    assert not selected.any() and np.array_equal(original, corrupted)


@pytest.mark.parametrize("limit", [None, 5])
def test_exact_counts_follow_bert(limit, vocabulary):
    """k = min(max_predictions, max(1, round(p n))) of n tokens, special ones included; none where none is maskable."""
    lengths = [2, 3, 4, 10, 17, 18, 30, 50, 101]
    rng = np.random.default_rng(0)
    texts = [[2, *rng.choice(vocabulary.random_pool, n - 2).tolist(), 3] for n in lengths]
    ids = Ragged.from_rows(texts, np.int64)
    rows = {"input_ids": ids, "word_starts": ids.with_values(np.ones(len(ids.values), bool))}
    counts = [min(max(1, round(0.15 * n)), n - 2, limit or 1000) for n in lengths]
    assert counts[:3] == [0, 1, 1]
    for name in KINDS:
        objective = get_objective(name, selection="exact", max_predictions_per_seq=limit)
        out = objective.corrupt(rows, draws_of(rows), vocabulary)
        assert out["label_positions"].lengths.tolist() == counts


def test_padding_does_not_count(vocabulary):
    """Rows padded beforehand have as many predictions as without their padding, at the same places."""
    rows = random_rows(vocabulary, 6, 50)
    ids, starts = rows["input_ids"], rows["word_starts"]
    padded = Ragged.from_rows([np.append(ids.row(b), np.zeros(150, np.int64)) for b in range(6)])
    given = {
        "input_ids": padded,
        "word_starts": Ragged.from_rows([np.append(starts.row(b), np.ones(150, bool)) for b in range(6)]),
        "attention_mask": padded.with_values(padded.positions < 50),
    }
    for name, selection in SELECTIONS:
        objective = get_objective(name, selection=selection)
        plain = objective.corrupt(rows, draws_of(rows), vocabulary)
        out = objective.corrupt(given, draws_of(rows), vocabulary)
        assert out["label_positions"].tolist() == plain["label_positions"].tolist()


def test_columns_can_exclude_tokens(vocabulary):
    rows = random_rows(vocabulary, 50, 64)
    ids = rows["input_ids"]
    excluded = ids.positions % 2 == 0
    for name, selection in SELECTIONS:
        objective = get_objective(name, selection=selection, mlm_probability=0.5)
        _, _, selected = corrupt(objective, rows | {"special_tokens_mask": ids.with_values(excluded)}, vocabulary)
        assert selected.any() and not (selected & excluded).any()
        _, _, selected = corrupt(objective, rows | {"attention_mask": ids.with_values(~excluded)}, vocabulary)
        assert selected.any() and not (selected & excluded).any()


# words


def words_of(rows, vocabulary) -> list[list[int]]:
    """Words as lists of flat indices, by a plain loop; special tokens are words of their own."""
    words: list[list[int]] = []
    ids, starts = rows["input_ids"], rows["word_starts"].values
    for b in range(len(ids)):
        for index in range(ids.offsets[b], ids.offsets[b + 1]):
            special = not vocabulary.maskable[ids.values[index]]
            after = index > ids.offsets[b] and not vocabulary.maskable[ids.values[index - 1]]
            if starts[index] or special or after or index == ids.offsets[b]:
                words.append([])
            words[-1].append(index)
    return words


@pytest.mark.parametrize("name", ["whole_word_mlm", "ngram_mlm"])
@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_words_are_selected_whole_and_fill_the_budget(name, probability, rows, vocabulary):
    objective = get_objective(name, mlm_probability=probability)
    _, _, selected = corrupt(objective, rows, vocabulary)
    words = words_of(rows, vocabulary)
    assert all(selected[word].all() or not selected[word].any() for word in words)
    ids = rows["input_ids"]
    counts = np.add.reduceat(selected, ids.offsets[:-1])
    budget = np.maximum(1, np.rint(probability * ids.lengths))
    left_out = [
        min(
            len(w)
            for w in words
            if ids.rows[w[0]] == b and vocabulary.maskable[ids.values[w[0]]] and not selected[w[0]]
        )
        for b in range(len(ids))
    ]
    assert (counts <= budget).all()
    assert (counts + left_out > budget).all()  # no other word would have fitted


def test_independent_words(rows, vocabulary):
    _, _, selected = corrupt(get_objective("whole_word_mlm", selection="independent"), rows, vocabulary)
    words = [w for w in words_of(rows, vocabulary) if vocabulary.maskable[rows["input_ids"].values[w[0]]]]
    assert all(selected[word].all() or not selected[word].any() for word in words)
    assert within(sum(selected[word[0]] for word in words), len(words), 0.15)


def test_whole_words_equal_berts_loop(rows, vocabulary):
    """The released loop, row by row, in the order of the keyed scores."""
    ids, draws = rows["input_ids"], draws_of(rows)
    _, _, selected = corrupt(get_objective("whole_word_mlm"), rows, vocabulary)
    words = words_of(rows, vocabulary)
    for b in range(len(ids)):
        begin, n = int(ids.offsets[b]), int(ids.lengths[b])
        score = keyed.row_bits(draws.key[b : b + 1], ids.lengths[b : b + 1], noise.ORDER)
        units = [w for w in words if begin <= w[0] < begin + n and vocabulary.maskable[ids.values[w[0]]]]
        covered: list[int] = []
        for unit in sorted(units, key=lambda w: (score[w[0] - begin], w[0])):
            if len(covered) + len(unit) <= max(1, round(0.15 * n)):
                covered += unit
        assert np.flatnonzero(selected[begin : begin + n]).tolist() == sorted(i - begin for i in covered)


def test_special_tokens_are_words_of_their_own(vocabulary):
    ids = Ragged.from_rows([[2, 10, 11, 3, 12, 13, 3], [2, 10]], np.int64)
    starts = ids.with_values(np.array([0, 1, 0, 0, 0, 0, 0, 0, 0], bool))
    columns = {"input_ids": ids, "word_starts": starts}
    # [CLS] | 10 11 | [SEP] | 12 13 | [SEP]; the first token of a row is marked elsewhere
    assert word_starts(columns, vocabulary)[:7].tolist() == [True, True, False, True, True, False, True]
    objective = get_objective("whole_word_mlm", mlm_probability=0.3)  # 2 of 7
    for seed in range(20):
        positions = objective.corrupt(columns, draws_of(columns, seed=seed), vocabulary)["label_positions"]
        assert positions.row(0).tolist() in ([1, 2], [4, 5])
        assert positions.row(1).tolist() == [1]


# n-grams


@pytest.mark.parametrize("most", [1, 3, 5])
def test_ngram_sizes_are_drawn_by_one_over_n(most, vocabulary):
    rows = random_rows(vocabulary, 20, 2002)
    ids = rows["input_ids"]
    first = np.flatnonzero(vocabulary.maskable[ids.values])
    offsets = np.searchsorted(first, ids.offsets)
    objective = get_objective("ngram_mlm", max_ngram=most)
    sizes = objective.sizes(draws_of(rows).key, ids, first, np.ones(len(first), np.int64), offsets)
    drawn = sizes(np.arange(len(first)))
    rest = offsets[1:].repeat(np.diff(offsets)) - np.arange(len(first))
    assert (drawn <= np.minimum(rest, most)).all()
    counts = Counter(drawn[rest >= most].tolist())
    total, harmonic = sum(counts.values()), sum(1 / n for n in range(1, most + 1))
    statistic = sum((counts[n] - total / n / harmonic) ** 2 / (total / n / harmonic) for n in range(1, most + 1))
    assert statistic < most - 1 + 5 * np.sqrt(2 * max(most - 1, 1))
    assert set(counts) == set(range(1, most + 1))


def test_ngrams_are_runs_of_words(vocabulary):
    """On long input, few n-grams touch, so the lengths of runs follow the sizes drawn: mean 18/11."""
    rows = random_rows(vocabulary, 200, 1002)
    objective = get_objective("ngram_mlm", mlm_probability=0.02)
    _, _, selected = corrupt(objective, rows, vocabulary)
    assert selected.sum() == 200 * 20
    edges = np.flatnonzero(np.diff(np.append(0, selected), append=0))
    runs = edges[1::2] - edges[::2]
    assert abs(runs.mean() - 18 / 11) < 0.1
    assert 0.15 < (runs == 3).mean() < 0.22


def test_ngrams_do_not_cross_special_tokens(vocabulary):
    text = [2] + [20, 21, 3] * 40
    ids = Ragged.from_rows([text] * 30, np.int64)
    columns = {"input_ids": ids, "word_starts": ids.with_values(np.ones(len(ids.values), bool))}
    first = np.flatnonzero(vocabulary.maskable[ids.values])
    objective = get_objective("ngram_mlm")
    offsets = np.searchsorted(first, ids.offsets)
    sizes = objective.sizes(draws_of(columns).key, ids, first, np.ones(len(first), np.int64), offsets)
    drawn = sizes(np.arange(len(first)))
    assert set(drawn[::2]) == {1, 2} and set(drawn[1::2]) == {1}
    assert within((drawn[::2] == 1).sum(), len(drawn) // 2, 2 / 3)  # renormalised over the sizes that fit


# keys


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_noise_does_not_depend_on_the_batch(name, selection, rows, vocabulary):
    objective, draws = get_objective(name, selection=selection), draws_of(rows)
    whole = objective.corrupt(rows, draws, vocabulary)
    rng = np.random.default_rng(0)
    for index in (np.array([3]), np.array([7, 0, 5]), rng.permutation(len(draws))):
        part = {name: column.take(index) for name, column in rows.items()}
        out = objective.corrupt(part, draws.take(index), vocabulary)
        for column in ("input_ids", "label_positions", "label_ids"):
            assert out[column].tolist() == whole[column].take(index).tolist()


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_epochs_and_seeds_give_unrelated_masks(name, selection, vocabulary):
    """The overlap of two independent masks is p² of all tokens."""
    rows = random_rows(vocabulary, 400, 128)
    objective = get_objective(name, selection=selection, mlm_probability=0.3)
    _, _, base = corrupt(objective, rows, vocabulary)
    _, _, again = corrupt(objective, rows, vocabulary)
    assert np.array_equal(base, again)
    for draw in ({"epoch": 1}, {"seed": 1}):
        _, _, other = corrupt(objective, rows, vocabulary, **draw)
        maskable = 400 * 126
        share = base.sum() / maskable * (other.sum() / maskable)
        assert abs((base & other).sum() - maskable * share) < 5 * np.sqrt(maskable * share * (1 - share)) * (
            2 if name == "ngram_mlm" else 1  # neighbours go together
        )


@pytest.mark.parametrize("copies", [1, 3])
def test_static_masks_repeat(copies, rows, vocabulary):
    objective = get_objective("mlm", dupe_factor=copies)
    masks = [corrupt(objective, rows, vocabulary, epoch=epoch)[1].tolist() for epoch in range(2 * copies + 1)]
    assert masks[:copies] == masks[copies : 2 * copies]
    assert masks[0] == masks[2 * copies]
    assert len({str(mask) for mask in masks}) == copies


@pytest.mark.parametrize("selection", ["independent", "exact"])
@pytest.mark.parametrize("name", ["mlm", "whole_word_mlm"])
def test_schedules(name, selection, vocabulary):
    rows = random_rows(vocabulary, 300, 128)
    settings = {"mlm_probability": 0.3, "final_mlm_probability": 0.1, "selection": selection}
    for shape, progress, expected in (
        ("linear", 0.0, 0.3),
        ("linear", 0.5, 0.2),
        ("linear", 0.9, 0.12),
        ("cosine", 0.25, 0.3 - 0.2 * (1 - np.sqrt(0.5)) / 2),
        ("cosine", 0.5, 0.2),
    ):
        objective = get_objective(name, mlm_schedule=shape, **settings)
        _, _, selected = corrupt(objective, rows, vocabulary, progress=progress)
        if selection == "exact":
            assert selected.sum() == 300 * round(expected * 128)
        else:
            assert within(selected.sum(), 300 * 126, expected)
    per_row = np.where(np.arange(300) < 150, 0.0, 0.999)  # rows of one batch may lie at different points of a run
    _, _, selected = corrupt(get_objective(name, **settings), rows, vocabulary, progress=per_row)
    early, late = selected[: 150 * 128].sum(), selected[150 * 128 :].sum()
    assert 2.5 < early / late < 3.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_probability": 1.5}, "mlm_probability must lie in 0 … 1, not 1.5"),
        ({"mask_replace_prob": 0.8, "random_replace_prob": 0.3}, "must not exceed 1 together"),
        ({"selection": "some"}, "selection must be 'independent' or 'exact', not 'some'"),
        ({"dupe_factor": 0}, "dupe_factor must be at least 1"),
        ({"mlm_schedule": "step", "final_mlm_probability": 0.2}, "unknown schedule 'step'"),
        ({"max_predictions_per_seq": -1}, "max_predictions_per_seq must be at least 1"),
        ({"packing": "sentences"}, "unknown packing 'sentences'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective("mlm", **settings)


def test_ngram_settings_out_of_range():
    with pytest.raises(ValueError, match="max_ngram must be at least 1"):
        get_objective("ngram_mlm", max_ngram=0)
    with pytest.raises(ValueError, match="selection must be 'exact'"):
        get_objective("ngram_mlm", selection="independent")
