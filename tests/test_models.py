"""The pretraining model: wrapping, documents, checkpoints, building, FLOPs."""

import copy
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForPreTraining,
    GPT2Config,
)

from pretrain_zoo.models.attention_masks import document_mask, document_positions, model_masks
from pretrain_zoo.models.flops import flops_per_token
from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.models.pretraining import HEADS_FILE, PretrainingModel, build_model
from pretrain_zoo.objectives import Vocabulary, get_objective

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32, "max_position_embeddings": 32}
CONFIGS = {
    "bert": SMALL | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "modernbert": SMALL | {"local_attention": 4, "pad_token_id": 0, "global_attn_every_n_layers": 2},
    "gpt2": {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    | dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
    "llama": SMALL | {"num_key_value_heads": 1},
    "mistral": SMALL | {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 3},
    "roberta": SMALL | {"is_decoder": True, "pad_token_id": 1},
    "mobilebert": SMALL | {"embedding_size": 8, "intra_bottleneck_size": 8},
    "t5": {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
    "mamba": {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1},
    "convbert": SMALL | {"embedding_size": 16},
    "deberta-v2": SMALL,
    "fnet": SMALL,
}
AUTO = dict.fromkeys(CONFIGS, AutoModelForMaskedLM) | {"t5": AutoModelForSeq2SeqLM}
AUTO |= dict.fromkeys(("gpt2", "llama", "mistral", "roberta", "mamba"), AutoModelForCausalLM)


def build(model_type, seed=0, attn_implementation=None, auto_class=None, **more):
    torch.manual_seed(seed)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type] | more)
    model = (auto_class or AUTO[model_type]).from_config(config, **options).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def wrap(main, objective="mlm", **heads):
    return PretrainingModel(get_objective(objective), main, heads)


def batch_for(**columns):
    ids = torch.randint(5, 40, (2, 8), generator=torch.Generator().manual_seed(3))
    positions, labels = torch.tensor([1, 6, 9]), torch.tensor([5, 6, 7])
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "label_positions": positions, "label_ids": labels, **columns}


class Pooled(nn.Module):
    """A head on the first position."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(16, 3)

    def forward(self, outputs, batch):
        return self.dense(outputs["hidden"][:, 0])


# wrapping


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_wrapping_changes_neither_weights_nor_config(attn_implementation):
    main, head = build("bert", attn_implementation=attn_implementation), Pooled()
    before = copy.deepcopy([main.state_dict(), head.state_dict(), main.config.to_dict()])
    model = wrap(main, pooled=head)
    after = [main.state_dict(), head.state_dict()]
    assert all(torch.equal(new[k], old[k]) for new, old in zip(after, before, strict=False) for k in old)
    assert model.config is main.config
    assert main.config.to_dict() == before[2]
    assert main.config._attn_implementation == attn_implementation


def test_loaded_weights_survive_wrapping(tmp_path):
    build("bert").save_pretrained(tmp_path)
    main = AutoModelForMaskedLM.from_pretrained(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    wrap(main)
    assert all(torch.equal(main.state_dict()[name], value) for name, value in expected.items())


def test_it_answers_for_its_main_model():
    main = build("bert")
    model = wrap(main, pooled=Pooled())
    assert model.get_input_embeddings() is main.bert.embeddings.word_embeddings
    assert model.get_output_embeddings() is main.cls.predictions.decoder
    assert model.all_tied_weights_keys == {f"main.{k}": f"main.{v}" for k, v in main.all_tied_weights_keys.items()}
    assert {"BertLayer"} <= model._no_split_modules
    assert not model.can_generate()
    main.cls.predictions.decoder.weight = nn.Parameter(torch.zeros(40, 16))
    model.tie_weights()
    assert main.cls.predictions.decoder.weight is main.bert.embeddings.word_embeddings.weight
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
    model.resize_token_embeddings(48)
    assert model(**batch_for(), want=("logits",)).outputs["logits"].shape == (3, 48)


def test_outputs_by_name():
    model = wrap(build("bert"), pooled=Pooled())
    output = model(**batch_for(), want=("hidden", "pooled", "hidden_states", "logits"))
    assert set(output.outputs) == {"hidden", "pooled", "hidden_states", "logits"}
    assert torch.equal(output.outputs["hidden"], output.outputs["hidden_states"][-1])
    assert torch.equal(output.outputs["pooled"], model.heads["pooled"].dense(output.outputs["hidden"][:, 0]))
    total, count = output.metrics["accuracy"]
    assert not total.requires_grad and count == 3
    assert output.carry is None and model(**batch_for()).outputs is None
    with pytest.raises(ValueError, match="no output 'soul'; it has hidden, logits, pooled"):
        model(**batch_for(), want=("soul",))


def test_several_heads_in_the_main_model():
    torch.manual_seed(0)
    main = BertForPreTraining(BertConfig(**CONFIGS["bert"])).eval()
    output = wrap(main)(
        **batch_for(next_sentence_label=torch.tensor([0, 1])), want=("logits", "seq_relationship_logits")
    )
    stock = main(input_ids=batch_for()["input_ids"])
    torch.testing.assert_close(output.outputs["logits"], stock.prediction_logits.flatten(0, 1)[[1, 6, 9]])
    torch.testing.assert_close(output.outputs["seq_relationship_logits"], stock.seq_relationship_logits)


def test_only_known_columns_reach_the_model():
    model = wrap(build("gpt2"), "clm")
    batch = batch_for(weights=torch.ones(3), labels=torch.ones(2, 8, dtype=torch.long), stream=torch.arange(2))
    inputs = model.inputs(batch)
    assert inputs.keys() == {"input_ids", "attention_mask", "use_cache"} and inputs["use_cache"] is False


# documents


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


DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [4, 4, 5, 5, 5, 5, -1, -1]])
SPANS = [(0, 0, 3), (0, 3, 8), (1, 0, 2), (1, 2, 6)]  # row, begin, end


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


# building


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


# checkpoints


def states_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("model_type", ["bert", "mobilebert", "modernbert", "gpt2", "t5"])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(model_type, tied, tmp_path):
    model = wrap(build(model_type, tie_word_embeddings=tied), pooled=Pooled())
    model.save_pretrained(tmp_path)
    other = wrap(build(model_type, seed=1, tie_word_embeddings=tied), pooled=Pooled())
    assert not states_equal(model, other)
    other.load_checkpoint(tmp_path)
    assert states_equal(model, other)
    for restored in (other, model):
        embeddings = restored.get_input_embeddings().weight
        assert (restored.get_output_embeddings().weight is embeddings) == (tied or model_type == "t5")  # always tied
    assert states_equal(AUTO[model_type].from_pretrained(tmp_path), model.main)


def test_half_precision_round_trip(tmp_path):
    model = wrap(build("bert"), pooled=Pooled()).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    other = wrap(build("bert", seed=1), pooled=Pooled()).to(torch.bfloat16)
    other.load_checkpoint(tmp_path)
    assert states_equal(model, other) and other.dtype == torch.bfloat16


def test_files_of_a_checkpoint(tmp_path):
    model = wrap(build("bert"), pooled=Pooled())
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors", HEADS_FILE}
    assert load_file(tmp_path / HEADS_FILE).keys() == {"heads.pooled.dense.weight", "heads.pooled.dense.bias"}
    assert not any(name.startswith(("main.", "heads.")) for name in load_file(tmp_path / "model.safetensors"))
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    wrap(model.main).save_pretrained(tmp_path)  # without heads: none are left behind
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_several_files(tmp_path):
    model = wrap(build("bert"))
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    other = wrap(build("bert", seed=1))
    other.load_checkpoint(tmp_path)
    assert states_equal(model, other)


def test_a_head_that_shares_weights_with_the_main_model(tmp_path):
    def shared(seed):
        main, head = build("bert", seed=seed), nn.Linear(16, 40)
        head.weight = main.get_input_embeddings().weight
        return wrap(main, shared=head)

    model, other = shared(0), shared(1)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / HEADS_FILE).keys() == {"heads.shared.bias"}
    other.load_checkpoint(tmp_path)
    assert states_equal(model, other)
    assert other.heads["shared"].weight is other.get_input_embeddings().weight


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "module._orig_mod."])
def test_state_with_the_prefixes_of_wrappers(prefix, tmp_path):
    model = wrap(build("bert"), pooled=Pooled())
    state = {name: value + 1 for name, value in model.state_dict().items()}
    state = {prefix + name.replace("encoder.layer.0.", f"encoder.layer.0.{prefix}"): v for name, v in state.items()}
    model.save_pretrained(tmp_path, state_dict=state)
    other = wrap(build("bert", seed=1), pooled=Pooled())
    other.load_checkpoint(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value + 1), name


def test_only_the_main_process_writes(tmp_path):
    wrap(build("bert"), pooled=Pooled()).save_pretrained(tmp_path, is_main_process=False)
    assert not any(tmp_path.iterdir())


def test_stock_load_without_this_package(tmp_path):
    model = wrap(build("bert"), pooled=Pooled())
    model.save_pretrained(tmp_path)
    ids = batch_for()["input_ids"]
    script = f"""
import sys
sys.modules["pretrain_zoo"] = None  # import raises
import torch
from transformers import AutoModelForMaskedLM
model, report = AutoModelForMaskedLM.from_pretrained({str(tmp_path)!r}, output_loading_info=True)
assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
print(model.eval()(input_ids=torch.tensor({ids.tolist()})).logits.double().sum().item())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(model.main(input_ids=ids).logits.double().sum().item(), rel=1e-6)


def damage(folder, kind):
    weights, heads = folder / "model.safetensors", folder / HEADS_FILE
    tensors, extra = load_file(weights), load_file(heads)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    if kind == "missing":
        del tensors[name]
    elif kind == "unexpected":
        tensors["bert.pooler.dense.weight"] = torch.zeros(16, 16)
    elif kind == "shape":
        tensors[name] = torch.zeros(8, 16)
    elif kind == "head missing":
        del extra["heads.pooled.dense.bias"]
    elif kind == "head unexpected":
        extra["heads.other.bias"] = torch.zeros(3)
    elif kind == "head shape":
        extra["heads.pooled.dense.bias"] = torch.zeros(4)
    save_file(tensors, weights, metadata={"format": "pt"})
    save_file(extra, heads)
    if kind in ("corrupt", "head corrupt"):
        file = weights if kind == "corrupt" else heads
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no heads":
        heads.unlink()
    elif kind == "no config":
        (folder / "config.json").unlink()


@pytest.mark.parametrize(
    "kind",
    ["missing", "unexpected", "shape", "corrupt", "no weights", "no config"]
    + ["head missing", "head unexpected", "head shape", "head corrupt", "no heads"],
)
def test_bad_checkpoints_are_refused_whole(kind, tmp_path):
    wrap(build("bert"), pooled=Pooled()).save_pretrained(tmp_path)
    damage(tmp_path, kind)
    model = wrap(build("bert", seed=1), pooled=Pooled())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="cannot load the checkpoint") as error:
        model.load_checkpoint(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    wrap(build("bert", num_hidden_layers=3)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"unexpected keys \(16\), among them bert.encoder.layer.2"):
        wrap(build("bert")).load_checkpoint(tmp_path)


# distributed wrappers, in one process


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_distributed_wrappers_see_one_forward(kind, one_process):
    model = wrap(build("bert"))
    sums = model(**batch_for()).sums["mlm"]
    sums.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    if kind == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (1,))
        for layer in model.main.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    result = wrapped(**batch_for()).sums["mlm"]
    result.backward()
    torch.testing.assert_close(result, sums)
    for name, p in model.named_parameters():
        grad = p.grad.full_tensor() if kind == "fsdp" else p.grad
        torch.testing.assert_close(grad, expected[name], msg=name)


# FLOPs


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
