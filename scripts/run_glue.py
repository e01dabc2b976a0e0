"""Fine-tune a checkpoint on GLUE, or on a task of your own, and print the papers' table.

    python -m pretrain_zoo.scripts.run_glue --model_name_or_path runs/my-mlm --task_name sst2,cola --data_dir glue/
    python -m pretrain_zoo.scripts.run_glue --model_name_or_path FacebookAI/roberta-base --task_name all --seeds 5
    python -m pretrain_zoo.scripts.run_glue --model_name_or_path runs/my-mlm --train_file a.csv --validation_file b.csv
    python -m pretrain_zoo.scripts.run_glue --model_name_or_path runs/half --teacher runs/glue-my-mlm/sst2/seed-42/model

Without --data_dir the tasks come from the Hub. The same command again goes on where it was cut off, and does nothing
twice. `--task_name probes` needs no data: its tasks are made of the embedded corpus. `--help` lists all arguments.
"""

from __future__ import annotations

import copy
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pretrain_zoo.evaluation.finetune import PreparedTask, finetune, prepare
from pretrain_zoo.evaluation.finetune_arguments import FinetuneArguments
from pretrain_zoo.evaluation.glue_report import Rows, summarize, write_report
from pretrain_zoo.evaluation.glue_tasks import GLUE, PROBES, Task, get_tasks
from pretrain_zoo.evaluation.probes import embedded_probes
from pretrain_zoo.evaluation.search import combination_name, parse_grid
from pretrain_zoo.evaluation.task_data import Examples, custom_task, load_task
from pretrain_zoo.evaluation.teachers import TeacherArguments
from pretrain_zoo.models.settings import check_checkpoint
from pretrain_zoo.models.task_models import TaskModelArguments, load_tokenizer
from pretrain_zoo.training.command_line import ArgumentParser, check_processes, run_command
from pretrain_zoo.training.prepare import check_model_name
from pretrain_zoo.training.run_folder import read_json

WARM_STARTED = ("rte", "mrpc", "stsb")
"""Small tasks that RoBERTa and ALBERT start from a model fine-tuned on MNLI (Liu et al. 2019, section 5.1)."""


@dataclass
class GlueArguments:
    """Which tasks, how often; an argument group for `HfArgumentParser`."""

    task_name: str = field(
        default="all", metadata={"help": f"Tasks, separated by commas: all, probes, {', '.join(GLUE)}."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder in GLUE's layout (CoLA/train.tsv …). Default: the Hub."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "A task of your own: .csv, .tsv (unquoted) or .jsonl, also .gz or .xz."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Its validation data."})
    test_file: str | None = field(default=None, metadata={"help": "Data to predict."})
    text_columns: str = field(default="", metadata={"help": "Column of the text, or both of a pair: premise,claim."})
    label_column: str = field(default="label", metadata={"help": "Column of the label."})
    metrics: str = field(default="", metadata={"help": "Of your task (default: accuracy,f1 or pearson,spearmanr)."})
    seeds: int = field(default=1, metadata={"help": "Runs of each task, with --seed, --seed + 1, …"})
    search: str | None = field(
        default=None,
        metadata={
            "help": "Choose hyper-parameters on the dev set, by the first seed: bert, roberta (the published grids) or "
            "learning_rate=1e-4,3e-4;batch=16,32."
        },
    )
    warm_start: str | None = field(
        default=None,
        metadata={"help": "Start RTE, MRPC and STS-B from a fine-tuned model: mnli (trained first), or its folder."},
    )
    random_baseline: bool = field(
        default=False, metadata={"help": "Train the same architecture from random weights too, as a second row."}
    )
    compare_with: str = field(
        default="", metadata={"help": "Output folders of earlier runs, separated by commas: more rows of the table."}
    )
    cache_dir: str = field(default="~/.cache/pretrain_zoo", metadata={"help": "Where the probe tasks are kept."})


def run_glue(
    glue: GlueArguments,
    model_args: TaskModelArguments,
    args: FinetuneArguments,
    teacher: TeacherArguments,
    console: Console,
) -> Rows:
    """All runs, and the report; returns the summaries by row and task. Raises `ValueError` for what cannot work."""
    check(glue, model_args, args)
    folder = Path(str(args.output_dir))
    earlier = [earlier_rows(Path(path)) for path in glue.compare_with.split(",") if path]
    tokenizer = load_tokenizer(model_args)
    tasks = load_tasks(glue)  # all of them first: bad data should stop the command before hours of training
    name = args.run_name or Path(model_args.model_name_or_path).name
    rows: Rows = {row: tasks_of for rest in earlier for row, tasks_of in rest.items()}
    for task, _ in tasks if teacher.teacher else ():
        check_checkpoint(teacher.folder(task.name), "--teacher")
    for task, splits in tasks:
        prepared = prepare(task, splits, tokenizer, args, teacher.unlabelled(task))
        for random_weights in (False, True) if glue.random_baseline else (False,):
            row = "random weights" if random_weights else name
            runs = run_task(prepared, glue, model_args, args, folder, console, random_weights, teacher)
            rows.setdefault(row, {})[task.name] = summarize(runs)
    if args.process_index == 0:
        write_report(rows, folder, console)
    return rows


def check(glue: GlueArguments, model_args: TaskModelArguments, args: FinetuneArguments) -> None:
    """Refuse what cannot work."""
    check_processes(args)
    if glue.seeds < 1:
        raise ValueError("--seeds must be 1 or more")
    check_model_name(model_args.model_name_or_path)


def load_tasks(glue: GlueArguments) -> list[tuple[Task, dict[str, Examples]]]:
    """The tasks that the arguments name, with their data."""
    if glue.train_file is not None:
        if glue.validation_file is None:
            raise ValueError("--train_file needs a --validation_file, to choose the best checkpoint by")
        own = custom_task(
            Path(glue.train_file),
            Path(glue.validation_file),
            Path(glue.test_file) if glue.test_file else None,
            name=glue.task_name if glue.task_name != "all" else Path(glue.train_file).name.partition(".")[0],
            text_columns=[name.strip() for name in glue.text_columns.split(",") if name.strip()],
            label_column=glue.label_column,
            metrics=[name.strip() for name in glue.metrics.split(",") if name.strip()],
        )
        return [own]
    tasks = get_tasks(glue.task_name)
    if glue.warm_start == "mnli":  # first: others start from it
        tasks = [GLUE["mnli"], *(task for task in tasks if task.name != "mnli")]
    probes = embedded_probes(glue.cache_dir) if glue.data_dir is None and any(t.name in PROBES for t in tasks) else None
    data_dir = Path(glue.data_dir) if glue.data_dir else None
    return [(task, load_task(task, probes if task.name in PROBES and probes else data_dir)) for task in tasks]


def run_task(
    prepared: PreparedTask,
    glue: GlueArguments,
    model_args: TaskModelArguments,
    args: FinetuneArguments,
    folder: Path,
    console: Console,
    random_weights: bool = False,
    teacher: TeacherArguments | None = None,
) -> list[dict[str, Any]]:
    """The runs of one task, one for each seed; the first seed tries what is searched over, the others use the best.

    The test predictions of the seed that does best on the dev set are copied to the folder "submission".
    """
    task = prepared.task
    place = (folder / "random-weights" if random_weights else folder) / task.name
    combinations = parse_grid(glue.search) if glue.search else [{}]
    runs = []
    for seed in range(args.seed, args.seed + glue.seeds):
        start = model_args
        if glue.warm_start and task.name in WARM_STARTED and not random_weights:
            mnli = folder / "mnli" / f"seed-{seed}" / "model" if glue.warm_start == "mnli" else Path(glue.warm_start)
            if not mnli.is_dir():
                raise ValueError(f"--warm_start: there is no folder {mnli}; without --search, mnli leaves one")
            start = replace(model_args, model_name_or_path=str(mnli))
        tried = {}
        for settings in combinations:
            where = place / combination_name(settings) / f"seed-{seed}"
            chosen = with_settings(args, settings, seed)
            tried[where] = finetune(
                prepared, start, chosen, where, console, random_weights=random_weights, teacher=teacher
            )
        best = max(tried, key=lambda where: tried[where]["score"])
        if len(combinations) > 1:
            console.print(f"{task.title}: of {len(combinations)} settings the best is {best.parent.name}")
            combinations = [combinations[list(tried).index(best)]]
        runs.append((best, tried[best]))
    best = max(runs, key=lambda run: run[1]["score"])[0]
    if args.process_index == 0 and not random_weights and (best / "predictions").is_dir():
        shutil.copytree(best / "predictions", folder / "submission", dirs_exist_ok=True)
    return [result for _, result in runs]


def with_settings(args: FinetuneArguments, settings: dict[str, Any], seed: int) -> FinetuneArguments:
    """The arguments of one run of a search. Raises `ValueError` for a batch that processes cannot share."""
    args, settings = copy.copy(args), dict(settings)
    if "batch" in settings:
        parts = args.world_size * args.gradient_accumulation_steps
        if settings["batch"] % parts:
            raise ValueError(f"--search: a batch of {settings['batch']} does not divide by {parts} (processes × steps)")
        args.per_device_train_batch_size = settings.pop("batch") // parts
    for name, value in settings.items():
        setattr(args, name, value)
    args.seed = seed
    return args


def earlier_rows(folder: Path) -> Rows:
    """The rows of an earlier run's table."""
    content = read_json(folder / "glue.json")
    if content is None:
        raise ValueError(f"--compare_with: there is no glue.json in {folder}")
    return content["rows"]


def parse_arguments(
    argv: list[str],
) -> tuple[GlueArguments, TaskModelArguments, FinetuneArguments, TeacherArguments]:
    """The settings on a command line. Raises `ValueError` for arguments that are not known, and bad values."""
    groups: Any = (GlueArguments, TaskModelArguments, FinetuneArguments, TeacherArguments)
    parser = ArgumentParser(groups, allow_abbrev=False, prog="run_glue")
    if not any(argument.split("=")[0] == "--output_dir" for argument in argv):
        peek = ArgumentParser(add_help=False, allow_abbrev=False)
        peek.add_argument("--model_name_or_path", default="model")
        model = peek.parse_known_args(argv)[0].model_name_or_path
        argv = [*argv, "--output_dir", f"runs/glue-{Path(model).name}"]
    glue, model_args, args, teacher = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    return glue, model_args, args, teacher


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    return run_command(lambda console: run_glue(*parse_arguments(given), console))


if __name__ == "__main__":
    sys.exit(main())
