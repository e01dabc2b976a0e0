"""Training: corpora, tokenizer training, the dataset of draws, the trainer and its reports."""
