"""GPT-1's input transformations, and its auxiliary loss against a plain loop over tokens."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pretrain_zoo.evaluation.finetune_arguments import FinetuneArguments
from pretrain_zoo.evaluation.glue_tasks import TASKS
from pretrain_zoo.evaluation.gpt_finetune import GPTTrainer, finetune_gpt, load_gpt
from pretrain_zoo.evaluation.gpt_transforms import (
    TOKENS,
    Marks,
    TransformedCollator,
    TransformedExamples,
    add_marks,
    lm_loss,
    transform,
)
from pretrain_zoo.evaluation.task_data import Examples
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.task_models import TaskModelArguments
from pretrain_zoo.training.tokenizer import train_tokenizer

MARKS = Marks(101, 102, 103)
SMALL = {
    "gpt2-tiny": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "llama-tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                   "intermediate_size": 48, "tie_word_embeddings": False},
    "bert-tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
}  # fmt: skip


@pytest.mark.parametrize(
    "texts, length, both, expected",
    [
        ([[1, 2, 3]], 9, False, [[101, 1, 2, 3, 103]]),
        ([[1, 2, 3]], 4, True, [[101, 1, 2, 103]]),
        ([[1, 2], [3]], 9, False, [[101, 1, 2, 102, 3, 103]]),
        ([[1, 2], [3]], 9, True, [[101, 1, 2, 102, 3, 103], [101, 3, 102, 1, 2, 103]]),
        # three tokens too many, taken from the longer text, then from both in turn
        ([[1, 2, 3, 4, 5], [6, 7]], 7, False, [[101, 1, 2, 102, 6, 7, 103]]),
        ([[1, 2], [6, 7, 8, 9]], 8, False, [[101, 1, 2, 102, 6, 7, 8, 103]]),
        ([[1, 2, 3, 4], [6, 7, 8, 9]], 8, False, [[101, 1, 2, 3, 102, 6, 7, 103]]),
        ([[], [3]], 9, False, [[101, 102, 3, 103]]),
    ],
)
def test_transformations(texts, length, both, expected):
    assert transform(texts, MARKS, length, both) == expected


def test_transformations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="not 3"):
        transform([[1], [2], [3]], MARKS, 20)
    with pytest.raises(ValueError, match="raise --max_seq_length"):
        transform([[1], [2]], MARKS, 4)


@pytest.fixture(scope="module")
def gpt_tokenizer(texts):
    tokenizer = train_tokenizer(texts, "gpt2", vocab_size=400)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture(scope="module")
def folder(gpt_tokenizer, tmp_path_factory):
    """Checkpoints of small models by preset."""
    place = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, settings in SMALL.items():
        auto = AutoModelForSequenceClassification if name.startswith("bert") else AutoModelForCausalLM
        backbone(name, gpt_tokenizer, **settings).load(auto).save_pretrained(place / name)
        gpt_tokenizer.save_pretrained(place / name)
    return place


def fresh(folder, name):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def pairs(count=12, seed=0):
    rng = np.random.default_rng(seed)
    words = ["miller", "sailor", "clock", "letter", "window", "bell"]

    def texts():
        return [" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(count)]

    return Examples((texts(), texts()), rng.integers(0, 2, count), [str(i) for i in range(count)])


def test_marks_are_added_once(folder):
    tokenizer = fresh(folder, "gpt2-tiny")
    before = len(tokenizer)
    marks = add_marks(tokenizer)
    assert len(tokenizer) == before + 3
    assert [marks.start, marks.delimiter, marks.extract] == [before, before + 1, before + 2]
    assert add_marks(tokenizer) == marks and len(tokenizer) == before + 3
    assert tokenizer.convert_ids_to_tokens(marks.extract) == TOKENS[2]


@pytest.mark.parametrize("name", ["gpt2-tiny", "llama-tiny"])
def test_auxiliary_loss_is_that_of_the_language_model(name, folder):
    """Each sequence's mean over its tokens by the stock model's own loss, one sequence at a time."""
    tokenizer = fresh(folder, name)
    args = TaskModelArguments(model_name_or_path=str(folder / name))
    torch.manual_seed(1)
    model, marks = load_gpt(args, tokenizer, 2, 64)
    model.eval()
    rows = TransformedExamples(pairs(5), tokenizer, marks, 24, both_orders=True)
    batch = TransformedCollator(tokenizer.pad_token_id)([rows[i] for i in range(5)])
    with torch.no_grad():
        output = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
        head = model.lm_head if hasattr(model, "lm_head") else model.get_input_embeddings()
        found = lm_loss(output.hidden_states[-1], head.weight, batch["input_ids"], batch["attention_mask"])
    causal = AutoModelForCausalLM.from_pretrained(folder / name)
    causal.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    causal.base_model.load_state_dict(model.base_model.state_dict())
    causal.get_output_embeddings().weight.data = head.weight.data
    causal.eval()
    expected = 0.0
    for example in rows.rows:
        for row in example:
            with torch.no_grad():
                expected += causal(torch.tensor([row]), labels=torch.tensor([row])).loss.item()
    assert hasattr(model, "lm_head") == (name == "llama-tiny")  # tied and untied embeddings
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert found.item() / 10 == pytest.approx(math.log(len(tokenizer)), rel=0.15)


def trainer_of(folder, tokenizer, tmp_path, *, batch, accumulation, ways, coefficient, lr=1e-2):
    torch.manual_seed(3)
    args = TaskModelArguments(
        model_name_or_path=str(folder / "gpt2-tiny"), config_overrides="attn_pdrop=0,embd_pdrop=0,resid_pdrop=0"
    )
    model, marks = load_gpt(args, tokenizer, 2, 64, coefficient)
    rows = TransformedExamples(pairs(), tokenizer, marks, 24, both_orders=ways == 2)
    return GPTTrainer(
        model=model.double(),
        args=FinetuneArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=lr,
            optim="sgd",
            max_grad_norm=0.0,
            warmup_steps=0,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            eval_strategy="no",
            train_sampling_strategy="sequential",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=TransformedCollator(tokenizer.pad_token_id),
        score=lambda predictions, references: {},
        lm_coefficient=coefficient,
        ways=ways,
    )


@pytest.mark.parametrize("ways", [1, 2])
def test_one_step_is_the_gradient_of_the_paper_s_loss(ways, folder, tmp_path):
    """One step of SGD in any division into micro-batches is the step along the gradient of the loss written out."""
    coefficient, lr = 0.5, 1e-2
    reference = trainer_of(folder, fresh(folder, "gpt2-tiny"), tmp_path, batch=12, accumulation=1, ways=ways,
                           coefficient=coefficient)  # fmt: skip
    model, rows = reference.model, reference.train_dataset
    names = [name for name, _ in model.named_parameters()]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train()
    if reference.adding is not None:
        reference.adding.remove()
    task, language, sequences = 0.0, 0.0, 0
    for index in range(len(rows)):
        logits = 0.0
        for row in rows.rows[index]:
            output = model(torch.tensor([row]), output_hidden_states=True)
            logits = logits + model.score(output.hidden_states[-1][0, -1])  # at the extract token
            log_probabilities = torch.log_softmax(
                output.hidden_states[-1][0] @ model.get_input_embeddings().weight.T, -1
            )
            own = [-log_probabilities[i, row[i + 1]] for i in range(len(row) - 1)]
            language, sequences = language + sum(own) / len(own), sequences + 1
        task = task - torch.log_softmax(logits, -1)[rows.labels[index]]
    loss = task / len(rows) + coefficient * language / sequences
    gradients = dict(zip(names, torch.autograd.grad(loss, list(model.parameters()))))
    assert sequences == ways * 12
    for batch, accumulation in ((12, 1), (5, 3), (4, 3)):
        trainer = trainer_of(folder, fresh(folder, "gpt2-tiny"), tmp_path, batch=batch, accumulation=accumulation,
                             ways=ways, coefficient=coefficient, lr=lr)  # fmt: skip
        logged = trainer.train().training_loss
        assert logged == pytest.approx(loss.item(), rel=1e-6)
        for name, parameter in trainer.model.named_parameters():
            expected = before[name] - lr * gradients[name]
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-9)


def test_both_orders_are_added_up_in_evaluation(folder, tmp_path):
    tokenizer = fresh(folder, "gpt2-tiny")
    trainer = trainer_of(folder, tokenizer, tmp_path, batch=4, accumulation=1, ways=2, coefficient=0.0)
    rows, model = trainer.train_dataset, trainer.model
    found = trainer.predict(rows).predictions
    trainer.adding.remove()
    model.eval()
    for index, example in enumerate(rows.rows):
        with torch.no_grad():
            expected = sum(model(torch.tensor([row])).logits[0] for row in example)
        np.testing.assert_allclose(found[index], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_fine_tuning_learns_saves_and_loads_with_stock_code(folder, tmp_path):
    """A pair is similar if both texts are the same; only the orders and marks are new to the model."""
    tokenizer = fresh(folder, "gpt2-tiny")
    words = ["miller", "bell"]
    texts = [words[i % 2] for i in range(32)]
    labels = np.array([1 if i % 2 else 0 for i in range(32)])
    splits = dict.fromkeys(("train", "validation"), Examples((texts, texts), labels, texts))
    args = FinetuneArguments(
        output_dir=str(tmp_path / "run"), max_steps=30, learning_rate=1e-2, eval_strategy="no", use_cpu=True,
        max_seq_length=32, disable_tqdm=True,
    )  # fmt: skip
    model_args = TaskModelArguments(model_name_or_path=str(folder / "gpt2-tiny"))
    results, model = finetune_gpt(TASKS["mrpc"], splits, tokenizer, model_args, args)
    assert results["metrics"]["validation"]["accuracy"] == 1.0 and results["steps"] == 30
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    marks = add_marks(tokenizer)
    for text, label in zip(texts[:2], labels):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = sum(loaded(torch.tensor([row])).logits[0] for row in transform([ids, ids], marks, 32, True))
        assert logits.argmax() == label


def test_backbones_that_cannot_be_are_refused(folder):
    with pytest.raises(ValueError, match="need a causal backbone"):
        load_gpt(TaskModelArguments(model_name_or_path=str(folder / "bert-tiny")), fresh(folder, "bert-tiny"), 2, 64)
    frozen = TaskModelArguments(model_name_or_path=str(folder / "gpt2-tiny"), freeze_backbone=True)
    with pytest.raises(ValueError, match="--freeze_backbone leaves the embeddings as they are"):
        load_gpt(frozen, fresh(folder, "gpt2-tiny"), 2, 64)
