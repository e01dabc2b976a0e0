"""Training tokenizers from any corpus: WordPiece, byte-level BPE, Unigram and BPE with byte fallback.

Each kind is a complete recipe: normalisation, pre-tokenization, special tokens in the published order, the template
that puts them around one text and a pair, and the decoder. The same text gives the same tokenizer. To add a kind,
write its function and enter it in `KINDS`.

    kind          algorithm                  layout of
    wordpiece     WordPiece                  BERT, DistilBERT, ELECTRA, MPNet, ModernBERT
    bpe           byte-level BPE             RoBERTa, BART
    gpt2          byte-level BPE             GPT-2
    unigram       Unigram                    T5
    albert        Unigram                    ALBERT
    deberta-v3    Unigram                    DeBERTaV3
    xlnet         Unigram                    XLNet
    xlm-roberta   Unigram                    XLM-R
    llama         BPE with byte fallback     LLaMA, Mixtral
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ..objectives import Objective
from .metaspace import METASPACE_KINDS
from .tokenizer_parts import TooSmallError, batches, most_frequent, normalizer, unicode_form


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "wordpiece",
    vocab_size: int = 30_000,
    model_max_length: int = 512,
    min_frequency: int = 2,
    special_tokens: Iterable[str] = (),
    needs: Iterable[str] = (),
    **options: Any,
) -> PreTrainedTokenizerFast:
    """Train a fast tokenizer on `texts`.

    Args:
        texts: documents; a list or a corpus, since they may be read twice.
        kind: see the table above.
        vocab_size: tokens at most, special tokens included; a small corpus gives fewer.
        model_max_length: longest input of the model, in tokens, special tokens included.
        min_frequency: pieces are merged if they stand together at least this often.
        special_tokens: special tokens beside those of the kind (sentinels, modes, languages; see `tokens_for`). Their
            ids are the last ones, the first token's the very last, as T5 has its `<extra_id_0>`.
        needs: tokens by role that there must be ("mask", "pad"); one that the kind lacks is added, as `<mask>`.
        options: of all kinds: `normalization` (`None`, "nfc" or "nfkc"; "nfkc" for Unigram), `lowercase` (False; True
            for wordpiece and albert) and `strip_accents` (as `lowercase`). Stripping accents takes Hangul apart in
            wordpiece without normalization, as in BERT; otherwise it is put together again. Of bpe and gpt2 also
            `add_prefix_space` (False), which makes the first word of a text like any other.

    Raises:
        ValueError: for an unknown kind, an empty corpus, or a vocabulary too small for its kind.

    >>> tokenizer = train_tokenizer(["the cat sat on the mat"] * 2, vocab_size=60)
    >>> tokenizer.decode(tokenizer("The cat", "the mat").input_ids)
    '[CLS] the cat [SEP] the mat [SEP]'
    """
    if kind not in KINDS:
        raise ValueError(f"There is no kind of tokenizer {kind!r}; choose one of {', '.join(KINDS)}.")
    if iter(texts) is texts:
        raise TypeError("`texts` is an iterator, which can be read only once: pass a list or a corpus instead.")
    special, needs = list(dict.fromkeys(special_tokens)), list(dict.fromkeys(needs))
    room = len(special) + len(needs)  # a few too many: what the kind has already is known afterwards
    try:
        tokenizer, settings = KINDS[kind](texts, vocab_size - room, min_frequency, **options)
    except TooSmallError as error:
        beside = f", and there are {room} more special tokens" if room else ""
        raise ValueError(f"vocab_size {vocab_size} is too small {error}{beside}.") from error
    for role in needs:
        if f"{role}_token" not in settings:
            settings[f"{role}_token"] = AddedToken(f"<{role}>", lstrip=role == "mask", special=True)
            special.append(settings[f"{role}_token"])
    tokenizer.add_special_tokens(special[::-1])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=model_max_length, **settings)


def tokens_for(objective: Objective) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`special_tokens` and `needs` of `train_tokenizer` for a tokenizer made for this objective.

    Beside what the objective asks for, a padding token, and for gap sentences a token of their own, which PEGASUS has.
    """
    special = (*objective.special_tokens, *filter(None, [getattr(objective, "sentence_mask", None)]))
    return special, (*objective.needs, "pad")


def _wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    normalization: str | None = None,
) -> tuple[Tokenizer, dict[str, Any]]:
    """BERT (Devlin et al. 2018)."""
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    specials = list(special.values())
    normalize: Any = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    if form := unicode_form(normalization):
        normalize = normalizers.Sequence([form, normalize, form])  # again, for what stripping accents took apart
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers "##a", "##b", … in the order of a hash table, another each time, and breaks ties by number.
    # So they are numbered beforehand, as special tokens, and the vocabulary goes to a tokenizer that knows better.
    # A quarter of the vocabulary bounds the alphabet, which stray characters of other scripts would fill it with.
    characters, inner = _alphabet(texts, normalize, pre_tokenizer, vocab_size // 4)
    initial = specials + characters + [f"##{character}" for character in inner]
    if len(initial) > vocab_size:
        raise TooSmallError(len(initial), "for this text: its characters need")
    draft = Tokenizer(models.WordPiece(unk_token=special["unk"]))
    draft.normalizer, draft.pre_tokenizer = normalize, pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        special_tokens=initial,
        show_progress=False,
    )
    draft.train_from_iterator(batches(texts), trainer)

    tokenizer = Tokenizer(models.WordPiece(draft.get_vocab(), unk_token=special["unk"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalize, pre_tokenizer, decoders.WordPiece()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, specials.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    settings: dict[str, Any] = {f"{name}_token": token for name, token in special.items()}
    return tokenizer, settings | {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}


def _alphabet(
    texts: Iterable[str],
    normalizer: Any,
    pre_tokenizer: pre_tokenizers.BertPreTokenizer,
    limit: int,
) -> tuple[list[str], list[str]]:
    """The `limit` most frequent characters, sorted, and those of them that can stand inside a word."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    kept = most_frequent({c: count for c, count in counts.items() if not c.isspace()}, limit)
    inner = [c for c in kept if len(pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(f"a{c}"))) == 1]
    return kept, inner


def _bpe(
    texts: Iterable[str], vocab_size: int, min_frequency: int, add_prefix_space: bool = False, **normalization: Any
) -> tuple[Tokenizer, dict[str, Any]]:
    """RoBERTa (Liu et al. 2019): the pad token has id 1, from which its positions count."""
    mask = AddedToken("<mask>", lstrip=True, special=True)  # takes the space before it, as a word does
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": mask}
    tokenizer = _byte_level(texts, vocab_size, min_frequency, add_prefix_space, list(special.values()), **normalization)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=add_prefix_space
    )
    special |= {"cls": "<s>", "sep": "</s>"}
    return tokenizer, _byte_level_settings(special, add_prefix_space)


def _gpt2(
    texts: Iterable[str], vocab_size: int, min_frequency: int, add_prefix_space: bool = False, **normalization: Any
) -> tuple[Tokenizer, dict[str, Any]]:
    """GPT-2 (Radford et al. 2019): one special token, which is never added by itself."""
    end = "<|endoftext|>"
    tokenizer = _byte_level(texts, vocab_size, min_frequency, add_prefix_space, [end], **normalization)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer, _byte_level_settings({"bos": end, "eos": end, "unk": end}, add_prefix_space)


def _byte_level(
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int,
    add_prefix_space: bool,
    special: list,
    normalization: str | None = None,
    lowercase: bool = False,
    strip_accents: bool | None = None,
) -> Tokenizer:
    """Byte-level BPE, which has a token for each of the 256 bytes and so no unknown ones."""
    if vocab_size < 256 + len(special):
        raise TooSmallError(
            256 + len(special), f"for byte-level BPE: 256 bytes and {len(special)} special token(s) need"
        )
    tokenizer = Tokenizer(models.BPE())
    normalize = normalizer(normalization, lowercase, lowercase if strip_accents is None else strip_accents)
    if normalize is not None:
        tokenizer.normalizer = normalize
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(batches(texts), trainer)
    return tokenizer


def _byte_level_settings(special: dict[str, Any], add_prefix_space: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {f"{name}_token": token for name, token in special.items()}
    return settings | {"model_input_names": ["input_ids", "attention_mask"], "add_prefix_space": add_prefix_space}


KINDS: dict[str, Callable[..., tuple[Tokenizer, dict[str, Any]]]] = {
    "wordpiece": _wordpiece,
    "bpe": _bpe,
    "gpt2": _gpt2,
    **METASPACE_KINDS,
}
"""What trains each kind, from texts, vocabulary size, minimal frequency and the kind's options, and gives the tokenizer
with its settings for `transformers`. Raises `TooSmallError`."""
