"""Training on questions: losses under accumulation and scores of windows, against the stock model."""

import itertools

import numpy as np
import pytest
import torch
from squad_questions import learnable, make_checkpoint, paragraph, rows_of
from transformers import AutoModelForQuestionAnswering

from pretrain_zoo.evaluation.squad import WindowCollator, WindowDataset, make_windows
from pretrain_zoo.evaluation.squad_data import Question, from_rows
from pretrain_zoo.evaluation.squad_run import SquadArguments
from pretrain_zoo.evaluation.squad_trainer import SquadTrainer
from pretrain_zoo.models.presets import backbone


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, wordpiece_tokenizer):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), wordpiece_tokenizer)


def test_loss_does_not_depend_on_accumulation(checkpoint, wordpiece_tokenizer, tmp_path):
    """A step of SGD in any division is the step along the mean of the stock model's loss of each window alone."""
    questions = from_rows(rows_of(learnable(11, silent=True)), "data")
    windows = make_windows(questions, wordpiece_tokenizer, max_seq_length=128, doc_stride=8, max_query_length=20)
    assert len(windows) == 11 and len(set(windows.lengths.tolist())) > 1
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    steps = {}
    for batch, accumulation in ((11, 1), (4, 3), (1, 11)):
        torch.manual_seed(1)
        model = backbone(str(checkpoint), wordpiece_tokenizer, **off).load(AutoModelForQuestionAnswering).double()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        dataset = WindowDataset(windows)
        if not steps:
            loss = 0.0
            for i in range(len(dataset)):  # alone, so that there is no padding
                row = WindowCollator(wordpiece_tokenizer.pad_token_id)([dataset[i]])
                start, end = row.pop("labels").T
                loss = loss + model(**row, start_positions=start, end_positions=end).loss / len(dataset)
            loss.backward()
            expected = {name: before[name] - 0.01 * p.grad for name, p in model.named_parameters()}
            model.zero_grad()
        args = SquadArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            max_steps=1, learning_rate=0.01, optim="sgd", max_grad_norm=0.0, warmup_steps=0, weight_decay=0.0,
            lr_scheduler_type="constant", eval_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = SquadTrainer(
            model=model, args=args, train_dataset=dataset, eval_dataset=dataset,
            data_collator=WindowCollator(wordpiece_tokenizer.pad_token_id), score=lambda *_: {},
        )  # fmt: skip
        logged = trainer.train().training_loss
        assert logged == pytest.approx(loss.item(), rel=1e-6)
        for name, parameter in trainer.model.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-9)
        steps[batch] = logged


def test_evaluation_gives_the_scores_of_single_windows(checkpoint, wordpiece_tokenizer, tmp_path):
    text, _, _ = paragraph(90, 5)
    questions = [Question("a", "Who?", text, (), ()), Question("b", "Who?", "the bell", (), ())]
    windows = make_windows(questions, wordpiece_tokenizer, max_seq_length=40, doc_stride=8, max_query_length=20)
    torch.manual_seed(0)
    model = backbone(str(checkpoint), wordpiece_tokenizer).load(AutoModelForQuestionAnswering).eval()
    dataset = WindowDataset(windows)
    args = SquadArguments(output_dir=str(tmp_path), per_device_eval_batch_size=3, use_cpu=True, disable_tqdm=True)
    trainer = SquadTrainer(model=model, args=args, eval_dataset=dataset, score=lambda *_: {},
                           data_collator=WindowCollator(wordpiece_tokenizer.pad_token_id))  # fmt: skip
    start, end = trainer.predict(dataset).predictions
    for row, (first, last) in enumerate(itertools.pairwise(windows.splits)):
        ids, types = (torch.from_numpy(v[first:last].astype(np.int64))[None] for v in (windows.ids, windows.types))
        with torch.no_grad():
            output = model(input_ids=ids, token_type_ids=types)
        np.testing.assert_allclose(start[row, : last - first], output.start_logits[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(end[row, : last - first], output.end_logits[0], rtol=1e-4, atol=1e-5)
