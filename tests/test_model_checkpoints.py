"""Checkpoints of pretraining models: round trips, their files, stock loads without this package, damage refused."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from wrapped_models import AUTO, Pooled, batch_for, build, wrap

from pretrain_zoo.models.pretraining import HEADS_FILE


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
