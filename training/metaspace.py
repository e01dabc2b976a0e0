"""Tokenizers that write spaces as ▁: Unigram in the layouts of T5, ALBERT, DeBERTaV3, XLNet and XLM-R, and LLaMA's BPE.

SentencePiece's rules: any white space is one space (LLaMA keeps it), a word begins with ▁, text is brought to NFKC (but
LLaMA's), and no piece mixes scripts, figures and punctuation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import regex
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .tokenizer_parts import TooSmallError, batches, count_characters, count_words, most_frequent, normalizer
from .unigram import train_unigram

CONTROL = -1000.0
"""Score of special tokens in a Unigram vocabulary: no text is spelled by them, be it their names."""

RUNS = "|".join(
    (
        r"▁?[\p{Latin}\p{M}]+",
        r"▁?[\p{Hangul}\p{M}]+",
        r"▁?[\p{Han}\p{Hiragana}\p{Katakana}ー\p{M}]+",
        r"▁?[\p{L}\p{M}]+",
        r"▁?\p{N}+",
        r"▁?[^\p{L}\p{M}\p{N}▁]+",
        r"▁",
    )
)
"""Stretches of a word that pieces do not reach beyond."""


@dataclass(frozen=True)
class Layout:
    """The special tokens of a family.

    Attributes:
        special: names to texts, in the order of their ids; names that `transformers` does not know are just there.
        single, pair: templates of the post-processor.
        settings: others for `PreTrainedTokenizerFast`.
    """

    special: Mapping[str, str]
    single: str
    pair: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Give the tokenizer, whose vocabulary has them, special tokens and template; settings for `transformers`."""
        special: dict[str, Any] = dict(self.special)
        if "mask" in special:  # takes the space before it, as a word does
            special["mask"] = AddedToken(special["mask"], lstrip=True, special=True)
        tokenizer.add_special_tokens(list(special.values()))
        used = [(token, tokenizer.token_to_id(token)) for token in self.special.values() if token in self.pair]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=self.single, pair=self.pair, special_tokens=used
        )
        known = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
        named = {f"{name}_token": token for name, token in special.items() if name in known}
        return {"model_input_names": ["input_ids", "attention_mask"], **named, **self.settings}


_TYPED = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
T5 = Layout({"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, "$A </s>", "$A </s> $B </s>")
ALBERT = Layout(
    {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "[CLS]:0 $A:0 [SEP]:0",
    "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
    _TYPED,
)
DEBERTA_V3 = replace(ALBERT, special={"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"})
XLNET = Layout(
    {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "cls": "<cls>", "sep": "<sep>", "pad": "<pad>", "mask": "<mask>"}
    | {"eod": "<eod>", "eop": "<eop>"},
    "$A:0 <sep>:0 <cls>:2",
    "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
    {**_TYPED, "padding_side": "left"},
)
XLM_ROBERTA = Layout(
    {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"},
    "<s> $A </s>",
    "<s> $A </s> </s> $B </s>",
    {"cls_token": "<s>", "sep_token": "</s>"},
)
LLAMA = Layout({"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, "<s> $A", "<s> $A <s> $B")


def unigram(
    layout: Layout,
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int,
    normalization: str | None = "nfkc",
    lowercase: bool = False,
    strip_accents: bool | None = None,
) -> tuple[Tokenizer, dict[str, Any]]:
    """Unigram (Kudo 2018). Characters beyond the most frequent quarter of the vocabulary are unknown."""
    normalize = normalizer(normalization, lowercase, lowercase if strip_accents is None else strip_accents)
    pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    words = count_words(texts, normalize, pre_tokenizer)
    special = list(layout.special.values())
    characters = most_frequent(count_characters(words), max(vocab_size // 4, 1))
    if len(characters) + len(special) > vocab_size:
        raise TooSmallError(len(characters) + len(special), "for this text: special tokens and its characters need")
    pieces = train_unigram(_runs(words, set(characters)), vocab_size - len(special), min_frequency)
    scores = [(token, CONTROL) for token in special] + pieces
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=special.index(layout.special["unk"])))
    if normalize is not None:
        tokenizer.normalizer = normalize
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.Metaspace()
    return tokenizer, layout.apply(tokenizer)


def _runs(words: Mapping[str, int], characters: set[str]) -> dict[str, int]:
    """The words cut into `RUNS` and at unknown characters, with their counts."""
    runs: Counter[str] = Counter()
    for word, count in words.items():
        known = word if characters.issuperset(word) else "".join(c if c in characters else "\n" for c in word)
        for part in known.split("\n"):
            for run in regex.findall(RUNS, part):
                runs[run] += count
    return runs


def llama(
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int,
    normalization: str | None = None,
    lowercase: bool = False,
    strip_accents: bool | None = None,
) -> tuple[Tokenizer, dict[str, Any]]:
    """LLaMA (Touvron et al. 2023): BPE over characters, rare ones spelled by the bytes of their UTF-8."""
    special = list(LLAMA.special.values())
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    if vocab_size < len(special) + 256:
        raise TooSmallError(len(special) + 256, f"for 256 bytes and {len(special)} special tokens, which need")
    normalize = normalizer(normalization, lowercase, lowercase if strip_accents is None else strip_accents)
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    words = count_words(texts, normalize, pre_tokenizer)
    characters = most_frequent(count_characters(words), (vocab_size - len(special) - 256) // 4)
    draft = Tokenizer(models.BPE(unk_token=LLAMA.special["unk"], fuse_unk=True))
    if normalize is not None:
        draft.normalizer = normalize
    draft.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, pre_tokenizers.Split(Regex(RUNS), "isolated")])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        special_tokens=special + bytes_,
        show_progress=False,
    )
    draft.train_from_iterator(batches(texts), trainer)
    trained = json.loads(draft.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    tokenizer = Tokenizer(
        models.BPE(trained["vocab"], merges, unk_token=LLAMA.special["unk"], fuse_unk=True, byte_fallback=True)
    )
    if normalize is not None:
        tokenizer.normalizer = normalize
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, LLAMA.apply(tokenizer)


METASPACE_KINDS: dict[str, Callable[..., tuple[Tokenizer, dict[str, Any]]]] = {
    "unigram": partial(unigram, T5),
    "albert": partial(unigram, ALBERT, lowercase=True),
    "deberta-v3": partial(unigram, DEBERTA_V3),
    "xlnet": partial(unigram, XLNET),
    "xlm-roberta": partial(unigram, XLM_ROBERTA),
    "llama": llama,
}
"""What trains each kind, see `tokenizer.KINDS`."""
