"""Tokenizers of four kinds trained on a text, extended by another one; logits of models with them."""

from functools import cache

import torch
from small_models import LENGTH

from pretrain_zoo.training.tokenizer import train_tokenizer
from pretrain_zoo.training.tokenizer_extension import extend_tokenizer

OLD = [
    "The cat sat on the mat, and the cat didn't move. Was it the same cat?",
    "A mat is not a cat; cats sit on mats. The café was closed on every window and door.",
    "Move the mat and the cat moves. Why? asked the man. 12 cats, 3 mats, xylophone quiz jungle bowl.",
] * 6
NEW = [
    "The myocardial infarction was treated; myocardial tissue and cardial inflammation.",
    "Acute myocardial infarction, infarction of the myocardium. 고양이가 매트에 앉았다. 심근경색 환자가 왔다.",
] * 9
PLAIN = ["The cat sat on the mat.", "A man asked: was it the same door?", "cats and mats, 3 or 12", "xylophone"]
KINDS = ("wordpiece", "bpe", "unigram", "llama")


def train(kind):
    return train_tokenizer(OLD, kind, 420, special_tokens=["<extra_id_0>", "<extra_id_1>"], needs=("mask", "pad"))


@cache
def make_extensions():
    """By kind: the old tokenizer and its extension, made once for all files."""
    made = {}
    for kind in KINDS:
        old = train(kind)
        made[kind] = old, extend_tokenizer(old, NEW, 140, min_frequency=3)
    return made


@torch.no_grad()
def logits(model, tokenizer, texts):
    columns = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    inputs = {"input_ids": columns["input_ids"], "attention_mask": columns["attention_mask"]}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = columns["input_ids"]
    return model(**inputs).logits
