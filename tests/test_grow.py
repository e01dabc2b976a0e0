"""Larger models from smaller ones: outputs that stay, copies that grow apart, layers that are named, refusals."""

import pytest
import torch
from test_pruning import SIZE, logits, model
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from pretrain_zoo.models.grow import WIDTHS, wider, with_layers
from pretrain_zoo.scripts.grow import main


@pytest.mark.parametrize("kind", list(WIDTHS))
@pytest.mark.parametrize("factor", [2, 3])
def test_wider_models_compute_the_same(kind, factor):
    small = model(kind)
    large = wider(small, factor)
    assert large.config.hidden_size == factor * small.config.hidden_size
    torch.testing.assert_close(logits(large), logits(small), rtol=1e-3, atol=1e-4)
    if kind != "electra":  # whose embeddings keep their width
        assert large.get_input_embeddings().weight.shape == (SIZE, factor * 16)


def test_wider_classifiers_compute_the_same():
    small = model("bert", AutoModelForSequenceClassification, num_labels=3)
    ids = torch.randint(3, SIZE, (2, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(wider(small, 2)(ids).logits, small(ids).logits, rtol=1e-3, atol=1e-4)


def test_copies_get_unlike_gradients():
    large = wider(model("bert"), 2)
    large(input_ids=torch.arange(3, 9)[None], labels=torch.arange(3, 9)[None]).loss.backward()
    gradient = large.bert.encoder.layer[0].intermediate.dense.weight.grad
    one, other = gradient.chunk(2)
    assert (one - other).norm() > 0.1 * one.norm()


@pytest.mark.parametrize("kind", ["bert", "modernbert", "gpt2"])
def test_deeper_models_are_the_layers_named(kind):
    small = model(kind)
    same = with_layers(small, (0, 1))
    assert torch.equal(logits(same), logits(small))
    if kind == "modernbert":  # its first layer lacks a norm that the others have
        with pytest.raises(ValueError, match="attn_norm"):
            with_layers(small, (0, 1, 0, 1))
        return
    large = with_layers(small, (0, 1, 0, 1))
    assert large.config.num_hidden_layers == 4
    stack = large.transformer.h if kind == "gpt2" else large.bert.encoder.layer
    source = small.transformer.h if kind == "gpt2" else small.bert.encoder.layer
    for i, layer in enumerate(stack):
        ours, theirs = layer.state_dict(), source[i % 2].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_refusals():
    with pytest.raises(ValueError, match="t5 cannot be made wider"):
        wider(model("t5"), 2)
    with pytest.raises(ValueError, match="2 or more"):
        wider(model("bert"), 1)
    with pytest.raises(ValueError, match="no layer 2"):
        with_layers(model("bert"), (0, 2))


def test_command_line(tmp_path, wordpiece_tokenizer, capsys):
    model("bert").save_pretrained(tmp_path / "small")
    wordpiece_tokenizer.save_pretrained(tmp_path / "small")
    command = [str(tmp_path / "small"), "--output_dir", str(tmp_path / "large")]
    assert main([*command, "--layers", "0,1,1", "--width", "2"]) == 0
    large, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "large", output_loading_info=True)
    assert not report["missing_keys"] and (large.config.num_hidden_layers, large.config.hidden_size) == (3, 32)
    AutoTokenizer.from_pretrained(tmp_path / "large")
    assert main(command) == 2 and "nothing is to be done" in capsys.readouterr().err
    assert main([*command, "--layers", "0,7"]) == 2
