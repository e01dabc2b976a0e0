"""Distillation of classifiers: losses by hand, both stages, the teacher's isolation, accumulation, a run."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments

from pretrain_zoo.evaluation.distilled_trainer import distilled
from pretrain_zoo.evaluation.glue_tasks import GLUE
from pretrain_zoo.evaluation.task_data import Examples
from pretrain_zoo.evaluation.task_distillation import TaskDistillation, TaskDistiller, segments
from pretrain_zoo.evaluation.teachers import TeacherArguments, load_teacher, with_unlabelled

SIZE, SEP = 40, 2


def classifier(kind="bert", layers=2, hidden=16, labels=3, seed=0, **more):
    settings = {"vocab_size": SIZE, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 2}
    settings |= {"intermediate_size": 24, "max_position_embeddings": 20, "pad_token_id": 0, "num_labels": labels}
    settings |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    if kind == "distilbert":
        settings["hidden_dim"] = 24
    torch.manual_seed(seed)
    made = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **settings | more)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def features(count=6, seed=0, labels=3):
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = [1, *random.integers(3, SIZE, random.integers(3, 9)).tolist(), SEP]
        label = float(random.normal()) if labels == 1 else int(random.integers(labels))
        rows.append({"input_ids": ids, "labels": label})
    return rows


def collate(rows, length=None):
    length = length or max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (length - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def plain(model, batch, **asked):
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **asked)


def test_predictions_by_hand():
    student, teacher, batch = classifier(seed=1), classifier(layers=4), collate(features())
    settings = TaskDistillation(temperature=2.0, soft_weight=0.7, hard_weight=0.3)
    loss, _ = TaskDistiller(teacher, student, settings).loss(student, batch)
    q, p = (plain(m, batch).logits.double() / 2 for m in (student, teacher))
    soft = 4 * (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()
    hard = F.cross_entropy(2 * q, batch["labels"])
    assert loss.item() == pytest.approx((0.7 * soft + 0.3 * hard).item(), rel=1e-5)


def test_regression_by_hand():
    student, teacher, batch = classifier(seed=1, labels=1), classifier(labels=1), collate(features(labels=1))
    loss, _ = TaskDistiller(teacher, student, TaskDistillation(hard_weight=0.5)).loss(student, batch)
    ours, theirs = (plain(m, batch).logits.squeeze(1) for m in (student, teacher))
    expected = F.mse_loss(ours, theirs) + 0.5 * F.mse_loss(ours, batch["labels"].float())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("labels", [3, 1])
def test_rows_without_labels_count_for_the_teacher_alone(labels):
    student, teacher = classifier(seed=1, labels=labels), classifier(layers=4, labels=labels)
    batch = collate(features(labels=labels))
    batch["labels"][[1, 4]] = -100 if labels == 3 else float("nan")
    distiller = TaskDistiller(teacher, student, TaskDistillation(hard_weight=0.5))
    assert {name: count.item() for name, count in distiller.counts(batch).items()} == {"soft": 6, "hard": 4}
    loss, _ = distiller.loss(student, batch)
    ours, theirs = (plain(m, batch).logits for m in (student, teacher))
    known = [0, 2, 3, 5]
    if labels == 1:
        soft, hard = F.mse_loss(ours, theirs), F.mse_loss(ours[known, 0], batch["labels"][known])
    else:
        soft = F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
        hard = F.cross_entropy(ours[known], batch["labels"][known])
    assert loss.item() == pytest.approx((soft + 0.5 * hard).item(), rel=1e-4)


def test_transfer_files(tmp_path):
    (tmp_path / "sst2.tsv").write_text('sentence\tother\na "fine film\t7\ndull\t8\n')
    arguments = TeacherArguments(teacher="a/b", transfer_file=str(tmp_path / "{task}.tsv"))
    found = arguments.unlabelled(GLUE["sst2"])
    assert found.texts == (['a "fine film', "dull"],) and found.labels is None
    both = with_unlabelled(Examples((["good"],), np.array([1]), ["0"]), found)
    assert both.texts == (["good", 'a "fine film', "dull"],) and both.labels.tolist() == [1, -100, -100]
    numbers = with_unlabelled(Examples((["good"],), np.array([0.5]), ["0"]), found).labels
    assert numbers[0] == 0.5 and np.isnan(numbers[1:]).all()
    assert TeacherArguments().unlabelled(GLUE["sst2"]) is None
    for wrong, message in (
        (TeacherArguments(transfer_file="x.tsv"), "give --teacher"),
        (TeacherArguments(teacher="a/b", transfer_file=str(tmp_path / "none.tsv")), "no file"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong.unlabelled(GLUE["sst2"])


def test_inner_layers_by_hand():
    student, teacher, batch = classifier(seed=1, hidden=8), classifier(layers=4), collate(features())
    distiller = TaskDistiller(teacher, student, TaskDistillation(attention_weight=0.0, hidden_weight=2.0))
    before = set(student.state_dict())
    with distiller.intermediate():
        assert set(student.state_dict()) - before == {"hidden_projection.weight", "hidden_projection.bias"}
        loss, _ = distiller.loss(student, batch)
        weight, bias = student.hidden_projection.weight.detach(), student.hidden_projection.bias.detach()
        loss.backward()
        assert student.hidden_projection.weight.grad.abs().sum() > 0
    assert set(student.state_dict()) == before
    ours, theirs = (plain(m, batch, output_hidden_states=True).hidden_states for m in (student, teacher))
    mask = batch["attention_mask"] == 1
    pairs = [(ours[0], theirs[0]), (ours[1], theirs[2]), (ours[2], theirs[4])]
    expected = sum(F.mse_loss(a[mask] @ weight.T + bias, b[mask]) for a, b in pairs)
    assert loss.item() == pytest.approx(2 * expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
def test_a_student_that_is_its_teacher_has_no_loss(kind):
    student, teacher, batch = classifier(kind), classifier(kind), collate(features())
    distiller = TaskDistiller(teacher, student, TaskDistillation(temperature=3.0))
    assert distiller.loss(student, batch)[0].item() == 0.0
    with distiller.intermediate():
        assert distiller.loss(student, batch)[0].item() == 0.0
    other = classifier(kind, seed=1)
    distiller = TaskDistiller(teacher, other)
    assert distiller.loss(other, batch)[0] > 0
    with distiller.intermediate():
        assert distiller.loss(other, batch)[0] > 0


def test_padding_and_splits_do_not_matter():
    student, teacher, rows = classifier(seed=1).double(), classifier(layers=4).double(), features()
    distiller = TaskDistiller(teacher, student, TaskDistillation(hard_weight=0.5))

    def check():
        whole = collate(rows)
        once, counts = distiller.loss(student, whole)[0], distiller.counts(whole)
        torch.testing.assert_close(distiller.loss(student, collate(rows, 18))[0], once, rtol=1e-9, atol=1e-12)
        parts = [collate(rows[:2]), collate(rows[2:])]
        assert all(sum(distiller.counts(p)[n] for p in parts) == counts[n] for n in counts)
        split = sum(distiller.loss(student, part, counts)[0] for part in parts)
        torch.testing.assert_close(split, once, rtol=1e-9, atol=1e-12)

    check()
    with distiller.intermediate():
        check()


def test_token_types_for_a_teacher_that_has_them():
    teacher, student = classifier("bert"), classifier("distilbert", seed=1)
    ids = torch.tensor([[1, 7, SEP, 8, 9, SEP, 0], [1, 7, 8, SEP, 9, 9, SEP]])
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]])
    mask = (ids != 0).long()
    assert torch.equal(segments(ids, mask, SEP), types) and not segments(ids, mask, None).any()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1])}
    found, _ = TaskDistiller(teacher, student, sep_token_id=SEP).loss(student, batch)
    with torch.no_grad():
        p = teacher(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        q = student(input_ids=ids, attention_mask=mask).logits
    expected = F.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ({"labels": 2}, {}, "2 labels"),
        ({"vocab_size": 50}, {}, "one tokenizer"),
        ({"id2label": {0: "b", 1: "a", 2: "c"}}, {"id2label": {0: "a", 1: "b", 2: "c"}}, "another order"),
    ],
)
def test_models_that_do_not_belong_together(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        TaskDistiller(classifier(**teacher), classifier(**student))


def test_refused_settings():
    for settings in ({"temperature": 0}, {"soft_weight": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            TaskDistillation(**settings)
    student, batch = classifier(seed=1), collate(features())
    with pytest.raises(ValueError, match="nothing is learnt"):
        TaskDistiller(classifier(), student, TaskDistillation(soft_weight=0)).loss(student, batch)
    for settings, teacher, message in (
        (TaskDistillation(), classifier(num_attention_heads=4), "attention_weight=0"),
        (TaskDistillation(), classifier(layers=3), "layer_map"),
        (TaskDistillation(layer_map=(1, 9)), classifier(layers=3), "from 1 to 3"),
    ):
        with pytest.raises(ValueError, match=message), TaskDistiller(teacher, student, settings).intermediate():
            pass
    modern = [classifier("modernbert", hidden_size=16, seed=i) for i in range(2)]
    with pytest.raises(ValueError, match="compared for"), TaskDistiller(*modern).intermediate():
        pass


# a Trainer


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def train(student, distiller, folder, rows, batch=8, accumulation=1, steps=3, save="no"):
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-2,
        report_to="none",
        save_strategy=save,
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=1,
        max_grad_norm=0.0,
        optim="sgd",
    )
    trainer = distilled(Trainer, distiller)(student, args, data_collator=collate, train_dataset=Rows(rows))
    trainer.train()
    return trainer


def test_two_stages_bring_the_student_nearer_and_leave_the_teacher_alone(tmp_path):
    student, teacher, rows = classifier(seed=1), classifier(layers=4), features(32)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distiller, batch = TaskDistiller(teacher, student), collate(rows)
    with distiller.intermediate():
        start = distiller.loss(student, batch)[0].item()
        train(student, distiller, tmp_path, rows, steps=12)
        assert distiller.loss(student, batch)[0].item() < start
    start = distiller.loss(student, batch)[0].item()
    trainer = train(student, distiller, tmp_path, rows, steps=12, save="steps")
    assert distiller.loss(student, batch)[0].item() < start
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters()) and not any(m.training for m in teacher.modules())
    own = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert own <= {id(p) for p in student.parameters()} and not own & {id(p) for p in teacher.parameters()}
    trainer.save_model(str(tmp_path / "student"))
    alone, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(plain(alone.eval(), batch).logits, plain(student.eval(), batch).logits)


@pytest.mark.parametrize("stage", ["intermediate", "prediction"])
def test_accumulation_is_the_same_update(tmp_path, stage):
    rows, teacher, weights = features(16), classifier(layers=4).double(), []
    for batch, accumulation in ((8, 1), (2, 4)):
        student = classifier(seed=1).double()
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        distiller = TaskDistiller(teacher, student, TaskDistillation(hard_weight=0.5))
        if stage == "intermediate":
            with distiller.intermediate():
                train(student, distiller, tmp_path, rows, batch, accumulation)
        else:
            train(student, distiller, tmp_path, rows, batch, accumulation)
        weights.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert (weights[0] - torch.cat([p.flatten() for p in classifier(seed=1).double().parameters()])).norm() > 1e-3
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_teachers_in_fewer_bits(tmp_path):
    sizes = {"hidden": 64, "intermediate_size": 64}
    whole = classifier(**sizes)
    whole.save_pretrained(tmp_path)
    batch = collate(features())
    expected = plain(whole, batch).logits
    assert torch.equal(plain(load_teacher(str(tmp_path)).eval(), batch).logits, expected)
    assert load_teacher(str(tmp_path), "bfloat16").dtype == torch.bfloat16
    for wrong, message in (
        ("nowhere", "no folder"),
        ("/nowhere/at/all", "no folder"),
        (str(tmp_path / "bare"), "no weights for"),
    ):
        whole.base_model.save_pretrained(tmp_path / "bare")
        with pytest.raises(ValueError, match=message):
            load_teacher(wrong)
    with pytest.raises(ValueError, match="float32, bfloat16"):
        load_teacher(str(tmp_path), "int3")
    pytest.importorskip("bitsandbytes")
    student = classifier(seed=1, **sizes)
    for dtype in ("int8", "nf4"):
        teacher = load_teacher(str(tmp_path), dtype)
        loss, _ = TaskDistiller(teacher, student).loss(student, batch)
        assert loss > 0
        assert 0.8 < F.cosine_similarity(plain(teacher, batch).logits, expected).mean() < 0.9999999
