"""Learning rates by layer and weight decay of models for fine-tuning."""

from collections import Counter

import numpy as np
import pytest
from small_models import (
    CLASSES,
    FAMILIES,
    QUESTIONS,
    load,
    trainable,
)
from torch import nn

from pretrain_zoo.models.optimizer_groups import parameter_depths
from pretrain_zoo.models.task_models import (
    optimizer_groups,
)


def rates(model, decay=0.5):
    groups = optimizer_groups(model, 1.0, 0.1, layer_lr_decay=decay)
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_rates_by_hand(checkpoints):
    """ELECTRA's rule for two layers and a decay of 1/2: embeddings 1/16, layers 1/8 and 1/4, pooler 1/2, head 1."""
    found = rates(load(checkpoints("bert"))[1])
    expected = {
        "bert.embeddings": 1 / 16,
        "layer.0.": 1 / 8,
        "layer.1.": 1 / 4,
        "bert.pooler": 1 / 2,
        "classifier": 1.0,
    }
    for name, rate in found.items():
        assert rate == next(value for part, value in expected.items() if part in name), name


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_of_every_family(family, checkpoints):
    for task in (CLASSES, QUESTIONS):
        _, model = load(checkpoints(family), task)
        found = rates(model)
        assert found.keys() == trainable(model)  # each parameter once
        layers = {"albert": 1, "distilbert": 1, "bart": 4, "t5": 4}.get(family, 2)
        embeddings = model.get_input_embeddings().weight
        name = next(name for name, p in model.named_parameters() if p is embeddings)
        assert found[name] == min(found.values()) == 0.5 ** (layers + 2)
        assert {round(-np.log2(rate)) for rate in found.values()} >= {0, *range(2, layers + 3)}
        assert all(
            found[n] == 1.0 for n in found if n.split(".")[0] in ("classifier", "score", "qa_outputs", "logits_proj")
        )


def test_special_places(checkpoints):
    deberta, modernbert = (rates(load(checkpoints(f))[1]) for f in ("deberta-v3", "modernbert"))
    assert deberta["deberta.encoder.rel_embeddings.weight"] == deberta["deberta.encoder.LayerNorm.weight"] == 1 / 16
    assert modernbert["model.final_norm.weight"] == 1 / 2
    depths = parameter_depths(load(checkpoints("t5"))[1])
    assert depths["transformer.encoder.final_layer_norm.weight"] == 2
    assert depths["transformer.decoder.block.0.layer.0.SelfAttention.q.weight"] == 3
    assert depths["transformer.decoder.final_layer_norm.weight"] == 5
    adapted = rates(load(checkpoints("bert"), peft="lora")[1])
    assert {name.split(".layer.")[1][0]: rate for name, rate in adapted.items() if "lora_A" in name} == {
        "0": 1 / 8,
        "1": 1 / 4,
    }
    for decay in (0.0, 1.5):
        with pytest.raises(ValueError, match="--layer_lr_decay must be above 0 and at most 1"):
            rates(load(checkpoints("bert"))[1], decay)


@pytest.mark.parametrize("family", ["bert", "xlnet", "llama", "t5"])
def test_what_decays(family, checkpoints):
    """Matrices of Linear and Embedding layers decay; norms and biases do not."""
    _, model = load(checkpoints(family))
    decays = {id(p): g["weight_decay"] for g in optimizer_groups(model, 1e-3, 0.1) for p in g["params"]}
    for module in model.modules():
        kind = (
            0.1 if isinstance(module, (nn.Linear, nn.Embedding)) else 0.0 if "Norm" in type(module).__name__ else None
        )
        if kind is not None and getattr(module, "weight", None) is not None:
            assert decays[id(module.weight)] == kind
        if getattr(module, "bias", None) is not None:
            assert decays[id(module.bias)] == 0.0
    assert Counter(group["lr"] for group in optimizer_groups(model, 1e-3, 0.1)) == {1e-3: 2}
