"""How good is a checkpoint with no, few or many labelled examples? One command sweeps over their number.

    python -m pretrain_zoo.scripts.few_shot --model_name_or_path runs/my-mlm --task_name sst2 --data_dir glue/ \\
        --methods zero_shot,finetune --k 4,16,64,all --seeds 5
    python -m pretrain_zoo.scripts.few_shot --model_name_or_path runs/my-clm --task_name rte --k 0,1,4,16 \\
        --methods in_context,gpt,finetune

Methods: zero_shot (the label's word in a cloze, or by likelihood), in_context (worked examples before a causal model's
prompt, nothing is trained), finetune (of all weights, or with LoRA and relatives as `--help` says), gpt (GPT-1's input
transformations and auxiliary loss, for causal models). k examples of each class are drawn with every seed; "all" is the
whole training set. Prints a table, writes few_shot.json and few_shot.png. The same command again goes on where it was
cut off. `--prompt_file` gives a prompt for a task of your own; see evaluation/prompts.py.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from pretrain_zoo.evaluation.few_shot import guess, parse_sizes, plot_curves, results_table
from pretrain_zoo.evaluation.few_shot_sweep import METHODS, FewShotArguments, FewShotTraining, Sweep
from pretrain_zoo.evaluation.glue_tasks import GLUE, Task, get_tasks
from pretrain_zoo.evaluation.probes import embedded_probes
from pretrain_zoo.evaluation.task_data import Examples, custom_task, load_task
from pretrain_zoo.models.task_models import TaskModelArguments
from pretrain_zoo.training.command_line import check_processes, read_arguments, run_command
from pretrain_zoo.training.prepare import check_model_name
from pretrain_zoo.training.run_folder import claim_folder, find_run, write_json


def get_task(few: FewShotArguments) -> tuple[Task, dict[str, Examples]]:
    """The task that the arguments name, with its data. Raises `ValueError` for what is missing or malformed."""
    if few.train_file is not None:
        if few.validation_file is None:
            raise ValueError("--train_file needs a --validation_file")
        return custom_task(
            Path(few.train_file),
            Path(few.validation_file),
            None,
            name=few.task_name if few.task_name not in GLUE else Path(few.train_file).name.partition(".")[0],
            text_columns=[name.strip() for name in few.text_columns.split(",") if name.strip()],
            label_column=few.label_column,
            metrics=[],
        )
    tasks = get_tasks(few.task_name)
    if len(tasks) != 1:
        raise ValueError(f"one task at a time; {few.task_name} names {', '.join(task.name for task in tasks)}")
    if few.data_dir is None and tasks[0].name not in GLUE:
        return tasks[0], load_task(tasks[0], embedded_probes(few.cache_dir))
    return tasks[0], load_task(tasks[0], Path(few.data_dir) if few.data_dir else None)


def sweep(
    few: FewShotArguments, model_args: TaskModelArguments, args: FewShotTraining, console: Console
) -> dict[str, Any]:
    """The whole command; returns the content of few_shot.json. Raises `ValueError` for what cannot work."""
    methods = [name.strip() for name in few.methods.split(",")]
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}; known: {', '.join(METHODS)}")
    sizes = parse_sizes(few.k)
    if few.seeds < 1:
        raise ValueError("--seeds must be 1 or more")
    if sizes == [0] and not {"zero_shot", "in_context"} & set(methods):
        raise ValueError(f"with --k 0 {few.methods} has nothing to train on; add other numbers or zero_shot")
    check_model_name(model_args.model_name_or_path)
    task, splits = get_task(few)
    name = Path(model_args.model_name_or_path).name
    folder = Path(args.given_output_dir or f"runs/few-shot-{name}-{task.name}")
    args.output_dir = str(folder)
    all_runs = Sweep(task, splits, few, model_args, args, console)
    identity = {
        "task": task.name,
        **{name: str(value) for name, value in asdict(model_args).items()},
        "rows": [len(all_runs.train), len(all_runs.validation)],
        "training": [args.learning_rate, args.num_train_epochs, args.max_steps, few.min_steps, args.train_batch_size],
        "prompt": [few.prompt_file, few.length_normalization, few.lm_coefficient],
    }
    find_run(folder, identity, args.overwrite_output_dir)
    if args.process_index == 0:
        if args.overwrite_output_dir:
            for method in METHODS:
                shutil.rmtree(folder / method, ignore_errors=True)
        claim_folder(folder, identity, args.overwrite_output_dir)
    curves = all_runs.run(methods, sizes)
    results = {
        "task": task.name,
        "title": task.title,
        "metrics": list(task.metrics),
        "model": model_args.model_name_or_path,
        "validation_rows": len(all_runs.validation),
        "guess": guess(task, all_runs.train, all_runs.validation),
        "curves": curves,
    }
    if args.process_index == 0:
        write_json(folder / "few_shot.json", results)
        plot_curves(results, folder / "few_shot.png")
    return results


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""

    def work(console: Console) -> None:
        few, model_args, args = read_arguments((FewShotArguments, TaskModelArguments, FewShotTraining), argv)
        check_processes(args)
        console.print(results_table(sweep(few, model_args, args, console)))
        console.print(f"few_shot.json, few_shot.png: {args.output_dir}")

    return run_command(work, resumes="with the next run")


if __name__ == "__main__":
    sys.exit(main())
