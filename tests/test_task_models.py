"""Models for fine-tuning: heads, weights, freezing, pooling, learning rates by layer, and what is saved."""

import inspect
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import (
    CLASSES,
    FAMILIES,
    QUESTIONS,
    batch,
    load,
    logits,
    make_checkpoint,
    overrides,
    targets,
    train,
    trainable,
)
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
)

from pretrain_zoo.models.optimizer_groups import parameter_depths
from pretrain_zoo.models.pooled_classifier import pool
from pretrain_zoo.models.settings import dtype_named, overrides_from
from pretrain_zoo.models.task_models import (
    TaskModelArguments,
    load_saved,
    load_task_model,
    load_tokenizer,
    optimizer_groups,
    save_task_model,
    size_report,
)

AUTO = {CLASSES: AutoModelForSequenceClassification, QUESTIONS: AutoModelForQuestionAnswering}


@pytest.fixture(scope="session")
def checkpoints(wordpiece_tokenizer, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("families"), {}

    def checkpoint(family):
        if family not in made:
            made[family] = make_checkpoint(family, wordpiece_tokenizer, folder)
        return made[family]

    return checkpoint


@pytest.mark.parametrize("task", [CLASSES, QUESTIONS])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_and_tasks(family, task, checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints(family), task)
    weights = AutoModel.from_pretrained(checkpoints(family)).parameters()
    kept = [any(w.shape == p.shape and torch.equal(w, p) for p in model.parameters()) for w in weights]
    assert sum(kept) >= len(kept) - 2  # all but a pooler
    columns = batch(tokenizer, model, texts[:4])
    losses, changed = train(model, columns, targets(task, 4))
    assert losses[-1] < losses[0] and changed <= trainable(model)
    save_task_model(model, tmp_path)
    after = logits(model, columns)
    assert torch.equal(logits(load_saved(tmp_path), columns), after)
    assert torch.equal(logits(AUTO[task].from_pretrained(tmp_path), columns), after)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family, checkpoints, texts):
    tokenizer, model = load(checkpoints(family))
    short, long = sorted(texts[:40], key=len)[0], sorted(texts[:40], key=len)[-1]
    alone = logits(model, batch(tokenizer, model, [short]))
    together = logits(model, batch(tokenizer, model, [short, long]))[:1]
    torch.testing.assert_close(alone, together, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_probe(family, checkpoints, texts):
    tokenizer, model = load(checkpoints(family), freeze_backbone=True)
    inside = {id(p) for p in model.base_model.parameters()}
    backbone = {name for name, p in model.named_parameters() if id(p) in inside}
    fresh = {name for name in backbone if ".pooler." in name and family in ("bert", "albert")}
    assert trainable(model) == {name for name, _ in model.named_parameters()} - backbone | fresh
    losses, changed = train(model, batch(tokenizer, model, texts[:4]), targets(CLASSES, 4))
    assert changed == trainable(model) and losses[-1] < losses[0]


def test_labels(checkpoints, tmp_path):
    args = TaskModelArguments(model_name_or_path=str(checkpoints("bert")))
    tokenizer = load_tokenizer(args)
    model = load_task_model(args, tokenizer, CLASSES, label_names=["no", "yes"], problem_type="regression")
    save_task_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes"} and config["label2id"] == {"no": 0, "yes": 1}
    assert config["problem_type"] == "regression"
    again = TaskModelArguments(model_name_or_path=str(tmp_path))
    assert load_task_model(again, tokenizer, CLASSES).config.id2label == {0: "no", 1: "yes"}
    three = load_task_model(again, tokenizer, CLASSES, num_labels=3)  # from two labels: a new head on the same backbone
    assert three.classifier.weight.shape == (3, 32)
    assert torch.equal(three.bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    with pytest.raises(ValueError, match="num_labels is 3, and there are 2 label names"):
        load_task_model(args, tokenizer, CLASSES, num_labels=3, label_names=["no", "yes"])
    with pytest.raises(ValueError, match="no labels to be named"):
        load_task_model(args, tokenizer, QUESTIONS, label_names=["no", "yes"])


def test_refusals(checkpoints, wordpiece_tokenizer, tmp_path):
    args = TaskModelArguments(model_name_or_path="switch-tiny", tokenizer_name=str(checkpoints("bert")))
    with pytest.raises(ValueError, match="no switch_transformers model for sequence classification"):
        load_task_model(args, load_tokenizer(args), CLASSES)
    with pytest.raises(ValueError, match="unknown task 'ner'"):
        load(checkpoints("bert"), "ner")
    with pytest.raises(ValueError, match="reads every token; leave --pooling out"):
        load(checkpoints("bert"), QUESTIONS, pooling="mean")
    state = load_file(checkpoints("bert") / "model.safetensors")
    wordpiece_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((checkpoints("bert") / "config.json").read_text())
    save_file({k: v for k, v in state.items() if "layer.1" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match="no weights for 16 parameters of the backbone, among them bert.encoder.layer.1"
    ):
        load(tmp_path)
    (tmp_path / "compression.json").write_text("{}")
    with pytest.raises(ValueError, match="holds compressed weights, which cannot be fine-tuned"):
        load(tmp_path)
    (tmp_path / "compression.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds compressed weights, which cannot be fine-tuned"):
        load(tmp_path)


def test_tokenizers(checkpoints, byte_bpe_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="bert-tiny is a preset and has no tokenizer; give --tokenizer_name"):
        load_tokenizer(TaskModelArguments(model_name_or_path="bert-tiny"))
    folder = str(checkpoints("bert"))
    sides = {
        name: load_tokenizer(TaskModelArguments(model_name_or_path=name, tokenizer_name=folder)).padding_side
        for name in ("xlnet-tiny", str(checkpoints("xlnet")), "gpt2-tiny")
    }
    assert list(sides.values()) == ["left", "left", "right"]
    byte_bpe_tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("pad_token")
    file.write_text(json.dumps(settings))
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token is None
    args = TaskModelArguments(model_name_or_path="gpt2-tiny", tokenizer_name=str(tmp_path))
    assert load_tokenizer(args).pad_token == "</s>"
    settings.pop("eos_token")
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no padding token"):
        load_tokenizer(args)


def pooled_by_hand(hidden, mask, pooling):
    rows = []
    for states, seen in zip(hidden.numpy(), mask.numpy().astype(bool)):
        states = states[seen]
        rows.append({"cls": states[0], "last": states[-1], "mean": states.mean(0), "max": states.max(0)}[pooling])
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["cls", "last", "mean", "max"])
def test_pool(pooling, side):
    hidden, lengths = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[5], [1], [3]])
    mask = (torch.arange(5) < lengths).long()
    mask = mask.flip(1) if side == "left" else mask
    torch.testing.assert_close(pool(hidden, mask, pooling), pooled_by_hand(hidden, mask, pooling))
    torch.testing.assert_close(pool(hidden[:1], None, pooling), pooled_by_hand(hidden[:1], mask[:1], pooling))


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "mean"), ("roberta", "max"), ("deberta-v3", "last"), ("distilbert", "mean"), ("modernbert", "last")]
    + [("gpt2", "mean"), ("llama", "max"), ("xlnet", "mean"), ("xlm", "mean"), ("albert", "max"), ("mpnet", "mean")],
)
def test_own_pooling(family, pooling, checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints(family), pooling=pooling)
    columns = batch(tokenizer, model, texts[:4])
    losses, changed = train(model, columns, targets(CLASSES, 4))
    assert losses[-1] < losses[0]
    save_task_model(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    after = logits(model, columns)
    assert torch.equal(logits(load_saved(tmp_path), columns), after)
    _, again = load(tmp_path)  # goes on with the pooling it was saved with, and its head
    assert torch.equal(logits(again, columns), after)
    backbone = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        accepted = inspect.signature(backbone.forward).parameters
        hidden = backbone(**{name: value for name, value in columns.items() if name in accepted})[0]
        expected = model.classifier(pooled_by_hand(hidden, columns["attention_mask"], pooling))
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "pooling"), [("modernbert", "mean"), ("modernbert", "cls"), ("gpt2", "last"), ("bart", "last")]
)
def test_stock_pooling_is_kept_stock(family, pooling, checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints(family), pooling=pooling)
    columns = batch(tokenizer, model, texts[:4])
    save_task_model(model, tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(stock) is type(model) and torch.equal(logits(stock, columns), logits(model, columns))
    if family == "modernbert":
        assert model.config.classifier_pooling == pooling


def test_poolings_that_do_not_go(checkpoints):
    with pytest.raises(ValueError, match="bart is read out at its decoder's end token"):
        load(checkpoints("bart"), pooling="mean")
    with pytest.raises(ValueError, match="--pooling must be one of cls, mean, max, last"):
        load(checkpoints("bert"), pooling="middle")


def rates(model, decay=0.5):
    groups = optimizer_groups(model, 1.0, 0.1, layer_lr_decay=decay)
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_rates_by_hand(checkpoints):
    """ELECTRA's rule for two layers and a decay of 1/2: embeddings 1/16, layers 1/8 and 1/4, pooler 1/2, head 1."""
    found = rates(load(checkpoints("bert"))[1])
    expected = {
        "bert.embeddings": 1 / 16,
        "layer.0.": 1 / 8,
        "layer.1.": 1 / 4,
        "bert.pooler": 1 / 2,
        "classifier": 1.0,
    }
    for name, rate in found.items():
        assert rate == next(value for part, value in expected.items() if part in name), name


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_of_every_family(family, checkpoints):
    for task in (CLASSES, QUESTIONS):
        _, model = load(checkpoints(family), task)
        found = rates(model)
        assert found.keys() == trainable(model)  # each parameter once
        layers = {"albert": 1, "distilbert": 1, "bart": 4, "t5": 4}.get(family, 2)
        embeddings = model.get_input_embeddings().weight
        name = next(name for name, p in model.named_parameters() if p is embeddings)
        assert found[name] == min(found.values()) == 0.5 ** (layers + 2)
        assert {round(-np.log2(rate)) for rate in found.values()} >= {0, *range(2, layers + 3)}
        assert all(
            found[n] == 1.0 for n in found if n.split(".")[0] in ("classifier", "score", "qa_outputs", "logits_proj")
        )


def test_special_places(checkpoints):
    deberta, modernbert = (rates(load(checkpoints(f))[1]) for f in ("deberta-v3", "modernbert"))
    assert deberta["deberta.encoder.rel_embeddings.weight"] == deberta["deberta.encoder.LayerNorm.weight"] == 1 / 16
    assert modernbert["model.final_norm.weight"] == 1 / 2
    depths = parameter_depths(load(checkpoints("t5"))[1])
    assert depths["transformer.encoder.final_layer_norm.weight"] == 2
    assert depths["transformer.decoder.block.0.layer.0.SelfAttention.q.weight"] == 3
    assert depths["transformer.decoder.final_layer_norm.weight"] == 5
    adapted = rates(load(checkpoints("bert"), peft="lora")[1])
    assert {name.split(".layer.")[1][0]: rate for name, rate in adapted.items() if "lora_A" in name} == {
        "0": 1 / 8,
        "1": 1 / 4,
    }
    for decay in (0.0, 1.5):
        with pytest.raises(ValueError, match="--layer_lr_decay must be above 0 and at most 1"):
            rates(load(checkpoints("bert"))[1], decay)


@pytest.mark.parametrize("family", ["bert", "xlnet", "llama", "t5"])
def test_what_decays(family, checkpoints):
    """Matrices of Linear and Embedding layers decay; norms and biases do not."""
    _, model = load(checkpoints(family))
    decays = {id(p): g["weight_decay"] for g in optimizer_groups(model, 1e-3, 0.1) for p in g["params"]}
    for module in model.modules():
        kind = (
            0.1 if isinstance(module, (nn.Linear, nn.Embedding)) else 0.0 if "Norm" in type(module).__name__ else None
        )
        if kind is not None and getattr(module, "weight", None) is not None:
            assert decays[id(module.weight)] == kind
        if getattr(module, "bias", None) is not None:
            assert decays[id(module.bias)] == 0.0
    assert Counter(group["lr"] for group in optimizer_groups(model, 1e-3, 0.1)) == {1e-3: 2}


def test_size_report(checkpoints):
    _, model = load(checkpoints("llama"), freeze_backbone=True)
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert size_report(model) == {
        "trainable": 3 * 32,
        "total": parameters,
        "memory_bytes": 4 * parameters + buffers,
        "saved_bytes": 4 * parameters + buffers,
    }


def test_command_line(checkpoints):
    words = "--model_name_or_path bert-tiny --peft lora --lora_r 4 --load_in_4bit --pooling mean --layer_lr_decay 0.8"
    (args,) = HfArgumentParser(TaskModelArguments).parse_args_into_dataclasses(words.split())
    assert (args.peft, args.lora_r, args.load_in_4bit, args.pooling, args.layer_lr_decay) == (
        "lora",
        4,
        True,
        "mean",
        0.8,
    )
    assert args.virtual_tokens == 0 and TaskModelArguments(model_name_or_path="x", peft="prefix").virtual_tokens == 20
    with pytest.raises(SystemExit):
        HfArgumentParser(TaskModelArguments).parse_args_into_dataclasses(
            ["--model_name_or_path", "x", "--peft", "bottleneck"]
        )


def test_virtual_tokens_need_positions(checkpoints):
    """24 tokens of text and 4 before them fit 32 positions, 12 do not."""
    args = TaskModelArguments(model_name_or_path=str(checkpoints("gpt2")), peft="prefix", num_virtual_tokens=2000)
    with pytest.raises(ValueError, match="has positions for 1024 tokens"):
        load_task_model(args, load_tokenizer(args), CLASSES, num_labels=2, max_length=24)


def test_settings():
    assert dtype_named(None) is None and dtype_named("bfloat16") is torch.bfloat16
    assert overrides_from("a=1,b=none,c=0.5") == {"a": 1, "b": "none", "c": 0.5} and overrides_from('{"a": [1]}') == {
        "a": [1]
    }
    assert overrides_from(None) == {}
    with pytest.raises(ValueError, match="--torch_dtype must be float32, bfloat16 or float16, not 'int8'"):
        dtype_named("int8")
    with pytest.raises(ValueError, match="must read name=value"):
        overrides_from("dropout")


def test_half_precision_weights(checkpoints):
    _, model = load(checkpoints("bert"), torch_dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert size_report(model)["memory_bytes"] < 0.55 * size_report(load(checkpoints("bert"))[1])["memory_bytes"]


def test_presets_have_settings(checkpoints):
    _, model = load("bert-tiny", tokenizer_name=str(checkpoints("bert")), config_overrides=overrides("bert"))
    assert model.config.hidden_size == 32 and not Path("bert-tiny").exists()
