"""Objectives combined by `a+b`: settings, refusals, disjoint masks, terms and metrics, one model, a short run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertForPreTraining, TrainingArguments

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, get_objective
from pretrain_zoo.objectives.compose import Joint
from pretrain_zoo.objectives.mlm import MaskedLM
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset
from pretrain_zoo.training.trainer import PretrainingTrainer

COMBINATIONS = ["mlm+nsp", "nsp+mlm", "whole_word_mlm+sop", "ngram_mlm+sop", "span_mlm+sop", "mlm+span_mlm+nsp"]


def batch_of(objective, documents, vocabulary, rows=8, length=48):
    data = PretrainingDataset(objective, documents, vocabulary, length=length, global_batch=rows, max_steps=1)
    drawn = data.__getitems__(list(range(rows)))
    return drawn, DrawCollator(objective, vocabulary)(drawn)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_terms_counts_and_sums_have_the_same_names(name, documents, vocabulary, wordpiece_tokenizer):
    objective = get_objective(name)
    assert objective.name == name and objective.replans
    _, batch = batch_of(objective, documents, vocabulary)
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), vocabulary)
    output = model(**batch)
    assert set(output.sums) == set(objective.terms) == set(objective.counts(batch))
    for part in objective.parts:
        assert f"{part.name}_accuracy" in output.metrics
        assert output.metrics[f"{part.name}_accuracy"][1] == objective.counts(batch)[part.name]
    sum(output.sums.values()).backward()


def test_settings_go_to_the_part_that_has_them():
    objective = get_objective("mlm+nsp", mlm_probability=0.3, short_seq_prob=0.2)
    mlm, nsp = objective.parts
    assert (mlm.mlm_probability, nsp.short_seq_prob) == (0.3, 0.2)
    assert get_objective("mlm+nsp", **{"nsp.short_seq_prob": 0.4}).parts[1].short_seq_prob == 0.4
    both = get_objective("mlm+span_mlm", **{"mlm.mlm_probability": 0.1, "span_mlm.mlm_probability": 0.2})
    assert [part.mlm_probability for part in both.parts] == [0.1, 0.2]
    assert get_objective("mlm+span_mlm", **{"mlm.packing": "blocks"}).packing == "blocks"


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("mlm+span_mlm", {"mlm_probability": 0.1}, "say 'mlm.mlm_probability' or 'span_mlm.mlm_probability'"),
        ("mlm+nsp", {"short_seq_probability": 0.1}, "did you mean 'short_seq_prob'"),
        ("mlm+nsp", {"sop.short_seq_prob": 0.1}, "no setting 'sop.short_seq_prob'"),
        ("mlm+nsp", {"packing": "blocks"}, "nsp makes the examples"),
        ("mlm+span_mlm", {"span_mlm.packing": "blocks"}, "mlm makes the examples"),
        ("nsp+sop", {}, "both make the examples"),
        ("mlm+mlm", {}, "two different objectives"),
        ("mlm+nps", {}, "did you mean 'nsp'"),
        ("rtd+nsp", {}, "rtd trains a model of its own kind"),
        ("clm+nsp", {}, "clm trains a model of its own kind"),
        ("plm+sop", {}, "plm trains a model of its own kind"),
        ("mlm(clm)", {}, "mlm takes no other objective in brackets"),
        ("distillation(mlm)+nsp", {}, "brackets hold all that is wrapped"),
    ],
)
def test_what_does_not_combine_is_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective(name, **settings)


def test_one_objective_is_no_combination():
    with pytest.raises(ValueError, match="two different objectives"):
        Joint((get_objective("mlm"),))


def test_masking_is_that_of_the_part_alone(documents, vocabulary):
    objective = get_objective("ngram_mlm+sop")
    drawn, _ = batch_of(objective, documents, vocabulary)
    together = objective.corrupt(drawn.rows, drawn.draws, vocabulary)
    alone = get_objective("ngram_mlm").corrupt(drawn.rows, drawn.draws, vocabulary)
    for name in ("input_ids", "label_positions", "label_ids"):
        assert together[name].tolist() == alone[name].tolist()
    assert np.array_equal(together["pair_labels"], drawn.rows["pair_labels"])


@pytest.mark.parametrize("second", ["whole_word_mlm", "ngram_mlm", "span_mlm"])
def test_two_masked_lms_take_disjoint_positions(second, vocabulary):
    rng = np.random.default_rng(0)
    ids = Ragged.from_rows([rng.choice(vocabulary.random_pool, 60) for _ in range(50)])
    rows = {"input_ids": ids, "word_starts": ids.with_values(rng.random(3000) < 0.5)}
    objective = get_objective(f"mlm+{second}", **{"mlm.mlm_probability": 0.3, f"{second}.mlm_probability": 0.3})
    out = objective.corrupt(rows, Draws.of(1, np.arange(50), 0, np.arange(50)), vocabulary)
    positions, parts = out["label_positions"].tolist(), out["label_parts"].tolist()
    before, after = ids.tolist(), out["input_ids"].tolist()
    totals = np.zeros(2)
    for row in range(50):
        assert len(set(positions[row])) == len(positions[row])
        assert out["label_ids"].tolist()[row] == [before[row][p] for p in positions[row]]
        chosen = set(positions[row])
        assert all(after[row][i] == before[row][i] for i in range(60) if i not in chosen)
        totals += np.bincount(parts[row], minlength=2)
    assert (totals > 500).all()  # 3000 · 0.3 and somewhat less
    assert "special_tokens_mask" not in out


class SecondMaskedLM(MaskedLM):
    name = "second"


def test_two_masked_lms_do_not_share_their_noise(vocabulary):
    rng = np.random.default_rng(0)
    rows = {"input_ids": Ragged.from_rows([rng.choice(vocabulary.random_pool, 100) for _ in range(100)])}
    objective = Joint((get_objective("mlm", mlm_probability=0.2), SecondMaskedLM(mlm_probability=0.2)))
    out = objective.corrupt(rows, Draws.of(1, np.arange(100), 0, np.arange(100)), vocabulary)
    second = (out["label_parts"].values == 1).sum()  # with the same coins there would be none
    assert abs(second - 1600) < 5 * np.sqrt(10_000 * 0.16 * 0.84)


def test_each_of_two_masked_lms_scores_its_own_labels(documents, vocabulary, wordpiece_tokenizer):
    objective = get_objective("mlm+span_mlm+nsp")
    _, batch = batch_of(objective, documents, vocabulary)
    torch.manual_seed(0)
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), vocabulary).eval()
    output = model(**batch, want=("logits", "pair"))
    for number, name in enumerate(("mlm", "span_mlm")):
        own = batch["label_parts"] == number
        logits, labels = output.outputs["logits"][own], batch["label_ids"][own]
        expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        assert torch.isclose(output.sums[name], expected)
        assert objective.counts(batch)[name] == own.sum()
        correct, count = output.metrics[f"{name}_accuracy"]
        assert (correct, count) == ((logits.argmax(-1) == labels).sum(), own.sum())
    expected = torch.nn.functional.cross_entropy(output.outputs["pair"], batch["pair_labels"], reduction="sum")
    assert torch.isclose(output.sums["nsp"], expected)


def test_collator_hands_over_stock_names(wordpiece_tokenizer):
    features = [dict(wordpiece_tokenizer("the old miller", "his umbrella"), pair_labels=1) for _ in range(3)]
    batch = ObjectiveCollator("mlm+span_mlm+nsp", wordpiece_tokenizer, **{"span_mlm.sbo_weight": 0.0})(features)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_label"}
    sparse = ObjectiveCollator("mlm+nsp", wordpiece_tokenizer, sparse_labels=True)(features)
    assert {"label_positions", "label_ids", "pair_labels"} <= set(sparse)


def test_checks_are_those_of_all_parts(vocabulary):
    with pytest.raises(ValueError, match="no mask token"):
        get_objective("mlm+nsp").check(replace(vocabulary, mask_id=None))
    with pytest.raises(ValueError, match="no special token before a pair"):
        get_objective("mlm+nsp").check(replace(vocabulary, pair_prefix=()))


def test_a_short_run_logs_every_loss_and_saves_both_heads(documents, vocabulary, wordpiece_tokenizer, tmp_path):
    objective = get_objective("mlm+nsp")
    train, held_out = documents.select(np.arange(150)), documents.select(np.arange(150, 200))
    data = PretrainingDataset(objective, train, vocabulary, length=48, global_batch=16, max_steps=4)
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=2, logging_steps=2,
        max_steps=4, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), vocabulary)
    evaluation = EvaluationDataset(objective, held_out, vocabulary, length=48)
    trainer = PretrainingTrainer(model=model, args=args, train_dataset=data, eval_dataset=evaluation)
    trainer.train()
    log = next(log for log in trainer.state.log_history if "mlm_loss" in log)
    assert log["loss"] == pytest.approx(log["mlm_loss"] + log["nsp_loss"], rel=1e-3)
    assert 0 <= log["nsp_accuracy"] <= 1 and "mlm_accuracy" in log
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_mlm_loss"] + metrics["eval_nsp_loss"], rel=1e-5)
    trainer.save_model(str(tmp_path / "final"))
    _, report = BertForPreTraining.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_span_boundaries_cannot_be_masked_by_a_later_part():
    get_objective("mlm+span_mlm")
    with pytest.raises(ValueError, match="last"):
        get_objective("span_mlm+mlm")
    get_objective("span_mlm+mlm", sbo_weight=0.0)
