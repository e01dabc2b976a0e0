"""Collators of encoder-decoders, and of other kinds, by the names people look for.

The Flax examples of transformers (`run_t5_mlm_flax.py`, `run_bart_dlm_flax.py`) held the only collators for pretraining
T5 and BART; they went with Flax and never came to PyTorch. Their names, arguments and results are here, without their
loops: rows may have any length, sentinels are found by their text, spans never overlap.
"""

from __future__ import annotations

from typing import Any

from .denoising import DataCollatorForBartDenoisingLM
from .drop_in import _Named
from .sentinels import raw_length
from .span_corruption import DataCollatorForT5MLM


def compute_input_and_target_lengths(
    inputs_length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """(tokens of a row before corruption, tokens of its target) with which span corruption fills `inputs_length`.

    The function of this name that goes with the T5 collator. Raises `ValueError` for a length without room.

    >>> compute_input_and_target_lengths(inputs_length=512, noise_density=0.15, mean_noise_span_length=3.0)
    (568, 114)
    """
    return raw_length(inputs_length, noise_density, mean_noise_span_length)


class FlaxDataCollatorForT5MLM(DataCollatorForT5MLM):
    """`DataCollatorForT5MLM` with arrays of NumPy as results, as in the Flax example.

    >>> length, target = compute_input_and_target_lengths(32, 0.15, 3.0)
    >>> collator = FlaxDataCollatorForT5MLM(tokenizer, 0.15, 3.0, 32, target, tokenizer.pad_token_id, 0)
    >>> batch = collator([{"input_ids": text[:length]}])
    >>> batch["input_ids"].shape, batch["labels"].shape, batch["decoder_input_ids"][0, 0].item()
    ((1, 32), (1, 8), 0)
    """

    def __init__(self, tokenizer: Any, *arguments: Any, return_tensors: str = "np", **settings: Any):
        super().__init__(tokenizer, *arguments, return_tensors=return_tensors, **settings)


class FlaxDataCollatorForBartDenoisingLM(DataCollatorForBartDenoisingLM):
    """`DataCollatorForBartDenoisingLM` with arrays of NumPy as results, as in the Flax example.

    >>> collator = FlaxDataCollatorForBartDenoisingLM(tokenizer, decoder_start_token_id=2, mask_ratio=0.5)
    >>> batch = collator([{"input_ids": text}])
    >>> bool((batch["labels"] == text).all()), batch["decoder_input_ids"][0, 0].item()
    (True, 2)
    """

    def __init__(self, tokenizer: Any, *arguments: Any, return_tensors: str = "np", **settings: Any):
        super().__init__(tokenizer, *arguments, return_tensors=return_tensors, **settings)


class DataCollatorForUL2(_Named):
    """UL2's seven denoisers for a stock `T5ForConditionalGeneration`: `DataCollatorForUL2(tokenizer)`, see `ul2.UL2`.

    >>> batch = DataCollatorForUL2(tokenizer, seed=0)([{"input_ids": text}])
    >>> sum(tokenizer.decode(batch["input_ids"][0]).count(mode) for mode in ("[R]", "[S]", "[X]"))
    1
    """

    objective_name = "ul2"


class DataCollatorForPrefixLM(_Named):
    """Prefix LM, with `attention_ranks` from which `models.ranked_attention.ranked_mask` makes the mask.

    >>> batch = DataCollatorForPrefixLM(tokenizer, seed=0)([{"input_ids": text}])
    >>> (batch["labels"] == -100).sum().item() == (batch["attention_ranks"] == 0).sum().item()  # those of the prefix
    True
    """

    objective_name = "prefix_lm"


class DataCollatorForMaskedDiffusion(_Named):
    """Masked diffusion, with `label_ticks`, the times that weights come from: see `diffusion.MaskedDiffusion`.

    >>> batch = DataCollatorForMaskedDiffusion(tokenizer, weighting="llada", seed=0)([{"input_ids": text}])
    >>> masked = batch["labels"] != -100
    >>> bool((batch["input_ids"][masked] == tokenizer.mask_token_id).all())
    True
    """

    objective_name = "diffusion"
