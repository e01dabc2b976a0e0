"""What FSDP2 needs to shard models whose weights are tied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..models.pretraining import PretrainingModel


@contextmanager
def tied_weights_in_the_root(model: PretrainingModel) -> Iterator[None]:
    """While accelerate takes `model` apart for FSDP2: layers become units, embeddings and heads stay in the root.

    A parameter may lie in one unit only. accelerate makes a unit of the word embeddings and the layer that reads them
    in the head, and another of an embedding module that the model names as one not to be split. With BERT's head,
    whose bias is tied too, that fails (for the stock model as well: accelerate 1.15, torch 2.13).
    """
    whole = {name for name in model._no_split_modules or () if not name.endswith("Embeddings")}
    hidden = {
        "get_input_embeddings": lambda: None,
        "get_output_embeddings": lambda: None,
        "_no_split_modules": whole,
    }
    before = {name: vars(model)[name] for name in hidden if name in vars(model)}
    vars(model).update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del vars(model)[name]
        vars(model).update(before)
