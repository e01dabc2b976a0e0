"""What `test_finetune.py` starts on two processes: one fine-tuning run, with uneven last batches.

accelerate launch --config_file accelerate_config.yaml --num_processes 2 tests/glue_worker.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist
from finetune_runs import TRAIN_ROWS, arguments, model_arguments, prepared_task
from rich.console import Console

from pretrain_zoo.evaluation.encoded import EncodedExamples
from pretrain_zoo.evaluation.finetune import finetune
from pretrain_zoo.models.task_models import load_tokenizer


def main(folder: Path) -> None:
    """Run, and write what each process saw."""
    seen: list[int] = []
    stock = EncodedExamples.__getitem__

    def recorded(self, index):
        if len(self) == TRAIN_ROWS:
            seen.append(index)
        return stock(self, index)

    EncodedExamples.__getitem__ = recorded  # type: ignore[method-assign]
    model_args = model_arguments(folder / "tokenizer")
    args = arguments(folder / "run", num_train_epochs=2, per_device_train_batch_size=4)
    assert args.world_size == 2
    result = finetune(prepared_task(load_tokenizer(model_args)), model_args, args, folder / "run", Console(quiet=True))
    record = {"seen": seen, "metrics": result["metrics"], "history": result["history"]}
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps(record))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
