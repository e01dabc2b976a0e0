"""Time of training steps made of several networks, against the networks one by one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.objectives import Draws, Ragged, Vocabulary
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.losses import masked_lm_loss
from pretrain_zoo.objectives.replaced_tokens import ReplacedTokenDetection


def rtd_against_its_networks(
    objective: ReplacedTokenDetection,
    backbone: Backbone,
    vocabulary: Vocabulary,
    *,
    rows: int = 16,
    length: int = 128,
    rounds: int = 7,
    device: str = "cpu",
) -> dict[str, float]:
    """Seconds of a forward and backward pass of replaced-token detection and of either network alone.

    The generator alone is a masked LM on the selected positions, accuracy included; the discriminator alone reads a
    text made beforehand, so that it needs no samples. Passes take turns, and medians over `rounds` are returned, after
    one round that does not count:

        {"rtd": …, "generator": …, "discriminator": …, "ratio": rtd / (generator + discriminator)}
    """
    torch.manual_seed(0)
    model = objective.build(backbone, vocabulary).train()
    model.to(torch.device(device))
    ids = np.random.default_rng(0).choice(vocabulary.random_pool, rows * length)
    columns = {"input_ids": Ragged(ids, np.full(rows, length))}
    columns = objective.corrupt(columns, Draws.of(0, np.arange(rows), 0, np.arange(rows)), vocabulary)
    batch = to_tensors(pad_columns(columns, objective.columns, vocabulary))
    batch = {name: value.to(device) for name, value in batch.items()}
    inputs = model.inputs(batch)
    with torch.no_grad():
        given = model.run(batch, None, ())
    fake = {**inputs, "input_ids": given["input_ids"]}

    def rtd() -> torch.Tensor:
        return torch.stack(list(model(**batch).sums.values())).sum()

    def generator() -> torch.Tensor:
        outputs = {"logits": model.generate(inputs, batch["label_positions"])}
        return masked_lm_loss("generator", outputs, batch)[0]["generator"]

    def discriminator() -> torch.Tensor:
        return objective.main_loss({**given, **model.run_main(dict(fake), batch)}, batch)[0]

    passes: dict[str, Callable[[], torch.Tensor]] = {
        "rtd": rtd,
        "generator": generator,
        "discriminator": discriminator,
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, step in passes.items():
            model.zero_grad(set_to_none=True)
            _wait(device)
            started = time.perf_counter()
            step().backward()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    result = {name: statistics.median(values) for name, values in seconds.items()}
    return result | {"ratio": result["rtd"] / (result["generator"] + result["discriminator"])}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
