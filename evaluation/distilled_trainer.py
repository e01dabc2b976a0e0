"""Any `Trainer`, with the loss of a teacher."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
import torch.distributed as dist

from .task_distillation import TaskDistiller


class TaskDistillationMixin:
    """For a `Trainer`: the distiller's loss, each term divided once per optimizer step, over all processes."""

    distiller: TaskDistiller
    loss_is_scaled_for_ga = True
    args: Any

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step, and each term's count over all of them and all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        counts = [self.distiller.counts(batch) for batch in batches]
        totals = {name: torch.stack([c[name].to(device) for c in counts]).sum() for name in counts[0]} if counts else {}
        if self.args.world_size > 1:
            for total in totals.values():
                dist.all_reduce(total)
        return batches, totals

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The distiller's; while training, scaled so that the average over processes is the whole."""
        loss, outputs = self.distiller.loss(model, inputs, num_items_in_batch)
        if num_items_in_batch is not None:
            loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss


def distilled(trainer_class: type, distiller: TaskDistiller) -> type:
    """`trainer_class`, a `Trainer`, with the distiller's loss in place of the model's own."""
    return type(f"Distilled{trainer_class.__name__}", (TaskDistillationMixin, trainer_class), {"distiller": distiller})
