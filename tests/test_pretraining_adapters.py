"""Continued pretraining through adapters: frozen weights, tied embeddings, resuming, a plain checkpoint at the end."""

import json
import shutil

import peft
import pytest
import torch
from small_models import LENGTH, adapter, make_checkpoint
from transformers import AutoModelForMaskedLM, AutoTokenizer, set_seed

from pretrain_zoo.models.build_model import AUTO_CLASSES
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.pretraining_adapters import FOLDER, merge_adapters, put_adapters, trained_backbone
from pretrain_zoo.objectives import ObjectiveCollator, Vocabulary, get_objective
from pretrain_zoo.scripts.pretrain import main


def adapted(objective, checkpoint, tokenizer, method="lora"):
    args = adapter(method)
    parts = trained_backbone(backbone(str(checkpoint), tokenizer, max_length=LENGTH), args)
    set_seed(3)
    model = get_objective(objective).build(parts, Vocabulary.from_tokenizer(tokenizer))
    put_adapters(model, args)
    return model.eval()


def loss_of(model, batch):
    output = model(**batch)
    counts = model.objective.counts(batch)
    return sum(total / counts[name] for name, total in output.sums.items())


@pytest.mark.parametrize(
    ("objective", "family", "method"),
    [("mlm", "bert", "lora"), ("mlm", "modernbert", "dora"), ("clm", "gpt2", "ia3"), ("denoising", "bart", "lora")],
)
def test_only_adapters_change_and_the_export_is_plain(objective, family, method, wordpiece_tokenizer, texts, tmp_path):
    tokenizer = wordpiece_tokenizer
    checkpoint = make_checkpoint(family, tokenizer, tmp_path)
    model = adapted(objective, checkpoint, tokenizer, method)
    stock = model.main.get_base_model()
    tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    rows = [tokenizer(text, truncation=True, max_length=LENGTH, add_special_tokens=False) for text in texts[:8]]
    set_seed(0)
    batch = dict(ObjectiveCollator(get_objective(objective), tokenizer, sparse_labels=True)(rows))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name or "ia3_" in name for name in changed)

    model.save_pretrained(tmp_path / "checkpoint-4")
    assert not list((tmp_path / "checkpoint-4").glob("model*.safetensors"))
    again = adapted(objective, checkpoint, tokenizer, method)
    again.load_checkpoint(tmp_path / "checkpoint-4")
    with torch.no_grad():
        expected = loss_of(model, batch)
        assert torch.equal(loss_of(again, batch), expected)

    merge_adapters(again, tmp_path / FOLDER)
    again.save_pretrained(tmp_path / "plain")
    stock = again.main
    assert (stock.get_output_embeddings().weight is stock.get_input_embeddings().weight) == tied
    plain = AUTO_CLASSES[again.objective.architecture].from_pretrained(tmp_path / "plain")
    assert (plain.get_output_embeddings().weight is plain.get_input_embeddings().weight) == tied
    assert {p.shape for p in plain.parameters()} == {
        p.shape for p in AUTO_CLASSES[again.objective.architecture].from_pretrained(checkpoint).parameters()
    }
    again.main = plain.eval()
    again.rows = again.attach_rows(again.main)
    with torch.no_grad():
        torch.testing.assert_close(loss_of(again, batch), expected, atol=1e-5, rtol=0)


def test_refusals(wordpiece_tokenizer, tmp_path):
    checkpoint = make_checkpoint("bert", wordpiece_tokenizer, tmp_path)
    with pytest.raises(ValueError, match="--peft prompt does not work in pretraining: virtual tokens are no part"):
        adapted("mlm", checkpoint, wordpiece_tokenizer, "prompt")
    with pytest.raises(ValueError, match="--peft adalora does not work in pretraining: its ranks"):
        adapted("mlm", checkpoint, wordpiece_tokenizer, "adalora")
    with pytest.raises(ValueError, match="preset has random weights; give a checkpoint"):
        trained_backbone(backbone("bert-tiny", wordpiece_tokenizer), adapter("lora"))
    electra = make_checkpoint("electra", wordpiece_tokenizer, tmp_path)
    with pytest.raises(ValueError, match="objectives that train one network|has no weights for"):
        adapted("rtd", electra, wordpiece_tokenizer)
    AutoModelForMaskedLM.from_pretrained(checkpoint).bert.save_pretrained(tmp_path / "headless")
    wordpiece_tokenizer.save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="has no weights for cls.predictions.*would leave random in BertForMaskedLM"):
        adapted("mlm", tmp_path / "headless", wordpiece_tokenizer)
    model = adapted("mlm", checkpoint, wordpiece_tokenizer)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="its adapters are not those of this model"):
        adapted("mlm", checkpoint, wordpiece_tokenizer, "dora").load_checkpoint(tmp_path / "saved")


def test_the_command(wordpiece_tokenizer, texts, tmp_path):
    """Trained in one go, or cut off after four of six steps and resumed: the same adapters to the last bit."""
    checkpoint = make_checkpoint("bert", wordpiece_tokenizer, tmp_path)
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts[:60]))
    command = (
        f"--model_name_or_path {checkpoint} --peft lora --lora_dropout 0.1 --corpus {tmp_path / 'corpus.txt'} "
        f"--cache_dir {tmp_path / 'cache'} --use_cpu --max_seq_length {LENGTH} --per_device_train_batch_size 4 "
        "--max_steps 6 --logging_steps 2 --eval_strategy no --save_steps 2 --save_total_limit 5"
    ).split()
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main([*command, "--output_dir", str(whole)]) == 0
    shutil.copytree(whole, resumed)
    for name in ("results.json", "checkpoint-6", FOLDER, "model.safetensors"):
        path = resumed / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not (resumed / "checkpoint-4" / "model.safetensors").exists()
    assert main([*command, "--output_dir", str(resumed)]) == 0
    file = f"{FOLDER}/adapter_model.safetensors"
    assert (whole / file).read_bytes() == (resumed / file).read_bytes()
    settings = json.loads((whole / "run.json").read_text())["identity"]
    assert settings["peft"] == "lora" and settings["learning_rate"] == 5e-4

    merged = AutoModelForMaskedLM.from_pretrained(whole).eval()
    base = AutoModelForMaskedLM.from_pretrained(checkpoint).eval()
    inputs = AutoTokenizer.from_pretrained(whole)(texts[:4], padding=True, return_tensors="pt")
    with torch.no_grad():
        untouched = base(**inputs).logits
        through_adapters = peft.PeftModel.from_pretrained(base, whole / FOLDER).eval()(**inputs).logits
        torch.testing.assert_close(merged(**inputs).logits, through_adapters, atol=1e-5, rtol=0)
    assert (untouched - through_adapters).abs().max() > 1e-6
