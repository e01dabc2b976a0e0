"""Who sees whom: read off the attention of a small model with random weights that is given real examples.

A position sees another if its attention to it is not 0: whatever the mask is made of, a token that is masked out gets
exactly 0, and any other token more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pretrain_zoo.models.masked_positions import stock_model
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Columns, Objective, Vocabulary
from pretrain_zoo.objectives.collator import pad_columns, to_tensors

PARTS = {
    "attentions": ("", "", ""),
    "encoder_attentions": ("encoder", "", ""),
    "decoder_attentions": ("decoder", "decoder_", "decoder_"),
    "cross_attentions": ("decoder to encoder", "decoder_", ""),
}
"""By the names of a model's outputs: what to call them, and whose tokens look and are seen."""
STREAMS = ("content stream", "query stream")


@dataclass(frozen=True)
class Attention:
    """What positions see, in some layers of a model.

    Attributes:
        name: part of the model, if it has several.
        layers: numbers of the layers, from 1, that see so.
        sees: bool `[Q, K]`.
        queries, keys: ids of the tokens that look and of those there are to see.
        memory: how many of the keys, the first ones, are tokens of earlier segments.
    """

    name: str
    layers: tuple[int, ...]
    sees: np.ndarray
    queries: list[int]
    keys: list[int]
    memory: int = 0


@dataclass(frozen=True)
class Reading:
    """What a model makes of one example: its attention, and the tokens that a generator put in, if it has one."""

    attention: list[Attention]
    replaced: list[int] | None = None


def read(
    objective: Objective, preset: str, tokenizer: Any, rows: Sequence[Columns], length: int, **overrides: Any
) -> list[Reading]:
    """Pass examples, one after another, through a new model; one that has a memory keeps it from row to row.

    Args:
        preset: the backbone; its weights are random.
        rows: corrupted examples, each as columns of one row.
        length: tokens of a row at most.
        overrides: settings of the backbone's config.

    Raises `ValueError` for a backbone that the objective cannot use.
    """
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    trained: Any = getattr(objective, "wrapped", objective)  # a student's own attention; its teacher is not needed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = backbone(preset, tokenizer, max_length=length, attn_implementation="eager", **overrides)
        model = trained.build(parts, vocabulary).eval()
    main = stock_model(model.main)
    each: Any
    for each in main.modules():  # encoders and decoders have configs of their own
        if hasattr(each, "config"):
            each.config.output_attentions = True
    caught: list[Any] = []
    for module in {main, getattr(main, "transformer", main)}:  # XLNet's is called without its head
        module.register_forward_hook(lambda _, inputs, output: caught.append(output))
    readings: list[Reading] = []
    carry: Any = None
    earlier: list[int] = []
    for columns in rows:
        batch: Any = to_tensors(pad_columns(columns, objective.columns, vocabulary))
        caught.clear()
        with torch.no_grad():
            outputs = model.run(batch, carry, ())
        carry = outputs.get("carry")
        ids = {side: batch[f"{side}input_ids"][0].tolist() for side in ("", "decoder_") if f"{side}input_ids" in batch}
        replaced = outputs["input_ids"][0].tolist() if "replaced" in outputs else None
        found = next(output for output in caught if any(getattr(output, kind, None) for kind in PARTS))
        readings.append(Reading(_attention(found, ids, earlier, batch), replaced))
        if carry is not None:
            earlier = (earlier + ids[""][: _remembered(batch)])[-carry[0].shape[1] :]
    return readings


def _remembered(batch: Any) -> int | None:
    """Tokens of a row that the next one remembers: all, or the first part."""
    return int((batch["parts"][0] == 0).sum()) if "parts" in batch else None


def _attention(output: Any, ids: dict[str, list[int]], earlier: list[int], batch: Any) -> list[Attention]:
    """What each part of the model sees; layers that see the same are one."""
    found = []
    for kind, (name, looking, seen) in PARTS.items():
        layers = getattr(output, kind, None) or ()
        streams: list[Any] = list(zip(*layers)) if layers and isinstance(layers[0], tuple) else [layers]
        mask = batch.get(f"{looking}attention_mask")
        for number, stream in enumerate(streams if layers else ()):
            rows = batch["label_positions"].tolist() if number == 1 else list(range(len(ids[looking])))
            padding = np.zeros(len(rows), bool) if mask is None else (mask[0, rows] == 0).numpy()
            title = STREAMS[number] if len(streams) > 1 else name
            for sees, numbers in _patterns(stream, rows, padding):
                memory = sees.shape[1] - len(ids[seen])
                keys = [*earlier[len(earlier) - memory :], *ids[seen]]
                found.append(Attention(title, numbers, sees, [ids[looking][i] for i in rows], keys, memory))
    return found


def _patterns(
    stream: Sequence[torch.Tensor], rows: list[int], padding: np.ndarray
) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """(what these rows see in any head, layers that see so); padding, whose attention is even, sees nothing."""
    layers: dict[bytes, list[int]] = {}
    patterns: dict[bytes, np.ndarray] = {}
    for layer, weights in enumerate(stream, 1):
        sees = (weights[0] > 0).any(0).numpy()[rows] & ~padding[:, None]
        patterns[sees.tobytes()] = sees
        layers.setdefault(sees.tobytes(), []).append(layer)
    return [(patterns[key], tuple(numbers)) for key, numbers in layers.items()]


def describe(sees: np.ndarray, memory: int = 0) -> str:
    """The pattern in words; nothing for one without a name.

    >>> describe(np.tri(4, dtype=bool)), describe(np.ones((2, 3), bool))
    ('Each sees itself and what comes before.', 'All see all.')
    """
    now = sees[:, memory:]
    if sees.all():
        return "All see all."
    if len(now) != now.shape[1] or not sees[:, :memory].all():
        return ""
    size = len(now)
    ahead = np.arange(size)[None, :] - np.arange(size)[:, None]
    first, last = int(now[0].sum()), int(now[-1].sum())
    known = {
        "Each sees itself and what comes before.": ahead <= 0,
        "Each sees itself and what comes after.": ahead >= 0,
        f"The first {first} see each other; each one after them itself and what comes before.": (ahead <= 0)
        | (np.arange(size) < first),
        f"Each sees itself and {first - 1} to either side.": np.abs(ahead) < first,
        f"Each sees itself and the {last - 1} before.": (ahead <= 0) & (ahead > -last),
    }
    said = next((words for words, pattern in known.items() if np.array_equal(now, pattern)), "")
    return f"{said[:-1]}, and all of the memory." if said and memory else said
