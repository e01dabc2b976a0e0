"""Models for fine-tuning: heads, weights, freezing, tokenizers, sizes, and what is saved."""

import json
from pathlib import Path

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
    overrides,
    targets,
    train,
    trainable,
)
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
)

from pretrain_zoo.models.settings import dtype_named, overrides_from
from pretrain_zoo.models.task_models import (
    TaskModelArguments,
    load_saved,
    load_task_model,
    load_tokenizer,
    save_task_model,
    size_report,
)

AUTO = {CLASSES: AutoModelForSequenceClassification, QUESTIONS: AutoModelForQuestionAnswering}


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
