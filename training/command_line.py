"""What every command does around its work: arguments that raise, one line for an error, an exit code."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import transformers
from rich.console import Console
from rich.text import Text
from transformers import HfArgumentParser, TrainingArguments


class ArgumentParser(HfArgumentParser):
    """Raises `ValueError` instead of printing two pages of usage, for unknown arguments with the nearest known."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_args_into_dataclasses(  # type: ignore[override]
        self, args: list[str] | None = None, return_remaining_strings: bool = False, **settings: Any
    ) -> tuple[Any, ...]:
        """As the base class does."""
        *objects, rest = super().parse_args_into_dataclasses(args, return_remaining_strings=True, **settings)
        if return_remaining_strings:
            return (*objects, rest)
        if rest:
            name = rest[0].partition("=")[0].replace("-", "_").replace("__", "--", 1)
            flags = [flag for action in self._actions for flag in action.option_strings if "-" not in flag[2:]]
            near = difflib.get_close_matches(name, flags, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else "see --help"
            raise ValueError(f"unknown argument {rest[0]}; {hint}")
        return tuple(objects)


def read_arguments(
    groups: tuple[type, ...], argv: list[str] | None, *, prog: str | None = None, first: str | None = None
) -> tuple[Any, ...]:
    """The settings on a command line (by default this process's), one object for each of `groups`.

    `first` is the flag whose value may stand at the beginning without it. Raises `ValueError` for unknown arguments and
    bad values.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if first and given and not given[0].startswith("-"):
        given.insert(0, first)
    parser = ArgumentParser(groups, prog=prog, allow_abbrev=False)  # type: ignore[arg-type]
    return parser.parse_args_into_dataclasses(given, look_for_args_file=False)


def check_processes(args: TrainingArguments) -> None:
    """Raise `ValueError` if more processes were started than `args` knows of: each would train alone."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != args.world_size:
        raise ValueError(
            f"{started} processes were started but do not know of each other, so each would train alone; "
            "without GPUs, give --use_cpu or set ACCELERATE_USE_CPU=true"
        )


def check_reporters(args: TrainingArguments) -> None:
    """Raise `ValueError` if `--report_to` names a logger that is not installed."""
    from transformers.integrations import get_available_reporting_integrations

    known = {"clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"}
    given = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    for name in sorted(known.intersection(given) - {*get_available_reporting_integrations()}):
        raise ValueError(f"--report_to {name}: the package is not installed; `pip install {name}`, or leave it out")


def run_command(
    work: Callable[[Console], Any],
    *,
    resumes: str | None = "from the last checkpoint",
    errors: tuple[type[Exception], ...] = (),
    soft_wrap: bool = False,
) -> int:
    """Do the work of a command and return its exit code.

    Bad input ends with one line and code 2; `PRETRAIN_ZOO_TRACEBACK=1` in the environment shows where it came from. The
    first of several processes prints alone. What transformers has to say of fresh heads is not shown unless
    `TRANSFORMERS_VERBOSITY` is set.

    Args:
        work: is given the console to print to.
        resumes: from where the same command goes on after an interruption; `None` if it begins anew.
        errors: other exceptions than `ValueError`, `OSError` and `ImportError` that are the user's to mend.
        soft_wrap: leave it to the terminal to break long lines.
    """
    quiet = os.environ.get("RANK", "0") != "0"
    console = Console(highlight=False, quiet=quiet, soft_wrap=soft_wrap)
    known: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, *errors)
    transformers.utils.logging.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers.utils.logging.set_verbosity_error()
    try:
        work(console)
    except KeyboardInterrupt:
        console.print("\ninterrupted" + (f"; the same command goes on {resumes}" if resumes else ""))
        return 130
    except known as error:
        if os.environ.get("PRETRAIN_ZOO_TRACEBACK"):
            raise
        line = Text.assemble(("error: ", "bold red"), str(error))  # a Text: messages may hold [MASK]
        Console(stderr=True, quiet=quiet, soft_wrap=True).print(line)
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0
