"""Texts to train tokenizers on, and the kinds that are made of Unigram pieces."""

TEXTS = [
    "The cat sat on the mat, and the cat didn't move. Was it the same cat?",
    "A mat is not a cat; cats sit on mats. The café was closed: 한국어 문장, 中文 too.",
    "Move the mat and the cat moves. “Why?” asked the man. 12 cats, 3 mats.",
] * 4
UNIGRAM = ("unigram", "albert", "deberta-v3", "xlnet", "xlm-roberta")
