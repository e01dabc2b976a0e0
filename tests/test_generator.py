"""Generators of replaced-token detection: sampling from their logits, and their sizes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from replaced_token_models import config, make_vocabulary, model_of
from transformers import AutoConfig

from pretrain_zoo.models.generator import generator_config, sample_tokens
from pretrain_zoo.objectives import get_objective


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


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
