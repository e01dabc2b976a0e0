"""Texts, a word-piece tokenizer whose ids are known by hand, and the arrays of tokenized documents."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCABULARY = ["[UNK]", "[MASK]", "the", "cat", "##s", "sat", ".", ",", "don", "'", "t", "mat", "mr", "smith", "[", "]"]
ARRAYS = ("tokens", "offsets", "word_starts", "sentence_starts")
TEXTS = [
    "The cats sat. Mr. Smith sat, don't!\nThe mat",
    "",
    " \n\t ",
    "\u200b\x00",  # characters that BERT's normaliser removes: no tokens
    "the mat.",
    "[MASK] sat",
]


def make_tokenizer(vocabulary=VOCABULARY) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", mask_token="[MASK]")


def arrays(documents) -> dict[str, list]:
    return {name: getattr(documents, name).tolist() for name in ARRAYS}
