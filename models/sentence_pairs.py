"""Models for sentence pairs: the family's own pretraining class where it has one, else a masked LM and a head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING

from .heads import PairHead
from .masked_positions import stock_model
from .pretraining import PretrainingModel

if TYPE_CHECKING:
    from ..objectives.base import Objective
    from ..objectives.vocabulary import Vocabulary
    from .presets import Backbone

STOCK_LABELS = ("next_sentence_label", "sentence_order_label")
STOCK_LOGITS = ("seq_relationship_logits", "sop_logits")
"""What stock classes with a head for pairs call its labels and its logits."""


class PairModel(PretrainingModel):
    """A `PretrainingModel` whose outputs include "pair", `[B, num_labels]`; batches need no tokens to predict."""

    def run(self, batch: Mapping[str, Tensor], carry: Any = None, want: tuple[str, ...] = ()) -> dict[str, Any]:
        """As `PretrainingModel.run`."""
        if "label_positions" not in batch:
            batch = {**batch, "label_positions": batch["input_ids"].new_zeros(0)}
        outputs = super().run(batch, carry, want)
        for name in STOCK_LOGITS:
            if name in outputs:
                outputs["pair"] = outputs.pop(name)
        return outputs

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """As `PretrainingModel.inputs`, without token types for models that know only one (RoBERTa)."""
        inputs = super().inputs(batch)
        if getattr(stock_model(self.main).config, "type_vocab_size", 2) < 2:
            inputs.pop("token_type_ids", None)
        return inputs


def stock_pair_class(config: Any) -> Any | None:
    """The class that transformers pretrains this family's pairs with (`BertForPreTraining`), or `None`."""
    found: Any = MODEL_FOR_PRETRAINING_MAPPING.get(type(config), None)
    if found is None or not set(STOCK_LABELS) & set(inspect.signature(found.forward).parameters):
        return None
    return found


def build_pair_model(objective: Objective, backbone: Backbone, vocabulary: Vocabulary, num_labels: int) -> PairModel:
    """The model for an objective with sentence pairs of `num_labels` classes.

    Both heads of a checkpoint of the stock class are kept, as is the head that an earlier run left beside a
    checkpoint of another family. Raises what `objective.check` raises.
    """
    objective.check(vocabulary, backbone.config)
    stock = stock_pair_class(backbone.config) if num_labels == 2 else None
    main = backbone.load(AutoModelForMaskedLM) if stock is None else backbone.load(stock, num_labels=2)
    heads = objective.heads(main, vocabulary)
    if stock is None:
        heads["pair"] = PairHead(main.config, num_labels).to(main.dtype)
    model = PairModel(objective, main, heads)
    if backbone.checkpoint is not None:
        model.load_heads(backbone.checkpoint)
    return model
