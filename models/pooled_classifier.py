"""Classification on a pooling that the stock head of a backbone does not offer: mean, max, first or last token.

    hidden states [B, L, H] ──pool over the attention mask──▶ [B, H] ──dropout, linear──▶ logits [B, labels]

The class is made for a backbone's family and keeps its names, so `AutoModel.from_pretrained` reads the backbone out of
what is saved; the head is read by `task_models.load_saved`. The config's `pooled_classifier` says which pooling.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

Pooling = Literal["cls", "mean", "max", "last"]

_STOCK_BY_SETTING = {
    "modernbert": ("classifier_pooling", {"cls": "cls", "mean": "mean"}),
    "xlm": ("summary_type", {"cls": "first"}),
    "xlnet": ("summary_type", {"last": "last"}),
}
_STOCK_CLS = {"albert", "bert", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"}
_STOCK_LAST = {"bart", "gpt2", "llama", "mixtral", "t5"}


def stock_pooling(config: PreTrainedConfig, pooling: str) -> dict[str, Any] | None:
    """Settings of the config that make the stock head pool this way; `None` if it cannot.

    XLM's and XLNet's own mean counts padding in, so it is not used.
    """
    kind = config.model_type
    if kind in _STOCK_BY_SETTING:
        name, values = _STOCK_BY_SETTING[kind]
        return {name: values[pooling]} if pooling in values else None
    return {} if (pooling == "cls" and kind in _STOCK_CLS) or (pooling == "last" and kind in _STOCK_LAST) else None


def pool(hidden: Tensor, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """One vector per row, `[B, H]`, from hidden states `[B, L, H]`; padding, on either side, counts for nothing."""
    if attention_mask is None:
        attention_mask = torch.ones(hidden.shape[:2], device=hidden.device)
    seen = attention_mask[:, -hidden.shape[1] :].bool()  # a prefix has keys and values, but no hidden states
    if pooling == "mean":
        return (hidden * seen.unsqueeze(-1)).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)
    if pooling == "max":
        return hidden.masked_fill(~seen.unsqueeze(-1), torch.finfo(hidden.dtype).min).amax(1)
    places = torch.arange(hidden.shape[1], device=hidden.device)
    index = seen.int().argmax(1) if pooling == "cls" else (places * seen).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


class _PooledClassifier:
    """What `pooled_classifier` puts before a family's `PreTrainedModel`, as transformers does for its decoders."""

    config: Any
    base_model_prefix: str

    def __init__(self, config: Any):
        super().__init__(config)  # type: ignore[call-arg]
        model_class: Any = AutoModel._model_mapping[type(config)]
        unused = (
            {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}
        )
        model: Any = self
        setattr(model, self.base_model_prefix, AutoModel.from_config(config, **unused))
        self.num_labels = config.num_labels
        rates = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout_prob", "dropout"))
        self.dropout = nn.Dropout(next((rate for rate in rates if rate is not None), 0.1))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        model.post_init()
        self.accepts = frozenset(inspect.signature(model.base_model.forward).parameters)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits `[B, labels]`, and the loss by the config's `problem_type` where labels are given."""
        model: Any = self
        named = {"token_type_ids": token_type_ids, "position_ids": position_ids, "past_key_values": past_key_values}
        kwargs |= {name: value for name, value in named.items() if value is not None and name in self.accepts}
        kwargs["return_dict"] = True
        hidden = model.base_model(input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)[0]
        logits = self.classifier(self.dropout(pool(hidden, attention_mask, self.config.pooled_classifier)))
        loss = None
        if labels is not None:
            loss = model.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def pooled_classifier(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class for a backbone's family; its config needs `pooled_classifier`.

    Raises `ValueError` for an unknown pooling, and for encoder-decoders, whose decoder reads out at the end token.
    """
    if config.pooled_classifier not in get_args(Pooling):
        raise ValueError(f"--pooling must be one of {', '.join(get_args(Pooling))}, not {config.pooled_classifier!r}")
    if config.is_encoder_decoder:
        raise ValueError(f"{config.model_type} is read out at its decoder's end token; --pooling last is all it has")
    model_class: Any = AutoModel._model_mapping[type(config)]
    family = model_class.__mro__[1]  # BertModel → BertPreTrainedModel
    return type(f"{config.model_type}PooledForSequenceClassification", (_PooledClassifier, family), {})
