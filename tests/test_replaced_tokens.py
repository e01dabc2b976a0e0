"""Replaced-token detection: masking, sampling, labels, gradients, tied embeddings, checkpoints, backbones."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, ElectraForPreTraining

from pretrain_zoo.models.generator import generator_config, sample_tokens
from pretrain_zoo.models.generator_discriminator import DetectionHead, GeneratorDiscriminator
from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.models.tied_embeddings import DeltaEmbedding, copy_embeddings
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors

SIZE, PAD, CLS, SEP, MASK = 61, 0, 2, 3, 4
FAMILIES = ["electra", "bert", "roberta", "albert", "distilbert", "deberta", "deberta-v2", "xlm-roberta", "mpnet"]
FAMILIES += ["modernbert", "xlm"]


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.arange(SIZE) >= 5
    ids = {"pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "mask_id": MASK}
    return Vocabulary(size=SIZE, maskable=maskable, random_pool=np.flatnonzero(maskable), **ids)


def config(kind="electra", **more):
    settings = {"vocab_size": SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings |= {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": PAD}
    if kind in ("electra", "albert"):
        settings["embedding_size"] = 16
    if kind == "deberta-v2":
        settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    result = AutoConfig.for_model(kind, **settings | more)
    if kind == "distilbert":
        result.hidden_dim = 48
    return result


def rows(count=6, seed=0, low=8, high=30):
    random = np.random.default_rng(seed)
    return [np.r_[CLS, random.integers(5, SIZE, random.integers(low, high)), SEP] for _ in range(count)]


def batch_of(objective, vocabulary, texts, first=0, side="right"):
    numbers = np.arange(first, first + len(texts))
    columns = {"input_ids": Ragged.from_rows(texts)}
    columns = objective.corrupt(columns, Draws.of(7, numbers, 0, numbers), vocabulary)
    return to_tensors(pad_columns(columns, objective.columns, vocabulary, padding_side=side))


def model_of(objective, vocabulary, kind="electra", seed=0, **more):
    torch.manual_seed(seed)
    model = objective.build(Backbone(config(kind, **more)), vocabulary)
    return model.eval()


def randomized(model, seed=1):
    """The same model with weights large enough for predictions to differ."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def loss_of(objective, model, batch):
    counts = objective.counts(batch)
    sums = model(**batch).sums
    return sum(term.weight * sums[name] / counts[name] for name, term in objective.terms.items())


OUTPUTS = ("generator_logits", "input_ids", "original_ids", "replaced", "logits")


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


# sampling


def test_samples_follow_the_softmax():
    random = np.random.default_rng(0)
    logits = random.normal(size=12) * 2
    probability = np.exp(logits / 1.7) / np.exp(logits / 1.7).sum()
    count = 100_000
    uniforms = torch.tensor(random.random(count), dtype=torch.float32)
    sampled = sample_tokens(torch.tensor(logits).float().expand(count, -1), uniforms, temperature=1.7)
    observed = np.bincount(sampled.numpy(), minlength=12)
    chi2 = ((observed - count * probability) ** 2 / (count * probability)).sum()
    assert abs(chi2 - 11) < 5 * math.sqrt(2 * 11)


def test_samples_agree_with_a_search_in_float64():
    random = np.random.default_rng(1)
    logits = torch.tensor(random.normal(size=(500, 3000)) * 3).float()
    uniforms = torch.tensor(random.random(500)).float()
    expected = []
    for row, u in zip(logits.double().numpy(), uniforms.double().numpy(), strict=True):
        weights = np.exp(row - row.max())
        expected.append(np.searchsorted(np.cumsum(weights) / weights.sum(), u, "right"))
    assert (sample_tokens(logits, uniforms).numpy() != np.array(expected)).sum() <= 1  # u within rounding of an edge


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_samples_never_have_probability_zero(dtype):
    inf = float("inf")
    logits = torch.tensor([[-inf, -inf, 0.3, -inf, 1.2, -inf], [-inf, 0, 0, 0, 0, -inf]]).to(dtype)
    last = torch.tensor(1 - 2.0**-24)
    assert sample_tokens(logits, torch.zeros(2)).tolist() == [2, 1]
    assert sample_tokens(logits, last.expand(2)).tolist() == [4, 4]
    for width in (1, 2, 1000, 1024, 5000):  # totals at and between powers of two
        assert sample_tokens(torch.full((1, width), 1e-3).to(dtype), last[None]).item() == width - 1
    middle = torch.full((2, 1100), -inf)
    middle[:, 513:790] = 0
    assert sample_tokens(middle.to(dtype), torch.stack([torch.tensor(0.0), last])).tolist() == [513, 789]
    torch.manual_seed(0)
    padded = F.pad(torch.randn(1000, 50).to(dtype), (0, 3), value=-inf)
    assert sample_tokens(padded, last.expand(1000)).max() == 49


def test_low_temperature_takes_the_likeliest():
    torch.manual_seed(0)
    logits, uniforms = torch.randn(200, 50), torch.rand(200)
    assert torch.equal(sample_tokens(logits, uniforms, 1e-6), logits.argmax(-1))
    assert not torch.equal(sample_tokens(logits, uniforms, 1.0), logits.argmax(-1))


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


# losses


@pytest.mark.parametrize("side", ["right", "left"])
def test_losses_are_those_of_the_stock_heads(vocabulary, side):
    objective = get_objective("rtd")
    model = randomized(model_of(objective, vocabulary))
    batch = batch_of(objective, vocabulary, rows(12), side=side)
    output = model(**batch, want=OUTPUTS)
    mask = {"attention_mask": batch["attention_mask"]}
    dense = torch.full(batch["input_ids"].shape, -100)
    dense.view(-1)[batch["label_positions"]] = batch["label_ids"]
    counts = objective.counts(batch)
    assert counts["generator"] == len(batch["label_ids"])
    assert counts["discriminator"] == batch["attention_mask"].sum() < batch["attention_mask"].numel()
    stock = model.heads["generator"](batch["input_ids"], labels=dense, **mask).loss * counts["generator"]
    torch.testing.assert_close(output.sums["generator"], stock)
    fake, labels = output.outputs["input_ids"], output.outputs["replaced"].long()
    stock = model.main(fake, labels=labels, **mask)
    torch.testing.assert_close(output.sums["discriminator"], stock.loss * counts["discriminator"])
    real = batch["attention_mask"] == 1
    said, true = (stock.logits > 0)[real], labels[real] == 1
    expected = {
        "discriminator_accuracy": ((said == true).sum(), real.sum()),
        "discriminator_precision": ((said & true).sum(), said.sum()),
        "discriminator_recall": ((said & true).sum(), true.sum()),
    }
    assert {name: output.metrics[name] for name in expected} == expected


def test_loss_on_selected_leaves_the_others_out(vocabulary):
    objective = get_objective("rtd", loss_on="selected")
    model = randomized(model_of(objective, vocabulary))
    batch = batch_of(objective, vocabulary, rows(12))
    output = model(**batch, want=OUTPUTS)
    at = batch["label_positions"]
    logits, replaced = output.outputs["logits"].flatten()[at], output.outputs["replaced"].flatten()[at]
    expected = F.softplus(torch.where(replaced, -logits, logits)).sum()
    torch.testing.assert_close(output.sums["discriminator"], expected)
    assert objective.counts(batch)["discriminator"] == len(at)
    assert output.metrics["discriminator_accuracy"][1] == len(at)


@pytest.mark.parametrize("kind", ["electra", "deberta-v2", "bert"])
def test_the_discriminator_begins_undecided(vocabulary, kind):
    objective = get_objective("rtd")
    batch = batch_of(objective, vocabulary, rows(20))
    output = model_of(objective, vocabulary, kind)(**batch)
    mean = output.sums["discriminator"] / objective.counts(batch)["discriminator"]
    assert abs(mean.item() - math.log(2)) < 0.01


def test_terms_and_published_weights():
    assert {n: t.weight for n, t in get_objective("rtd").terms.items()} == {"generator": 1, "discriminator": 50}
    assert {n: t.weight for n, t in get_objective("replace_mlm").terms.items()} == {"generator": 1, "mlm": 1}


def test_replace_mlm_is_the_stock_masked_lm_on_fake_text(vocabulary):
    objective = get_objective("replace_mlm")
    model = randomized(model_of(objective, vocabulary, "bert"))
    batch = batch_of(objective, vocabulary, rows(12))
    output = model(**batch, want=OUTPUTS)
    dense = torch.full(batch["input_ids"].shape, -100)
    dense.view(-1)[batch["label_positions"]] = batch["label_ids"]
    fake = output.outputs["input_ids"]
    assert (fake != batch["input_ids"]).any() and not (fake == MASK).all(1).any()
    stock = model.main(fake, attention_mask=batch["attention_mask"], labels=dense).loss * len(batch["label_ids"])
    torch.testing.assert_close(output.sums["mlm"], stock)


def test_all_tokens_mlm_mixes_copying_and_predicting(vocabulary):
    objective = get_objective("all_tokens_mlm")
    model = randomized(model_of(objective, vocabulary, "bert"))
    batch = batch_of(objective, vocabulary, rows(5))
    output = model(**batch, want=("logits", "copy_logits", "input_ids", "original_ids"))
    out = {name: value.detach().double().numpy() for name, value in output.outputs.items()}
    expected = right = 0.0
    for b, i in np.argwhere(batch["attention_mask"].numpy() == 1):
        softmax = np.exp(out["logits"][b, i]) / np.exp(out["logits"][b, i]).sum()
        copied = 1 / (1 + np.exp(-out["copy_logits"][b, i]))
        mixture = (1 - copied) * softmax
        mixture[int(out["input_ids"][b, i])] += copied
        expected -= np.log(mixture[int(out["original_ids"][b, i])])
        right += mixture.argmax() == out["original_ids"][b, i]
    assert output.sums["mlm"].item() == pytest.approx(expected, rel=1e-4)
    assert output.metrics["accuracy"][0] == right
    stock = model.main(output.outputs["input_ids"], attention_mask=batch["attention_mask"]).logits
    real = batch["attention_mask"] == 1
    torch.testing.assert_close(output.outputs["logits"][real], stock[real])


def test_deberta_v3_head_adds_the_first_tokens_state():
    torch.manual_seed(0)
    head = DetectionHead(config("deberta-v2"), with_first=True).eval()
    hidden, mask = torch.randn(2, 5, 32), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    first = torch.stack([hidden[0, 0], hidden[1, 2]])[:, None]
    normed = F.layer_norm(hidden + first, (32,), eps=config("deberta-v2").layer_norm_eps)
    expected = head.classifier(F.gelu(head.dense(normed)))[..., 0]
    torch.testing.assert_close(head(hidden, mask), expected)


@pytest.mark.parametrize("tie", ["shared", "gdes"])
def test_accumulation_does_not_change_the_gradient(vocabulary, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary)).double()
    texts = rows(8)
    whole = batch_of(objective, vocabulary, texts)
    loss_of(objective, model, whole).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    parts = [batch_of(objective, vocabulary, texts[at : at + 2], first=at) for at in range(0, 8, 2)]
    counts = [objective.counts(part) for part in parts]
    totals = {name: sum(c[name] for c in counts) for name in objective.terms}
    assert len({int(c["generator"]) for c in counts}) > 1 and totals["generator"] != totals["discriminator"]
    for part in parts:
        sums = model(**part).sums
        sum(term.weight * sums[name] / totals[name] for name, term in objective.terms.items()).backward()
    actual = [p.grad for p in model.parameters() if p.grad is not None]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_bfloat16(vocabulary):
    objective = get_objective("rtd")
    batch = batch_of(objective, vocabulary, rows(6))
    model = model_of(objective, vocabulary)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch, want=("generator_logits", "logits"))
    assert output.outputs["generator_logits"].dtype == output.outputs["logits"].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in output.sums.values())
    sums = model.to(torch.bfloat16)(**batch).sums
    assert all(torch.isfinite(value) for value in sums.values())


def test_batch_without_any_selected_token(vocabulary):
    objective = get_objective("rtd")
    batch = batch_of(objective, vocabulary, [np.array([CLS, SEP])] * 2)
    output = model_of(objective, vocabulary)(**batch)
    assert output.sums["generator"] == 0 and not output.metrics["replaced_rate"][0]


# gradients and tied embeddings


def grads(model, value):
    model.zero_grad(set_to_none=True)
    value.backward(retain_graph=True)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize("kind", ["electra", "albert", "deberta-v2", "bert"])
def test_the_discriminator_does_not_train_the_generator(vocabulary, kind):
    objective = get_objective("rtd")
    model = randomized(model_of(objective, vocabulary, kind))
    batch = batch_of(objective, vocabulary, rows())
    sums = model(**batch).sums
    reached = grads(model, sums["discriminator"])
    assert not [name for name in reached if name.startswith("heads.generator")]
    shared = {id(p) for p in model.main.parameters()} & {id(p) for p in model.heads["generator"].parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in shared}
    assert names and all("embeddings" in name for name in names)
    from_generator = grads(model, sums["generator"])
    assert {name for name in from_generator if not name.startswith("heads.generator")} <= names
    assert any("word_embeddings" in name for name in from_generator.keys() & reached.keys())


def test_electra_shares_tables_and_their_norm_but_no_projection(vocabulary):
    model = model_of(get_objective("rtd"), vocabulary)
    ours, theirs = model.main.electra, model.heads["generator"].electra
    names = dict(ours.embeddings.named_parameters())
    assert len(names) == 5
    for name, parameter in theirs.embeddings.named_parameters():
        assert parameter is names[name]
    assert ours.embeddings_project.weight is not theirs.embeddings_project.weight
    assert model.heads["generator"].generator_lm_head.weight is names["word_embeddings.weight"]
    for module in (theirs.embeddings.LayerNorm, theirs.embeddings.word_embeddings):
        module.weight = torch.nn.Parameter(module.weight.detach().clone())
    model.tie_weights()  # what wrappers call after they have moved or sharded weights
    assert theirs.embeddings.LayerNorm.weight is names["LayerNorm.weight"]
    assert model.heads["generator"].generator_lm_head.weight is names["word_embeddings.weight"]


def test_tie_none_shares_nothing(vocabulary):
    model = model_of(get_objective("rtd", tie="none"), vocabulary)
    assert not {id(p) for p in model.main.parameters()} & {id(p) for p in model.heads["generator"].parameters()}


@pytest.mark.parametrize("kind", ["electra", "deberta-v2", "bert", "modernbert"])
def test_gdes_keeps_the_gradients_apart(vocabulary, kind):
    objective = get_objective("rtd", tie="gdes")
    model = model_of(objective, vocabulary, kind)
    batch = batch_of(objective, vocabulary, rows())
    tables = [m for m in model.main.modules() if isinstance(m, DeltaEmbedding)]
    assert len(tables) == (1 if kind == "modernbert" else 2)  # tokens and positions
    for table in tables:
        assert not table.weight.any() and table.base.weight.any()
    sums = model(**batch).sums
    model.zero_grad(set_to_none=True)
    sums["discriminator"].backward(retain_graph=True)
    for table in tables:
        assert table.base.weight.grad is None and table.weight.grad.abs().max() > 0
    assert not [n for n, p in model.heads["generator"].named_parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    sums["generator"].backward()
    for table in tables:
        assert table.weight.grad is None and table.base.weight.grad.abs().max() > 0
    assert not [n for n, p in model.main.named_parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", ["electra", "deberta-v2"])
def test_gdes_begins_as_plain_sharing(vocabulary, kind):
    torch.manual_seed(3)
    backbone = Backbone(config(kind, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    shared, gdes = (get_objective("rtd", tie=t, generator_size=1.0) for t in ("shared", "gdes"))
    main, heads = GeneratorDiscriminator.load_main(backbone)
    generator = backbone.load(AutoModelForMaskedLM)
    copy_embeddings(main, generator)
    parts = [copy.deepcopy((main, generator, heads)) for _ in range(2)]
    outputs = []
    for objective, (m, g, h) in zip((shared, gdes), parts, strict=True):
        model = GeneratorDiscriminator(objective, m, g, h).eval()
        outputs.append(model(**batch_of(objective, vocabulary, rows()), want=OUTPUTS))
    for name in OUTPUTS:
        assert torch.equal(outputs[0].outputs[name], outputs[1].outputs[name])


def test_a_copied_model_has_tables_of_its_own(vocabulary):
    objective = get_objective("rtd", tie="gdes")
    model = model_of(objective, vocabulary)
    twin = copy.deepcopy(model)
    base = twin.main.electra.embeddings.word_embeddings.base
    assert base is twin.heads["generator"].electra.embeddings.word_embeddings


# sizes


def shape(kind, sizes, **settings):
    c = generator_config(AutoConfig.for_model(kind, **sizes), get_objective("rtd", **settings))
    return c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size


def test_generators_have_the_published_sizes():
    small = {"hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 1024}
    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    assert shape("electra", small) == (64, 12, 1, 256)
    assert shape("electra", base, generator_size=1 / 3) == (256, 12, 4, 1024)
    assert shape("electra", large) == (256, 24, 4, 1024)
    assert shape("deberta-v2", base, tie="gdes") == (768, 6, 12, 3072)
    assert shape("deberta-v2", large, tie="gdes") == (1024, 12, 16, 4096)
    assert shape("bert", base) == (768, 6, 12, 3072)
    assert shape("bert", base, tie="none") == (192, 12, 3, 768)


def test_generators_layers_keep_their_kinds():
    c = AutoConfig.for_model("modernbert", num_hidden_layers=6)
    small = generator_config(c, get_objective("rtd"))
    assert small.layer_types == c.layer_types[:3] and len(c.layer_types) == 6


@pytest.mark.parametrize("kind", ["bart", "t5", "gpt2", "xlnet", "llama"])
def test_models_without_an_encoders_masked_lm_are_refused(vocabulary, kind):
    with pytest.raises(ValueError, match=kind):
        get_objective("rtd").check(vocabulary, AutoConfig.for_model(kind))


def test_a_narrow_generator_needs_a_projection(vocabulary):
    with pytest.raises(ValueError, match="does not project"):
        get_objective("rtd", generator_size=0.25).check(vocabulary, config("bert"))
    with pytest.raises(ValueError, match="elsewhere"):
        model_of(get_objective("rtd", tie="gdes"), vocabulary, "xlm")


# backbones


@pytest.mark.parametrize("name", ["rtd", "replace_mlm", "all_tokens_mlm"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_step_lowers_the_loss(vocabulary, kind, name):
    objective = get_objective(name)
    model = model_of(objective, vocabulary, kind)
    batch = batch_of(objective, vocabulary, rows())
    batch["sampling_bits"].zero_()  # token 0 always: the text stays while the generator learns
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 if name == "rtd" else 1e-2)
    before = loss_of(objective, model, batch)
    before.backward()
    optimizer.step()
    assert loss_of(objective, model, batch) < before
    untrained = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not untrained


def test_the_discriminator_learns_which_tokens_are_foreign(vocabulary):
    objective = get_objective("rtd", temperature=100.0)  # samples stay uniform
    model = model_of(objective, vocabulary).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    text = lambda: [np.r_[CLS, random.integers(5, 21, 20), SEP] for _ in range(16)]  # noqa: E731 - 16 of 61 tokens
    for step in range(60):
        loss_of(objective, model, batch_of(objective, vocabulary, text(), first=16 * step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    metrics = model.eval()(**batch_of(objective, vocabulary, [t for _ in range(20) for t in text()])).metrics
    hits, replaced = metrics["discriminator_recall"]
    share = (SIZE - 16) / (SIZE - 1)
    assert abs(hits / replaced - share) < 5 * math.sqrt(share * (1 - share) / replaced)
    assert hits / metrics["discriminator_precision"][1] > 0.99


# checkpoints


def assert_same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("tie", ["shared", "gdes", "none"])
@pytest.mark.parametrize("kind", ["electra", "deberta-v2", "bert"])
def test_checkpoints_restore_exactly_and_are_plain(vocabulary, tmp_path, kind, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary, kind))
    model.save_pretrained(tmp_path)
    other = randomized(model_of(objective, vocabulary, kind, seed=5), seed=6)
    other.load_checkpoint(tmp_path)
    assert_same_state(model, other)
    batch = batch_of(objective, vocabulary, rows())
    out, again = (m(**batch, want=OUTPUTS).outputs for m in (model, other))
    assert all(torch.equal(out[name], again[name]) for name in OUTPUTS)
    plain = (AutoModelForPreTraining if kind == "electra" else AutoModel).from_pretrained(tmp_path).eval()
    inputs = {"input_ids": out["input_ids"], "attention_mask": batch["attention_mask"]}
    hidden = plain.base_model(**inputs).last_hidden_state
    torch.testing.assert_close(hidden, model.main.base_model(**inputs).last_hidden_state, rtol=1e-5, atol=1e-5)
    if kind == "electra":
        assert type(plain) is ElectraForPreTraining
        torch.testing.assert_close(plain(**inputs).logits, out["logits"], rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    loss_of(objective, other, batch).backward()
    optimizer.step()
    assert any(not torch.equal(v, model.state_dict()[n]) for n, v in other.state_dict().items())
    if tie == "shared":
        assert other.get_input_embeddings().weight is other.heads["generator"].get_input_embeddings().weight


@pytest.mark.parametrize("tie", ["shared", "gdes"])
@pytest.mark.parametrize("kind", ["electra", "deberta-v2"])
def test_both_networks_are_exported_as_stock_models(vocabulary, tmp_path, kind, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary, kind))
    batch = batch_of(objective, vocabulary, rows())
    out = model(**batch, want=(*OUTPUTS, "hidden_states")).outputs
    models = objective.export(model)
    assert set(models) == {"", "generator"}
    for name, plain in models.items():
        assert not [m for m in plain.modules() if isinstance(m, DeltaEmbedding)]
        plain.save_pretrained(tmp_path / (name or "main"))
    mask = batch["attention_mask"]
    generator, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "generator", output_loading_info=True)
    assert not any(report.values())
    logits = generator.eval()(batch["input_ids"], attention_mask=mask).logits.flatten(0, 1)[batch["label_positions"]]
    torch.testing.assert_close(logits, out["generator_logits"], rtol=1e-4, atol=1e-4)
    main = AutoModel.from_pretrained(tmp_path / "main").eval()
    hidden = main(out["input_ids"], attention_mask=mask).last_hidden_state
    torch.testing.assert_close(hidden, out["hidden_states"][-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tie", ["shared", "gdes"])
def test_training_goes_on_from_exported_checkpoints(vocabulary, tmp_path, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary))
    for name, plain in objective.export(model).items():
        plain.save_pretrained(tmp_path / (name or "main"))
    backbone = Backbone(AutoConfig.from_pretrained(tmp_path / "main"), str(tmp_path / "main"))
    goes_on = get_objective("rtd", tie=tie, generator_checkpoint=str(tmp_path / "generator"))
    other = goes_on.build(backbone, vocabulary).eval()
    batch = batch_of(objective, vocabulary, rows())
    for ours, theirs in zip(model(**batch).sums.values(), other(**batch).sums.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="generator_checkpoint"):
        goes_on.build(Backbone(config()), vocabulary)


@pytest.mark.parametrize(("kind", "tie"), [("electra", "shared"), ("bert", "none"), ("deberta-v2", "gdes")])
def test_a_new_run_goes_on_from_the_folder_of_an_earlier_one(kind, tie, vocabulary, tmp_path):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary, kind))
    model.save_pretrained(tmp_path)
    again = objective.build(Backbone(config(kind), checkpoint=str(tmp_path)), vocabulary)
    expected = model.state_dict()
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
