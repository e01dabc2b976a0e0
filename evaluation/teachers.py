"""Fine-tuned models that others learn a task from: loading them, and the command line's words for how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from ..models.quantised import BITSANDBYTES, TASK_HEADS, bitsandbytes_config, check_widths
from ..models.settings import check_checkpoint
from ..models.task_checkpoints import load_saved
from .glue_tasks import Task
from .tables import DataError, read_columns
from .task_data import Examples
from .task_distillation import TaskDistillation, TaskDistiller


def load_teacher(folder: str, dtype: str | None = None) -> PreTrainedModel:
    """A fine-tuned classifier. `dtype`: "float32" (default), "bfloat16", "float16", or "int8", "nf4", "fp4".

    Raises `ValueError` for another dtype, if there is no such folder, or if its head was not trained.
    """
    if dtype not in (None, "float32", "bfloat16", "float16", *BITSANDBYTES):
        raise ValueError(f"a teacher is held in float32, bfloat16, float16, int8, nf4 or fp4, not {dtype!r}")
    check_checkpoint(folder, "teacher")
    if dtype not in BITSANDBYTES and Path(folder).is_dir():
        return load_saved(folder, dtype=getattr(torch, dtype or "float32"))  # adapters and poolings of our own, too
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    options["dtype"] = torch.float32 if dtype in BITSANDBYTES else getattr(torch, dtype or "float32")
    if dtype in BITSANDBYTES:
        options["quantization_config"] = bitsandbytes_config(str(dtype), TASK_HEADS)
    teacher, report = AutoModelForSequenceClassification.from_pretrained(folder, **options)
    check_widths(teacher, str(dtype))
    if report["missing_keys"]:
        missing = min(map(str, report["missing_keys"]))
        raise ValueError(f"{folder} has no weights for {missing}: it is no stock classifier, or was not fine-tuned")
    return teacher


@dataclass
class TeacherArguments:
    """Whom a fine-tuned model learns from; an argument group for `HfArgumentParser`."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "Folder of a model fine-tuned on the task, to be distilled; {task} stands for its name."},
    )
    teacher_dtype: str = field(
        default="float32", metadata={"help": "float32, bfloat16, float16, or int8, nf4 and fp4 (bitsandbytes)."}
    )
    temperature: float = field(default=1.0, metadata={"help": "T of the teacher's predictions."})
    soft_weight: float = field(default=1.0, metadata={"help": "Weight of the teacher's predictions in the loss."})
    hard_weight: float = field(default=0.0, metadata={"help": "Weight of the true labels in the loss."})
    intermediate_epochs: float = field(
        default=0.0, metadata={"help": "Epochs of a first stage on hidden states and attention (TinyBERT: 10 to 30)."}
    )
    hidden_weight: float = field(default=1.0, metadata={"help": "Weight of hidden states in that stage."})
    attention_weight: float = field(default=1.0, metadata={"help": "Weight of attention scores in that stage."})
    transfer_file: str | None = field(
        default=None,
        metadata={
            "help": "Texts without labels that the student learns from, too, by what the teacher says of them: .csv, "
            ".tsv (unquoted) or .jsonl with the task's text columns; {task} stands for its name."
        },
    )
    layer_map: str | None = field(
        default=None, metadata={"help": "Teacher's layer for each of the student's, counted from 1: 3,6,9,12."}
    )

    def identity(self, task: str) -> dict[str, Any]:
        """What decides the result of a run."""
        return {f"distillation_{name}": value for name, value in asdict(self).items()} | {
            "distillation_teacher": self.folder(task)
        }

    def folder(self, task: str) -> str:
        """The teacher's, of a task."""
        return str(self.teacher).replace("{task}", task)

    def unlabelled(self, task: Task) -> Examples | None:
        """The rows of `transfer_file`. Raises `ValueError` if it cannot be read, or there is no teacher to label it."""
        if self.transfer_file is None:
            return None
        if self.teacher is None:
            raise ValueError("--transfer_file has texts without labels, which only a teacher can tell; give --teacher")
        path = Path(self.transfer_file.replace("{task}", task.name))
        if not path.is_file():
            raise DataError(f"--transfer_file: there is no file {path}")
        columns = read_columns(path, task.texts)
        texts = tuple(columns[name] for name in task.texts)
        return Examples(texts, None, [str(i) for i in range(len(texts[0]))])

    def distiller(self, task: str, student: Any, tokenizer: Any) -> TaskDistiller:
        """The distiller for a student. Raises `ValueError` for what cannot work."""
        chosen = tuple(int(part) for part in self.layer_map.split(",")) if self.layer_map else None
        weights = (self.temperature, self.soft_weight, self.hard_weight, self.hidden_weight, self.attention_weight)
        settings = TaskDistillation(*weights, layer_map=chosen)
        return TaskDistiller(
            load_teacher(self.folder(task), self.teacher_dtype), student, settings, tokenizer.sep_token_id
        )


def with_unlabelled(labelled: Examples, unlabelled: Examples) -> Examples:
    """Both one after the other; the label of rows without one is −100 or, of a regression, NaN."""
    labels = labelled.labels
    assert labels is not None
    none = np.full(len(unlabelled), np.nan if labels.dtype.kind == "f" else -100, labels.dtype)
    texts = tuple([*ours, *theirs] for ours, theirs in zip(labelled.texts, unlabelled.texts, strict=True))
    return Examples(texts, np.concatenate([labels, none]), [*labelled.index, *unlabelled.index])
