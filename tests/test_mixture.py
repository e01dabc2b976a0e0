"""Mixtures: quotas, shares, one model for several objectives, losses by component."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_texts
from training_runs import Gradients, make_mixed_trainer, relative_error
from transformers import AutoModelForCausalLM

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Mixture, Vocabulary, get_objective
from pretrain_zoo.training.dataset import DrawCollator
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.mixed_evaluation import MixedEvaluationDataset
from pretrain_zoo.training.mixture import Component, Phase, PhasedDataset
from pretrain_zoo.training.quotas import Quotas, Weights
from pretrain_zoo.training.tokenizer import train_tokenizer

LENGTH = 16


@pytest.fixture(scope="module")
def text():
    """(tokenizer, vocabulary, two corpora that share no document)."""
    texts = make_texts(120)
    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=200)
    documents = encode(tokenizer.backend_tokenizer, texts)
    halves = documents.select(np.arange(90)), documents.select(np.arange(90, 120))
    return tokenizer, Vocabulary.from_tokenizer(tokenizer), *halves


def components(text, *names: str, length: int = LENGTH) -> tuple[Component, ...]:
    """Components a, b, … of these objectives, on the first corpus and the second in turn."""
    _, _, *halves = text
    return tuple(
        Component("abc"[i], get_objective(name), length, halves[i % 2], halves[1 - i % 2], order=i)
        for i, name in enumerate(names)
    )


def run_of(text, *parts: Component, weights=(1, 1), steps=4, rows=8, mixing="example", micro_batches=1, **more):
    shares = Weights(tuple(map(float, weights)), tuple(map(float, weights)), **more)
    phase = Phase("only", steps, rows, parts, shares, mixing)
    return PhasedDataset([phase], text[1], micro_batches=micro_batches, seed=3)


# shares and quotas


def test_temperature_by_hand():
    """q ∝ p^α: sizes 800, 150, 50 at α = ½ give √800, √150, √50 over their sum."""
    roots = np.sqrt([800, 150, 50])
    weights = Weights((1, 1, 1), (1, 1, 1), (800, 150, 50), ("mlm",) * 3, (0.5, 0.5))
    np.testing.assert_allclose(weights.at(np.array([0.0, 0.7])), [roots / roots.sum()] * 2)
    np.testing.assert_allclose(
        Weights((1, 1), (1, 1), (900, 100), ("mlm",) * 2, (1.0, 0.0)).at(np.array([0.0, 0.5, 1.0])),
        [[0.9, 0.1], [0.75, 0.25], [0.5, 0.5]],  # 30 : 10 half way
    )


def test_sizes_spread_the_weight_of_one_objective_only():
    """Three parts of mlm to one of tlm: sizes 16 : 4 at α = ½ give mlm's 3 parts as 2 : 1, and leave tlm's."""
    weights = Weights((1, 2, 1), (1, 2, 1), (16, 1, 999), ("mlm", "mlm", "tlm"), (0.5, 0.5))
    np.testing.assert_allclose(weights.at(np.zeros(1)), [[0.5, 0.25, 0.25]])  # 1·4 : 2·1 of three quarters


def test_weights_move_in_a_straight_line():
    weights = Weights((1.0, 0.0), (0.0, 1.0))
    np.testing.assert_allclose(weights.at(np.array([0.0, 0.25, 1.0])), [[1, 0], [0.75, 0.25], [0, 1]])


@pytest.mark.parametrize("bad", [((0.0, 0.0), (1.0, 1.0)), ((1.0,), (0.0,)), ((-1.0, 2.0), (1.0, 1.0))])
def test_weights_that_are_all_zero_or_negative_are_refused(bad):
    with pytest.raises(ValueError, match="must not all be 0|0 or more"):
        Weights(*bad)


def test_every_block_holds_whole_quotas_exactly():
    quotas = Quotas(np.tile([0.5, 0.3, 0.2], (6, 1)), 20, np.array([7], np.uint64))
    component, before = quotas.locate(np.arange(120))
    for block in component.reshape(6, 20):
        assert np.bincount(block).tolist() == [10, 6, 4]
    assert len({tuple(block) for block in component.reshape(6, 20).tolist()}) == 6  # each shuffled anew
    for c in range(3):
        assert np.sort(before[component == c]).tolist() == list(range((component == c).sum()))


def test_broken_quotas_are_rounded_and_even_out():
    shares = np.array([0.07, 0.31, 0.62])
    quotas = Quotas(np.tile(shares, (500, 1)), 8, np.array([1], np.uint64))
    component, before = quotas.locate(np.arange(4000))
    counts = np.stack([np.bincount(block, minlength=3) for block in component.reshape(500, 8)])
    assert (counts >= np.floor(8 * shares)).all() and (counts <= np.ceil(8 * shares)).all()
    np.testing.assert_allclose(np.cumsum(counts, 0), np.outer(np.arange(1, 501) * 8, shares), atol=5)
    for c in range(3):
        assert np.array_equal(np.sort(before[component == c]), np.arange((component == c).sum()))
    for units in (0, 1, 8, 13, 4000):
        assert quotas.used(units).tolist() == np.bincount(component[:units], minlength=3).tolist()


def test_shares_that_move_are_followed_block_by_block():
    shares = np.stack([np.linspace(1, 0, 10), np.linspace(0, 1, 10)], 1)
    component, _ = Quotas(shares, 9, np.array([1], np.uint64)).locate(np.arange(90))
    assert component.reshape(10, 9).sum(1).tolist() == list(range(10))  # 9 · i / 9


def test_a_location_depends_on_its_number_alone():
    quotas = Quotas(np.tile([0.4, 0.6], (9, 1)), 10, np.array([5], np.uint64))
    whole = quotas.locate(np.arange(90))
    some = np.array([88, 3, 41, 3])
    for all_of, found in zip(whole, quotas.locate(some)):
        assert np.array_equal(all_of[some], found)


# draws


def drawn(dataset, numbers):
    return dataset.__getitems__(list(numbers))


def test_draws_are_of_their_component_and_visit_each_example_once_an_epoch(text):
    a, b = components(text, "mlm", "clm")
    data = run_of(text, a, b, weights=(3, 1), steps=40)
    draws = drawn(data, range(len(data))).draws
    for c, part in enumerate((a, b)):
        own = draws.take(np.flatnonzero(draws.component == c))
        size = len(part.objective.plan(part.train, text[1], length=LENGTH, seed=0, epoch=0, global_batch=8))
        assert len(own) == len(data) * (3, 1)[c] // 4
        for epoch in range(int(own.epoch.max())):  # complete ones
            assert np.array_equal(np.sort(own.example[own.epoch == epoch]), np.arange(size))
    assert draws.number.tolist() == list(range(len(data)))


def test_a_source_that_runs_out_begins_anew_in_another_order(text):
    (a,) = components(text, "mlm")
    data = run_of(text, a, weights=(1,), steps=100, rows=16)
    draws = drawn(data, range(len(data))).draws
    first, second = (draws.example[draws.epoch == epoch] for epoch in (0, 1))
    assert sorted(first) == sorted(second) and first.tolist() != second.tolist()


def test_all_draws_of_a_step_are_of_one_component_if_mixed_by_batch(text):
    data = run_of(text, *components(text, "mlm", "clm"), weights=(1, 3), steps=40, mixing="batch", micro_batches=2)
    draws = [drawn(data, range(i * 16, i * 16 + 16)).draws for i in range(40)]
    steps = np.array([d.component[0] for d in draws])
    assert all((d.component == d.component[0]).all() for d in draws)
    assert np.bincount(steps[:32]).tolist() == [8, 24]  # a block of 32 steps


def test_the_same_draws_in_any_batches_and_workers(text):
    data = run_of(text, *components(text, "mlm", "clm"), steps=6)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - what a spawned worker gets
    collate = DrawCollator(data.objective, text[1])
    for begin in range(0, 48, 8):
        one, other = collate(drawn(data, range(begin, begin + 8))), collate(drawn(copy, range(begin, begin + 8)))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        rows = [drawn(data, [n]).draws for n in range(begin, begin + 8)]
        whole = drawn(data, range(begin, begin + 8)).draws
        assert [int(row.key[0]) for row in rows] == whole.key.tolist()


def test_components_on_one_corpus_read_it_in_orders_of_their_own(text):
    a, b = components(text, "mlm", "clm")
    data = run_of(text, a, replace(b, train=a.train), steps=20)
    draws = drawn(data, range(160)).draws
    orders = [draws.example[draws.component == c][:40].tolist() for c in (0, 1)]
    assert orders[0] != orders[1]


# what can be mixed


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


def test_streams_are_refused(text):
    (a,) = components(text, "recurrent_clm")
    with pytest.raises(ValueError, match="a: recurrent_clm reads its text in streams"):
        run_of(text, a, weights=(1,))


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


# losses


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


def test_held_out_rows_of_each_component_once(text):
    data = run_of(text, *components(text, "mlm", "clm"), weights=(3, 1))
    held_out = MixedEvaluationDataset(data, max_rows=10, seed=1)
    batches = [batch for group in held_out.batches(4) for batch in group]
    assert sorted(n for batch in batches for n in batch) == list(range(20))
    for batch in batches:
        assert len(set(held_out.__getitems__(batch).draws.component.tolist())) == 1
    means = {"a.mlm_loss": 4.0, "b.clm_loss": 8.0}
    assert held_out.after(2).loss_of(means, data.objective.terms, 0.5) == pytest.approx(0.75 * 4 + 0.25 * 8)


def test_rows_of_one_language_say_which(text):
    """XLM adds the embedding of the language to every token, of monolingual rows too."""
    tokenizer, vocabulary, one, two = text
    pairs = np.arange(len(two)).reshape(-1, 2)
    parallel = replace(two, translations=pairs, languages=np.tile(np.array([0, 1], np.int16), len(pairs)))
    mono = Component("ko", get_objective("mlm"), LENGTH, one, one, (2,))
    both = Component("tlm", get_objective("tlm"), 32, parallel, parallel, (2, 0), order=1)
    for mixing in ("example", "batch"):
        data = run_of(text, mono, both, mixing=mixing, steps=8)
        collate = DrawCollator(data.objective, vocabulary)
        seen = set()
        for step in range(8):
            batch = collate(drawn(data, range(step * 8, step * 8 + 8)))
            name = next(name for name in batch if name.startswith("components_"))
            for c, langs, places, mask in zip(
                batch[name].tolist(), batch["langs"], batch.get("position_ids", batch["langs"]), batch["attention_mask"]
            ):
                seen.add(c)
                length = int(mask.sum())
                assert set(langs[:length].tolist()) == ({2} if c == 0 else {0, 2})
                if mixing == "example" and c == 0:
                    assert places[:length].tolist() == list(range(length))
        assert seen == {0, 1}
