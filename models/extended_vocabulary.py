"""Rows for new tokens in a trained model: the mean of the rows of the pieces that spelled each token before.

Wherever a tensor has a row per token (embeddings, tied or not, factorised or not, output layers, their biases), the
new tokens' rows are such means, so that a new token's logit is the mean of its pieces' logits. All else is kept bit for
bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from .compressed import is_compressed
from .pretraining import HEADS_FILE

Pieces = Sequence[Sequence[int]]
"""For each new token the ids of its pieces."""


def extend_checkpoint(source: str | Path, target: str | Path, pieces: Pieces, first_id: int) -> list[PreTrainedModel]:
    """Write the checkpoint `source` to `target` with rows for new tokens, and return its models as they are now.

    Networks trained beside the main model (a generator, heads) and checkpoints in folders below (`generator/`) are
    extended, too, as far as `source` is a local folder. Optimizer states are left behind.

    Args:
        source: folder or name on the Hub.
        pieces: see `Pieces`.
        first_id: id of the first new token.

    Raises `ValueError` for what cannot be extended, with the reason.
    """
    source, target = str(source), Path(target)
    if is_compressed(source):
        raise ValueError(f"{source} is compressed; extend the checkpoint it was made from, then compress that")
    models = []
    for folder in ("", *_parts(Path(source))):
        at = str(Path(source) / folder) if folder else source
        model = load(at)
        if model.config.vocab_size < first_id:
            raise ValueError(f"{at} has embeddings for {model.config.vocab_size} tokens, its tokenizer {first_id}")
        size = model.config.vocab_size
        extended = extend_vocabulary(model, pieces, first_id)
        extended.save_pretrained(target / folder)
        models.append(extended)
        if (Path(at) / HEADS_FILE).is_file():
            _extend_heads(Path(at) / HEADS_FILE, target / folder / HEADS_FILE, model.config, size, pieces, first_id)
    return models


def load(folder: str) -> PreTrainedModel:
    """The model of a checkpoint, of the class that wrote it and in its types. Raises `ValueError` for other folders."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    name = (config.architectures or [""])[0]
    cls: Any = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise ValueError(f"{folder} is a {name or 'checkpoint of no known class'}, which transformers does not have")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{folder} is quantised; extend the checkpoint it was made from, then quantise that")
    loader: Any = cls.from_pretrained  # with loading information it gives a pair
    model, report = loader(
        folder, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(f"{folder} lacks weights of {name}: {', '.join(sorted(report['missing_keys'])[:3])}")
    return model.eval()


def extend_vocabulary(model: PreTrainedModel, pieces: Pieces, first_id: int) -> PreTrainedModel:
    """A model with the weights of `model` and rows for new tokens.

    Rows that a padded table has to spare are used first; the table grows by what is then lacking.

    Args:
        model: of any architecture whose config has a `vocab_size`.
        pieces: see `Pieces`.
        first_id: id of the first new token.

    Raises `ValueError` for pieces that are not among the old ids, and models that have no row per token.
    """
    if any(not part or min(part) < 0 or max(part) >= first_id for part in pieces):
        raise ValueError(f"each new token needs pieces, with ids from 0 to {first_id - 1}")
    config = copy.deepcopy(model.config)
    config.vocab_size = max(config.vocab_size, first_id + len(pieces))
    where = vocabulary_axes(model)
    made = type(model)._from_config(config, dtype=model.dtype)
    if model.can_generate():
        made.generation_config = copy.deepcopy(model.generation_config)
    theirs = _tensors(model)
    _untie(made, theirs)
    with torch.no_grad():
        for name, mine in _tensors(made).items():
            old, axis = theirs[name], where.get(name)
            mine.copy_(old if axis is None else with_rows(old, mine.shape[axis], pieces, first_id, axis))
    return made.to(model.device).train(model.training)


def _untie(made: PreTrainedModel, theirs: dict[str, Tensor]) -> None:
    """Part what the config ties and is not tied in the checkpoint (T5 1.1, whose config says nothing of it)."""
    first: dict[int, str] = {}
    for name, mine in _tensors(made).items():
        known = first.setdefault(id(mine), name)
        if theirs[known] is not theirs[name]:
            module, _, leaf = name.rpartition(".")
            setattr(made.get_submodule(module), leaf, nn.Parameter(mine.detach().clone()))


def vocabulary_axes(model: PreTrainedModel) -> dict[str, int]:
    """Which axis of which parameter or buffer counts tokens: the one that grows with `vocab_size`.

    Raises `ValueError` for models without any, or with shapes that hang on the vocabulary otherwise (adaptive softmax).
    """
    size = model.config.vocab_size
    more = copy.deepcopy(model.config)
    more.vocab_size = size + 1
    with torch.device("meta"):
        larger = _tensors(type(model)._from_config(more))
    axes = {}
    for name, tensor in _tensors(model).items():
        shape, grown = tuple(tensor.shape), tuple(larger[name].shape) if name in larger else ()
        changed = [i for i, (a, b) in enumerate(zip(shape, grown)) if a != b]
        if (
            len(shape) != len(grown)
            or any((shape[i], grown[i]) != (size, size + 1) for i in changed)
            or len(changed) > 1
        ):
            raise ValueError(f"{name} of {type(model).__name__} has no row per token, so tokens cannot be added")
        if changed:
            axes[name] = changed[0]
    if not axes:
        raise ValueError(f"{type(model).__name__} has no table of tokens")
    return axes


def with_rows(old: Tensor, size: int, pieces: Pieces, first_id: int, axis: int = 0) -> Tensor:
    """A tensor of `size` rows along `axis`, those from `first_id` on the means (in float64) of their pieces' rows."""
    rows = old.movedim(axis, 0)
    made = rows.new_zeros((size, *rows.shape[1:]))
    made[: len(rows)] = rows
    flat = torch.tensor([i for part in pieces for i in part], device=old.device)
    sizes = torch.tensor([len(part) for part in pieces], device=old.device)
    of = torch.repeat_interleave(torch.arange(len(sizes), device=old.device), sizes)
    means = torch.zeros((len(sizes), *rows.shape[1:]), dtype=torch.float64, device=old.device)
    means.index_add_(0, of, rows[flat].double())
    means /= sizes.reshape(-1, *[1] * (rows.dim() - 1))
    made[first_id : first_id + len(sizes)] = means.to(made.dtype)
    return made.movedim(0, axis)


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones by each of theirs."""
    parameters = model.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(model.named_buffers(remove_duplicate=False))


def _parts(source: Path) -> Iterator[str]:
    """Folders below a run's with networks of their own (`generator`), but checkpoints of the training."""
    for file in sorted(source.glob("*/config.json")):
        if not file.parent.name.startswith("checkpoint-"):
            yield file.parent.name


def _extend_heads(
    source: Path, target: Path, config: PreTrainedConfig, size: int, pieces: Pieces, first_id: int
) -> None:
    """The tensors beside a main model, where an axis of `size` counts tokens."""
    others = {n for n, v in config.to_dict().items() if v == size and not isinstance(v, bool)} - _VOCABULARY_SIZE
    if others:
        raise ValueError(
            f"{source} has sizes of {size}, which may be that of the vocabulary or {', '.join(sorted(others))}; "
            "move it away to extend the main model alone"
        )
    tensors: Mapping[str, Tensor] = load_file(source)
    larger = max(size, first_id + len(pieces))
    made = {}
    for name, tensor in tensors.items():
        axes = [axis for axis, length in enumerate(tensor.shape) if length == size]
        made[name] = (with_rows(tensor, larger, pieces, first_id, axes[0]) if axes else tensor).contiguous()
    save_file(made, target, metadata={"format": "pt"})


_VOCABULARY_SIZE = {"vocab_size", "n_words"}
