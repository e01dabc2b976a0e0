"""Fine-tune one encoder-decoder on many tasks at once, all written as text, and print a score for each.

    python -m pretrain_zoo.scripts.run_text_to_text --model_name_or_path runs/t5-tiny --tasks cola,sst2 --data_dir glue/
    accelerate launch scripts/run_text_to_text.py --model_name_or_path google-t5/t5-small --tasks all --temperature 2
    python -m pretrain_zoo.scripts.run_text_to_text --model_name_or_path t5-tiny --tasks stsb --data_dir glue/ \
        --translation "English,German,train.en.gz,train.de.gz,val.en.gz,val.de.gz"

Tasks are mixed in proportion to their sizes, up to a limit, or more evenly (T5, section 3.5.2). Answers are generated,
read back as labels and scored; what is no answer counts as wrong. Without --data_dir, GLUE comes from the Hub. The same
command again goes on where it was cut off. `--help` lists all arguments.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from pretrain_zoo.evaluation.finetune_trainer import last_checkpoint
from pretrain_zoo.evaluation.generated_answers import (
    MarkComplete,
    encode,
    generate,
    mean_over_tokens,
    write_answers,
)
from pretrain_zoo.evaluation.glue_tasks import GLUE, get_tasks
from pretrain_zoo.evaluation.task_data import load_task
from pretrain_zoo.evaluation.text_to_text import (
    FORMATS,
    LIMIT,
    MixedTasks,
    TextTask,
    glue_text_task,
    mixing_rates,
    translation_task,
)
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.training.arguments import ModelArguments
from pretrain_zoo.training.command_line import check_processes, read_arguments, run_command
from pretrain_zoo.training.files import numbered_lines
from pretrain_zoo.training.filters import Tally
from pretrain_zoo.training.optimizers import own_optimizer
from pretrain_zoo.training.prepare import check_model_name, get_tokenizer
from pretrain_zoo.training.report import figure, report_by_lines
from pretrain_zoo.training.run_folder import RESULTS, claim_folder, find_run, read_json, write_json


@dataclass
class TaskArguments:
    """Which tasks, and in what proportion; an argument group for `HfArgumentParser`."""

    tasks: str = field(default="", metadata={"help": f"Tasks of GLUE, by commas: all, or {', '.join(FORMATS)}."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder in GLUE's layout (CoLA/train.tsv …). Default: the Hub."}
    )
    translation: str | None = field(
        default=None,
        metadata={
            "help": "From,To and four files with a text a line: training source and target, validation source and "
            "target; several such lists separated by semicolons."
        },
    )
    mixing_limit: int = field(default=LIMIT, metadata={"help": "A larger task counts as one of so many examples."})
    temperature: float = field(default=1.0, metadata={"help": "Above 1, tasks are mixed more evenly."})
    max_target_length: int = field(default=64, metadata={"help": "Tokens of an answer, the end token included."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on so many examples of each task only."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Score so many examples of each task only."})
    cache_dir: str = field(default="~/.cache/pretrain_zoo", metadata={"help": "Where a trained tokenizer is kept."})


@dataclass
class TextToTextArguments(Seq2SeqTrainingArguments):
    """`Seq2SeqTrainingArguments` with T5's constant rate and defaults for a small model."""

    output_dir: str | None = field(default="runs/text-to-text", metadata={"help": "Folder of the run."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows per device and micro-batch."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows per device when generating."})
    max_steps: int = field(default=2000, metadata={"help": "Optimizer steps of the run."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate after warmup."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Schedule; T5's is constant."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of linear warmup; below 1 a share of the run."})
    logging_steps: float = field(default=0.02, metadata={"help": "Log every so many steps."})
    save_steps: float = field(default=0.1, metadata={"help": "Save a checkpoint every so many steps."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    report_to: str = field(default="none", metadata={"help": "Where to log to: tensorboard, wandb, …"})
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Copy batches to the GPU from pinned memory."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Start anew in a folder that holds a run."})

    def __post_init__(self):
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        self.predict_with_generate, self.remove_unused_columns = True, False
        self.train_sampling_strategy = "sequential"  # the dataset's order is that of the run
        self.eval_strategy = "no"
        super().__post_init__()
        if self.max_steps < 1:
            raise ValueError("--max_steps must be 1 or more; a mixture of tasks has no epochs")


def run_text_to_text(
    tasks_args: TaskArguments, model_args: ModelArguments, args: TextToTextArguments, console: Console
) -> dict[str, Any]:
    """Train on all tasks, score each, save the model; returns the content of results.json.

    Raises `ValueError` or `OSError` for what cannot work.
    """
    folder, name = Path(str(args.output_dir)), str(model_args.model_name_or_path)
    check_model_name(name)
    if model_args.peft is not None:
        raise ValueError("--peft: tasks as text train all weights here; leave it out")
    identity = run_identity(tasks_args, model_args, args)
    find_run(folder, identity, args.overwrite_output_dir)  # refuses another run's folder
    finished = read_json(folder / RESULTS)
    if finished is not None and not args.overwrite_output_dir:
        console.print(f"{folder} holds this run, finished; --overwrite_output_dir trains it anew")
        console.print(results_table(finished))
        return finished
    checkpoint = None if args.overwrite_output_dir else last_checkpoint(folder)

    tasks = load_tasks(tasks_args)
    texts = [text for task in tasks for side in (task.inputs, task.targets) for text in side["train"]]
    with args.main_process_first(local=False):
        tokenizer = get_tokenizer(model_args, texts, os.path.expanduser(tasks_args.cache_dir))
    parts = backbone(
        name,
        tokenizer,
        max_length=max(model_args.max_seq_length, tasks_args.max_target_length),
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        **model_args.overrides,
    )
    if not parts.config.is_encoder_decoder:
        raise ValueError(f"{name} is no encoder-decoder, which answers in text; use t5-tiny, bart-tiny or the like")
    transformers.set_seed(args.seed)
    model = parts.load(AutoModelForSeq2SeqLM)
    lengths = (model_args.max_seq_length, tasks_args.max_target_length)
    encoded = {split: [encode(task, split, tokenizer, lengths) for task in tasks] for split in ("train", "validation")}
    sizes = [len(rows) for rows in encoded["train"]]
    rates = mixing_rates(sizes, tasks_args.mixing_limit, tasks_args.temperature)
    for task, size, rate in zip(tasks, sizes, rates, strict=True):
        console.print(f"{task.name}: {size:,} examples, {rate:.1%} of the mixture, e.g. {task.inputs['train'][0]!r}")
    global_batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=MixedTasks(encoded["train"], rates, args.max_steps * global_batch, args.seed),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_loss_func=partial(mean_over_tokens, label_smoothing=args.label_smoothing_factor),
        callbacks=[MarkComplete()],
    )
    trainer.optimizer_cls_and_kwargs = own_optimizer(args)  # `Seq2SeqTrainer` does not take it as an argument
    report_by_lines(trainer)
    if args.process_index == 0:
        claim_folder(folder, identity, args.overwrite_output_dir)
    output = trainer.train(resume_from_checkpoint=checkpoint)
    scores = {}
    for task, rows in zip(tasks, encoded["validation"], strict=True):
        answers = generate(trainer, rows, tasks_args.max_target_length)
        scores[task.name] = task.score(answers)
        if args.process_index == 0:
            place = folder / "predictions" / f"{task.name.replace(' ', '_')}.tsv"
            write_answers(place, task.inputs["validation"], task.targets["validation"], answers)
    results = {
        "model": name,
        "tasks": scores,
        "rates": dict(zip([task.name for task in tasks], rates.tolist(), strict=True)),
        "score": sum(metrics["score"] for metrics in scores.values()) / len(scores),
        "steps": trainer.state.global_step,
        "batch": global_batch,
        "train_seconds": output.metrics["train_runtime"],
        "settings": identity,
        "history": [log for log in trainer.state.log_history if "loss" in log],
    }
    trainer.save_model(str(folder))
    if args.process_index == 0:
        write_json(folder / RESULTS, results)
    console.print(results_table(results))
    console.print(f"checkpoint and predictions: {folder}")
    return results


def run_identity(tasks_args: TaskArguments, model_args: ModelArguments, args: TextToTextArguments) -> dict[str, Any]:
    """The settings that decide the result."""
    schedule = ("max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps")
    names = (*schedule, "optim", "optim_args", "weight_decay", "adam_beta2")
    identity = asdict(tasks_args) | asdict(model_args) | {name: str(getattr(args, name)) for name in names}
    identity["seed"] = args.seed
    identity["batch"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    identity["label_smoothing_factor"] = args.label_smoothing_factor or None
    identity["generation_num_beams"] = args.generation_num_beams
    return {key: value for key, value in identity.items() if key not in ("cache_dir", "attn_implementation")}


def load_tasks(tasks_args: TaskArguments) -> list[TextTask]:
    """The tasks that the arguments name. Raises `ValueError` for none, unknown ones and unusable files."""
    found = []
    limits = {"train": tasks_args.max_train_samples, "validation": tasks_args.max_eval_samples}
    if tasks_args.tasks:
        everything = ",".join(name for name in FORMATS if name in GLUE)
        data_dir = Path(tasks_args.data_dir) if tasks_args.data_dir else None
        for task in get_tasks(everything if tasks_args.tasks == "all" else tasks_args.tasks):
            splits = load_task(task, data_dir) if task.name in FORMATS else {}
            found.append(glue_text_task(task, {name: rows.sample(limits.get(name)) for name, rows in splits.items()}))
    for pair in filter(str.strip, (tasks_args.translation or "").split(";")):
        parts = [part.strip() for part in pair.split(",")]
        if len(parts) != 6:
            raise ValueError(
                "--translation must be two languages and four files (training source and target, validation source "
                f"and target), separated by commas, not {pair!r}"
            )
        sides = [read_lines(Path(path)) for path in parts[2:]]
        texts = {"train": (sides[0], sides[1]), "validation": (sides[2], sides[3])}
        for split, (source, target) in texts.items():
            texts[split] = (source[: limits[split]], target[: limits[split]])
            if len(source) != len(target) or not source:
                raise ValueError(f"--translation: {split} has {len(source)} texts and {len(target)} translations")
        found.append(translation_task((parts[0], parts[1]), texts))
    if not found:
        raise ValueError("there is nothing to train on; give --tasks, --translation or both")
    twice = [name for name, count in Counter(task.name for task in found).items() if count > 1]
    if twice:
        raise ValueError(f"--translation: {twice[0]} is given more than once; join its files into one pair")
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, plain or compressed. Raises `ValueError` if there is none, or it is no text."""
    if not path.is_file():
        raise ValueError(f"--translation: there is no file {path}")
    return [(line or "").rstrip("\r\n") for _, line in numbered_lines(path, Tally())]


def results_table(results: dict[str, Any]) -> Table:
    """A row for each task."""
    table = Table(title=f"{results['model']}, {results['steps']:,} steps of {results['batch']}", title_justify="left")
    for heading in ("task", "share", "metrics", "no answer", "score"):
        table.add_column(heading, justify="left" if heading in ("task", "metrics") else "right")
    for name, metrics in results["tasks"].items():
        known = ", ".join(f"{k} {figure(k, v)}" for k, v in metrics.items() if k not in ("score", "invalid"))
        cells = (f"{results['rates'][name]:.1%}", known, f"{metrics['invalid']:.1%}")
        table.add_row(name, *cells, Text(f"{100 * metrics['score']:.1f}", "bold green"))
    table.add_section()
    table.add_row("mean", "", "", "", f"{100 * results['score']:.1f}")
    return table


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""

    def work(console: Console) -> None:
        groups = (TaskArguments, ModelArguments, TextToTextArguments)
        tasks_args, model_args, args = read_arguments(groups, argv, prog="run_text_to_text")
        check_processes(args)
        model_args.model_name_or_path = model_args.model_name_or_path or "t5-tiny"
        run_text_to_text(tasks_args, model_args, args, console)

    return run_command(work, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
