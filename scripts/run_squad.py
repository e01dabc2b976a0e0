"""Fine-tune a checkpoint on SQuAD 1.1, SQuAD 2.0 or data in their layout, and print the official scores.

    python -m pretrain_zoo.scripts.run_squad --model_name_or_path runs/my-mlm --train_file train-v2.0.json \\
        --validation_file dev-v2.0.json
    python -m pretrain_zoo.scripts.run_squad --model_name_or_path FacebookAI/roberta-base --dataset_name rajpurkar/squad
    python -m pretrain_zoo.scripts.run_squad --model_name_or_path runs/squad-my-mlm/model --validation_file dev.json

The first two train and evaluate, the last evaluates a model that is fine-tuned already. Files are .json, .json.gz or
.json.xz in SQuAD's layout. Whether there may be no answer (SQuAD 2.0) is seen from the data; then the best thresholds
on the score of no answer are reported too. The same command again goes on where it was cut off. KorQuAD, whose F1
counts characters: `--metric korquad`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pretrain_zoo.evaluation.squad import check_tokenizer
from pretrain_zoo.evaluation.squad_data import Question, read_hub, read_squad, split_by_article
from pretrain_zoo.evaluation.squad_run import SquadArguments, run_squad
from pretrain_zoo.models.task_models import TaskModelArguments, load_tokenizer
from pretrain_zoo.training.command_line import check_processes, read_arguments, run_command
from pretrain_zoo.training.prepare import check_model_name
from pretrain_zoo.training.report import duration


@dataclass
class SquadDataArguments:
    """Which questions; an argument group for `HfArgumentParser`."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set of the Hub: rajpurkar/squad, rajpurkar/squad_v2, …"}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_split: str = field(default="train", metadata={"help": "Its split to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Its split to validate on."})
    train_file: str | None = field(default=None, metadata={"help": "Questions to train on, in SQuAD's layout."})
    validation_file: str | None = field(default=None, metadata={"help": "Questions to answer and score."})
    validation_fraction: float | None = field(
        default=None, metadata={"help": "Without --validation_file: hold out this share of the articles."}
    )


def load_questions(data: SquadDataArguments, seed: int) -> tuple[list[Question], list[Question]]:
    """Questions to train on (none for evaluation alone) and to validate on. Raises `ValueError` for unusable ones."""
    if data.dataset_name is not None:
        if data.train_file or data.validation_file:
            raise ValueError("give either --dataset_name or files, not both")
        splits = (data.train_split, data.validation_split)
        train, dev = (read_hub(data.dataset_name, data.dataset_config_name, split) for split in splits)
        return train, dev
    if data.validation_file is not None and data.validation_fraction is not None:
        raise ValueError("give either --validation_file or --validation_fraction, not both")
    if data.validation_file is not None:
        return read_squad(data.train_file) if data.train_file else [], read_squad(data.validation_file)
    if data.train_file is None:
        raise ValueError("there are no data: give --train_file, --validation_file or --dataset_name")
    if data.validation_fraction is None:
        raise ValueError("--train_file needs a --validation_file, or a --validation_fraction to hold out")
    return split_by_article(read_squad(data.train_file), data.validation_fraction, seed, data.train_file)


def results_table(results: dict[str, Any]) -> Table:
    """The table that the command ends with."""
    metrics = results["metrics"]
    kind = "KorQuAD" if results["metric"] == "korquad" else "SQuAD 2.0" if results["version_2"] else "SQuAD 1.1"
    table = Table(title=f"{Path(results['model']).name}, {kind}", title_justify="left")
    for heading in ("questions", "number", "exact match", "F1"):
        table.add_column(heading, justify="left" if heading == "questions" else "right")
    for prefix, name in (("", "all"), ("HasAns_", "with an answer"), ("NoAns_", "without")):
        if f"{prefix}f1" in metrics:
            figures = (f"{metrics[prefix + column]:.2f}" for column in ("exact", "f1"))
            table.add_row(name, f"{metrics[prefix + 'total']:,}", *figures)
    if "best_f1" in metrics:
        table.add_row("all, best thresholds", "", f"{metrics['best_exact']:.2f}", f"{metrics['best_f1']:.2f}")
        thresholds = (f"{metrics[f'best_{name}_thresh']:.3f}" for name in ("exact", "f1"))
        table.add_row("the thresholds", "", *thresholds)
    table.add_section()
    if results["questions"]["train"]:
        trained, windows = results["questions"]["train"], results["windows"]["train"]
        table.add_row("trained on", f"{trained:,}", f"{windows:,} windows", f"{results['steps']:,} steps")
        share = f"{results['trainable_parameters'] / 1e6:.2f} M of {results['parameters'] / 1e6:.2f} M"
        table.add_row("trained parameters", "", "", share)
        table.add_row("time to train", "", "", duration(results["train_seconds"]))
    table.add_row("peak memory", "", "", f"{results['peak_memory_bytes'] / 2**30:.2f} GiB")
    return table


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""

    def work(console: Console) -> None:
        data, model_args, args = read_arguments((SquadDataArguments, TaskModelArguments, SquadArguments), argv)
        check_processes(args)
        check_model_name(model_args.model_name_or_path)
        tokenizer = load_tokenizer(model_args)
        check_tokenizer(tokenizer)
        train, dev = load_questions(data, args.seed)
        folder = Path(args.given_output_dir or f"runs/squad-{Path(model_args.model_name_or_path).name}")
        args.output_dir = str(folder)
        results = run_squad(train, dev, tokenizer, model_args, args, folder, console)
        if args.process_index == 0:
            console.print(results_table(results))
            console.print(f"predictions.json, results.json: {folder}")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
