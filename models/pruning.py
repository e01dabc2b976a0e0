"""Smaller models from trained ones: weights set to zero, and neurons and attention heads that are really taken out.

prune_weights(model, 0.6)                          60 % of all weights, the smallest, become zero; shapes stay
prune_neurons(model, 0.5)                          half of each feed-forward layer goes, rows and columns
prune_heads(model, 0.5)                            half of each attention's heads goes

Each layer loses equally many neurons or heads, so that a config can say how many there are. Which ones is told by
`importance`, by magnitude unless a first-order estimate is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .int8_linear import linear_layers, weight_rows


@dataclass(frozen=True)
class Shape:
    """Where a family keeps what can be taken out of a layer.

    Attributes:
        inputs: names of the linear layers whose rows belong to neurons or heads, below the module `parent`.
        output: the linear layer whose columns do.
        parts: how many such matrices one linear layer holds, one below the other (fused queries, keys and values).
        settings: of the config, that say how many there are.
    """

    inputs: tuple[str, ...]
    output: str
    parts: int = 1
    settings: tuple[str, ...] = ()


_BERT = Shape(("intermediate.dense",), "output.dense", settings=("intermediate_size",))
NEURONS: dict[str, tuple[Shape, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "mpnet", "deberta-v2"), (_BERT,)),
    "distilbert": (Shape(("ffn.lin1",), "ffn.lin2", settings=("hidden_dim",)),),
    "albert": (Shape(("ffn",), "ffn_output", settings=("intermediate_size",)),),
    "modernbert": (Shape(("mlp.Wi",), "mlp.Wo", parts=2, settings=("intermediate_size",)),),
    "gpt2": (Shape(("mlp.c_fc",), "mlp.c_proj", settings=("n_inner",)),),
    "llama": (Shape(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", settings=("intermediate_size",)),),
    "t5": (
        Shape(("DenseReluDense.wi",), "DenseReluDense.wo", settings=("d_ff",)),
        Shape(("DenseReluDense.wi_0", "DenseReluDense.wi_1"), "DenseReluDense.wo", settings=("d_ff",)),
    ),
    "bart": (Shape(("fc1",), "fc2", settings=("encoder_ffn_dim", "decoder_ffn_dim")),),
}
"""Model type → feed-forward layers; of several shapes those that a model has."""

_SELF = Shape(("attention.self.query", "attention.self.key", "attention.self.value"), "attention.output.dense")
HEADS: dict[str, tuple[Shape, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), (_SELF,)),
    "distilbert": (Shape(("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin"),),
    "modernbert": (Shape(("attn.Wqkv",), "attn.Wo", parts=3),),
    "gpt2": (Shape(("attn.c_attn",), "attn.c_proj", parts=3),),
}
"""Model type → attention layers. Their configs take the size of a head from width and number of heads, so they cannot
say that there are fewer; `models.compressed` keeps what they cannot."""


@dataclass
class Group:
    """The neurons, or heads, of one layer.

    Attributes:
        inputs, output, parts: see `Shape`.
        count: how many there are now.
        name: of the output layer.
    """

    inputs: list[nn.Module]
    output: nn.Module
    parts: int
    count: int
    name: str

    def rows(self, weight: Tensor) -> Tensor:
        """A weight `[out, …]` of `inputs`, by unit: `[count, parts · size · …]`."""
        return weight.unflatten(0, (self.parts, self.count, -1)).transpose(0, 1).flatten(1)

    def columns(self, weight: Tensor) -> Tensor:
        """A weight `[out, in]` of `output`, by unit: `[count, out · size]`."""
        return weight.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(1)

    def keep(self, units: Tensor) -> None:
        """Take out all units but these, given by ascending index."""
        for module in self.inputs:
            index = torch.arange(weight_rows(module).shape[0]).unflatten(0, (self.parts, self.count, -1))
            _cut(module, index[:, units].flatten(), 0)
        index = torch.arange(weight_rows(self.output).shape[1]).unflatten(0, (self.count, -1))
        _cut(self.output, index[units].flatten(), 1)
        self.count = len(units)


def neuron_groups(model: PreTrainedModel) -> list[Group]:
    """The feed-forward layers of a model. Raises `ValueError` for a family that is not in `NEURONS`."""
    groups = _groups(model, NEURONS, "neurons")
    return [Group(i, o, s.parts, _inputs(o), name) for s, name, i, o in groups]


def head_groups(model: PreTrainedModel) -> list[Group]:
    """The attention layers of a model. Raises `ValueError` for a family that is not in `HEADS`."""
    config: Any = model.config
    size = config.hidden_size // config.num_attention_heads
    groups = _groups(model, HEADS, "attention heads")
    return [Group(i, o, s.parts, _inputs(o) // size, name) for s, name, i, o in groups]


def _groups(model: PreTrainedModel, table: dict[str, tuple[Shape, ...]], what: str):
    kind = model.config.model_type
    if kind not in table:
        raise ValueError(f"where a {kind} keeps its {what} is not known; they can be taken out of {', '.join(table)}")
    modules = dict(model.named_modules())
    found = []
    for shape in table[kind]:
        for name in modules:
            parent = name.removesuffix(shape.inputs[0])
            if not f".{name}".endswith(f".{shape.inputs[0]}") or f"{parent}{shape.output}" not in modules:
                continue
            inputs = [modules[f"{parent}{each}"] for each in shape.inputs]
            found.append((shape, f"{parent}{shape.output}", inputs, modules[f"{parent}{shape.output}"]))
    return found


def _inputs(linear: nn.Module) -> int:
    """Inputs of a linear layer, quantised ones too, whose weights may be packed."""
    return weight_rows(linear).shape[1] if isinstance(linear, Conv1D) else int(linear.in_features)  # type: ignore[arg-type]


def _cut(module: nn.Module, index: Tensor, axis: int) -> None:
    """Keep these outputs (axis 0) or inputs (axis 1) of a linear layer."""
    index = index.to(module.weight.device)  # type: ignore[arg-type]
    bias: Any = module.bias
    along = 1 - axis if isinstance(module, Conv1D) else axis
    with torch.no_grad():
        weight: Any = module.weight
        module.weight = nn.Parameter(weight.index_select(along, index).contiguous())
        if axis == 0 and bias is not None:
            module.bias = nn.Parameter(bias[index].clone())
    for name, size in (("out_features", 0), ("in_features", 1), ("nf", 0), ("nx", 1)):
        if hasattr(module, name) and size == axis:
            setattr(module, name, len(index))


# which units


def magnitude(group: Group) -> Tensor:
    """Norm of a unit's incoming weights (of a head its values') times that of its outgoing ones, `[count]`."""
    module, parts = group.inputs[-1], group.parts
    weight = weight_rows(module).detach()
    if parts == 3:  # queries, keys, values
        weight, parts = weight.chunk(3)[-1], 1
    incoming = Group([module], group.output, parts, group.count, group.name).rows(weight)
    return incoming.norm(dim=1) * group.columns(weight_rows(group.output).detach()).norm(dim=1)


def first_order(group: Group) -> Tensor:
    """|change of the loss| if a unit were silent, to first order, from the gradients that are there: `[count]`.

    |Σ w · ∂L/∂w| over the outgoing weights, which is activation times gradient, summed over the batch (Molchanov et
    al. 2017, arXiv 1611.06440; for heads, Michel et al. 2019, arXiv 1905.10650, section 4.1). Raises `ValueError`
    without gradients.
    """
    gradient: Any = group.output.weight.grad
    if gradient is None:
        raise ValueError(f"{group.name} has no gradient; call backward first")
    gradient = gradient.T if isinstance(group.output, Conv1D) else gradient
    return group.columns(weight_rows(group.output).detach() * gradient).sum(1).abs()


# pruning


def prune_neurons(model: PreTrainedModel, share: float, importance: Sequence[Tensor] | None = None) -> int:
    """Take the least important `share` of neurons out of each feed-forward layer, in place, and out of the config.

    Args:
        model: of a family in `NEURONS`. Its checkpoint loads with `Auto…` classes.
        share: in [0, 1).
        importance: a score per neuron for each of `neuron_groups(model)`; `None`: by `magnitude`.

    Returns how many are left in each layer. Raises `ValueError` for other families and shares.
    """
    left = _prune(neuron_groups(model), share, importance)
    for shape in NEURONS[model.config.model_type]:
        for name in shape.settings:
            setattr(model.config, name, left)
    return left


def prune_heads(model: PreTrainedModel, share: float, importance: Sequence[Tensor] | None = None) -> int:
    """Take the least important `share` of heads out of each attention layer, in place.

    The config cannot say it (see `HEADS`): save the model by `models.compressed.save_compressed`. Arguments, result and
    errors as `prune_neurons`.
    """
    left = _prune(head_groups(model), share, importance)
    set_head_attributes(model, left)
    return left


def _prune(groups: list[Group], share: float, importance: Sequence[Tensor] | None) -> int:
    if not 0 <= share < 1:
        raise ValueError(f"the share to take out must be in [0, 1), not {share}")
    counts = {group.count for group in groups}
    if len(counts) != 1:
        raise ValueError(f"layers differ in size ({', '.join(map(str, sorted(counts)))}); equal ones can be pruned")
    left = max(1, round(counts.pop() * (1 - share)))
    scores = [magnitude(group) for group in groups] if importance is None else importance
    for group, score in zip(groups, scores, strict=True):
        group.keep(score.topk(left).indices.sort().values.cpu())
    return left


def set_head_attributes(model: PreTrainedModel, heads: int) -> None:
    """Tell the attention modules how many heads they have; most read it off their projections."""
    config: Any = model.config
    width = heads * (config.hidden_size // config.num_attention_heads)
    for module in model.modules():
        for name, value in (("num_attention_heads", heads), ("num_heads", heads), ("n_heads", heads)):
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, value)
        for name in ("all_head_size", "split_size"):
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, width)


def prune_weights(model: PreTrainedModel, share: float, scope: str = "global") -> float:
    """Set the smallest `share` of the weights of linear layers to zero, in place (Han et al. 2015, arXiv 1506.02626).

    Args:
        model: any; embeddings, biases, norms and output embeddings stay as they are.
        share: in [0, 1).
        scope: "global": the smallest of all layers together; "layer": of each layer by itself.

    Returns the share of zeros there are now in those layers. Raises `ValueError` for another share or scope.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of weights must be in [0, 1), not {share}")
    if scope not in ("global", "layer"):
        raise ValueError(f"scope must be 'global' or 'layer', not {scope!r}")
    parameters = [(module, "weight") for module in linear_layers(model).values()]
    if scope == "global":
        prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=share)
    else:
        for module, name in parameters:
            prune.l1_unstructured(module, name, amount=share)
    for module, name in parameters:
        prune.remove(module, name)
    return sparsity(module for module, _ in parameters)


def sparsity(modules: Iterable[nn.Module]) -> float:
    """Share of zeros in the weights of these modules."""
    weights: list[Any] = [module.weight for module in modules]
    zeros, count = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    return zeros / max(count, 1)
