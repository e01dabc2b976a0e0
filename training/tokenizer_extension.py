"""New tokens for a trained tokenizer, learned from a domain's or language's text; all it knew stays as it was.

Training goes on where it ended: in every word the pieces that the tokenizer splits it into are merged, the most
frequent neighbours first (BPE over pieces), and what comes of it is added by the means of the model itself:

    BPE          new merges, after all old ones in rank: old merges are done first, so a text in which no new one is
                 found has the ids it had
    WordPiece    new words and ##pieces: the longest match is the old one wherever no new token matches
    Unigram      new pieces with the logarithm of their frequency as score: the best spelling without new pieces is the
                 old one, and wins unless one with a new piece is better

`tokenizer.add_tokens` would do otherwise: its tokens are cut out of the text before the model sees it, also inside of
words ("flow" in "overflow"), know neither ##pieces nor spaces before words, and change how the rest of a word is split.

Characters that the tokenizer does not know are added too (Hangul to an English vocabulary).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .tokenizer_parts import count_words

_PRIVATE = 0x20000
"""Pieces are written as characters from here on while merges are learned."""
_SURPLUS = 1.2
"""Merges learned for each token wanted: some give tokens that are there already."""


@dataclass(frozen=True)
class ExtendedTokenizer:
    """A tokenizer with new tokens.

    Attributes:
        tokenizer: it.
        tokens: the new tokens; their ids begin at `first_id`.
        pieces: ids that the old tokenizer splits each of them into.
        first_id: one more than the largest id before.
        unknown: how many of them the old tokenizer could not spell.
    """

    tokenizer: PreTrainedTokenizerFast
    tokens: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]
    first_id: int
    unknown: int


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], new_tokens: int, min_frequency: int = 5
) -> ExtendedTokenizer:
    """The tokenizer with at most `new_tokens` more, learned from `texts`.

    Args:
        tokenizer: a fast one with a WordPiece, BPE or Unigram model.
        texts: documents of the domain; a list or a corpus, since they are read more than once.
        new_tokens: tokens to add at most.
        min_frequency: how often a new token stands in the text at least.

    Raises `ValueError` for tokenizers that cannot be extended so, and text that gives no new tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is a slow tokenizer; load a fast one (with a tokenizer.json)")
    if new_tokens < 1:
        raise ValueError(f"new_tokens must be 1 or more, not {new_tokens}")
    if iter(texts) is texts:
        raise TypeError("`texts` is an iterator, which can be read only once: pass a list or a corpus instead.")
    old = Spellings(json.loads(tokenizer.backend_tokenizer.to_str()))
    words = count_words(texts, old.tokenizer.normalizer, old.words)
    characters = _new_characters(old, words, new_tokens, min_frequency)
    with_characters = old.extended(characters, {})
    merges, scores = _learn(with_characters, words, new_tokens - len(characters), min_frequency)
    scores = characters | {token: score for token, score in scores.items() if token not in characters}
    extended = old.extended(scores, merges)
    if old.kind != "BPE":  # a token that another one takes the place of everywhere is dropped; merges need theirs
        used: Counter[str] = Counter()
        for word, count in words.items():
            for token in extended.spell(word):
                used[token] += count
        scores = {t: score for t, score in scores.items() if t in characters or used[t] >= min_frequency}
        extended = old.extended(scores, {})
    if not scores:
        raise ValueError("the text gives no new tokens: the tokenizer has a token for each of its frequent words")
    pieces = tuple(tuple(old.pieces_of(token)) for token in scores)
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}  # they know of spaces around
    settings = {k: added.get(v, v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    made = PreTrainedTokenizerFast(
        tokenizer_object=extended.tokenizer,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **settings,
    )
    return ExtendedTokenizer(made, tuple(scores), pieces, old.size, sum(old.unk_id in part for part in pieces))


class Spellings:
    """How a tokenizer's model spells words, and copies of it with more tokens.

    Args:
        specification: content of `tokenizer.json`.

    Raises `ValueError` for kinds of models without pieces.

    Attributes:
        kind: "WordPiece", "BPE" or "Unigram".
        size: largest id + 1, added tokens included.
        vocabulary: token → id, of the model.
        prefix, suffix: what pieces inside a word begin with, and at its end end with ("##", "").
        unk_id: id of the unknown token; −1 for none.
    """

    def __init__(self, specification: dict[str, Any]):
        self.specification, model = specification, specification["model"]
        self.tokenizer = Tokenizer.from_str(json.dumps(specification))
        self.kind = model["type"]
        if self.kind not in ("WordPiece", "BPE", "Unigram"):
            raise ValueError(f"a {self.kind} tokenizer has no pieces to make new tokens of")
        if model.get("dropout"):
            raise ValueError("the tokenizer drops merges at random (dropout): its pieces are not always the same")
        self.size = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        if self.kind == "Unigram":
            self.vocabulary = {token: i for i, (token, _) in enumerate(model["vocab"])}
            unk = model["vocab"][model["unk_id"]][0] if model["unk_id"] is not None else None
        else:
            self.vocabulary, unk = dict(model["vocab"]), model.get("unk_token")
        self.unk_id = self.vocabulary.get(unk, -1)
        self.prefix = model.get("continuing_subword_prefix") or ""
        self.suffix = model.get("end_of_word_suffix") or ""
        if self.kind == "BPE" and self.prefix:
            raise ValueError(f"a BPE tokenizer with pieces that begin with {self.prefix!r} cannot be extended")
        self._inner: Any = None  # spells what stands inside a word
        if self.kind == "WordPiece":
            inside = {t[len(self.prefix) :]: i for t, i in self.vocabulary.items() if t.startswith(self.prefix)}
            inside.setdefault(str(unk), self.unk_id)
            self._inner = models.WordPiece(inside, unk_token=unk, continuing_subword_prefix="")
        elif self.suffix:
            plain = {**specification, "model": {**model, "end_of_word_suffix": None}}
            self._inner = Tokenizer.from_str(json.dumps(plain)).model

    @property
    def words(self) -> Any:
        """What cuts a text into words: the pre-tokenizer; LLaMA's first models have none and cut nowhere."""
        found = self.tokenizer.pre_tokenizer
        return found if found is not None else pre_tokenizers.Split(Regex("▁+[^▁]*"), "isolated")

    def spell(self, word: str) -> list[str]:
        """The pieces of a word."""
        return [token.value for token in self.tokenizer.model.tokenize(word)]

    def pieces_of(self, token: str) -> list[int]:
        """Ids of the pieces that spell a token, which may stand inside a word."""
        model = self.tokenizer.model
        if self.kind == "WordPiece" and token.startswith(self.prefix) and len(token) > len(self.prefix):
            model, token = self._inner, token[len(self.prefix) :]
        elif self.suffix and not token.endswith(self.suffix):
            model = self._inner
        return [piece.id for piece in model.tokenize(token.removesuffix(self.suffix) if self.suffix else token)]

    def join(self, left: str, right: str) -> str:
        """The token of two neighbours."""
        return left + right[len(self.prefix) :] if self.prefix and right.startswith(self.prefix) else left + right

    def extended(self, scores: dict[str, float], merges: dict[tuple[str, str], None]) -> Spellings:
        """With these tokens at the end, in order, and merges after the old ones.

        Added tokens outside the model's vocabulary are entered in it, since theirs is otherwise the next free id.
        """
        specification = json.loads(json.dumps(self.specification))
        model, added = specification["model"], {t["id"]: t["content"] for t in specification["added_tokens"]}
        if self.kind == "Unigram":
            least = min(score for _, score in model["vocab"])  # what an unknown character costs hangs on it
            for i in range(len(model["vocab"]), self.size):
                if i not in added:
                    raise ValueError(f"no token has id {i}, and a Unigram vocabulary has no gaps")
                model["vocab"].append([added[i], least])
            model["vocab"] += [[token, max(score, least)] for token, score in scores.items()]
        else:
            model["vocab"] |= {token: i for i, token in added.items()}
            model["vocab"] |= {token: self.size + i for i, token in enumerate(scores)}
        if self.kind == "BPE":
            model["merges"] += [list(pair) for pair in merges]
        return Spellings(specification)


def _new_characters(old: Spellings, words: Counter[str], new_tokens: int, min_frequency: int) -> dict[str, float]:
    """Characters that the tokenizer cannot spell, half of `new_tokens` at most, with scores."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for i, character in enumerate(word):
            form = old.prefix + character if i else character
            counts[form + old.suffix if i == len(word) - 1 else form] += count
    frequent = [form for form, count in counts.items() if count >= min_frequency and form not in old.vocabulary]
    frequent.sort(key=lambda form: (-counts[form], form))
    return {form: math.log(counts[form] / counts.total()) for form in frequent[: new_tokens // 2]}


def _learn(
    known: Spellings, words: Counter[str], new_tokens: int, min_frequency: int
) -> tuple[dict[tuple[str, str], None], dict[str, float]]:
    """Merges of the pieces in the words, and the tokens they give, with scores; in order."""
    spelled = {}
    for word, count in sorted(words.items()):
        tokens = known.tokenizer.model.tokenize(word)
        pieces = [token.value for token in tokens]
        if len(pieces) > 1 and all(token.id != known.unk_id for token in tokens) and not any(map(_is_byte, pieces)):
            spelled[word] = pieces, count
    symbols = sorted({piece for pieces, _ in spelled.values() for piece in pieces})
    letter = {piece: chr(_PRIVATE + i) for i, piece in enumerate(symbols)}
    written = [("".join(letter[p] for p in pieces), count) for pieces, count in spelled.values()]
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    size = len(symbols) + int(_SURPLUS * max(new_tokens, 0))
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=min_frequency, show_progress=False)
    if new_tokens > 0 and written:
        draft.train_from_iterator((" ".join([word] * count) for word, count in written), trainer)
    merges: dict[tuple[str, str], None] = {}
    token = {letter[piece]: piece for piece in symbols}
    found: dict[str, None] = {}
    for left, right in json.loads(draft.to_str())["model"]["merges"]:
        if left not in token or right not in token:
            continue  # one of them is an old token, which has its own way to come about
        made = known.join(token[left], token[right])
        if made in known.vocabulary or (made not in found and len(found) == new_tokens):
            continue
        token[left + right] = made
        merges[token[left], token[right]] = None
        found[made] = None
    used: Counter[str] = Counter()
    for word, count in written:
        for piece in draft.model.tokenize(word):
            used[token.get(piece.value, "")] += count
    total = used.total() + sum(words.values()) - sum(count for _, count in written)
    return merges, {made: math.log(max(used[made], 1) / total) for made in found}


def _is_byte(piece: str) -> bool:
    """Whether a piece stands for a byte of a character that has no token (`<0x0A>`); decoders know it only alone."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
