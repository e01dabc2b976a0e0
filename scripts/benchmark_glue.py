"""Time fine-tuning here against a plain `Trainer` that pads to the maximal length, on the same examples in one run.

    python -m pretrain_zoo.scripts.benchmark_glue --model_name_or_path runs/my-mlm --data_dir glue/

Both train the same weights on the same examples, with the same optimizer, schedule and seed; both models are then
scored on the dev set in the same way. What differs is padding, the order of the rows, and what follows from them. The
time is that of training alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from transformers import HfArgumentParser, PrinterCallback, Trainer, TrainingArguments, default_data_collator, set_seed

from pretrain_zoo.evaluation.encoded import EncodedExamples
from pretrain_zoo.evaluation.finetune import build_model, make_trainer, prepare
from pretrain_zoo.evaluation.finetune_arguments import FinetuneArguments
from pretrain_zoo.evaluation.glue_report import rich_table
from pretrain_zoo.evaluation.glue_tasks import get_tasks
from pretrain_zoo.evaluation.task_data import Examples, load_task
from pretrain_zoo.models.task_models import TaskModelArguments, load_tokenizer


@dataclass
class BenchmarkArguments:
    """What is timed."""

    model_name_or_path: str = field(metadata={"help": "Folder, Hub name or preset."})
    data_dir: str = field(metadata={"help": "Folder in GLUE's layout."})
    task_name: str = field(default="sst2,cola", metadata={"help": "Tasks, separated by commas."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, for a preset."})
    pooling: str | None = field(default=None, metadata={"help": "As run_glue's."})
    rows: int = field(default=2048, metadata={"help": "Training examples."})
    epochs: float = field(default=1.0, metadata={"help": "Epochs."})
    batch_size: int = field(default=32, metadata={"help": "Rows of a batch."})
    max_seq_length: int = field(default=128, metadata={"help": "Longest row; the plain trainer pads all rows to it."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Highest learning rate."})
    repeats: int = field(default=1, metadata={"help": "Pairs of runs, with seeds 1, 2, …; figures are means."})


class PaddedExamples(torch.utils.data.Dataset):
    """Every row padded to one length beforehand, as `run_glue.py` of transformers does by default."""

    def __init__(self, examples: Examples, tokenizer: Any, max_length: int, names: set[str]):
        encoded = tokenizer(
            *(list(texts) for texts in examples.texts), truncation=True, max_length=max_length, padding="max_length"
        )
        self.columns = {name: column for name, column in encoded.items() if name in names}
        self.labels = examples.labels

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert self.labels is not None
        features = {name: column[index] for name, column in self.columns.items()}
        return features | {"label": self.labels[index].item()}


def compare(args: BenchmarkArguments, console: Console) -> list[list[str]]:
    """Rows of the table: task, examples per second and score of both, ratio."""
    model_args = TaskModelArguments(
        model_name_or_path=args.model_name_or_path,
        tokenizer_name=args.tokenizer_name,
        pooling=args.pooling,  # type: ignore[arg-type]
    )
    tokenizer = load_tokenizer(model_args)
    lines = []
    for task in get_tasks(args.task_name):
        splits = load_task(task, Path(args.data_dir))
        speeds: dict[str, list[float]] = {"plain": [], "here": []}
        scores: dict[str, list[float]] = {"plain": [], "here": []}
        for seed in range(1, args.repeats + 1):
            with tempfile.TemporaryDirectory() as folder:
                common: dict[str, Any] = {
                    "output_dir": folder,
                    "per_device_train_batch_size": args.batch_size,
                    "num_train_epochs": args.epochs,
                    "learning_rate": args.learning_rate,
                    "warmup_steps": 0.1,
                    "weight_decay": 0.01,
                    "report_to": "none",
                    "eval_strategy": "no",
                    "disable_tqdm": True,
                    "dataloader_pin_memory": torch.cuda.is_available(),
                    "seed": seed,
                }
                ours = FinetuneArguments(**common, max_seq_length=args.max_seq_length, max_train_samples=args.rows)
                prepared = prepare(task, splits, tokenizer, ours)
                rows = splits["train"].sample(args.rows)
                for name in ("plain", "here"):
                    set_seed(seed)
                    model = build_model(prepared, model_args, args.max_seq_length, random_weights=False)
                    scorer = make_trainer(prepared, model, ours)
                    trainer: Trainer = scorer
                    if name == "plain":
                        collator: Any = scorer.data_collator
                        padded = PaddedExamples(rows, tokenizer, args.max_seq_length, collator.names)
                        trainer = Trainer(
                            model,
                            TrainingArguments(**common, save_strategy="no"),
                            train_dataset=padded,
                            data_collator=default_data_collator,
                        )
                        trainer.remove_callback(PrinterCallback)
                    started = time.perf_counter()
                    trainer.train()
                    speeds[name].append(args.epochs * len(rows) / (time.perf_counter() - started))
                    evaluation: EncodedExamples = prepared.splits["validation"]
                    metrics = scorer.predict(evaluation).metrics or {}
                    scores[name].append(metrics["test_score"])
        plain, here = (sum(speeds[name]) / args.repeats for name in ("plain", "here"))
        shown = [f"{100 * sum(scores[name]) / args.repeats:.1f}" for name in ("plain", "here")]
        lines.append([task.title, f"{plain:,.0f}", f"{here:,.0f}", f"{here / plain:.1f}×", *shown])
        console.print(*lines[-1], sep="  ")
    return lines


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    console = Console(highlight=False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    (args,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses(argv)  # type: ignore[arg-type]
    headings = ["", "plain, examples/s", "here, examples/s", "ratio", "plain, score", "here, score"]
    console.print(rich_table("fine-tuning, training time only", headings, compare(args, console)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
