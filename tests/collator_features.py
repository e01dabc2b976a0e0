"""Tokenized features of unlike length, and the collators that mask them."""

from pretrain_zoo.objectives import DataCollatorForMaskedLM, DataCollatorForNgramMask, DataCollatorForWholeWordMask

MASKED = [DataCollatorForMaskedLM, DataCollatorForWholeWordMask, DataCollatorForNgramMask]


def make_features(tokenizer, texts):
    """Six features of unlike length, lists."""
    encoded = tokenizer(texts[:6], max_length=60, truncation=True)
    return [{name: column[i] for name, column in encoded.items()} for i in range(6)]
