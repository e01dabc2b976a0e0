"""Small grids of hyper-parameters, published ones and your own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

GRIDS: dict[str, dict[str, list[float]]] = {
    "bert": {"learning_rate": [5e-5, 3e-5, 2e-5], "batch": [16, 32], "num_train_epochs": [2, 3, 4]},
    "roberta": {"learning_rate": [1e-5, 2e-5, 3e-5], "batch": [16, 32], "num_train_epochs": [10]},
}
"""The grids of BERT (Devlin et al. 2018, appendix A.3) and RoBERTa (Liu et al. 2019, section 5.1), who take the best on
the dev set. "batch" is the batch of an optimizer step, over all processes."""
SETTINGS: dict[str, Callable[[str], Any]] = {
    "learning_rate": float,
    "batch": int,
    "num_train_epochs": float,
    "weight_decay": float,
    "warmup_steps": float,
}
"""What can be searched over."""


def parse_grid(text: str) -> list[dict[str, Any]]:
    """All combinations of a grid: a published one by name, or `learning_rate=1e-4,3e-4;batch=16,32`.

    Raises `ValueError` for one that cannot be read.
    """
    if text in GRIDS:
        grid: dict[str, list[Any]] = dict(GRIDS[text])
    else:
        grid = {}
        for part in text.split(";"):
            name, equals, values = part.strip().partition("=")
            if not equals or name not in SETTINGS:
                raise ValueError(
                    f"--search must be {', '.join(GRIDS)} or name=value,value;name=value,… of "
                    f"{', '.join(SETTINGS)}; not {text!r}"
                )
            grid[name] = [SETTINGS[name](value) for value in values.split(",")]
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def combination_name(settings: dict[str, Any]) -> str:
    """A name for a folder: learning_rate=5e-05,batch=16."""
    return ",".join(f"{name}={value:g}" for name, value in settings.items())
