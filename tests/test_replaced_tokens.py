"""Replaced-token detection: what the generator reads, and the fake text and labels of the discriminator."""

import math

import numpy as np
import pytest
import torch
from replaced_token_models import CLS, MASK, OUTPUTS, SEP, SIZE, batch_of, make_vocabulary, model_of, randomized, rows

from pretrain_zoo.models.generator import sample_tokens
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, get_objective


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


# the generator's input


def test_masking_is_exact_keeps_15_percent_and_never_draws_at_random(vocabulary):
    texts = rows(400, low=100, high=101)
    objective = get_objective("rtd")
    columns = {"input_ids": Ragged.from_rows(texts)}
    out = objective.corrupt(columns, Draws.of(0, np.arange(400), 0, np.arange(400)), vocabulary)
    positions, counts = out["label_positions"], out["label_positions"].lengths
    assert (counts == round(0.15 * 102)).all()
    flat = positions.values + np.repeat(out["input_ids"].offsets[:-1], counts)
    assert len(np.unique(flat)) == len(flat), "a position was drawn twice"
    before, after = np.concatenate(texts), out["input_ids"].values
    assert (before[flat] >= 5).all(), "a special token was selected"
    assert np.array_equal(out["label_ids"].values, before[flat])
    untouched = np.delete(np.arange(len(before)), flat)
    assert np.array_equal(before[untouched], after[untouched])
    masked = after[flat] == MASK
    assert (masked | (after[flat] == before[flat])).all()
    deviation = math.sqrt(0.85 * 0.15 / len(flat))
    assert abs(masked.mean() - 0.85) < 5 * deviation


def test_random_bits_are_24_and_depend_on_the_row_alone(vocabulary):
    objective = get_objective("rtd")
    texts = rows(300)
    whole = batch_of(objective, vocabulary, texts)["sampling_bits"]
    part = batch_of(objective, vocabulary, texts[100:], first=100)["sampling_bits"]
    assert whole.dtype == torch.int64 and whole.min() >= 0 and whole.max() < 2**24
    assert (whole.float().long() == whole).all(), "float32 holds them"
    assert torch.equal(whole[-len(part) :], part)
    assert len(torch.unique(whole)) > 0.99 * len(whole)
    assert abs(whole.double().mean() / 2**24 - 0.5) < 5 * math.sqrt(1 / 12 / len(whole))


def test_alone_the_collator_gives_the_generators_batch(vocabulary, wordpiece_tokenizer):
    features = [wordpiece_tokenizer("the cat sat on the mat") for _ in range(3)]
    batch = ObjectiveCollator("rtd", wordpiece_tokenizer, seed=0)(features)
    assert (batch["labels"] != -100).sum() == len(batch["sampling_bits"])


@pytest.mark.parametrize(
    "settings",
    [{"generator_size": 0}, {"generator_size": 1.5}, {"generator_depth": -1}, {"tie": "es"}, {"temperature": 0}]
    + [{"discriminator_weight": -1}, {"loss_on": "replaced"}, {"mask_replace_prob": 2}],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        get_objective("rtd", **settings)


def test_gdes_is_refused_where_the_table_predicts():
    with pytest.raises(ValueError, match="gdes"):
        get_objective("replace_mlm", tie="gdes")


# the discriminator's input and labels


def test_fake_text_is_the_unmasked_text_with_samples_at_selected_positions(vocabulary):
    objective = get_objective("rtd")
    model = randomized(model_of(objective, vocabulary))
    texts = rows(40)
    batch = batch_of(objective, vocabulary, texts)
    out = model(**batch, want=OUTPUTS).outputs
    original = torch.tensor(np.stack([np.pad(t, (0, batch["input_ids"].shape[1] - len(t))) for t in texts]))
    assert torch.equal(out["original_ids"], original)
    selected = torch.zeros(original.numel(), dtype=torch.bool)
    selected[batch["label_positions"]] = True
    selected = selected.view_as(original)
    fake = out["input_ids"]
    assert torch.equal(fake[~selected], original[~selected])
    assert torch.equal(fake[original < 5], original[original < 5]), "a special token changed"
    assert torch.equal(fake[selected], sample_tokens(out["generator_logits"], batch["sampling_bits"] / 2**24))
    assert torch.equal(out["replaced"], fake != original)
    kept = selected & (batch["input_ids"] == original)
    assert kept.any() and (out["replaced"] & kept).any(), "tokens that the generator saw are sampled too"


def test_a_lucky_sample_counts_as_original(vocabulary):
    objective = get_objective("rtd")
    model = model_of(objective, vocabulary)
    texts = [np.r_[CLS, np.full(20, 9), SEP], np.r_[CLS, np.full(20, 11), SEP]]
    batch = batch_of(objective, vocabulary, texts)
    with torch.no_grad():
        model.heads["generator"].generator_lm_head.bias[9] = 100.0
    out = model(**batch, want=OUTPUTS).outputs
    assert not out["replaced"][0].any()
    assert out["replaced"][1].sum() == len(batch["label_ids"]) / 2
    assert torch.equal(out["input_ids"][0], torch.tensor(texts[0]))


def test_replaced_are_the_selected_that_the_sample_missed(vocabulary):
    objective = get_objective("rtd", mlm_probability=0.4)
    model = randomized(model_of(objective, vocabulary))
    batch = batch_of(objective, vocabulary, rows(60))
    output = model(**batch, want=OUTPUTS)
    sampled = output.outputs["input_ids"].flatten()[batch["label_positions"]]
    hits = (sampled == batch["label_ids"]).sum()
    replaced, tokens = output.metrics["replaced_rate"]
    assert hits > 0 and replaced == len(sampled) - hits and tokens == batch["attention_mask"].sum()


def test_a_uniform_generator_replaces_all_but_one_in_v(vocabulary):
    objective = get_objective("rtd", mlm_probability=0.5)
    model = model_of(objective, vocabulary)
    with torch.no_grad():
        for parameter in model.heads["generator"].generator_predictions.LayerNorm.parameters():
            parameter.zero_()
    batch = batch_of(objective, vocabulary, rows(400))
    replaced = int(model(**batch).metrics["replaced_rate"][0])
    count, lucky = len(batch["label_ids"]), 1 / SIZE
    assert abs(replaced - count * (1 - lucky)) < 5 * math.sqrt(count * lucky * (1 - lucky))
