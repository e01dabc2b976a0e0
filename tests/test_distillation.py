"""Terms of distillation, computed anew from plain models; zero, padding and splits; settings."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from distillation_models import (
    ALL,
    AUTO,
    NONE,
    TAUGHT,
    VOCABULARY,
    batch_of,
    build,
    config,
    kl,
    log_softmax,
    losses_of,
    teacher_folder,
    texts,
)
from transformers import AutoModelForMaskedLM

from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.models.projections import PROJECTIONS
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, get_objective
from pretrain_zoo.objectives import distillation_losses as losses


def test_squared_temperature_keeps_the_size_of_the_gradient():
    norms = {}
    for temperature in (10.0, 40.0):
        objective, model = build(teacher_folder(), temperature=temperature, **{**NONE, "soft_weight": 1.0})
        model(**batch_of(objective, texts())).sums["soft"].backward()
        norms[temperature] = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norms[10.0] / norms[40.0] == pytest.approx(1, abs=0.1)  # 16 without the factor


def plain(model, teacher, batch, auto=AutoModelForMaskedLM):
    """Outputs of the student and of the teacher's checkpoint, every position, by stock code with eager attention."""
    student = copy.deepcopy(model.main).double().eval()
    student.set_attn_implementation("eager")
    trained = auto.from_pretrained(teacher, attn_implementation="eager").double().eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    # hooks of ours are idle: no positions are set
    with torch.no_grad():
        return [m(**inputs, output_hidden_states=True, output_attentions=True) for m in (student, trained)]


@pytest.mark.parametrize("soft_on", ["all", "labels"])
@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_soft_targets_and_own_loss(soft_on, kind):
    objective, model = build(teacher_folder(layers=3), soft_on=soft_on, divergence=kind, temperature=3.0)
    batch = batch_of(objective, texts())
    student, teacher = plain(model, teacher_folder(layers=3), batch)
    where = batch["attention_mask"].flatten().nonzero().flatten() if soft_on == "all" else batch["label_positions"]
    q, p = (log_softmax(o.logits.flatten(0, 1)[where] / 3) for o in (student, teacher))
    p, q = (q, p) if kind == "reverse" else (p, q)
    found = losses_of(objective, model, batch)
    assert found["soft"].item() == pytest.approx(9 * kl(p, q).mean(), rel=1e-4)
    own = F.cross_entropy(student.logits.flatten(0, 1)[batch["label_positions"]], batch["label_ids"])
    assert found["mlm"].item() == pytest.approx(own.item(), rel=1e-4)
    assert objective.counts(batch)["soft"] == len(where)
    same = (student.logits.argmax(-1) == teacher.logits.argmax(-1)).flatten()[where]
    total, count = model(**batch).metrics["agreement"]
    assert (total.item(), count.item()) == (same.sum().item(), len(where))


def test_cosine_of_last_hidden_states():
    objective, model = build(teacher_folder(), cosine_weight=1.0)
    batch = batch_of(objective, texts())
    ours, theirs = (
        o.hidden_states[-1][batch["attention_mask"] == 1].numpy() for o in plain(model, teacher_folder(), batch)
    )
    expected = np.mean([1 - a @ b / np.sqrt(a @ a * (b @ b)) for a, b in zip(ours, theirs, strict=True)])
    assert losses_of(objective, model, batch)["cosine"].item() == pytest.approx(expected, rel=1e-4)


def test_hidden_states_through_the_projection():
    settings = {**NONE, "hidden_weight": 1.0, "layer_map": (1, 4)}
    teacher = teacher_folder(layers=4)
    objective, model = build(teacher, model={"hidden": 16}, **settings)
    batch = batch_of(objective, texts())
    student, trained = plain(model, teacher, batch)
    weight, bias = (x.detach().double() for x in model.heads["hidden_projection"].parameters())
    real = batch["attention_mask"] == 1
    expected = 0.0
    for mine, other in ((0, 0), (1, 1), (2, 4)):
        projected = student.hidden_states[mine][real] @ weight.T + bias
        expected += F.mse_loss(projected, trained.hidden_states[other][real]).item()
    assert losses_of(objective, model, batch)["hidden"].item() == pytest.approx(expected, rel=1e-4)
    equal = build(teacher_folder(layers=2), **{**settings, "layer_map": None})[1]
    assert "hidden_projection" not in equal.heads


def test_attention_after_the_softmax():
    settings = {**NONE, "attention_weight": 1.0, "attention_target": "probabilities"}
    teacher = teacher_folder(layers=4)
    objective, model = build(teacher, model={"hidden": 16}, **settings)
    batch = batch_of(objective, texts())
    student, trained = plain(model, teacher, batch)
    mask = batch["attention_mask"].bool()
    inside = (mask[:, None] & mask[:, :, None])[:, None].expand_as(student.attentions[0])
    expected = sum(
        F.mse_loss(student.attentions[mine][inside], trained.attentions[other - 1][inside]).item()
        for mine, other in ((0, 2), (1, 4))  # evenly spaced
    )
    assert losses_of(objective, model, batch)["attention"].item() == pytest.approx(expected, rel=1e-4)


def test_attention_before_the_softmax():
    objective, model = build(teacher_folder(), **{**NONE, "attention_weight": 1.0})
    batch = batch_of(objective, texts())
    student, trained = plain(model, teacher_folder(), batch)
    found = losses_of(objective, model, batch)["attention"].item()
    # scores are known from probabilities but for a constant per row, so compare differences of columns per row
    expected, pairs = 0.0, 0
    for layer in range(2):
        for b, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            ours, theirs = (o.attentions[layer][b, :, :length, :length].log() for o in (student, trained))
            apart = ours - theirs
            expected += (apart - apart.mean(-1, keepdim=True)).square().mean(0).sum().item()
            pairs += length**2 * (layer == 0)
    assert pairs == objective.counts(batch)["attention"]
    assert found >= expected / pairs * (1 - 1e-4)  # the constants only add
    shifted = scores_without_row_means(model, batch)
    assert shifted == pytest.approx(expected, rel=1e-3)


def scores_without_row_means(model, batch):
    outputs = model(**batch, want=("attention_pairs",)).outputs["attention_pairs"]
    total = 0.0
    for ours, theirs in outputs:
        apart = losses.scores(ours) - losses.scores(theirs)
        for b, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            part = apart[b, :, :length, :length]
            total += (part - part.mean(-1, keepdim=True)).square().mean(0).sum().item()
    return total


@pytest.mark.parametrize("version", [1, 2])
def test_self_attention_relations(version):
    """MiniLM by loops over rows, heads and tokens, from projections computed anew by the layers' weights."""
    relations, heads = (("qk", "vv"), None) if version == 1 else (("qq", "kk", "vv"), 4)
    teacher = teacher_folder(layers=3)
    settings = {**NONE, "relation_weight": 1.0, "relations": relations, "relation_heads": heads, "relation_layer": 2}
    objective, model = build(teacher, model={"hidden": 16}, **settings)
    batch = batch_of(objective, texts(3))
    trained = AutoModelForMaskedLM.from_pretrained(teacher)
    states = plain(model, teacher, batch)
    projected = []
    for network, output, layer in ((model.main, states[0], 1), (trained, states[1], 1)):
        attention = copy.deepcopy(network.bert.encoder.layer[layer].attention.self).double()
        inputs = output.hidden_states[layer]
        projected.append({n[0]: getattr(attention, n)(inputs).detach().numpy() for n in ("query", "key", "value")})
    total, tokens = 0.0, 0
    for b, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        tokens += length
        for one, other in relations:
            count = heads or 2
            for head in range(count):
                rows = []
                for p in projected:
                    size = p["q"].shape[-1] // count
                    part = slice(head * size, (head + 1) * size)
                    x, y = p[one][b, :length, part], p[other][b, :length, part]
                    rows.append(log_softmax(x @ y.T / np.sqrt(size)))
                total += kl(rows[1], rows[0]).sum() / count
    found = losses_of(objective, model, batch)["relations"].item()
    assert tokens == objective.counts(batch)["relations"]
    assert found == pytest.approx(total / tokens, rel=1e-4)


@pytest.mark.parametrize("kind", list(PROJECTIONS))
def test_projections_are_those_of_the_layers(kind):
    """v1's attention relation equals the divergence of stock attention probabilities where those are dot products."""
    relations = ("qq", "kk", "vv") if kind == "deberta-v2" else ("qk",)
    settings = {**NONE, "relation_weight": 1.0, "relations": relations}
    objective, model = build(teacher_folder(kind), kind=kind, **settings)
    batch = batch_of(objective, texts(3))
    found = losses_of(objective, model, batch)["relations"].item()
    assert found > 0
    if kind == "deberta-v2":
        return
    student, trained = plain(model, teacher_folder(kind), batch)
    q, p = (o.attentions[-1] for o in (student, trained))
    apart = torch.special.xlogy(p, p) - torch.special.xlogy(p, q.clamp(min=1e-300))
    apart = apart.sum(-1).mean(1)[batch["attention_mask"] == 1].mean().item()
    assert found == pytest.approx(apart, rel=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("distillation(mlm)", "bert"), ("distillation(mass)", "bart")])
@pytest.mark.parametrize(
    ("settings", "student", "teacher"),
    [
        ({}, "tokens", "tokens"),
        ({"soft_on": "labels"}, "labels", "labels"),
        ({"soft_weight": 0.0}, "labels", "none"),
        ({"soft_weight": 0.0, "student_weight": 0.0}, "none", "none"),
    ],
)
def test_logits_only_where_a_loss_looks(name, kind, settings, student, teacher):
    objective, model = build(teacher_folder(kind), name, kind, **settings)
    batch = batch_of(objective, texts(low=12))
    rows = {"tokens": len(batch.get("token_positions", batch["label_positions"])), "labels": len(batch["label_ids"])}
    rows["none"] = 0
    seen = {}
    for who, network in (("student", model.main), ("teacher", model.teacher.main)):
        head = network.get_output_embeddings()
        head.register_forward_hook(lambda m, args, out, who=who: seen.update({who: args[0].flatten(0, -2).shape[0]}))
    model(**batch)
    assert batch["input_ids"].numel() > rows["labels"] > 0
    assert seen == {"student": rows[student], "teacher": rows[teacher]}


# zero, padding, splits


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "deberta-v2"])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
def test_a_student_that_is_its_teacher_learns_nothing(kind, divergence):
    more = dict(ALL)
    if kind == "deberta-v2":
        more["attention_weight"] = 0.0
    objective = get_objective("distillation(mlm)", teacher=teacher_folder(kind), divergence=divergence, **more)
    model = objective.build(Backbone(config(kind), teacher_folder(kind)), VOCABULARY).eval()
    batch = batch_of(objective, texts())
    output = model(**batch)
    for name in set(TAUGHT) & set(objective.terms):
        assert output.sums[name].item() == 0.0, name
    assert output.sums["mlm"] > 0
    total, count = output.metrics["agreement"]
    assert total == count


OTHERS = [
    ("distillation(clm)", "gpt2", {"hidden_weight": 1.0}),
    ("distillation(clm)", "llama", {"hidden_weight": 1.0, "soft_on": "labels"}),
    ("distillation(span_corruption)", "t5", {}),
    ("distillation(mass)", "bart", {}),
]
"""Decoders and encoder-decoders with all the terms that they have."""


@pytest.mark.parametrize(("name", "kind", "settings"), OTHERS)
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
def test_decoders_that_are_their_teachers_learn_nothing(name, kind, settings, divergence):
    objective = get_objective(name, teacher=teacher_folder(kind), divergence=divergence, **settings)
    # T5's positions are learned, and sdpa takes another kernel where they need gradients: last bits differ
    attention = "eager" if kind == "t5" else None
    model = objective.build(Backbone(config(kind), teacher_folder(kind), attention), VOCABULARY).eval()
    batch = batch_of(objective, texts(low=12))
    sums = model(**batch).sums
    taught = set(TAUGHT) & set(objective.terms)
    assert taught >= {"soft", "cosine"} and all(sums[term].item() == 0.0 for term in taught)
    assert all(sums[term] > 0 for term in set(objective.terms) - taught)


@pytest.mark.parametrize(("name", "kind", "settings"), OTHERS)
def test_padding_and_splits_of_decoders_do_not_matter(name, kind, settings):
    objective, model = build(teacher_folder(kind), name, kind, **settings)
    model, rows = model.double(), texts(4, low=12)
    whole = batch_of(objective, rows)
    wide = batch_of(objective, rows, multiple=40)
    assert wide["input_ids"].shape[1] > whole["input_ids"].shape[1]
    halves = [batch_of(objective, rows[i : i + 2], first=i) for i in (0, 2)]
    once = model(**whole).sums
    wider, parts = model(**wide).sums, [model(**half).sums for half in halves]
    assert {"soft", "cosine"} < set(once)
    for term, value in once.items():
        assert value > 0
        torch.testing.assert_close(wider[term], value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sum(part[term] for part in parts), value, rtol=1e-9, atol=1e-9)
        counts = [objective.counts(batch)[term] for batch in (whole, wide, *halves)]
        assert counts[0] == counts[1] == counts[2] + counts[3]


@pytest.mark.parametrize(("kind", "name"), [("gpt2", "distillation(clm)"), ("bart", "distillation(mass)")])
def test_soft_targets_of_decoders(kind, name):
    """Against plain models, every position."""
    objective, model = build(teacher_folder(kind), name, kind, temperature=3.0)
    batch = batch_of(objective, texts(low=12))
    inputs = model.student.inputs(batch)
    trained = AUTO[kind].from_pretrained(teacher_folder(kind)).eval()
    with torch.no_grad():
        ours, theirs = (m(**inputs).logits.flatten(0, 1) for m in (model.main, trained))
    where = batch["label_positions"] if kind == "bart" else batch["attention_mask"].flatten().nonzero().flatten()
    q, p = (log_softmax(x[where] / 3) for x in (ours, theirs))
    assert losses_of(objective, model, batch)["soft"].item() == pytest.approx(9 * kl(p, q).mean(), rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_and_splits_do_not_matter(side):
    objective, model = build(teacher_folder(), **ALL)
    model = model.double()
    rows = texts(6)
    whole = batch_of(objective, rows, side=side)
    once = model(**whole).sums
    counts = objective.counts(whole)
    if side == "left":  # absolute positions move with the padding on that side, so only the parts are compared
        wide = whole
    else:
        wide = batch_of(objective, rows, side=side, multiple=32)
        assert wide["input_ids"].shape[1] > whole["input_ids"].shape[1]
    for name, value in model(**wide).sums.items():
        torch.testing.assert_close(value, once[name], rtol=1e-9, atol=1e-9)
        assert objective.counts(wide)[name] == counts[name]
    if side == "left":
        return
    halves = [batch_of(objective, rows[i : i + 2], first=i) for i in (0, 2, 4)]
    for name in objective.terms:
        torch.testing.assert_close(sum(model(**half).sums[name] for half in halves), once[name], rtol=1e-9, atol=1e-9)
        assert sum(objective.counts(half)[name] for half in halves) == counts[name]


def test_no_gradient_reaches_padding():
    objective, model = build(teacher_folder(), **ALL)
    batch = batch_of(objective, texts())
    caught = {}
    embeddings = model.main.bert.embeddings
    handle = embeddings.register_forward_hook(lambda m, a, out: caught.update(x=out.requires_grad_()) or out)
    sums = model(**batch).sums
    handle.remove()
    (gradient,) = torch.autograd.grad(sum(sums.values()), caught["x"])
    padding = batch["attention_mask"] == 0
    assert padding.any() and (gradient[padding] == 0).all() and (gradient[~padding] != 0).any(-1).all()


# what is delegated


def test_positions_of_tokens_and_labels_of_the_wrapped_objective():
    objective, own = get_objective("distillation(mlm)"), get_objective("mlm")
    rows = texts()
    batch, alone = batch_of(objective, rows), batch_of(own, rows)
    assert set(batch) == {*alone, "token_positions"}
    assert all(torch.equal(batch[name], alone[name]) for name in alone)
    flat = batch["attention_mask"].flatten().nonzero().flatten()
    assert torch.equal(batch["token_positions"], flat)
    numbers = np.arange(len(rows))
    mask = Ragged.from_rows([np.r_[np.ones(len(row) - 3, int), 0, 0, 0] for row in rows])
    given = {"input_ids": Ragged.from_rows(rows), "attention_mask": mask}
    positions = objective.corrupt(given, Draws.of(7, numbers, 0, numbers), VOCABULARY)["token_positions"]
    assert positions.lengths.tolist() == [len(row) - 3 for row in rows]
    assert positions.values.tolist() == [i for row in rows for i in range(len(row) - 3)]


def test_collator_alone_gives_what_stock_models_take(wordpiece_tokenizer):
    features = [wordpiece_tokenizer(text) for text in ("the old clock", "a letter by the river")]
    batch = ObjectiveCollator("distillation(mlm)", wordpiece_tokenizer, seed=0)(features)
    alone = ObjectiveCollator("mlm", wordpiece_tokenizer, seed=0)(features)
    assert set(batch) == set(alone) and all(torch.equal(batch[name], alone[name]) for name in alone)


def test_names_settings_and_terms():
    objective = get_objective("distillation(mlm)", teacher="x", temperature=4.0, mlm_probability=0.3)
    assert objective.temperature == 4.0 and objective.wrapped.mlm_probability == 0.3
    assert {name: term.weight for name, term in objective.terms.items()} == {"mlm": 2.0, "soft": 5.0, "cosine": 1.0}
    both = get_objective("distillation(mlm+nsp)", **{"mlm.mlm_probability": 0.2, "distillation.soft_weight": 1.0})
    assert list(both.terms) == ["mlm", "nsp", "soft", "cosine"] and both.replans and both.soft_weight == 1.0
    assert get_objective("distillation(clm)").architecture == "causal_lm"
    sbo = get_objective("distillation(span_mlm)", student_weight=0.5)
    assert {sbo.terms[name].weight for name in sbo.wrapped.terms} == {0.5}
