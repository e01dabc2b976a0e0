"""Settings of fine-tuning: `TrainingArguments` with other defaults, and a few of our own."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..training.command_line import check_reporters

SMALL, LARGE = 3e-4, 3e-5
"""Learning rates where none is given: of models and adapters under 50 M trained parameters (ELECTRA-Small's published
one, LoRA's are alike), and of larger ones (within BERT's grid)."""


@dataclass
class FinetuneArguments(TrainingArguments):
    """`TrainingArguments` with defaults for fine-tuning."""

    output_dir: str | None = field(default=None, metadata={"help": "Default: runs/glue-MODEL."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows per device and micro-batch."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Rows per device when evaluating."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Epochs of each run."})
    learning_rate: float = field(
        default=0.0,
        metadata={"help": f"Highest learning rate. Default: {SMALL}, and {LARGE} from 50 M trained parameters on."},
    )
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of linear warmup; below 1 a share of the run."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay, on all but biases and norms."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log the training loss."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate and save: no, steps, epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep beside the best."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Take the model that scored best on the dev set, not the last."}
    )
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "group_by_length (rows of about one length together), random."}
    )
    report_to: str = field(default="none", metadata={"help": "Where to log to: tensorboard, wandb, …"})
    dataloader_pin_memory: bool = field(
        default=torch.cuda.is_available(), metadata={"help": "Copy batches to the GPU from pinned memory."}
    )
    max_seq_length: int = field(default=128, metadata={"help": "Longest row in tokens; longer ones are cut."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better score."}
    )
    class_weights: str = field(
        default="none",
        metadata={"help": "Weights of the classes in the loss: none, balanced (rare ones weigh more), or 1,2.5,…"},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on so many examples only, the same ones for every seed."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on so many examples only."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Run anew what the folder holds already."})

    def __post_init__(self):
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        if self.output_dir is None:
            self.output_dir = "runs/glue"
        self.save_strategy = self.eval_strategy
        if self.eval_strategy == "steps":
            self.eval_steps = self.eval_steps or self.logging_steps
            self.save_steps = self.eval_steps
        self.load_best_model_at_end = self.load_best_model_at_end and self.eval_strategy != "no"
        self.metric_for_best_model, self.greater_is_better = "eval_score", True
        self.remove_unused_columns = False
        super().__post_init__()
        check_reporters(self)
        self._n_gpu = min(self.n_gpu, 1)  # DataParallel would count rows otherwise; launch processes instead
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("--early_stopping_patience needs evaluations and --load_best_model_at_end")
