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
    "attentions": ("", "input_ids", "input_ids"),
    "encoder_attentions": ("encoder", "input_ids", "input_ids"),
    "decoder_attentions": ("decoder", "decoder_input_ids", "decoder_input_ids"),
    "cross_attentions": ("decoder to encoder", "decoder_input_ids", "input_ids"),
}
"""By the names of a model's outputs: what to call them, and the columns of the tokens that look and are seen."""
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
    for module in main.modules():  # encoders and decoders have configs of their own
        if hasattr(module, "config"):
            module.config.output_attentions = True
    caught: list[Any] = []
    for module in {main, getattr(main, "transformer", main)}:  # XLNet's is called without its head
        module.register_forward_hook(lambda _, inputs, output: caught.append(output))
    readings, carry, earlier = [], None, []
    for columns in rows:
        batch: Any = to_tensors(pad_columns(columns, objective.columns, vocabulary))
        caught.clear()
        with torch.no_grad():
            outputs = model.run(batch, carry, ())
        carry = outputs.get("carry")
        ids = {name: batch[name][0].tolist() for name in ("input_ids", "decoder_input_ids") if name in batch}
        replaced = outputs["input_ids"][0].tolist() if "replaced" in outputs else None
        found = next(output for output in caught if any(getattr(output, kind, None) for kind in PARTS))
        readings.append(Reading(_attention(found, ids, earlier, batch), replaced))
        if carry is not None:
            earlier = (earlier + ids["input_ids"][: _remembered(batch)])[-carry[0].shape[1] :]
    return readings


def _remembered(batch: Any) -> int | None:
    """Tokens of a row that the next one remembers: all, or the first part."""
    return int((batch["parts"][0] == 0).sum()) if "parts" in batch else None


def _attention(output: Any, ids: dict[str, list[int]], earlier: list[int], batch: Any) -> list[Attention]:
    """Layers that see the same are one."""
    found = []
    for kind, (name, looking, seen) in PARTS.items():
        layers = getattr(output, kind, None) or ()
        streams = list(zip(*layers)) if layers and isinstance(layers[0], tuple) else [layers]
        for number, stream in enumerate(streams if layers else ()):
            queries, keys = ids[looking], ids[seen]
            rows = batch["label_positions"].tolist() if number == 1 else list(range(len(queries)))
            queries = [queries[i] for i in rows]
            patterns: dict[bytes, tuple[np.ndarray, list[int]]] = {}
            for layer, weights in enumerate(stream, 1):
                sees = (weights[0] > 0).any(0).numpy()[rows]
                patterns.setdefault(sees.tobytes(), (sees, []))[1].append(layer)
            for sees, numbers in patterns.values():
                memory = sees.shape[1] - len(keys)
                title = STREAMS[number] if len(streams) > 1 else name
                there = [*earlier[len(earlier) - memory :], *keys]
                found.append(Attention(title, tuple(numbers), sees, queries, there, memory))
    return found


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
