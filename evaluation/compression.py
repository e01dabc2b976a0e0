"""What compression costs and saves: size on disk, parameters, time per batch, and the loss on held-out text."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from ..models.compressed import save_compressed
from ..models.int8_linear import Int8Linear
from ..models.pretraining import PretrainingModel
from ..training.dataset import DrawCollator, EvaluationDataset
from ..training.sums import Sums
from .measure import folder_size


@dataclass
class Measured:
    """One row of the table.

    Attributes:
        name: which model.
        megabytes: of its weights on disk, 10⁶ bytes.
        parameters: numbers in its weights, of quantised layers too; non_zero: how many of them are not 0.
        milliseconds: median time of a forward pass of the base model on one batch.
        metrics: by name.
    """

    name: str
    megabytes: float
    parameters: int
    non_zero: int
    milliseconds: float
    metrics: dict[str, float]


def size_on_disk(model: PreTrainedModel) -> float:
    """10⁶ bytes that the model's weights take when saved."""
    with tempfile.TemporaryDirectory() as folder:
        save_compressed(model, folder)
        return folder_size(Path(folder)) / 1e6


def parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Numbers in the weights, tied ones once, and how many are not zero. 4-bit weights count by what they stand for."""
    seen, total, zeros = set(), 0, 0
    for module in model.modules():
        tensors: list[Tensor] = list(module.parameters(recurse=False))
        if isinstance(module, Int8Linear):
            tensors = [t for t in (module.weight, module.bias) if t is not None]
        for tensor in tensors:
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            packed = getattr(tensor, "quant_state", None)  # of bitsandbytes: two weights in a byte
            total += math.prod(packed.shape) if packed is not None else tensor.numel()
            zeros += 0 if packed is not None else int((tensor == 0).sum())
    return total, total - zeros


def latency(models: Mapping[str, PreTrainedModel], rows: int, length: int, rounds: int = 11) -> dict[str, float]:
    """Median milliseconds of a forward pass of each base model on `rows` × `length` random tokens.

    The models take turns, after a turn that does not count, so that what else the machine does falls on all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            base: Any = model.base_model
            device = next(model.parameters()).device
            generator = torch.Generator().manual_seed(turn)
            ids = torch.randint(0, model.config.get_text_config().vocab_size, (rows, length), generator=generator)
            inputs = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
            if model.config.is_encoder_decoder:
                inputs["decoder_input_ids"] = inputs["input_ids"]
            wait(device)
            started = time.perf_counter()
            with torch.no_grad():
                base.eval()(**inputs)
            wait(device)
            if turn:
                seconds[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in seconds.items()}


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def held_out_metrics(
    model: PretrainingModel, dataset: EvaluationDataset, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Loss of each term, metrics, and a perplexity where there is one, over all examples, as a run evaluates them."""
    collator = DrawCollator(dataset.objective, dataset.vocabulary)
    sums, was_training = Sums(device), model.training
    model.eval()
    for start in range(0, len(dataset), batch_size):
        numbers = list(range(start, min(start + batch_size, len(dataset))))
        batch: dict[str, Tensor] = {n: v.to(device) for n, v in collator(dataset.__getitems__(numbers)).items()}
        with torch.no_grad():
            output = model(**batch)
        counts = dataset.objective.counts(batch)
        for name, total in output.sums.items():
            sums.add(f"{name}_loss", total, counts.get(name, torch.ones_like(total)))
        for name, (total, count) in (output.metrics or {}).items():
            sums.add(name, total, count)
    model.train(was_training)
    means = sums.means()
    term = dataset.objective.perplexity_term
    if term is not None:
        means["perplexity"] = math.exp(min(means[f"{term}_loss"], 700.0))
    return means


def as_table(rows: list[Measured]) -> Table:
    """The rows side by side; shares are of the first one's."""
    first, table = rows[0], Table(title="compression")
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    for name in ("model", "MB on disk", "parameters", "non-zero", "ms per batch", *metrics):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        cells = [
            f"{row.megabytes:,.2f} ({row.megabytes / first.megabytes:.0%})",
            f"{row.parameters:,} ({row.parameters / first.parameters:.0%})",
            f"{row.non_zero / row.parameters:.0%}",
            f"{row.milliseconds:,.1f} ({row.milliseconds / first.milliseconds:.0%})",
        ]
        values = [row.metrics.get(name) for name in metrics]
        table.add_row(row.name, *cells, *("" if value is None else f"{value:,.3f}" for value in values))
    return table


def as_json(rows: list[Measured]) -> list[dict[str, Any]]:
    """The rows for a JSON file."""
    return [asdict(row) for row in rows]
