"""Causal models made bidirectional: masked LM that goes on from a causal checkpoint."""

import copy
from types import SimpleNamespace

import pytest
import torch
from training_runs import text
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from pretrain_zoo.models.bidirectional import is_causal_only, is_lifted, load_bidirectional
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import get_objective

ROW = torch.tensor([[20, 21, 4, 22, 23, 24]])
LABEL = {"label_positions": torch.tensor([2]), "label_ids": torch.tensor([30])}


@pytest.fixture(scope="module", params=["llama-tiny", "gpt2-tiny", "mixtral-tiny"])
def causal(request, tmp_path_factory):
    """(tokenizer with a mask, vocabulary, stock causal model, folder of its checkpoint)."""
    tokenizer, vocabulary, _ = text()
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = get_objective("clm").build(backbone(request.param, tokenizer, max_length=32), vocabulary).main.eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)  # small random weights see hardly anything
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, vocabulary, model, folder


def seen(main, row: torch.Tensor, **options) -> list[bool]:
    """Which tokens the prediction at the third position depends on, by gradient."""
    embedded = main.get_input_embeddings()(row).detach().requires_grad_()
    main(inputs_embeds=embedded, **options).logits[0, 2].square().sum().backward()
    return (embedded.grad[0].abs().sum(-1) > 0).tolist()


def test_masked_lm_on_a_causal_checkpoint_reads_in_both_directions(causal, tmp_path):
    """The checkpoint's weights, its mask gone, but for padding; and what is saved loads so, without code of ours."""
    tokenizer, vocabulary, stock, folder = causal
    assert is_causal_only(stock.config) and not is_lifted(stock.config)
    assert seen(stock, ROW) == [True] * 3 + [False] * 3
    model = get_objective("mlm").build(backbone(str(folder), tokenizer), vocabulary).eval()
    for (name, ours), theirs in zip(model.main.named_parameters(), stock.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    padded = torch.tensor([[1, 1, 1, 1, 0, 0]])
    assert seen(model.main, ROW) == [True] * 6
    assert seen(model.main, ROW, attention_mask=padded) == [True] * 4 + [False] * 2
    found = model(input_ids=ROW, attention_mask=torch.ones_like(ROW), **LABEL, want=("logits",)).outputs["logits"]
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert is_lifted(loaded.config) and seen(loaded, ROW) == [True] * 6
    assert torch.allclose(loaded(input_ids=ROW).logits[0, 2], found[0], atol=1e-5)


def test_architectures_that_are_causal_without_a_mask_are_refused():
    model = MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=1))
    model.train()
    with pytest.raises(ValueError, match="MambaForCausalLM stays causal without its mask"):
        load_bidirectional(SimpleNamespace(load=lambda auto_class: copy.deepcopy(model)))
