"""Noise of collators: torch's generator, seeds, data workers, ids of examples, no batch without a label."""

import numpy as np
import pytest
import torch
from collator_features import MASKED, make_features
from torch.utils.data import DataLoader

from pretrain_zoo.objectives import DataCollatorForMaskedLM, Draws, Ragged, Vocabulary, get_objective


@pytest.fixture(scope="module")
def features(wordpiece_tokenizer, texts):
    return make_features(wordpiece_tokenizer, texts)


def test_torch_governs_the_noise(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer)
    torch.manual_seed(1)
    first, second = collator(features), collator(features)
    torch.manual_seed(1)
    again = collator(features)
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert not torch.equal(first["labels"], second["labels"])


def test_seed_fixes_the_nth_call(wordpiece_tokenizer, features):
    one, two = (DataCollatorForMaskedLM(wordpiece_tokenizer, seed=3) for _ in range(2))
    calls = [one(features) for _ in range(3)]
    torch.manual_seed(9)
    assert all(torch.equal(call["labels"], two(features)["labels"]) for call in calls)
    assert len({str(call["labels"].tolist()) for call in calls}) == 3
    other = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=4)(features)
    assert not torch.equal(calls[0]["labels"], other["labels"])


@pytest.mark.parametrize("seed", [None, 3])
def test_data_workers_differ_and_repeat(seed, wordpiece_tokenizer, features):
    def run():
        torch.manual_seed(0)
        collator = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=seed)
        loader = DataLoader([features[0]] * 16, batch_size=4, num_workers=2, collate_fn=collator)
        return [batch["labels"].tolist() for batch in loader]

    batches = run()
    assert len({str(batch) for batch in batches}) == 4  # the same four features, by two workers, twice each
    assert run() == batches


def test_example_ids_key_the_noise(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=3)
    given = [f | {"example_id": 40 + i} for i, f in enumerate(features)]
    batch = collator(given)
    assert "example_id" not in batch
    shuffled = collator(given[::-1])
    assert torch.equal(batch["labels"], shuffled["labels"].flip(0))
    alone = collator(given[2:3])["labels"][0]
    assert torch.equal(alone, batch["labels"][2][: len(alone)])
    later = collator([f | {"epoch": 1} for f in given])
    assert "epoch" not in later and not torch.equal(later["labels"], batch["labels"])
    objective, vocabulary = get_objective("mlm"), Vocabulary.from_tokenizer(wordpiece_tokenizer)
    rows = {"input_ids": Ragged.from_rows([f["input_ids"] for f in features])}
    example = np.arange(40, 46)
    in_training = objective.corrupt(rows, Draws.of(3, example, 0, example), vocabulary)["label_positions"]
    assert [np.flatnonzero(row != -100).tolist() for row in batch["labels"]] == in_training.tolist()


def test_static_masks_need_to_know_the_example(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer, dupe_factor=2)
    with pytest.raises(ValueError, match="integer column 'example_id'"):
        collator(features)
    epochs = [collator([f | {"example_id": i, "epoch": e} for i, f in enumerate(features)]) for e in range(4)]
    assert torch.equal(epochs[0]["labels"], epochs[2]["labels"])
    assert not torch.equal(epochs[0]["labels"], epochs[1]["labels"])


def test_no_batch_without_a_label(wordpiece_tokenizer):
    """Stock models' mean loss over no label is NaN: a row of two ordinary tokens has none in seven of ten draws."""
    for collator in MASKED[:2]:
        for seed in range(50):
            batch = collator(wordpiece_tokenizer, seed=seed, selection="independent")([[2, 20, 21, 3]])
            assert (batch["labels"] != -100).any()
    batch = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=0)([[2, 3]])
    assert (batch["labels"] == -100).all()  # nothing there to predict
