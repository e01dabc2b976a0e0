"""A vocabulary without a tokenizer, and small models, rows, batches and losses of replaced-token detection."""

import numpy as np
import torch
from transformers import AutoConfig

from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.objectives import Draws, Ragged, Vocabulary
from pretrain_zoo.objectives.collator import pad_columns, to_tensors

SIZE, PAD, CLS, SEP, MASK = 61, 0, 2, 3, 4
OUTPUTS = ("generator_logits", "input_ids", "original_ids", "replaced", "logits")


def make_vocabulary():
    maskable = np.arange(SIZE) >= 5
    ids = {"pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "mask_id": MASK}
    return Vocabulary(size=SIZE, maskable=maskable, random_pool=np.flatnonzero(maskable), **ids)


def config(kind="electra", **more):
    settings = {"vocab_size": SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings |= {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": PAD}
    if kind in ("electra", "albert"):
        settings["embedding_size"] = 16
    if kind == "deberta-v2":
        settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    result = AutoConfig.for_model(kind, **settings | more)
    if kind == "distilbert":
        result.hidden_dim = 48
    return result


def rows(count=6, seed=0, low=8, high=30):
    random = np.random.default_rng(seed)
    return [np.r_[CLS, random.integers(5, SIZE, random.integers(low, high)), SEP] for _ in range(count)]


def batch_of(objective, vocabulary, texts, first=0, side="right"):
    numbers = np.arange(first, first + len(texts))
    columns = {"input_ids": Ragged.from_rows(texts)}
    columns = objective.corrupt(columns, Draws.of(7, numbers, 0, numbers), vocabulary)
    return to_tensors(pad_columns(columns, objective.columns, vocabulary, padding_side=side))


def model_of(objective, vocabulary, kind="electra", seed=0, **more):
    torch.manual_seed(seed)
    model = objective.build(Backbone(config(kind, **more)), vocabulary)
    return model.eval()


def randomized(model, seed=1):
    """The same model with weights large enough for predictions to differ."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def loss_of(objective, model, batch):
    counts = objective.counts(batch)
    sums = model(**batch).sums
    return sum(term.weight * sums[name] / counts[name] for name, term in objective.terms.items())
