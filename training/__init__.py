"""Training: corpora, tokenizer training, the dataset of draws, the trainer and its reports."""

import logging

# Importing Trainer imports bitsandbytes, which then warns about a kernel for inference that training does not use.
logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
