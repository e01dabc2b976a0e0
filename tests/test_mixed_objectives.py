"""Objectives that share a model: which can, what the model sees, losses by component."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phased_runs import components, corpus, drawn, run_of
from phased_runs import one as one_phase
from training_runs import Gradients, make_mixed_trainer, relative_error
from transformers import AutoModelForCausalLM

from pretrain_zoo.models.bidirectional import is_lifted
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Mixture, get_objective
from pretrain_zoo.training.dataset import DrawCollator
from pretrain_zoo.training.mixture import Component, PhasedDataset


@pytest.fixture(scope="module")
def text():
    """(tokenizer, vocabulary, two corpora that share no document)."""
    return corpus()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("mlm", "span_corruption"), "unlike kinds"),
        (("mlm", "rtd"), "rtd trains a model of its own kind"),
        (("nsp", "clm"), "unlike kinds"),
        (("unilm", "tlm"), "unlike kinds"),
    ],
)
def test_objectives_that_cannot_share_a_model_are_refused(names, reason):
    with pytest.raises(ValueError, match=reason):
        Mixture({name: get_objective(name) for name in names})


def test_losses_of_other_kinds_are_mixed_by_batch_only():
    parts = {"one": get_objective("mlm"), "two": get_objective("diffusion")}
    with pytest.raises(ValueError, match="diffusion has a loss of its own kind; mix them by batch"):
        Mixture(parts, (("one", "two"),))
    assert set(Mixture(parts).terms) == {"mlm", "diffusion"}


def test_unlike_columns_are_mixed_by_batch_only(text):
    first, second = components(text, "denoising", "mass")
    start = text[1].sep_id
    first, second = (
        replace(c, objective=get_objective(c.objective.name, decoder_start_token_id=start)) for c in (first, second)
    )
    with pytest.raises(ValueError, match="a and b have unlike columns .decoder_attention_mask.*; mix them by batch"):
        run_of(text, first, second)
    assert run_of(text, first, second, mixing="batch").objective.architecture == "seq2seq"


def test_causal_rows_see_nothing_ahead_and_masked_rows_everything(text):
    """Gradients of the hidden state at position 1 with respect to the embeddings, on one model."""
    tokenizer, vocabulary, *_ = text
    data = run_of(text, *components(text, "mlm", "clm"))
    model = data.objective.build(backbone("bert-tiny", tokenizer, max_length=64), vocabulary).eval()
    batch = DrawCollator(data.objective, vocabulary)(drawn(data, range(8)))
    component = batch["components_2"]
    assert component.tolist() == [0] * 4 + [1] * 4  # rows come component by component
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    inputs = model.inputs(batch)
    inputs.pop("input_ids")
    hidden = model.main.base_model(inputs_embeds=embeddings, **inputs).last_hidden_state
    (hidden[:, 1] * torch.randn(hidden.shape[-1])).sum().backward()
    seen = embeddings.grad.abs().sum(-1) > 0
    real = batch["attention_mask"].bool()
    assert (seen[4:] == (torch.arange(seen.shape[1]) <= 1)).all()
    assert (seen[:4] == real[:4]).all()


@pytest.mark.parametrize("model", ["llama-tiny", "gpt2-tiny"])
def test_a_causal_model_made_bidirectional_loads_as_such(text, model, tmp_path):
    """Its mask lifted, the stock class reads in both directions, and a causal run made of it does not."""
    tokenizer, vocabulary, *_ = text
    mixture = Mixture({"causal": get_objective("clm"), "masked": get_objective("mlm")})
    trained = mixture.build(backbone(model, tokenizer, max_length=64), vocabulary)
    trained.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    rows = torch.tensor([[6, 7, 8, 9], [6, 7, 8, 10]])

    def first(main, **options) -> torch.Tensor:
        with torch.no_grad():
            return main(input_ids=rows, **options).logits[:, 0]

    assert not torch.allclose(*first(stock))
    assert torch.allclose(
        *first(trained.main.eval(), attention_mask=torch.triu(torch.full((4, 4), -1e9), 1)[None, None])
    )
    causal = get_objective("clm").build(backbone(str(tmp_path), tokenizer), vocabulary)
    assert torch.allclose(*first(causal.main.eval()))


@pytest.mark.parametrize(("model", "languages"), [("bert-tiny", 1), ("xlm-tiny", 1), ("xlm-tiny", 2)])
def test_translations_are_mixed_beside_language_embeddings_and_without(text, model, languages):
    """Positions begin anew only where the backbone tells languages; else the logits are those of plain positions."""
    tokenizer, vocabulary, one, two = text
    pairs = np.arange(len(two)).reshape(-1, 2)
    parallel = replace(two, translations=pairs, languages=np.tile(np.array([0, 1], np.int16), len(pairs)))
    mono = Component("mono", get_objective("mlm"), 32, one, one, (0,))
    both = Component("both", get_objective("tlm"), 32, parallel, parallel, (0, 1), order=1)
    data = run_of(text, mono, both)
    parts = backbone(model, tokenizer, max_length=32, **({"n_langs": 2} if languages > 1 else {}))
    built = data.objective.build(parts, vocabulary).eval()
    batch = DrawCollator(data.objective, vocabulary)(drawn(data, range(8)))
    found = built(**batch, want=("logits",)).outputs["logits"]
    names = ["input_ids", "attention_mask"] + ["position_ids", "langs"] * (languages > 1)
    stock = built.main(**{name: batch[name] for name in names}).logits.flatten(0, 1)[batch["label_positions"]]
    assert torch.allclose(found, stock, atol=1e-5)
    anew = replace(both, objective=get_objective("tlm", reset_positions=True))
    if languages == 1:
        with pytest.raises(ValueError, match="no language embeddings"):
            run_of(text, mono, anew).objective.build(parts, vocabulary)
    else:
        run_of(text, mono, anew).objective.build(parts, vocabulary)


def test_the_last_phase_says_how_a_causal_model_is_exported(text):
    tokenizer, vocabulary, *_ = text
    masked, causal = components(text, "mlm", "clm")
    for parts, lifted in (((masked, causal, masked), True), ((causal, masked, causal), False)):
        phases = [one_phase(str(i), part, 2, 4) for i, part in enumerate(parts)]
        data = PhasedDataset(phases, vocabulary, micro_batches=1)
        assert [part.name for part in data.components] == data.objective.names
        model = data.objective.build(backbone("llama-tiny", tokenizer, max_length=64), vocabulary)
        assert is_lifted(model.config) == lifted
        for step, part in enumerate(parts):
            component = drawn(data, range(step * 8, step * 8 + 4)).draws.component
            assert {data.components[c].name for c in component} == {part.name}


def step_losses(text, names, mixing="example", **settings):
    """(dataset, model, batch, sums, counts, denominators, metrics) of the first step of a run."""
    tokenizer, vocabulary, *_ = text
    data = run_of(text, *components(text, *names), mixing=mixing, **settings)
    torch.manual_seed(0)
    model = data.objective.build(backbone("bert-tiny", tokenizer, max_length=64), vocabulary).double().eval()
    batch = DrawCollator(data.objective, vocabulary)(drawn(data, range(data.global_batch)))
    output, counts = model(**batch), data.objective.counts(batch)
    return data, model, batch, output.sums, counts, data.objective.denominators(counts), output.metrics


def test_losses_by_component_are_those_of_each_alone(text):
    data, model, batch, sums, counts, denominators, metrics = step_losses(text, ("mlm", "clm"), weights=(3, 1))
    columns = [name for name in batch if name.startswith("components_")]
    assert len(columns) == 1
    rows = drawn(data, range(8))
    shares = {}
    for c, (name, objective) in enumerate(data.objective.components.items()):
        own = rows.draws.take(np.flatnonzero(rows.draws.component == c))
        corrupted = objective.corrupt(rows.rows.parts[c], own, text[1])
        ids = torch.from_numpy(corrupted["input_ids"].pad(text[1].pad_id, int(corrupted["input_ids"].lengths.max())))
        total, number = 0.0, 0
        for row in range(len(own)):  # one row at a time, dense, by the stock model
            length = int(corrupted["input_ids"].lengths[row])
            see = torch.zeros(length, length, dtype=torch.float64)
            if objective.name == "clm":
                see = torch.triu(torch.full_like(see, -1e9), 1)
            with torch.no_grad():
                logits = model.main(ids[row : row + 1, :length], attention_mask=see[None, None]).logits[0]
            places, labels = corrupted["label_positions"].row(row), corrupted["label_ids"].row(row)
            losses = -logits.log_softmax(-1)[torch.from_numpy(places), torch.from_numpy(labels)]
            total, number = total + float(losses.sum()), number + len(labels)
        value, count = metrics[f"{name}.{objective.name}_loss"]
        assert (float(value), int(count)) == (pytest.approx(total, rel=1e-6), number)
        assert float(sums[objective.name]) == pytest.approx(total, rel=1e-6) and int(counts[objective.name]) == number
        shares[objective.name] = len(own) / 8
    for term, share in shares.items():  # by the share of the rows: 6 and 2 of 8
        assert float(denominators[term]) == pytest.approx(int(counts[term]) / share)
    assert shares == {"mlm": 0.75, "clm": 0.25}


def test_terms_of_one_name_are_pooled(text):
    """Two corpora of one objective are as one corpus: one sum, one count, as the objective itself computes them."""
    data, model, batch, sums, counts, denominators, metrics = step_losses(text, ("mlm", "mlm"))
    assert set(sums) == {"mlm"} and set(denominators) == {"mlm"}
    alone, own = data.components[0].objective.loss(model.run(batch, None, ()), batch)
    assert float(sums["mlm"]) == pytest.approx(float(alone["mlm"]), rel=1e-12)
    assert int(counts["mlm"]) == int(own["accuracy"][1]) == len(batch["label_ids"])
    both = [metrics[f"{name}.mlm_loss"] for name in "ab"]
    assert sum(float(total) for total, _ in both) == pytest.approx(float(sums["mlm"]), rel=1e-12)


def test_any_division_of_the_batch_gives_the_same_update(tmp_path):
    """Rows of unlike terms in a batch, then turns of unlike losses, in batches of another size."""
    found = {}
    for micro, accumulate in ((32, 1), (8, 4), (16, 2)):
        gradients = Gradients()
        trainer = make_mixed_trainer(tmp_path, micro=micro, accumulate=accumulate, callbacks=(gradients,))
        trainer.train()
        found[micro] = gradients.steps, trainer.state.log_history[:4]
    expected, logs = found.pop(32)
    for steps, history in found.values():
        assert len(steps) == len(expected) == 4
        for step, other in zip(steps, expected, strict=True):
            assert relative_error(step, other) < 1e-12
        for here, there in zip(history, logs, strict=True):
            logged = [name for name in there if name.endswith(("_loss", "accuracy"))]
            assert logged and all("." in name for name in logged)
            assert {name: here[name] for name in logged} == pytest.approx({n: there[n] for n in logged}, rel=1e-9)
