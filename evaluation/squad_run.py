"""One run of question answering: settings, training, answers and scores.

Its folder (see `task_run`) also has

predictions.json         id → answer, as the leaderboard takes it; "" for no answer
nbest_predictions.json   the best spans of each question
null_odds.json           score of no answer minus that of the best span
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from transformers import AutoConfig, TrainerCallback

from ..models.quantised import check_trainable
from ..models.task_checkpoints import is_adapter
from ..models.task_models import TaskModelArguments, load_saved, load_task_model, size_report
from ..training.run_folder import write_json
from .finetune_arguments import FinetuneArguments
from .squad import WindowCollator, WindowDataset, make_windows
from .squad_answers import Answer, best_answers
from .squad_data import Question
from .squad_metrics import METRICS, best_thresholds, squad_scores
from .squad_trainer import SquadTrainer, takes_types
from .task_run import TaskRun, default_learning_rate, identity_of, silence

_DECIDING = ("doc_stride", "max_query_length", "max_answer_length", "null_score_diff_threshold")


@dataclass
class SquadArguments(FinetuneArguments):
    """How question answering is trained and answered: `FinetuneArguments` with more settings and other defaults."""

    output_dir: str | None = field(default=None, metadata={"help": "Default: runs/squad-MODEL."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Windows per device and micro-batch."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Windows per device when evaluating."})
    num_train_epochs: float = field(default=2.0, metadata={"help": "Epochs to train."})
    max_seq_length: int = field(default=384, metadata={"help": "Tokens of a window: question and part of the text."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many questions only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on so many questions only."})
    doc_stride: int = field(default=128, metadata={"help": "Tokens that consecutive windows of a text share."})
    max_query_length: int = field(default=64, metadata={"help": "Tokens of a question; longer ones are cut."})
    max_answer_length: int = field(default=30, metadata={"help": "Tokens of an answer at most."})
    n_best_size: int = field(default=20, metadata={"help": "Spans per question in nbest_predictions.json."})
    null_score_diff_threshold: float = field(
        default=0.0,
        metadata={"help": "Answer nothing where “no answer” scores higher than the best span by more than this."},
    )
    metric: str = field(default="squad", metadata={"help": f"Official scores of: {', '.join(METRICS)}."})
    class_weights: str = field(default="none", init=False)

    def __post_init__(self):
        self.given_output_dir = self.output_dir
        super().__post_init__()
        if self.metric not in METRICS:
            raise ValueError(f"--metric must be one of {', '.join(METRICS)}, not {self.metric!r}")
        for name in ("max_answer_length", "n_best_size", "max_query_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more")


def sample(questions: Sequence[Question], size: int | None) -> list[Question]:
    """A random sample without replacement in the order of the file, the same for every seed of training."""
    if size is None or size >= len(questions):
        return list(questions)
    return [questions[i] for i in np.sort(np.random.default_rng(0).permutation(len(questions))[:size])]


def run_squad(
    train: Sequence[Question],
    dev: Sequence[Question],
    tokenizer: Any,
    model_args: TaskModelArguments,
    args: SquadArguments,
    folder: Path,
    console: Console,
) -> dict[str, Any]:
    """Train, answer the dev set and score the answers; returns the content of results.json.

    A run that the folder holds finished is not done again, one that was cut off goes on.

    Args:
        train: questions to train on; none to evaluate a model that is fine-tuned already.
        dev: questions to answer. Where some of `train` and `dev` have no answer, this is SQuAD 2.0: the model may
            answer nothing, and the best thresholds on its score of no answer are reported. They are chosen on the data
            they are measured on, as the official script does.
        tokenizer: fast, with cls and padding tokens.
        model_args, args: which model, and how.
        folder: of this run.
        console: gets a line per evaluation.

    Raises:
        ValueError: for what cannot work, or if `folder` holds another run.
    """
    if train:
        check_trainable(model_args)
    train, dev = sample(train, args.max_train_samples), sample(dev, args.max_eval_samples)
    may_be_silent = any(not question.answers for question in (*train, *dev))
    sampled = {"train_questions": len(train), "dev_questions": len(dev)}
    run = TaskRun(folder, identity_of(model_args, args, _DECIDING, **sampled), args)
    if run.finished is not None:
        return run.finished

    sizes: dict[str, int] = {name: getattr(args, name) for name in ("max_seq_length", "doc_stride", "max_query_length")}
    datasets = {
        name: WindowDataset(make_windows(questions, tokenizer, **sizes))
        for name, questions in (("train", train), ("dev", dev))
        if questions
    }
    run.begin()
    model: Any
    if train:
        model = load_task_model(model_args, tokenizer, "question_answering", max_length=args.max_seq_length)
    else:
        model = _load_answering(model_args.model_name_or_path)
    report = size_report(model)
    args.learning_rate = args.learning_rate or default_learning_rate(report["trainable"])

    def answers_of(start: np.ndarray, end: np.ndarray) -> list[Answer]:
        limits = {"n_best_size": args.n_best_size, "max_answer_length": args.max_answer_length}
        return best_answers(start, end, datasets["dev"].windows, dev, **limits)

    def score(start: np.ndarray, end: np.ndarray, dataset: WindowDataset) -> dict[str, float]:
        metrics = scores(answers_of(start, end), dev, may_be_silent, args)
        return metrics | {"score": metrics.get("best_f1", metrics["f1"])}

    trainer = SquadTrainer(
        model=model,
        args=args,
        train_dataset=datasets.get("train"),
        eval_dataset=datasets["dev"],
        data_collator=WindowCollator(
            tokenizer.pad_token_id,
            getattr(tokenizer, "pad_token_type_id", 0),
            takes_types(model),
            8 if args.bf16 or args.fp16 else None,
        ),
        processing_class=tokenizer,
        score=score,
        layer_lr_decay=model_args.layer_lr_decay,
    )
    silence(trainer)
    trainer.add_callback(_Lines(console))
    run.claim(trainer)
    seconds = trainer.train(resume_from_checkpoint=run.checkpoint).metrics["train_runtime"] if train else 0.0
    start, end = trainer.predict(datasets["dev"]).predictions  # type: ignore[misc]
    answers = answers_of(np.asarray(start), np.asarray(end))
    results: dict[str, Any] = {
        "model": model_args.model_name_or_path,
        "metrics": scores(answers, dev, may_be_silent, args),
        "version_2": may_be_silent,
        "metric": args.metric,
        "questions": {"train": len(train), "dev": len(dev)},
        "windows": {name: len(dataset) for name, dataset in datasets.items()},
        "trainable_parameters": report["trainable"] if train else 0,
        "parameters": report["total"],
        "train_seconds": seconds,
        "history": [log for log in trainer.state.log_history if "eval_f1" in log],
    }
    if train:
        results |= run.save_model(trainer, tokenizer)
    if args.process_index == 0:
        write_answers(folder, answers, dev, args.null_score_diff_threshold if may_be_silent else None)
    return run.finish(trainer, results)


def _load_answering(name: str) -> Any:
    """A model that is fine-tuned already. Raises `ValueError` for one without a head for question answering."""
    written = (
        [] if is_adapter(name) else AutoConfig.from_pretrained(name, trust_remote_code=False).architectures or [""]
    )
    model: Any = load_saved(name) if all("QuestionAnswering" in text for text in written) else None
    if "QuestionAnswering" not in type(getattr(model, "get_base_model", lambda: model)()).__name__:
        raise ValueError(f"{name} has no head for question answering; give --train_file")
    return model


def scores(
    answers: Sequence[Answer], questions: Sequence[Question], may_be_silent: bool, args: SquadArguments
) -> dict[str, float]:
    """The official scores, in per cent; in SQuAD 2.0 at the threshold of `args`, and those at the best thresholds."""
    gold = {question.id: question.answers for question in questions}
    threshold = args.null_score_diff_threshold if may_be_silent else None
    report = squad_scores(decided(answers, questions, threshold), gold, args.metric)
    if may_be_silent:
        best = {question.id: answer.text for question, answer in zip(questions, answers)}
        differences = {question.id: answer.score_difference for question, answer in zip(questions, answers)}
        report |= best_thresholds(best, differences, gold, args.metric)
    return report


def decided(answers: Sequence[Answer], questions: Sequence[Question], threshold: float | None) -> dict[str, str]:
    """Question id → answer; `None` as threshold: always one."""
    return {
        question.id: answer.text if threshold is None else answer.decide(threshold)
        for question, answer in zip(questions, answers)
    }


def write_answers(
    folder: Path, answers: Sequence[Answer], questions: Sequence[Question], threshold: float | None
) -> None:
    """The three files of answers, in the layouts of BERT's code; null_odds.json only where there may be no answer."""
    write_json(folder / "predictions.json", decided(answers, questions, threshold))
    write_json(folder / "nbest_predictions.json", {q.id: answer.n_best for q, answer in zip(questions, answers)})
    if threshold is not None:
        write_json(folder / "null_odds.json", {q.id: a.score_difference for q, a in zip(questions, answers)})


class _Lines(TrainerCallback):
    """A line per evaluation."""

    def __init__(self, console: Console):
        self.console = console

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if metrics and "eval_f1" in metrics:
            names = ("loss", "exact", "f1", "best_f1")
            shown = "  ".join(
                f"{n.replace('_', ' ')} {metrics[f'eval_{n}']:.2f}" for n in names if f"eval_{n}" in metrics
            )
            self.console.print(f"epoch {state.epoch or 0:.1f}  {shown}")
