"""FLOPs of a step: counted by hand, by the share of predicted positions, of shared layers."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, GPT2Config
from wrapped_models import CONFIGS, SMALL, build, wrap

from pretrain_zoo.models.flops import flops_per_token
from pretrain_zoo.models.pretraining import PretrainingModel
from pretrain_zoo.objectives import get_objective


def test_flops_of_a_model_counted_by_hand():
    main = AutoModelForCausalLM.from_config(GPT2Config(**CONFIGS["gpt2"]))
    attention = 16 * 48 + 48 + 16 * 16 + 16
    feed_forward = 16 * 64 + 64 + 64 * 16 + 16
    body = 2 * (attention + feed_forward + 4 * 16) + 2 * 16  # two layers, two norms each, a last norm
    assert flops_per_token(main, 10) == 6 * body + 12 * 2 * 16 * 10 + 6 * 16 * 40
    assert flops_per_token(main, 10, predicted=0.0) == 6 * body + 12 * 2 * 16 * 10


def test_flops_count_the_share_of_predicted_positions():
    head = 6 * 16 * 40
    for tied in (True, False):
        main = build("bert", tie_word_embeddings=tied)
        whole = flops_per_token(main, 8)
        assert flops_per_token(wrap(main), 8) == pytest.approx(whole - 0.85 * head)
        model = PretrainingModel(get_objective("mlm", mlm_probability=0.4), main)
        assert flops_per_token(model, 8) == pytest.approx(whole - 0.6 * head)


def test_flops_of_shared_layers_and_heads_of_other_sizes():
    one, twelve = (
        flops_per_token(AutoModelForMaskedLM.from_config(AutoConfig.for_model("albert", **settings)), 8, predicted=0.0)
        for settings in (SMALL | {"embedding_size": 8, "num_hidden_layers": n} for n in (1, 12))
    )
    assert twelve == pytest.approx(12 * one)
    t5 = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **CONFIGS["t5"] | {"d_kv": 4}))
    assert flops_per_token(t5, 9) - flops_per_token(t5, 8) == 12 * 4 * 2 * 4  # four layers, two heads of four
