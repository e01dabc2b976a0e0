"""Every parameter-efficient method on every family: what is trained, saved, merged, and refused with which reason."""

import math
import shutil

import peft
import pytest
import torch
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
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments

from pretrain_zoo.models.adapters import merge, orthogonality, training_callbacks
from pretrain_zoo.models.task_models import load_saved, save_task_model, size_report

WEIGHTS = ("lora", "dora", "adalora", "ia3")
TOKENS = ("prompt", "prefix", "p_tuning")
ENCODER_DECODERS = ("bart", "t5")
NO_PREFIX = ("albert", "distilbert", "deberta-v3", "mpnet", "modernbert", "xlnet", "xlm")


@pytest.fixture(scope="session")
def checkpoints(wordpiece_tokenizer, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("families"), {}

    def checkpoint(family):
        if family not in made:
            made[family] = make_checkpoint(family, wordpiece_tokenizer, folder)
        return made[family]

    return checkpoint


def works(method, family):
    return method in WEIGHTS or (family not in ENCODER_DECODERS and (method != "prefix" or family not in NO_PREFIX))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", WEIGHTS + TOKENS)
def test_methods_and_families(method, family, checkpoints, texts, tmp_path):
    if not works(method, family):
        reason = "by token ids" if family in ENCODER_DECODERS else "no past_key_values"
        with pytest.raises(ValueError, match=rf"--peft {method} does not work with .*{reason}"):
            load(checkpoints(family), peft=method)
        return
    tokenizer, model = load(checkpoints(family), peft=method)
    columns = batch(tokenizer, model, texts[:4])
    before = logits(model, columns)
    losses, changed = train(model, columns, targets(CLASSES, 4))
    assert changed == trainable(model)
    assert losses[-1] < losses[0]
    after = logits(model, columns)
    assert (after - before).abs().max() > 1e-3
    save_task_model(model, tmp_path)
    assert not (tmp_path / "base").exists() and not (tmp_path / "config.json").exists()
    reloaded = load_saved(tmp_path)  # a fresh head, and a fresh pooler, would be drawn differently
    assert torch.equal(logits(reloaded, columns), after)
    if method in TOKENS:
        with pytest.raises(ValueError, match="nothing to merge"):
            merge(reloaded)
        return
    model.merge_adapter()
    torch.testing.assert_close(logits(model, columns), after, atol=1e-5, rtol=0)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model, columns), after, atol=1e-5, rtol=0)
    merged = merge(reloaded)
    assert not hasattr(merged, "peft_config") and not any("lora" in n or "ia3" in n for n, _ in merged.named_modules())
    torch.testing.assert_close(logits(merged, columns), after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama", "bart", "t5"])
@pytest.mark.parametrize("method", ["lora", "adalora", "ia3", "prefix"])
def test_question_answering(method, family, checkpoints, texts, tmp_path):
    if not works(method, family):
        pytest.skip("refused")
    tokenizer, plain = load(checkpoints(family), QUESTIONS)
    _, model = load(checkpoints(family), QUESTIONS, peft=method)
    columns = batch(tokenizer, model, texts[:4], text_pair=texts[4:8])
    if method != "prefix":  # nothing has changed yet; peft's own class would have dropped the token types
        torch.testing.assert_close(logits(model, columns), logits(plain, columns), atol=1e-6, rtol=0)
    losses, changed = train(model, columns, targets(QUESTIONS, 4))
    assert changed == trainable(model) and losses[-1] < losses[0]
    save_task_model(model, tmp_path)
    assert torch.equal(logits(load_saved(tmp_path), columns), logits(model, columns))


@pytest.mark.parametrize("method", ["prompt", "p_tuning"])
def test_virtual_tokens_would_shift_answers(method, checkpoints):
    with pytest.raises(ValueError, match="bert in question answering: virtual tokens .* shift the answers' positions"):
        load(checkpoints("bert"), QUESTIONS, peft=method)


def test_what_lora_trains(checkpoints):
    """By hand: BERT, 2 layers, 32 wide: query and value, each 2 · 8 · 32, a head of 3, and a pooler, which is fresh."""
    _, model = load(checkpoints("bert"), peft="lora", lora_r=8)
    sizes = size_report(model)
    assert sizes["trainable"] == 2 * 2 * 2 * 8 * 32 + (3 * 32 + 3) + (32 * 32 + 32)
    assert sizes["saved_bytes"] == 4 * sizes["trainable"]
    assert sizes["total"] == sum(p.numel() for p in model.parameters())
    _, model = load(checkpoints("bert"), peft="lora", lora_r=4, target_modules="query,key")
    assert sum("lora_A" in name for name in trainable(model)) == 4
    _, model = load(checkpoints("bert"), peft="lora", target_modules="all-linear")
    assert sum("lora_A" in name for name in trainable(model)) == 12


def test_a_loaded_pooler_stays(checkpoints, wordpiece_tokenizer, tmp_path):
    """Of a checkpoint that has a pooler it is frozen with the rest."""
    _, model = load(checkpoints("bert"))
    model.save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    _, model = load(tmp_path, peft="lora")
    assert {n.rpartition(".")[0] for n in trainable(model) if "lora" not in n} == {
        "base_model.model.classifier.modules_to_save.default"
    }


def test_adapters_load_without_code_of_ours(checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints("roberta"), peft="lora")
    columns = batch(tokenizer, model, texts[:4])
    train(model, columns, targets(CLASSES, 4))
    save_task_model(model, tmp_path)
    loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert torch.equal(logits(loaded, columns), logits(model, columns))


@pytest.mark.filterwarnings("error:The PEFT config")
def test_adapters_name_their_checkpoint_by_its_full_path(checkpoints, texts, tmp_path, monkeypatch):
    folder = checkpoints("bert")
    monkeypatch.chdir(folder.parent)
    tokenizer, model = load(folder.name, peft="lora")
    save_task_model(model, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert peft.PeftConfig.from_pretrained("adapter").base_model_name_or_path == str(folder.resolve())
    columns = batch(tokenizer, model, texts[:4])
    assert torch.equal(logits(load_saved(tmp_path / "adapter"), columns), logits(model, columns))


@pytest.mark.parametrize("method", ["lora", "ia3", "prompt"])
def test_random_weights_are_saved_with_their_adapters(method, checkpoints, texts, tmp_path):
    """A preset's weights are nowhere else; the folder can be moved."""
    settings = {"tokenizer_name": str(checkpoints("bert")), "config_overrides": overrides("bert")}
    tokenizer, model = load("bert-tiny", peft=method, **settings)
    columns = batch(tokenizer, model, texts[:4])
    train(model, columns, targets(CLASSES, 4))
    save_task_model(model, tmp_path / "there")
    shutil.move(tmp_path / "there", tmp_path / "here")
    assert torch.equal(logits(load_saved(tmp_path / "here"), columns), logits(model, columns))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["prompt", "p_tuning"])
def test_padding_changes_nothing_under_virtual_tokens(method, family, checkpoints, texts):
    """The stock head would read a padding position, since virtual tokens come as embeddings."""
    tokenizer, model = load(checkpoints(family), peft=method)
    short, long = sorted(texts[:40], key=len)[0], sorted(texts[:40], key=len)[-1]
    alone = logits(model, batch(tokenizer, model, [short]))
    together = logits(model, batch(tokenizer, model, [short, long]))[:1]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_modules_must_be_known(checkpoints, monkeypatch):
    from peft.utils import constants

    monkeypatch.delitem(constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "bert")
    with pytest.raises(ValueError, match="no modules to adapt are known for bert.*--target_modules"):
        load(checkpoints("bert"), peft="lora")


def test_adapters_exclude_freezing(checkpoints, tmp_path, wordpiece_tokenizer):
    with pytest.raises(ValueError, match="freezes the backbone already"):
        load(checkpoints("bert"), peft="lora", freeze_backbone=True)
    _, model = load(checkpoints("bert"), peft="lora")
    save_task_model(model, tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds adapters, not a model; merge them first"):
        load(tmp_path, tokenizer_name=str(checkpoints("bert")))


def test_orthogonality_by_hand():
    """Rows of an identity: 0. Twice those: the Gram matrix is 4·I, at a distance of 3·√2 from I."""
    eye = torch.nn.Parameter(torch.eye(2, 5))
    assert orthogonality([eye]) == 0
    twice = torch.nn.Parameter(2 * torch.eye(5, 2))
    assert orthogonality([eye, twice]).item() == pytest.approx(3 * math.sqrt(2) / 2)


def run_trainer(model, columns, folder, **settings):
    rows = [{name: value[i] for name, value in columns.items()} | {"labels": torch.tensor(i % 3)} for i in range(4)]
    args = TrainingArguments(
        folder, max_steps=12, learning_rate=1e-2, per_device_train_batch_size=4, logging_strategy="no", use_cpu=True,
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False, **settings,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows, callbacks=training_callbacks(model))
    trainer.train()
    return trainer


def test_adalora_shares_out_ranks(checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints("bert"), peft="adalora", lora_r=2)
    columns = batch(tokenizer, model, texts[:4])
    run_trainer(model, columns, tmp_path / "run", save_strategy="no")
    pattern = model.active_peft_config.rank_pattern
    kept = [sum(mask) for mask in pattern.values()]
    assert len(kept) == 4 and sum(kept) == 4 * 2 and all(len(mask) == 3 for mask in pattern.values())
    live = [(p != 0).sum().item() for n, p in model.named_parameters() if "lora_E" in n]
    assert sum(live) == sum(kept)
    save_task_model(model, tmp_path / "model")
    torch.testing.assert_close(logits(load_saved(tmp_path / "model"), columns), logits(model, columns))


def test_p_tuning_takes_the_best_checkpoint_and_refuses_to_resume(checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints("bert"), peft="p_tuning")
    columns = batch(tokenizer, model, texts[:4])
    options = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 6, "save_steps": 6}
    trainer = run_trainer(model, columns, tmp_path, load_best_model_at_end=True, **options)
    best = trainer.state.best_model_checkpoint
    loss = min(log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert best and not training_callbacks(load(checkpoints("bert"), peft="prompt")[1])
    _, anew = load(checkpoints("bert"), peft="p_tuning")
    trainer = Trainer(anew, trainer.args, train_dataset=[{}], eval_dataset=[{}], callbacks=training_callbacks(anew))
    with pytest.raises(ValueError, match="p_tuning cannot resume"):
        trainer.train(resume_from_checkpoint=best)


def test_merged_weights_are_a_plain_checkpoint(checkpoints, texts, tmp_path):
    """What other tools read: the masked-LM class takes the merged backbone."""
    tokenizer, model = load(checkpoints("bert"), peft="lora")
    columns = batch(tokenizer, model, texts[:4])
    train(model, columns, targets(CLASSES, 4))
    merged = merge(model)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    merged.save_pretrained(tmp_path)
    before = AutoModelForMaskedLM.from_pretrained(checkpoints("bert")).bert.encoder.layer[0].attention.self
    after = AutoModelForMaskedLM.from_pretrained(tmp_path).bert.encoder.layer[0].attention.self
    assert torch.equal(before.key.weight, after.key.weight) and not torch.equal(before.query.weight, after.query.weight)
