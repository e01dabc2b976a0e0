"""The runs behind a curve of scores over the number of examples: settings, and one run after the other."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..models.task_models import TaskModelArguments, load_tokenizer
from ..training.run_folder import read_json, write_json
from .few_shot import ALL, classes_of, draw, point, shots_of
from .finetune import finetune, prepare
from .finetune_arguments import FinetuneArguments
from .glue_tasks import GLUE, Task
from .gpt_finetune import finetune_gpt
from .language_model import LanguageModel
from .metrics import compute_metrics
from .prompts import Prompt, get_prompt
from .task_data import Examples
from .zero_shot import label_scores, predict

METHODS = ("zero_shot", "in_context", "finetune", "gpt")


@dataclass
class FewShotArguments:
    """Which task, methods and numbers of examples; an argument group for `HfArgumentParser`."""

    task_name: str = field(default="sst2", metadata={"help": f"One task: {', '.join(GLUE)}, or a probe task."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder in GLUE's layout (CoLA/train.tsv …). Default: the Hub."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "A task of your own: .csv, .tsv (unquoted) or .jsonl, also .gz or .xz."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Its validation data."})
    text_columns: str = field(default="", metadata={"help": "Column of the text, or both of a pair: premise,claim."})
    label_column: str = field(default="label", metadata={"help": "Column of the label."})
    methods: str = field(default="zero_shot,finetune", metadata={"help": f"Of {', '.join(METHODS)}."})
    k: str = field(default="0,4,16,64", metadata={"help": "Examples per class: 0,4,16,64,all."})
    seeds: int = field(default=3, metadata={"help": "Draws of examples, with --seed, --seed + 1, …"})
    min_steps: int = field(
        default=100, metadata={"help": "Train at least so many steps, however few examples the epochs hold."}
    )
    lm_coefficient: float = field(default=0.5, metadata={"help": "gpt: weight of the auxiliary LM loss."})
    length_normalization: bool = field(
        default=False, metadata={"help": "Compare mean log-likelihoods per token, not sums (causal, encoder-decoder)."}
    )
    prompt_file: str | None = field(
        default=None, metadata={"help": "YAML file with cloze, completion and words (default: the task's own)."}
    )
    cache_dir: str = field(default="~/.cache/pretrain_zoo", metadata={"help": "Where the probe tasks are kept."})


@dataclass
class FewShotTraining(FinetuneArguments):
    """`FinetuneArguments` with defaults for few examples: the last model is taken, since nothing chooses another."""

    output_dir: str | None = field(default=None, metadata={"help": "Default: runs/few-shot-MODEL-TASK."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows per device and micro-batch."})
    eval_strategy: str = field(default="no", metadata={"help": "When to evaluate and save: no, steps, epoch."})
    load_best_model_at_end: bool = field(
        default=False, metadata={"help": "Choose by the dev set, which then is no longer few-shot (Perez et al. 2021)."}
    )

    def __post_init__(self):
        self.given_output_dir = self.output_dir
        super().__post_init__()


class Sweep:
    """All runs of one task and checkpoint; finished ones are read from the folder.

    Args:
        task, splits: what is learnt; the dev set may be a sample.
        few, model_args, args: settings.
        console: gets a line per run.
    """

    def __init__(
        self,
        task: Task,
        splits: Mapping[str, Examples],
        few: FewShotArguments,
        model_args: TaskModelArguments,
        args: FewShotTraining,
        console: Console,
    ):
        self.task, self.few, self.model_args, self.args, self.console = task, few, model_args, args, console
        self.train = splits["train"].sample(args.max_train_samples)
        self.validation = splits["validation"].sample(args.max_eval_samples)
        self.tokenizer: Any = load_tokenizer(model_args)
        self.folder = Path(str(args.output_dir))
        self._language_model: LanguageModel | None = None

    def run(self, methods: list[str], sizes: list[int]) -> dict[str, list[dict[str, Any]]]:
        """The curves, by method: a point for each number of examples."""
        prompt = get_prompt(self.task, self.few.prompt_file) if {"zero_shot", "in_context"} & set(methods) else None
        if prompt is not None and self.args.process_index == 0:
            self.language_model  # noqa: B018  a checkpoint that cannot do it stops the sweep before hours of training
        for k in sizes:
            draw(self.task, self.train, k, self.args.seed)  # so do too few examples
        curves: dict[str, list[dict[str, Any]]] = {}
        for method in methods:
            for k in [0] if method == "zero_shot" else sizes:
                if k == 0 and method in ("finetune", "gpt"):
                    continue  # a head without training knows nothing
                count = 1 if k == 0 or (k == ALL and method == "in_context") else self.few.seeds
                results = [self.one(method, k, self.args.seed + i, prompt) for i in range(count)]
                scores = [result["score"] for result in results]
                shown = "all" if k == ALL else k
                found = point(k, self.per_class(k), scores)
                if method == "in_context":
                    found["shots_used"] = sum(result["shots_used"] for result in results) / len(results)
                curves.setdefault(method, []).append(found)
                self.console.print(f"{method}  k {shown}  " + "  ".join(f"{100 * score:.1f}" for score in scores))
        return curves

    def per_class(self, k: int) -> float:
        """Examples per class, on average."""
        if k != ALL:
            return float(k)
        assert self.train.labels is not None
        return len(self.train) / len(set(classes_of(self.task, self.train.labels).tolist()))

    @property
    def language_model(self) -> LanguageModel:
        """The checkpoint with its language model's head."""
        if self._language_model is None:
            name = self.model_args.model_name_or_path
            device, size = str(self.args.device), self.args.per_device_eval_batch_size
            self._language_model = LanguageModel.load(name, self.tokenizer, size, device)
        return self._language_model

    def one(self, method: str, k: int, seed: int, prompt: Prompt | None) -> dict[str, Any]:
        """One run, or what is left of it in the folder."""
        place = self.folder / method / f"k-{'all' if k == ALL else k}" / f"seed-{seed}"
        finished = read_json(place / "results.json")
        if finished is not None:
            return finished
        if method in ("zero_shot", "in_context"):
            assert prompt is not None
            result = self.prompted(k, seed, prompt)
        else:
            result = self.trained(method, k, seed, place)
        if self.args.process_index == 0:
            shutil.rmtree(place / "model", ignore_errors=True)
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / "results.json", result)
        return result

    def prompted(self, k: int, seed: int, prompt: Prompt) -> dict[str, Any]:
        """Score without training; where not all examples fit before the prompt, the first are left out."""
        shots = shots_of(self.task, draw(self.task, self.train, k, seed), prompt.words) if k else []
        scores, used = label_scores(self.language_model, prompt, self.validation, shots, self.few.length_normalization)
        found = predict(self.task, prompt, scores)
        assert self.validation.labels is not None
        metrics = compute_metrics(self.task.metrics, found, self.validation.labels)
        return {"score": metrics["score"], "metrics": {"validation": metrics}, "shots_used": used}

    def trained(self, method: str, k: int, seed: int, place: Path) -> dict[str, Any]:
        """Score after fine-tuning on `k` examples per class."""
        splits = {"train": draw(self.task, self.train, k, seed), "validation": self.validation}
        args = copy.copy(self.args)
        args.seed, args.output_dir, args.max_train_samples, args.max_eval_samples = seed, str(place), None, None
        args.overwrite_output_dir = True  # of this run; a finished one is not begun
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        per_epoch = -(-len(splits["train"]) // batch)
        if args.max_steps <= 0:
            args.max_steps = max(self.few.min_steps, round(args.num_train_epochs * per_epoch))
        if method == "gpt":
            tokenizer = copy.deepcopy(self.tokenizer)  # the marks are for this model alone
            coefficient = self.few.lm_coefficient
            return finetune_gpt(self.task, splits, tokenizer, self.model_args, args, lm_coefficient=coefficient)[0]
        prepared = prepare(self.task, splits, self.tokenizer, args)
        return finetune(prepared, self.model_args, args, place, Console(quiet=True))
