"""Training: corpora, tokenizer training, the dataset of draws, the trainer and its reports."""

from .. import models  # noqa: F401  (silences bitsandbytes before anything imports it)
