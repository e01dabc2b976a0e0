"""Settings of a pretraining run: dataclasses, the command line over them, and recipes in YAML.

--objective NAME and everything below      first stage: corpus, model and training, by `HfArgumentParser`
--mlm_probability 0.3                      second stage: a setting of the objective
--mlm.mlm_probability 0.3                  the same, where two objectives are combined and both have it
--config bert-base                         the same keys from a file; the command line wins
--phases.long.max_seq_length 256           an entry of a recipe with phases or a mixture, see `phases`
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments

from ..models.adapters import AdapterArguments
from ..models.presets import list_presets
from ..models.settings import dtype_named, overrides_from
from ..objectives import Objective, get_objective
from .command_line import ArgumentParser, check_reporters
from .corpora import CorpusArguments
from .lamb import LAMB
from .learning_rates import learning_rates
from .nested_arguments import (
    MixtureArguments,
    as_text,
    read_nested,
    refuse_hidden,
    refuse_missing_corpora,
    split_nested,
)
from .objective_arguments import parts_of, settings_from_arguments, settings_of
from .optimizers import ADAFACTOR, ADAFACTOR_SETTINGS, own_optimizer
from .phase_recipes import Defaults, phases_of, refuse_settings_of_run
from .phases import PhaseArguments, mixture_of

RECIPES = Path(__file__).resolve().parent.parent / "scripts" / "recipes"
DEFAULT_MODELS = {
    "masked_lm": "modernbert-tiny",
    "causal_lm": "gpt2-tiny",
    "seq2seq": "t5-tiny",
    "permutation_lm": "xlnet-tiny",
    "recurrent_lm": "xlnet-tiny",
    "generator_discriminator": "electra-tiny",
    "enhanced_mask_decoder": "deberta-v3-tiny",
    "masked_permuted_lm": "mpnet-tiny",
    "unilm": "bert-tiny",
}
"""Model by the name or the architecture of a single objective; "bert-tiny" for all others."""
TINY, LARGER, CHECKPOINT = 3e-3, 5e-4, 5e-5
"""Learning rates where none is given: for tiny presets, other presets, and checkpoints, whose training goes on."""
SCALED, SCALED_TINY = 1e-2, 2e-2
"""The same for presets of `SCALED_FAMILIES`, where no optimizer is given either."""
SCALED_FAMILIES = ("t5", "switch")
"""Families trained with Adafactor that scales updates by the size of each tensor: AdamW's rates do not suit weights of
sizes so unlike."""


@dataclass
class ModelArguments(AdapterArguments):
    """What is trained; an argument group for `HfArgumentParser`."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A preset (bert-tiny, random weights), a local folder or a model of the Hub (owner/name), whose "
            "training goes on. Default: the smallest preset that suits the objective."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub name. Default: the model's; for a preset, one is trained on the corpus."},
    )
    mask_token: str | None = field(
        default=None,
        metadata={
            "help": "Mask token of a tokenizer that has none: a new one (presets), or a token that is there and rare."
        },
    )
    vocab_size: int = field(default=8192, metadata={"help": "Size of the tokenizer to train, if one is trained."})
    max_seq_length: int = field(default=128, metadata={"help": "Tokens per example, special tokens included."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2, … (default: transformers chooses)."}
    )
    torch_dtype: str | None = field(
        default=None, metadata={"help": "Type of the weights: float32 (default), bfloat16 or float16."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Settings of the model's config: hidden_size=256,num_hidden_layers=4."}
    )

    @property
    def dtype(self) -> torch.dtype | None:
        """`torch_dtype` as torch's. Raises `ValueError` for another name."""
        return dtype_named(self.torch_dtype)

    @property
    def overrides(self) -> dict[str, Any]:
        """`config_overrides` as a dictionary, values read as YAML. Raises `ValueError` for malformed ones."""
        return overrides_from(self.config_overrides)


@dataclass
class PretrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults for pretraining a small model; steps below 1 are shares of the run."""

    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows per device and micro-batch."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows per device when evaluating."})
    max_steps: int = field(default=2000, metadata={"help": "Optimizer steps of the run."})
    num_train_epochs: float = field(
        default=0.0, metadata={"help": "Train so many times over the corpus; --max_steps, if given too, goes before."}
    )
    learning_rate: float = field(
        default=TINY,
        metadata={
            "help": f"Highest learning rate, after warmup; {LARGER} for larger presets, {CHECKPOINT} for checkpoints; "
            f"{SCALED_TINY} and {SCALED} for T5's presets with their own optimizer."
        },
    )
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of linear warmup; below 1 a share of the run."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay, on all but biases and LayerNorm."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Beta2 of AdamW."})
    optim: str = field(
        default=TrainingArguments.default_optim,
        metadata={
            "help": "adamw_torch_fused, lamb, adafactor, sgd, …: lamb and all that transformers knows. Default for "
            "T5's presets: adafactor with scale_parameter=true."
        },
    )
    optim_args: str | None = field(
        default=None, metadata={"help": f"name=value,name=value; of adafactor: {', '.join(ADAFACTOR_SETTINGS)}."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="steps", metadata={"help": "When to evaluate: no, steps."})
    eval_steps: float | None = field(default=0.1, metadata={"help": "Evaluate every so many steps."})
    save_steps: float = field(default=0.1, metadata={"help": "Save a checkpoint every so many steps."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    report_to: str = field(default="none", metadata={"help": "Where to log to: tensorboard, wandb, …"})
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Copy batches to the GPU from pinned memory."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on so many held-out examples only, spread over the text."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew in a folder that holds a run, and delete that run's checkpoints."}
    )

    def __post_init__(self):
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()  # a bar in a log file is a line per step
        lamb = self.optim == LAMB
        if lamb:  # transformers refuses names that it does not know
            self.optim = TrainingArguments.default_optim
        super().__post_init__()
        if lamb:
            self.optim = LAMB
        if self.per_device_train_batch_size < 1:
            raise ValueError(f"--per_device_train_batch_size must be 1 or more, not {self.per_device_train_batch_size}")
        check_reporters(self)
        own_optimizer(self)  # refuses settings that it does not have


@dataclass
class RunArguments:
    """Everything that a command line and its recipe say; `phases` is empty for a run of one objective on one corpus."""

    objective_name: str
    objective: Objective
    corpus: CorpusArguments
    model: ModelArguments
    training: PretrainingArguments
    phases: tuple[PhaseArguments, ...] = ()


def parse_arguments(argv: list[str]) -> RunArguments:
    """The settings on a command line. Prints help and exits for `--help`.

    Raises:
        ValueError: for arguments and objectives that are not known, with the nearest that are, and bad values.
    """
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", help="Recipe: a YAML file, or the name of one that comes with the package.")
    first.add_argument("--objective", default="mlm", help="What to train (scripts/show.py --list).")
    config = first.parse_known_args(argv)[0].config
    command, by_path = split_nested(argv)
    argv = (recipe_arguments(config) if config is not None else []) + command
    name = first.parse_known_args(argv)[0].objective
    settings = settings_of(name)
    groups: Any = (CorpusArguments, ModelArguments, PretrainingArguments, MixtureArguments)
    parser = ArgumentParser(groups, add_help=False, allow_abbrev=False, prog="pretrain", parents=[first])
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        print(f"\nsettings of {name}:")
        for _, setting, hint, default in settings:
            print(f"  --{setting:26} {getattr(hint, '__name__', str(hint))} (default: {default})")
        raise SystemExit(0)
    known = {action.dest for action in parser._actions}
    corpus, model, training, mixture, _, remaining = parser.parse_args_into_dataclasses(
        argv + _implied(name, argv, config), return_remaining_strings=True, look_for_args_file=False
    )
    given = settings_from_arguments(name, remaining, known)
    run = RunArguments(name, get_objective(name, **given), corpus, model, training)
    nested = read_nested(mixture, by_path)
    if not any(nested.values()):
        if mixture.sampling_alpha is not None or mixture.mixing != "example":
            raise ValueError("--sampling_alpha and --mixing say how to draw from a mixture, and there is none")
        return run
    refuse_hidden(command, nested)
    return _in_phases(run, nested, given, mixture, any(re.match("--max[_-]steps", word) for word in argv))


def _in_phases(
    run: RunArguments, nested: Any, given: dict[str, Any], mixture: MixtureArguments, steps_given: bool
) -> RunArguments:
    """The run with the phases and components of its recipe; its own settings hold where these say nothing."""
    args = run.training
    if args.num_train_epochs > 0:
        raise ValueError("phases and mixtures count steps; give --max_steps instead of --num_train_epochs")
    if run.corpus.corpus == CorpusArguments.corpus:
        refuse_missing_corpora(nested)
    refuse_settings_of_run(nested, {f.name for group in (ModelArguments, PretrainingArguments) for f in fields(group)})
    whole = all(isinstance(phase.get("steps"), int) for phase in nested["phases"].values()) and nested["phases"]
    defaults = Defaults(
        run.objective_name,
        given,
        run.corpus,
        run.model.max_seq_length,
        args.per_device_train_batch_size,
        None if whole and not steps_given else args.max_steps,
        mixture.mixing,
        mixture.sampling_alpha,
    )
    phases = phases_of(nested, defaults)
    learning_rates(phases, args)  # refuse early
    args.max_steps = sum(phase.steps for phase in phases)
    args.per_device_train_batch_size = max(phase.rows for phase in phases)
    longest = max(component.max_seq_length for phase in phases for component in phase.components)
    names = [" & ".join(dict.fromkeys(c.objective_name for c in phase.components)) for phase in phases]
    return RunArguments(
        " → ".join(dict.fromkeys(names)),
        mixture_of(phases),
        run.corpus,
        replace(run.model, max_seq_length=longest),
        args,
        phases,
    )


def _implied(name: str, argv: list[str], config: str | None = None) -> list[str]:
    """Defaults that depend on other arguments."""
    peek = ArgumentParser(add_help=False, allow_abbrev=False)
    options = ("model_name_or_path", "output_dir", "max_steps", "num_train_epochs", "learning_rate", "optim")
    for option in (*options, "tokenizer_name", "teacher", "student_layers", "peft"):
        peek.add_argument(f"--{option}", f"--{option.replace('_', '-')}")
    given = peek.parse_known_args(argv)[0]
    implied = []
    model = given.model_name_or_path
    if model is None:  # layers chosen of a teacher make a student of its architecture
        model = given.teacher if given.teacher and given.student_layers else default_model(name)
        implied += ["--model_name_or_path", model]
    if given.teacher and given.tokenizer_name is None and model in list_presets():
        implied += ["--tokenizer_name", given.teacher]
    if given.output_dir is None:
        nested = any(word.startswith(("--mixture", "--phases")) for word in argv)
        what = Path(config).stem if nested and config else re.sub(r"[^a-z0-9_+]+", "-", name).strip("-")
        implied += ["--output_dir", f"runs/{Path(model).name}-{what}"]
    preset, tiny = model in list_presets(), model.endswith("-tiny")
    scaled = preset and given.optim is None and model.rpartition("-")[0] in SCALED_FAMILIES
    if scaled:
        implied += ["--optim", ADAFACTOR, "--optim_args", "scale_parameter=true"]
    if given.learning_rate is None:
        rate = (TINY if tiny else LARGER) if preset else CHECKPOINT
        rate = (SCALED_TINY if tiny else SCALED) if scaled else rate
        implied += ["--learning_rate", str(LARGER if given.peft else rate)]  # small updates take larger steps
    if given.num_train_epochs is not None and given.max_steps is None:
        implied += ["--max_steps", "-1"]
    return implied


def default_model(name: str) -> str:
    """The preset that is trained on the objective `name` if no model is named."""
    parts = list(parts_of(name[name.find("(") + 1 :]))  # what is wrapped says what kind of model it is
    names = (parts[0].name, parts[0].architecture) if len(parts) == 1 else ()
    return next((DEFAULT_MODELS[name] for name in names if name in DEFAULT_MODELS), "bert-tiny")


def recipe_arguments(config: str) -> list[str]:
    """A recipe as command-line arguments; `config` is a file, or the name of a recipe that comes with the package.

    Raises `ValueError` if there is none, or it is not a mapping from names to values.
    """
    path = next((p for p in (Path(config), RECIPES / Path(config).with_suffix(".yaml").name) if p.is_file()), None)
    if path is None:
        names = sorted(p.stem for p in RECIPES.glob("*.yaml"))
        near = difflib.get_close_matches(Path(config).stem, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"give a YAML file or one of: {', '.join(names)}"
        raise ValueError(f"there is no recipe {config!r}; {hint}")
    try:
        recipe = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"the recipe {path} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"the recipe {path} must hold lines like `learning_rate: 1e-4`")
    arguments: list[str] = []
    for name, value in recipe.items():
        if value is not None:  # null leaves the default
            arguments.append(f"--{name}={as_text(value)}")
    return arguments
