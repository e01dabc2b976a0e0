"""Embeddings that generator and discriminator share, wholly or without gradients (GDES), or do not share."""

import copy

import pytest
import torch
from replaced_token_models import OUTPUTS, batch_of, config, make_vocabulary, model_of, randomized, rows
from transformers import AutoModelForMaskedLM

from pretrain_zoo.models.generator_discriminator import GeneratorDiscriminator
from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.models.tied_embeddings import DeltaEmbedding, copy_embeddings
from pretrain_zoo.objectives import get_objective


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


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
