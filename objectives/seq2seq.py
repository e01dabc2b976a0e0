"""What all objectives of encoder-decoders share: targets on an axis of their own, and the text inside special tokens.

The decoder reads the target moved right by one, behind a start token, and predicts the target itself:

    target         the cat sat </s>
    decoder reads  <start> the cat sat
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from .base import Column, Columns, Objective
from .losses import masked_lm_loss
from .ragged import Ragged, join, slices
from .vocabulary import Vocabulary

SEQ2SEQ_COLUMNS: dict[str, Column] = {
    "decoder_input_ids": Column(axis="target"),
    "label_positions": Column(pad=0, axis="flat", index="target"),
    "label_ids": Column(pad=-100, axis="flat"),
}
"""Sparse labels that point into the decoder's input. Alone, a collator hands over dense `labels`."""


@dataclass(frozen=True)
class Seq2SeqObjective(Objective):
    """Base of the objectives that train an encoder-decoder.

    Args:
        decoder_start_token_id: what the decoder reads first; `None`: by the objective's convention (end of sequence
            for BART, padding for T5). `build` writes it into the model's config, so that `generate` begins the same.
    """

    architecture: ClassVar[str] = "seq2seq"
    needs: ClassVar[tuple[str, ...]] = ("pad",)
    start_tokens: ClassVar[tuple[str, ...]] = ("eos", "sep")

    decoder_start_token_id: int | None = field(default=None, kw_only=True)

    @property
    def columns(self) -> dict[str, Column]:
        """Two axes: "input" for the encoder, "target" for the decoder."""
        return SEQ2SEQ_COLUMNS

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse tokenizers without the tokens needed or that pad on the left, and models without a decoder."""
        super().check(vocabulary, config)
        self.start_id(vocabulary)
        if vocabulary.padding_side == "left":
            raise ValueError(
                "decoders count positions from the left, and the tokenizer pads there; "
                "set tokenizer.padding_side = 'right'"
            )
        if config is not None and not getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"{self.name} trains an encoder-decoder, and {config.model_type} is none; "
                "use bart-tiny, t5-tiny or another of their families"
            )

    def start_id(self, vocabulary: Vocabulary) -> int:
        """What the decoder reads first. Raises `ValueError` when the tokenizer has no such token."""
        if self.decoder_start_token_id is not None:
            return self.decoder_start_token_id
        return first_of(vocabulary, self.start_tokens)

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Rows of the features without their padding."""
        return without_padding(super().from_features(features, vocabulary), vocabulary)

    def loss(self, outputs, batch):
        """Cross-entropy over the target tokens; accuracy as a metric."""
        return masked_lm_loss(self.name, outputs, batch)

    def build(self, backbone, vocabulary):
        """The model, its config and generation settings beginning with the start token that it is trained with.

        Raises `ValueError` for a checkpoint that begins with another.
        """
        start = self.start_id(vocabulary)
        known = getattr(backbone.config, "decoder_start_token_id", None)
        if backbone.checkpoint is not None and known not in (None, start):
            raise ValueError(
                f"{backbone.checkpoint} begins its output with token {known}, {self.name} with {start}; "
                f"give decoder_start_token_id={known}"
            )
        config = copy.deepcopy(backbone.config)
        config.decoder_start_token_id = start
        model = super().build(replace(backbone, config=config), vocabulary)
        if getattr(model.main, "generation_config", None) is not None:
            model.main.generation_config.decoder_start_token_id = start
        return model


def first_of(vocabulary: Vocabulary, names: tuple[str, ...]) -> int:
    """Id of the first of these tokens ("eos", "sep") that the tokenizer has. Raises `ValueError` if it has none."""
    for name in names:
        token = getattr(vocabulary, f"{name}_id")
        if token is not None:
            return token
    raise ValueError(
        f"the tokenizer has no {' or '.join(names)} token, which an encoder-decoder needs; add one with "
        f"tokenizer.add_special_tokens({{'{names[0]}_token': '<{names[0]}>'}}) and resize the model's embeddings"
    )


def seq2seq_columns(rows: Columns, inputs: Ragged, targets: Ragged, start: int) -> Columns:
    """Columns of encoder inputs and targets that are predicted whole; columns with a value per row stay."""
    rest = {name: c for name, c in rows.items() if not isinstance(c, Ragged)}
    return {
        **rest,
        "input_ids": inputs,
        "decoder_input_ids": shift_right(targets, start),
        "label_positions": targets.with_values(targets.positions),
        "label_ids": targets,
    }


def shift_right(targets: Ragged, start: int) -> Ragged:
    """Each row moved right by one behind `start`; its last value falls out, and an empty row stays empty.

    >>> shift_right(Ragged.from_rows([[5, 6, 7], [8]]), 2).tolist()
    [[2, 5, 6], [2]]
    """
    values = np.empty_like(targets.values)
    values[1:] = targets.values[:-1]
    values[targets.offsets[:-1][targets.lengths > 0]] = start
    return targets.with_values(values)


def text_of(ids: Ragged, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(flat index of the first, number of) tokens of each row's text: the row without the special tokens around it.

    The special tokens are those that the tokenizer puts around a single text; rows may have both, one or none of them.
    """
    begin, length = ids.offsets[:-1].copy(), ids.lengths.copy()
    for tokens, at_end in ((vocabulary.prefix, False), (vocabulary.suffix, True)):
        if not tokens:
            continue
        found = length >= len(tokens)
        where = begin + length - len(tokens) if at_end else begin
        for step, token in enumerate(tokens):
            found[found] = ids.values[where[found] + step] == token
        length -= found * len(tokens)
        if not at_end:
            begin += found * len(tokens)
    return begin, length


def take_text(ids: Ragged, vocabulary: Vocabulary) -> Ragged:
    """Each row's text, see `text_of`."""
    begin, length = text_of(ids, vocabulary)
    return ids if len(ids.values) == length.sum() else Ragged(ids.values[slices(begin, length)], length)


def put_text(ids: Ragged, begin: np.ndarray, length: np.ndarray, text: Ragged) -> Ragged:
    """The rows with another text inside the special tokens around it (`begin` and `length` as `text_of` gives them)."""
    ahead = begin - ids.offsets[:-1]
    behind = ids.lengths - length - ahead
    return join(
        [
            Ragged(ids.values[slices(ids.offsets[:-1], ahead)], ahead),
            text,
            Ragged(ids.values[slices(begin + length, behind)], behind),
        ]
    )


def without_padding(columns: Columns, vocabulary: Vocabulary) -> Columns:
    """All columns without padding and without the attention mask, which told it; else the padding token tells it."""
    columns = dict(columns)
    ids, mask = columns["input_ids"], columns.pop("attention_mask", None)
    if mask is not None:
        keep = mask.values != 0
    elif not vocabulary.pad_tells:
        return columns
    else:
        keep = ids.values != vocabulary.pad_id
    if keep.all():
        return columns
    return {name: c.keep(keep) if isinstance(c, Ragged) else c for name, c in columns.items()}
