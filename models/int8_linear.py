"""Linear layers with int8 weights for inference on CPUs; activations are quantised in each call.

quantize_dynamic(model)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class Int8Linear(nn.Module):
    """A linear layer with int8 weights that quantises its input anew in each call, for inference on a CPU.

    Weights are symmetric with a scale per output, inputs asymmetric with one per call (7 bits, so that processors
    without VNNI do not overflow), and sums exact, as `torch.ao.quantization.quantize_dynamic` has them. That function
    and its modules are deprecated, and what they save is a pickle; here the state is two plain tensors and the bias.

    Attributes:
        weight: int8 `[out, in]`; scale: float32 `[out]`; bias: float32 `[out]` or `None`.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)
        self._packed: Any = None  # made at the first call

    @classmethod
    def of(cls, linear: nn.Module) -> Int8Linear:
        """From an `nn.Linear`, or GPT-2's `Conv1D`, whose weight is transposed."""
        weight = weight_rows(linear).detach().float()
        bias: Any = linear.bias
        made = cls(weight.shape[1], weight.shape[0], bias is not None)
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        made.scale.copy_(scale)
        made.weight.copy_((weight / scale[:, None]).round())
        if made.bias is not None:
            made.bias.copy_(bias.detach())
        return made

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._packed = None

    def forward(self, inputs: Tensor) -> Tensor:
        """`[…, in]` → `[…, out]`. Raises `ValueError` off the CPU."""
        if inputs.device.type != "cpu":
            raise ValueError("dynamic int8 layers run on the CPU; on a GPU use int8 or nf4 of bitsandbytes")
        if self._packed is None:
            with warnings.catch_warnings():  # that quantised tensors will go one day is no news to who calls a model
                warnings.simplefilter("ignore", UserWarning)
                zero = torch.zeros(self.out_features, dtype=torch.int64)
                tensor = torch._make_per_channel_quantized_tensor(self.weight, self.scale.double(), zero, 0)
                self._packed = torch.ops.quantized.linear_prepack(tensor, self.bias)
        return torch.ops.quantized.linear_dynamic(inputs.float(), self._packed, reduce_range=True).to(inputs.dtype)

    def extra_repr(self) -> str:
        """Sizes, as `nn.Linear` shows them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def weight_rows(linear: nn.Module) -> Tensor:
    """The weight as `[out, in]`, of an `nn.Linear` or GPT-2's `Conv1D`."""
    weight: Any = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of a model by name, all but those whose weight is tied to another's, or is the output's."""
    output = model.get_output_embeddings()
    uses: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            uses[id(weight)] = uses.get(id(weight), 0) + 1
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not output and uses[id(module.weight)] == 1
    }


def quantize_dynamic(model: PreTrainedModel, names: Iterable[str] | None = None) -> list[str]:
    """Replace linear layers by `Int8Linear`, in place, and return their names.

    Args:
        model: on the CPU; it is put into eval mode.
        names: which; `None`: all of `linear_layers`. Embeddings and the output's projection stay as they are.
    """
    model.eval()
    chosen = list(linear_layers(model)) if names is None else list(names)
    for name in chosen:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Int8Linear.of(model.get_submodule(name)))
    return chosen
