"""Attention within documents: masks and positions by hand, documents as if alone, windows, what is refused."""

import pytest
import torch
from transformers import AutoConfig, GPT2Config
from wrapped_models import CONFIGS, batch_for, build, wrap

from pretrain_zoo.models.attention_masks import document_mask, document_positions, model_masks

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [4, 4, 5, 5, 5, 5, -1, -1]])
SPANS = [(0, 0, 3), (0, 3, 8), (1, 0, 2), (1, 2, 6)]  # row, begin, end


def test_document_mask_by_hand():
    ids = torch.tensor([[0, 0, 1, -1]])
    closed = torch.finfo(torch.float32).min
    both = [[0, 0, closed, closed], [0, 0, closed, closed], [closed, closed, 0, closed], [closed, closed, closed, 0]]
    assert document_mask(ids, torch.float32).tolist() == [[both]]
    both[0][1] = closed
    assert document_mask(ids, torch.float32, causal=True).tolist() == [[both]]
    assert document_positions(torch.tensor([[3, 3, 0, 0, 0, 7], [-1, 2, 2, 2, -1, -1]])).tolist() == [
        [0, 1, 0, 1, 2, 0],
        [0, 0, 1, 2, 0, 1],
    ]


def test_windows_by_hand():
    ids = torch.zeros(1, 4, dtype=torch.long)
    seen = document_mask(ids, torch.float32, causal=True, window=2)[0, 0] == 0
    assert seen.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    seen = document_mask(ids, torch.float32, window=1)[0, 0] == 0
    assert seen.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mistral", "roberta"])
def test_causal_documents_are_as_if_alone(model_type, attn_implementation):
    main = build(model_type, attn_implementation=attn_implementation)
    model, ids = wrap(main, "clm"), batch_for()["input_ids"]
    together = main(**model.inputs({"input_ids": ids, "document_ids": DOCUMENTS})).logits
    assert torch.isfinite(together).all()
    for row, begin, end in SPANS:
        alone = main(input_ids=ids[row : row + 1, begin:end]).logits[0]
        torch.testing.assert_close(together[row, begin:end], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("model_type", "objective"), [("gpt2", "clm"), ("llama", "clm"), ("bert", "mlm")])
def test_no_gradient_crosses_documents(model_type, objective, attn_implementation):
    main = build(model_type, attn_implementation=attn_implementation)
    model, ids = wrap(main, objective), batch_for()["input_ids"]
    embeddings = main.get_input_embeddings()(ids).detach().requires_grad_()
    inputs = model.inputs({"input_ids": ids, "document_ids": DOCUMENTS})
    logits = main(**{k: v for k, v in inputs.items() if k != "input_ids"}, inputs_embeds=embeddings).logits
    for row in range(2):
        for at in range(8):
            (grad,) = torch.autograd.grad(logits[row, at].square().sum(), embeddings, retain_graph=True)
            allowed = DOCUMENTS[row] == DOCUMENTS[row, at]
            if objective == "clm":
                allowed = allowed & (torch.arange(8) <= at)
            assert torch.equal(grad[row].abs().sum(-1) > 0, allowed)
            assert not grad[1 - row].any()


def test_masked_lm_documents_keep_their_windows():
    main = build("modernbert")
    model, ids = wrap(main), batch_for()["input_ids"]
    masks = model.inputs({"input_ids": ids, "document_ids": DOCUMENTS})["attention_mask"]
    assert masks.keys() == {"full_attention", "sliding_attention"}
    together = main(input_ids=ids, attention_mask=masks).logits  # rotary positions: only distances count
    for row, begin, end in SPANS:
        alone = main(input_ids=ids[row : row + 1, begin:end]).logits[0]
        torch.testing.assert_close(together[row, begin:end], alone, rtol=1e-4, atol=1e-5)


def test_masked_lm_positions_do_not_restart():
    assert "position_ids" not in wrap(build("bert")).inputs({"document_ids": DOCUMENTS})


def test_documents_in_half_precision():
    model = wrap(build("llama"), "clm")
    with torch.autocast("cpu", torch.bfloat16):
        sums = model(**batch_for(document_ids=DOCUMENTS)).sums["clm"]
    sums.backward()
    assert torch.isfinite(sums) and all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_masks_are_refused_where_they_do_not_work():
    config = GPT2Config(**CONFIGS["gpt2"])
    config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="needs attn_implementation 'sdpa' or 'eager'"):
        model_masks(config, DOCUMENTS, torch.float32, causal=True)
    mixed = AutoConfig.for_model("neomme")
    mixed._attn_implementation_internal = "sdpa"
    with pytest.raises(ValueError, match="windows of several sizes"):
        model_masks(mixed, DOCUMENTS, torch.float32, causal=False)
