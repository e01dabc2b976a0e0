"""Masked diffusion: what is masked, what the loss is in expectation, and generation from masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_runs import LENGTH, build, text
from transformers import BertConfig, BertForMaskedLM

from pretrain_zoo.models.sampling import sample_masked_diffusion
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.diffusion import stratified_ticks

SIZE = 50


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    maskable = np.ones(SIZE, bool)
    maskable[:5] = False
    return Vocabulary(size=SIZE, maskable=maskable, random_pool=np.arange(5, SIZE), mask_id=4, pad_id=0, cls_id=2)


def corrupted(objective, vocabulary, count=20_000, length=12, number=None):
    """Rows of a special token and ordinary ones, corrupted; the original ids."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, SIZE, (count, length))
    ids[:, 0] = 2
    number = np.arange(count) if number is None else number
    columns = objective.corrupt(
        {"input_ids": Ragged(ids.reshape(-1), np.full(count, length))}, Draws.of(1, number, 0, number), vocabulary
    )
    return ids, columns, to_tensors(pad_columns(columns, objective.columns, vocabulary))


def row_losses(objective, batch, rows, logits):
    """Loss sum of each row by plain arithmetic on the definition."""
    ticks = batch["label_ticks"].double() / 2**24
    time = objective.epsilon + (1 - objective.epsilon) * ticks
    log_p = torch.log_softmax(logits.double(), -1)
    losses = -log_p.gather(1, batch["label_ids"][:, None])[:, 0] / time
    row = batch["label_positions"] // batch["input_ids"].shape[1]
    return torch.zeros(rows, dtype=torch.float64).index_add_(0, row, losses)


@pytest.mark.parametrize("epsilon", [1e-3, 0.3])
@pytest.mark.parametrize(("weighting", "choices"), [("mdlm", SIZE - 1), ("llada", SIZE)])
def test_constant_logits_cost_the_log_of_the_vocabulary(vocabulary, weighting, choices, epsilon):
    """MDLM rules the mask token out, and masks 1 − ε times as much as its weight makes up for."""
    objective = get_objective("diffusion", weighting=weighting, epsilon=epsilon)
    share = 1 - epsilon if weighting == "mdlm" else 1.0
    _, _, batch = corrupted(objective, vocabulary)
    logits = torch.zeros(len(batch["label_ids"]), SIZE)
    sums, _ = objective.loss({"logits": logits}, batch)
    count = objective.counts(batch)["diffusion"]
    assert count == 20_000 * 11
    rows = row_losses(objective, batch, 20_000, logits) * np.log(choices) / np.log(SIZE) / 11
    error = rows.std() / 20_000**0.5
    assert abs(sums["diffusion"] / count - share * np.log(choices)) < 5 * error
    assert torch.isclose(sums["diffusion"].double(), 11 * rows.sum(), rtol=1e-4)


def test_loss_is_that_of_its_definition(vocabulary):
    objective = get_objective("diffusion", weighting="llada")
    _, _, batch = corrupted(objective, vocabulary, 30)
    logits = torch.randn(len(batch["label_ids"]), SIZE, generator=torch.Generator().manual_seed(0))
    sums, metrics = objective.loss({"logits": logits}, batch)
    assert torch.isclose(sums["diffusion"].double(), row_losses(objective, batch, 30, logits).sum(), rtol=1e-5)
    assert metrics["accuracy"][1] == len(logits)
    logits[:, 4] = -torch.inf
    without_mask = get_objective("diffusion").loss({"logits": logits.nan_to_num(neginf=9.0)}, batch)[0]["diffusion"]
    assert torch.isclose(without_mask.double(), row_losses(objective, batch, 30, logits).sum(), rtol=1e-5)


@pytest.mark.parametrize("weighting", ["mdlm", "llada"])
def test_rows_are_masked_at_their_rate(vocabulary, weighting):
    objective = get_objective("diffusion", weighting=weighting)
    ids, columns, batch = corrupted(objective, vocabulary)
    inputs = batch["input_ids"].numpy()
    masked = inputs == 4
    assert (inputs[~masked] == ids[~masked]).all()  # no random tokens
    assert not masked[:, 0].any()
    assert np.array_equal(np.flatnonzero(masked), batch["label_positions"])
    assert np.array_equal(ids[masked], batch["label_ids"])
    share = masked[:, 1:].mean(1)
    assert abs(share.mean() - 0.5) < 5 * share.std() / 20_000**0.5 + 1e-3
    ticks = np.zeros(20_000)
    ticks[columns["label_positions"].lengths > 0] = batch["label_ticks"][np.unique(np.nonzero(masked)[0], True)[1]]
    t = 1e-3 + 0.999 * ticks / 2**24
    for low in (0.2, 0.5, 0.8):
        rows = (t > low) & (t < low + 0.1)
        rate = t[rows].mean() * (0.999 if weighting == "mdlm" else 1)
        assert abs(share[rows].mean() - rate) < 5 * (rate * (1 - rate) / (11 * rows.sum())) ** 0.5
    assert (1 / t).max() <= 1000 and (1 / objective.time(batch["label_ticks"])).max() <= 1000.01


def test_times_are_stratified(vocabulary):
    """Any 64 draws in a row have times within 3 / 64 of evenly spread ones; the loss varies less than by chance."""
    objective = get_objective("diffusion", weighting="llada")

    def batch_losses(number):
        _, _, batch = corrupted(objective, vocabulary, 64 * 300, number=number)
        rows = row_losses(objective, batch, 64 * 300, torch.zeros(len(batch["label_ids"]), SIZE))
        return batch, rows.reshape(300, 64).mean(1).var()

    batch, stratified = batch_losses(np.arange(64 * 300))
    _, random = batch_losses(np.random.default_rng(3).integers(0, 2**40, 64 * 300))
    assert stratified < random
    ticks = stratified_ticks(Draws.of(1, np.arange(64 * 300), 0, 0)).reshape(300, 64) / 2**24
    assert np.abs(np.sort(ticks, 1) - (np.arange(64) + 0.5) / 64).max() < 3 / 64
    assert np.abs(ticks.mean(1) - 0.5).std() < 0.3 * (1 / 12 / 64) ** 0.5
    assert not np.array_equal(ticks.reshape(-1), stratified_ticks(Draws.of(1, np.arange(64 * 300), 1, 0)) / 2**24)


def test_padding_and_prompts_are_never_masked():
    tokenizer, vocabulary, _ = text()
    row = tokenizer("the miller mends a letter")["input_ids"]
    features = [
        {
            "input_ids": row + [vocabulary.pad_id] * 9,
            "attention_mask": [1] * len(row) + [0] * 9,
            "special_tokens_mask": [1, 1, 1] + [0] * (len(row) + 6),
            "example_id": i,
        }
        for i in range(200)
    ]
    collator = ObjectiveCollator("diffusion", tokenizer)
    labels = collator(features)["labels"]
    predicted = (labels != -100).any(0)
    assert not predicted[:3].any() and not predicted[len(row) - 1 :].any()
    assert predicted[3 : len(row) - 1].all()
    assert collator(features)["maskable_tokens"].tolist() == [len(row) - 4] * 200


def test_cropped_rows(vocabulary):
    objective = get_objective("diffusion", crop_probability=0.3)
    ids, columns, _ = corrupted(objective, vocabulary)
    lengths = columns["input_ids"].lengths
    cut = lengths < 12
    expected = 0.3 * 11 / 12  # one length in twelve is the whole row
    assert abs(cut.mean() - expected) < 5 * (expected * (1 - expected) / 20_000) ** 0.5
    counts = np.bincount(lengths[cut], minlength=12)[1:]
    assert np.abs(counts - cut.sum() / 11).max() < 5 * (cut.sum() / 11) ** 0.5
    assert np.array_equal(columns["maskable_tokens"], lengths - 1)


def test_settings_out_of_range():
    for settings in ({"weighting": "x"}, {"epsilon": 0.0}, {"crop_probability": 2.0}, {"packing": "x"}):
        with pytest.raises(ValueError):
            get_objective("diffusion", **settings)


def test_half_precision_leaves_the_weights():
    """bfloat16 logits; weights stay those of float32."""
    objective, model = build("diffusion", dtype=torch.float32)
    batch = ObjectiveCollator(objective, text()[0], seed=0, sparse_labels=True)(
        [{"input_ids": [2, *range(20, 20 + LENGTH - 2), 3]} for _ in range(8)]
    )
    logits = model.eval()(**batch, want=("logits",)).outputs["logits"].bfloat16()
    whole = objective.loss({"logits": logits.float()}, batch)[0]["diffusion"]
    assert torch.equal(objective.loss({"logits": logits}, batch)[0]["diffusion"], whole)


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_sampling_fills_every_mask_and_keeps_the_prompt(order, steps):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertForMaskedLM(config).eval()
    ids = torch.full((3, 20), 4)
    ids[:, 0], ids[1, 1:6] = 2, torch.arange(10, 15)
    out = sample_masked_diffusion(model, ids, mask_id=4, steps=steps, order=order)
    assert (out != 4).all()
    assert torch.equal(out[ids != 4], ids[ids != 4])
    assert (ids == 4).sum() == 3 * 19 - 5  # the argument is left alone


def test_random_order_fills_even_shares_at_the_temperature():
    seen, count = [], 50 * 200

    def model(input_ids, attention_mask):
        seen.append((input_ids == 4).sum().item())
        logits = torch.full((*input_ids.shape, SIZE), -30.0)
        logits[..., 10], logits[..., 11] = 0.0, np.log(3)
        return SimpleNamespace(logits=logits)

    generator = torch.Generator().manual_seed(0)
    masks = torch.full((50, 200), 4)
    out = sample_masked_diffusion(model, masks, mask_id=4, steps=4, temperature=0.5, generator=generator)
    for step, left in enumerate(seen):
        p = 1 - step / 4
        assert abs(left - count * p) <= 5 * (count * p * (1 - p)) ** 0.5
    assert len(seen) == 4
    assert abs((out == 11).float().mean() - 0.9) < 5 * (0.9 * 0.1 / count) ** 0.5  # 3² to 1


def test_sampling_follows_the_model():
    """A model sure of token 10 + position is obeyed; one mask is filled at a time when there are steps enough."""
    seen = []

    def model(input_ids, attention_mask):
        seen.append((input_ids == 4).sum(1))
        logits = torch.zeros(*input_ids.shape, SIZE)
        logits[:, torch.arange(8), 10 + torch.arange(8)] = 20 + torch.arange(8.0)
        logits[..., 4] = 100.0
        return SimpleNamespace(logits=logits)

    out = sample_masked_diffusion(model, torch.full((2, 8), 4), mask_id=4, steps=8, order="confidence", temperature=0.0)
    assert out.tolist() == [list(range(10, 18))] * 2
    assert [s.tolist() for s in seen] == [[n, n] for n in range(8, 0, -1)]
    for settings in ({"steps": 0}, {"steps": 1, "temperature": -1.0}, {"steps": 1, "order": "x"}):
        with pytest.raises(ValueError):
            sample_masked_diffusion(model, torch.full((2, 8), 4), mask_id=4, **settings)


def test_the_surest_tokens_are_those_of_the_model_not_of_the_temperature():
    """At ½, an even choice of two stays one, and 0.4 beside many of little becomes 0.95; but 0.4 is less than 0.5."""

    def model(input_ids, attention_mask):
        seen.append(input_ids.clone())
        probabilities = torch.full((1, 2, SIZE), 1e-30)
        probabilities[0, 0, 10:12] = 0.5
        probabilities[0, 1, 10], probabilities[0, 1, 11:41] = 0.4, 0.02
        return SimpleNamespace(logits=probabilities.log())

    for seed in range(10):
        seen: list[torch.Tensor] = []
        generator = torch.Generator().manual_seed(seed)
        masks = torch.full((1, 2), 4)
        sample_masked_diffusion(
            model, masks, mask_id=4, steps=2, order="confidence", temperature=0.5, generator=generator
        )
        assert (seen[1] == 4).tolist() == [[False, True]]
