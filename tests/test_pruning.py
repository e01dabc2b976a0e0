"""Pruning: rows that go are the right ones, what is left computes the same, and checkpoints load."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers import AutoModelForSequenceClassification as Classifier

from pretrain_zoo.models import pruning
from pretrain_zoo.models.compressed import NOTE, load_compressed, save_compressed
from pretrain_zoo.models.int8_linear import Int8Linear, linear_layers, quantize_dynamic

SIZE, HEADS, NEURONS = 40, 4, 24
AUTO = {"gpt2": AutoModelForCausalLM, "llama": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}
AUTO["bart"] = AutoModelForSeq2SeqLM


def config(kind, **more):
    if kind == "t5":
        settings = {"d_model": 16, "d_kv": 4, "d_ff": NEURONS, "num_layers": 2, "num_heads": HEADS}
        return AutoConfig.for_model("t5", vocab_size=SIZE, decoder_start_token_id=0, **settings | more)
    if kind == "bart":
        stack = {"layers": 2, "attention_heads": HEADS, "ffn_dim": NEURONS}
        both = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in stack.items()}
        return AutoConfig.for_model("bart", vocab_size=SIZE, d_model=16, max_position_embeddings=20, **both | more)
    settings = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    settings |= {"intermediate_size": NEURONS, "max_position_embeddings": 20, "pad_token_id": 0}
    settings |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    if kind == "deberta-v2":
        settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}
    if kind == "distilbert":
        settings |= {"hidden_dim": NEURONS}
    if kind == "gpt2":
        settings["n_inner"] = NEURONS
    if kind == "llama":
        settings["num_key_value_heads"] = 2
    return AutoConfig.for_model(kind, **settings | more)


def model(kind, auto=None, **more):
    torch.manual_seed(0)
    made = (auto or AUTO.get(kind, AutoModelForMaskedLM)).from_config(config(kind, **more)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def logits(made):
    ids = torch.randint(3, SIZE, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if made.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        return made(**inputs).logits[mask == 1]


def silence(groups, units):
    """Zero what goes out of these units: the model without them, at its old size."""
    for group, gone in zip(groups, units, strict=True):
        weight = pruning.weight_rows(group.output).data
        size = weight.shape[1] // group.count
        for unit in gone:
            weight[:, unit * size : (unit + 1) * size] = 0


def gone(groups, share):
    left = round(groups[0].count * (1 - share))
    return [sorted(pruning.magnitude(g).argsort(descending=True)[left:].tolist()) for g in groups]


@pytest.mark.parametrize("kind", [*pruning.NEURONS, "t5-gated"])
def test_neurons_that_go_are_silent_ones(kind, tmp_path):
    more = {"feed_forward_proj": "gated-gelu"} if kind == "t5-gated" else {}
    kind = kind.removesuffix("-gated")
    whole = model(kind, **more)
    groups = pruning.neuron_groups(whole)
    assert {group.count for group in groups} == {NEURONS}
    assert len(groups) == {"albert": 1, "t5": 4, "bart": 4}.get(kind, 2)
    small = copy.deepcopy(whole)
    silence(groups, gone(groups, 0.5))
    assert pruning.prune_neurons(small, 0.5) == NEURONS // 2
    torch.testing.assert_close(logits(small), logits(whole), rtol=1e-4, atol=1e-5)
    assert small.num_parameters() < whole.num_parameters()
    assert save_compressed(small, tmp_path)
    auto = AUTO.get(kind, AutoModelForMaskedLM)
    again, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"] and not report["unexpected_keys"]
    assert torch.equal(logits(again.eval()), logits(small))


@pytest.mark.parametrize("kind", list(pruning.HEADS))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_heads_that_go_are_silent_ones(kind, attention, tmp_path):
    whole = model(kind)
    whole.set_attn_implementation(attention)
    groups = pruning.head_groups(whole)
    assert [group.count for group in groups] == [HEADS, HEADS]
    small = copy.deepcopy(whole)
    silence(groups, gone(groups, 0.25))
    assert pruning.prune_heads(small, 0.25) == 3
    torch.testing.assert_close(logits(small), logits(whole), rtol=1e-4, atol=1e-5)
    pruning.prune_neurons(small, 0.5)
    assert not save_compressed(small, tmp_path)
    again = load_compressed(tmp_path)
    assert torch.equal(logits(again), logits(small)) or torch.allclose(logits(again), logits(small), atol=1e-6)
    assert again.num_parameters() == small.num_parameters()
    with pytest.raises(OSError, match="model.safetensors"):  # rather than read wrongly
        AUTO.get(kind, AutoModelForMaskedLM).from_pretrained(tmp_path)


def test_a_head_pruned_model_trains():
    small = model("bert", Classifier, num_labels=3)
    pruning.prune_heads(small, 0.5)
    small.train()
    loss = small(input_ids=torch.ones(2, 5, dtype=torch.long), labels=torch.tensor([0, 2])).loss
    loss.backward()
    assert all(p.grad is not None for n, p in small.named_parameters() if "attention" in n)


def test_magnitude_by_loops():
    whole = model("bert")
    layer = whole.bert.encoder.layer[1]
    incoming, outgoing = layer.intermediate.dense.weight, layer.output.dense.weight
    by_hand = [incoming[i].norm() * outgoing[:, i].norm() for i in range(NEURONS)]
    torch.testing.assert_close(pruning.magnitude(pruning.neuron_groups(whole)[1]), torch.stack(by_hand))
    value, dense = layer.attention.self.value.weight, layer.attention.output.dense.weight
    by_hand = [value[i : i + 4].norm() * dense[:, i : i + 4].norm() for i in range(0, 16, 4)]
    torch.testing.assert_close(pruning.magnitude(pruning.head_groups(whole)[1]), torch.stack(by_hand))


def test_fused_projections_are_cut_in_each_part():
    whole = model("modernbert")
    fused = whole.model.layers[0].attn.Wqkv.weight.detach().clone()
    (group, _) = pruning.head_groups(whole)
    value = fused[32:]
    by_hand = torch.stack([value[i : i + 4].norm() for i in range(0, 16, 4)])
    outgoing = torch.stack([group.output.weight[:, i : i + 4].norm() for i in range(0, 16, 4)])
    torch.testing.assert_close(pruning.magnitude(group), by_hand * outgoing)
    group.keep(torch.tensor([1, 3]))
    rows = [part * 16 + head * 4 + i for part in range(3) for head in (1, 3) for i in range(4)]
    assert torch.equal(whole.model.layers[0].attn.Wqkv.weight, fused[rows])


def test_first_order_importance_is_the_derivative_by_a_gate():
    """The same by a gate of one on each neuron's activation."""
    whole = model("bert", Classifier, num_labels=3)
    gates = [torch.ones(NEURONS, requires_grad=True) for _ in range(2)]
    for layer, gate in zip(whole.bert.encoder.layer, gates, strict=True):
        layer.intermediate.register_forward_hook(lambda module, args, out, gate=gate: out * gate)
    with pytest.raises(ValueError, match="backward"):
        pruning.first_order(pruning.neuron_groups(whole)[0])
    ids = torch.randint(3, SIZE, (4, 6), generator=torch.Generator().manual_seed(0))
    whole(input_ids=ids, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    for group, gate in zip(pruning.neuron_groups(whole), gates, strict=True):
        torch.testing.assert_close(pruning.first_order(group), gate.grad.abs(), rtol=1e-4, atol=1e-7)


def test_given_importance_decides():
    small = model("bert")
    before = small.bert.encoder.layer[0].intermediate.dense.weight.detach().clone()
    scores = [torch.arange(NEURONS).float(), -torch.arange(NEURONS).float()]
    pruning.prune_neurons(small, 0.75, scores)
    assert torch.equal(small.bert.encoder.layer[0].intermediate.dense.weight, before[NEURONS - 6 :])


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_smallest_weights_become_zero(kind):
    whole = model(kind)
    before = {name: layer.weight.detach().clone() for name, layer in linear_layers(whole).items()}
    rest = {n: p.detach().clone() for n, p in whole.named_parameters() if n.removesuffix(".weight") not in before}
    everywhere, by_layer = copy.deepcopy(whole), copy.deepcopy(whole)
    assert pruning.prune_weights(everywhere, 0.6) == pytest.approx(0.6, abs=1e-3)
    limit = torch.cat([w.abs().flatten() for w in before.values()]).quantile(0.6)
    for name, layer in linear_layers(everywhere).items():
        assert torch.equal(layer.weight, torch.where(before[name].abs() > limit, before[name], 0))
        assert isinstance(layer.weight, torch.nn.Parameter) and not layer._forward_pre_hooks
    assert all(torch.equal(p, rest[n]) for n, p in everywhere.named_parameters() if n in rest)
    pruning.prune_weights(by_layer, 0.6, "layer")
    for layer in linear_layers(by_layer).values():
        assert (layer.weight == 0).float().mean().item() == pytest.approx(0.6, abs=0.02)
    assert everywhere.get_output_embeddings().weight is everywhere.get_input_embeddings().weight


def test_refusals():
    with pytest.raises(ValueError, match="roformer"):
        pruning.prune_neurons(model("roformer"), 0.5)
    with pytest.raises(ValueError, match="attention heads"):
        pruning.prune_heads(model("deberta-v2"), 0.5)
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            pruning.prune_neurons(model("bert"), share)
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            pruning.prune_weights(model("bert"), share)
    with pytest.raises(ValueError, match="'global' or 'layer'"):
        pruning.prune_weights(model("bert"), 0.5, "row")


# int8


@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 32)])
def test_int8_layers_against_exact_arithmetic(shape):
    torch.manual_seed(0)
    linear, inputs = torch.nn.Linear(32, 12), torch.randn(shape)
    quantized = Int8Linear.of(linear)
    weight = quantized.weight.double() * quantized.scale.double()[:, None]
    assert (weight - linear.weight).abs().max() <= quantized.scale.max() / 2 * 1.001
    assert quantized.weight.abs().amax(1).eq(127).all()  # each row uses the whole range
    low, high = min(inputs.min().item(), 0), max(inputs.max().item(), 0)
    step = (high - low) / 127
    exact = inputs.double() @ weight.T + linear.bias.double()
    # an input is off by half a step at most (a whole one where the zero is rounded)
    bound = step * weight.abs().sum(1)
    found = quantized(inputs)
    assert found.shape == (*shape[:-1], 12) and ((found - exact).abs() <= bound).all()
    assert (found - exact).abs().mean() < 0.1 * exact.std()


@pytest.mark.parametrize("kind", ["bert", "modernbert", "gpt2", "t5", "distilbert"])
def test_int8_models_are_close_and_come_back_the_same(kind, tmp_path):
    whole = model(kind)
    small = copy.deepcopy(whole)
    names = quantize_dynamic(small)
    assert set(names) == set(linear_layers(whole)) and len(names) >= 8
    close = torch.nn.functional.cosine_similarity(logits(small), logits(whole)).mean()
    assert 0.9 < close < 0.999999
    assert not save_compressed(small, tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert NOTE in files and not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    again = load_compressed(tmp_path)
    assert torch.equal(logits(again), logits(small))
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight or kind == "t5"
    with pytest.raises(OSError, match="model.safetensors"):
        AUTO.get(kind, AutoModelForMaskedLM).from_pretrained(tmp_path)


def test_int8_with_fewer_heads_and_a_task(tmp_path):
    small = model("bert", Classifier, num_labels=3)
    pruning.prune_heads(small, 0.5)
    quantize_dynamic(small)
    save_compressed(small, tmp_path)
    again = load_compressed(tmp_path)
    assert type(again) is type(small) and again.config.num_labels == 3
    ids = torch.ones(2, 5, dtype=torch.long)
    assert torch.equal(again(input_ids=ids).logits, small(input_ids=ids).logits)


def test_folders_that_are_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        load_compressed(tmp_path)
    small = model("bert")
    quantize_dynamic(small)
    save_compressed(small, tmp_path)
    (tmp_path / NOTE).write_text('{"architecture": "system", "heads": null, "int8": []}')
    with pytest.raises(ValueError, match="no architecture"):
        load_compressed(tmp_path)
    (tmp_path / NOTE).write_text('{"architecture": "BertForMaskedLM", "heads": null, "int8": []}')
    with pytest.raises(ValueError, match="does not fit"):
        load_compressed(tmp_path)
