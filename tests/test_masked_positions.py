"""Labelled positions only: loss and gradients are those of the full computation, for every class there is."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from pretrain_zoo.models.masked_positions import LabelledRows, hook_point
from pretrain_zoo.models.pretraining import PretrainingModel
from pretrain_zoo.objectives import get_objective

TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "embedding_size": 8,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_decoder_layers": 2,
    **{f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in {"layers": 2, "ffn_dim": 32}.items()},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **dict.fromkeys(
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "attention_dropout", "dropout"), 0.0
    ),
    **dict.fromkeys(("activation_dropout", "classifier_dropout", "dropout_rate", "embd_pdrop", "attn_pdrop"), 0.0),
    "resid_pdrop": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION |= {"image_size": 32, "patch_size": 8}
OWN = {  # settings that only some configs have
    "albert": {"inner_group_num": 1},
    "distilbert": {"hidden_dim": 32},
    "funnel": {"block_sizes": [1, 1], "d_head": 8, "d_inner": 32, "n_head": 2},
    "longformer": {"attention_window": 4},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "mobilebert": {"intra_bottleneck_size": 8},
    "modernvbert": {"image_token_id": 63},
    "neomme": {"head_dim": 16},
    "perceiver": {
        "num_latents": 4,
        "d_latents": 16,
        "num_self_attends_per_block": 1,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
    },
    "reformer": {
        "attention_head_size": 8,
        "axial_pos_shape": [4, 4],
        "axial_pos_embds_dim": [8, 8],
        "feed_forward_size": 32,
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
        "hash_seed": 0,
        "local_attention_probs_dropout_prob": 0.0,
    },
    "rembert": {"input_embedding_size": 8, "output_embedding_size": 8},
    "roc_bert": {
        "pronunciation_vocab_size": 64,
        "shape_vocab_size": 64,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "squeezebert": {"embedding_size": 16},
    "ultravbert": {"image_token_id": 63},
    "xmod": {"default_language": "en_XX"},
}
SINGLE = {
    "longformer": "its softmax is in float32, where the float64 mask overflows and gives NaN",
    "mra": "it casts queries to float32",
}
"""Classes that cannot compute in float64, and why."""


def settings(model_type, **more):
    """Those of `TINY` and `OWN` that this config has."""
    defaults = AutoConfig.for_model(model_type)
    known = set(defaults.to_dict()) | set(defaults.attribute_map)
    found = {k: v for k, v in TINY.items() if k in known} | OWN.get(model_type, {}) | more
    for part, part_settings in (("vision_config", VISION), ("text_config", None)):
        if part in known and model_type.endswith("vbert"):
            kind = getattr(defaults, part).model_type
            found[part] = {"model_type": kind} | (part_settings or settings(kind))
    return found


def build(auto_class, model_type, dtype=torch.float64, **more):
    """A tiny model with weights far from their tiny initial values, so that gradients reach everywhere."""
    torch.manual_seed(0)
    model = auto_class.from_config(AutoConfig.for_model(model_type, **settings(model_type, **more))).to(dtype)
    model.train(model_type == "reformer")  # has no backward pass in evaluation mode
    assert model.num_parameters() < 300_000
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def batch_for(length=16, **columns):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, -3:] = 0
    return {
        "input_ids": torch.randint(5, 60, (2, length), generator=generator),
        "attention_mask": mask,
        "label_positions": torch.tensor([1, 9, 3, length - 1, length, length + 4]),
        "label_ids": torch.tensor([7, 8, 9, -100, 11, 12]),
        **columns,
    }


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def full_computation(model, batch):
    """(loss, gradients, logits) of a stock model that projects every position, the loss taken from its logits."""
    accepted = {k: v for k, v in batch.items() if k in inspect.signature(model.forward).parameters}
    logits = model(**accepted).logits
    rows = logits.reshape(-1, logits.shape[-1])[batch["label_positions"]]
    loss = F.cross_entropy(rows, batch["label_ids"], reduction="sum", ignore_index=-100)
    loss.backward()
    return loss.detach(), gradients(model), logits.detach()


def check(main, batch, tolerance):
    """Wrapping leaves the stock model's own results alone, and gives its loss and gradients from `N` logits."""
    loss, grads, logits = full_computation(main, batch)
    wrapped = PretrainingModel(get_objective("mlm"), main)
    shapes = []
    handle = main.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.logits.shape)))
    result = wrapped(**batch).sums["mlm"]
    handle.remove()
    result.backward()
    assert shapes == [(1, len(batch["label_positions"]), logits.shape[-1])]
    compare(result, gradients(main), loss, grads, tolerance)
    assert torch.equal(full_computation(main, batch)[2], logits)


def compare(result, found, loss, grads, tolerance):
    assert torch.isfinite(loss) and abs(result.item() - loss.item()) <= tolerance * abs(loss.item())
    assert found.keys() == grads.keys()
    for name, expected in grads.items():
        if expected.numel():
            error = (found[name] - expected).abs().max() / expected.abs().max().clamp(min=1)
            assert error <= tolerance, name
    assert sum(bool(g.any()) for g in grads.values()) > len(grads) / 2


@pytest.mark.parametrize("model_type", MODEL_FOR_MASKED_LM_MAPPING_NAMES)
def test_masked_lm_classes(model_type):
    dtype, tolerance = (torch.float32, 1e-5) if model_type in SINGLE else (torch.float64, 1e-9)
    check(build(AutoModelForMaskedLM, model_type, dtype), batch_for(), tolerance)


CAUSAL = ["gpt2", "llama", "mistral", "opt", "gpt_neox", "gpt_neo", "bloom", "qwen2", "phi", "gemma2", "bert", "bart"]


@pytest.mark.parametrize("model_type", CAUSAL)
def test_causal_lm_matches_the_stock_shifted_loss(model_type):
    own = {"bert": {"is_decoder": True}, "gpt_neo": {"attention_types": [[["global", "local"], 1]]}}
    main = build(AutoModelForCausalLM, model_type, **own.get(model_type, {}))
    batch = batch_for()
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    batch["label_positions"] = torch.cat([torch.arange(15), 16 + torch.arange(12)])
    batch["label_ids"] = torch.cat([ids[0, 1:], ids[1, 1:13]])
    labels = ids.masked_fill(~real, -100)
    mean = main(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels).loss.detach()
    loss, expected, _ = full_computation(main, batch)
    if model_type != "bart":  # does not shift its labels
        torch.testing.assert_close(loss, mean.double() * real[:, 1:].sum(), rtol=1e-6, atol=0)  # theirs is in float32
    result = PretrainingModel(get_objective("clm"), main)(**batch).sums["clm"]
    result.backward()
    compare(result, gradients(main), loss, expected, 1e-9)


SEQ2SEQ = ["t5", "mt5", "umt5", "longt5", "switch_transformers", "bart", "mbart", "pegasus", "marian", "blenderbot"]


@pytest.mark.parametrize("model_type", SEQ2SEQ)
def test_encoder_decoders_predict_target_positions(model_type):
    targets = torch.randint(5, 60, (2, 12), generator=torch.Generator().manual_seed(2))
    positions = torch.tensor([0, 1, 11, 12, 20, 23])
    main = build(AutoModelForSeq2SeqLM, model_type)
    check(main, batch_for(decoder_input_ids=targets, label_positions=positions), 1e-9)


def test_a_head_that_reads_other_states_is_refused():
    main = build(AutoModelForSeq2SeqLM, "prophetnet")
    batch = batch_for(decoder_input_ids=torch.randint(5, 60, (2, 16)))
    with pytest.raises(ValueError, match="ProphetNetForConditionalGeneration does not read the last hidden state"):
        PretrainingModel(get_objective("mlm"), main)(**batch)


def test_a_model_without_base_is_refused():
    class Whole(PreTrainedModel):
        base_model_prefix = "body"

    with pytest.raises(ValueError, match="Whole has no base model"):
        hook_point(Whole(AutoConfig.for_model("bert")))


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5"])
def test_the_output_layer_sees_labelled_rows_only(model_type):
    auto_class = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}[model_type]
    main = build(auto_class, model_type)
    wrapped, batch = PretrainingModel(get_objective("mlm"), main), batch_for()
    batch["decoder_input_ids"] = batch["input_ids"]
    seen = []
    main.get_output_embeddings().register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    wrapped(**batch)
    assert seen == [(1, 6, 16)]
    main(**{k: batch[k] for k in ("input_ids", "attention_mask", *["decoder_input_ids"] * (model_type == "t5"))})
    assert seen[1:] == [(2, 16, 16)]


def test_no_labels_in_the_batch():
    wrapped = PretrainingModel(get_objective("mlm"), build(AutoModelForMaskedLM, "bert"))
    batch = batch_for(label_positions=torch.zeros(0, dtype=torch.long), label_ids=torch.zeros(0, dtype=torch.long))
    result = wrapped(**batch).sums["mlm"]
    result.backward()
    assert result.item() == 0
    assert not any(g.any() for g in gradients(wrapped.main).values())


def test_an_error_leaves_no_positions_behind():
    main = build(AutoModelForMaskedLM, "bert")
    wrapped, batch = PretrainingModel(get_objective("mlm"), main), batch_for()
    with pytest.raises(IndexError):
        wrapped(**batch | {"label_positions": torch.tensor([99]), "label_ids": torch.tensor([5])})
    assert main(input_ids=batch["input_ids"]).logits.shape == (2, 16, 64)


def test_hook_handles_tuples():
    hidden, rows = torch.arange(12.0).reshape(2, 3, 2), LabelledRows()
    assert rows(None, (), (hidden, "pooled")) is None
    rows.positions = torch.tensor([4, 0])
    assert rows(None, (), (hidden, "pooled"))[0].tolist() == [[[8, 9], [0, 1]]]
    assert rows(None, (), (hidden, "pooled"))[1] == "pooled"


@pytest.mark.parametrize(("model_type", "backend"), [("bert", "aot_eager"), ("modernbert", "eager"), ("t5", "eager")])
def test_compiled_without_graph_breaks(model_type, backend):
    main = build(AutoModelForSeq2SeqLM if model_type == "t5" else AutoModelForMaskedLM, model_type)
    columns = {"decoder_input_ids": batch_for()["input_ids"]} if model_type == "t5" else {}
    loss, expected, _ = full_computation(main, batch_for(**columns))
    torch._dynamo.reset()
    compiled = torch.compile(PretrainingModel(get_objective("mlm"), main), fullgraph=True, backend=backend)
    result = compiled(**batch_for(**columns)).sums["mlm"]
    result.backward()
    compare(result, gradients(main), loss, expected, 1e-9)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    main = build(AutoModelForMaskedLM, "bert").train()
    loss, expected, _ = full_computation(main, batch_for())
    wrapped = PretrainingModel(get_objective("mlm"), main)
    wrapped.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert all(layer.gradient_checkpointing for layer in main.bert.encoder.layer)
    calls = []
    main.bert.encoder.layer[0].attention.register_forward_hook(lambda *_: calls.append(1))
    result = wrapped(**batch_for()).sums["mlm"]
    result.backward()
    assert len(calls) == 2  # once more in the backward pass
    compare(result, gradients(main), loss, expected, 1e-9)


def test_deep_copies_are_independent():
    wrapped = PretrainingModel(get_objective("mlm"), build(AutoModelForMaskedLM, "bert"))
    twin = copy.deepcopy(wrapped)
    assert twin.rows is not wrapped.rows
    wrapped.rows.positions = torch.tensor([0])  # as in the middle of a pass
    assert twin.main(input_ids=batch_for()["input_ids"]).logits.shape == (2, 16, 64)
    wrapped.rows.positions = None
    with torch.no_grad():
        for weight in wrapped.parameters():
            weight.zero_()
    loss, expected, _ = full_computation(twin.main, batch_for())
    result = twin(**batch_for()).sums["mlm"]
    result.backward()
    compare(result, gradients(twin.main), loss, expected, 1e-9)


def test_around_a_peft_model():
    peft = pytest.importorskip("peft")
    stock = build(AutoModelForMaskedLM, "bert")
    config = peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    main = peft.get_peft_model(stock, config)
    before = {name: weight.clone() for name, weight in main.named_parameters()}
    wrapped = PretrainingModel(get_objective("mlm"), main)
    assert all(torch.equal(weight, before[name]) for name, weight in main.named_parameters())
    wrapped.tie_weights()
    loss, expected, _ = full_computation(main.get_base_model(), batch_for())
    expected = {f"base_model.model.{name}": gradient for name, gradient in expected.items()}
    assert expected and all("lora_" in name for name in expected)
    result = wrapped(**batch_for()).sums["mlm"]
    result.backward()
    compare(result, gradients(main), loss, expected, 1e-9)
