"""Building pretraining models by architecture: encoders made causal, backbones that are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig
from wrapped_models import CONFIGS, batch_for

from pretrain_zoo.models.build_model import build_model
from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.objectives import Vocabulary, get_objective

VOCABULARY = Vocabulary(
    size=40, maskable=np.arange(40) >= 5, random_pool=np.arange(5, 40), mask_id=4, pad_id=0, cls_id=2, sep_id=3
)


def backbone(model_type, **more):
    return Backbone(AutoConfig.for_model(model_type, **CONFIGS[model_type] | more))


def objective_for(architecture, **attributes):
    checked = {"check": lambda vocabulary, config: None, "heads": lambda main, vocabulary: {}}
    return SimpleNamespace(name="toy", architecture=architecture, **checked | attributes)


@pytest.mark.parametrize(
    ("architecture", "model_type", "expected"),
    [
        ("masked_lm", "bert", "BertForMaskedLM"),
        ("causal_lm", "gpt2", "GPT2LMHeadModel"),
        ("seq2seq", "t5", "T5ForConditionalGeneration"),
    ],
)
def test_build_model_by_architecture(architecture, model_type, expected):
    model = build_model(objective_for(architecture), backbone(model_type), VOCABULARY)
    assert type(model.main).__name__ == expected


def test_encoders_become_causal():
    model = get_objective("clm").build(backbone("bert"), VOCABULARY)
    assert model.config.is_decoder
    model.eval()
    ids = batch_for()["input_ids"]
    changed = ids.clone()
    changed[:, 5] = 39 - changed[:, 5] // 2
    first, second = (model.main(input_ids=i).logits for i in (ids, changed))
    assert torch.equal(first[:, :5], second[:, :5]) and not torch.equal(first[:, 5:], second[:, 5:])


def test_build_model_refuses():
    with pytest.raises(ValueError, match="its own kind .'two_towers'. and must override `build`"):
        build_model(objective_for("two_towers"), backbone("bert"), VOCABULARY)
    with pytest.raises(ValueError, match="XLNet is causal only under a permutation mask"):
        build_model(objective_for("causal_lm"), Backbone(AutoConfig.for_model("xlnet")), VOCABULARY)
    without_mask = Vocabulary(size=40, maskable=VOCABULARY.maskable, random_pool=VOCABULARY.random_pool, pad_id=0)
    with pytest.raises(ValueError, match="no mask token"):
        get_objective("mlm").build(backbone("bert"), without_mask)


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("mamba", "linear_attention"),
        ("convbert", "ConvBertForMaskedLM does not heed an attention mask by document"),
        ("deberta-v2", "DebertaV2ForMaskedLM takes no attention mask by document"),
        ("fnet", "FNetForMaskedLM takes no attention mask"),
    ],
)
def test_backbones_that_mix_documents_are_refused(model_type, why):
    architecture = "causal_lm" if model_type == "mamba" else "masked_lm"
    with pytest.raises(ValueError, match=why):
        build_model(objective_for(architecture, document_attention=True), backbone(model_type), VOCABULARY)


def test_backbones_that_keep_to_documents_are_built():
    model = get_objective("clm", document_attention=True).build(backbone("llama"), VOCABULARY)
    assert model.training
