"""What noise needs to know of a tokenizer, as small arrays that travel to data workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np

from .character_cuts import Spelling
from .pieces import piece_bytes, piece_flags
from .ragged import Ragged


@dataclass(frozen=True)
class Vocabulary:
    """Ids and tables of a tokenizer.

    Attributes:
        size: largest id + 1, the number of embedding rows needed.
        mask_id, pad_id, cls_id, sep_id, bos_id, eos_id, unk_id: ids, or `None` where the tokenizer has none.
        maskable: bool `[size]`, false for special tokens: those that no objective may select.
        random_pool: int64, the ids a random replacement is drawn from: all but special tokens.
        prefix, middle, suffix: special ids around a text and between the two texts of a pair.
        pair_prefix, pair_suffix: the same around a pair.
        token_types: whether the tokenizer marks the second text of a pair by `token_type_ids` 1.
        padding_side: "right" or "left".
        special: name → id of special tokens by their text (sentinels, mode tokens, language tokens).
        piece_flags: uint8 `[size]`, what each piece tells of word boundaries, see `pieces`.
        piece_bytes: the bytes of each piece of a byte-level vocabulary, none for special tokens; `None` for others.
    """

    size: int
    maskable: np.ndarray
    random_pool: np.ndarray
    mask_id: int | None = None
    pad_id: int | None = None
    cls_id: int | None = None
    sep_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pair_prefix: tuple[int, ...] = ()
    middle: tuple[int, ...] = ()
    pair_suffix: tuple[int, ...] = ()
    token_types: bool = False
    padding_side: str = "right"
    special: dict[str, int] = field(default_factory=dict)
    piece_flags: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    piece_bytes: Ragged | None = None

    @classmethod
    def from_tokenizer(cls, tokenizer) -> Vocabulary:
        """Read a Hugging Face tokenizer (fast or slow).

        Raises `ValueError` when it has no ordinary tokens, or is something else, such as the name of one.
        """
        if not hasattr(tokenizer, "get_vocab"):
            kind = repr(tokenizer) if isinstance(tokenizer, str) else type(tokenizer).__name__
            raise ValueError(f"a tokenizer is needed, not {kind}; load one with AutoTokenizer.from_pretrained(…)")
        ids = np.array(sorted(set(tokenizer.get_vocab().values())), np.int64)
        special = {str(token): tokenizer.convert_tokens_to_ids(str(token)) for token in tokenizer.all_special_tokens}
        special |= {str(t): i for i, t in tokenizer.added_tokens_decoder.items() if getattr(t, "special", False)}
        if not len(ids) or len(ids) <= len(set(special.values())):
            raise ValueError("the tokenizer has no tokens besides its special ones; train it on a corpus first")
        size = int(max(ids[-1], *special.values(), 0)) + 1
        maskable = np.zeros(size, bool)
        maskable[ids] = True
        maskable[list(special.values())] = False
        text = _some_text(tokenizer, np.flatnonzero(maskable))
        single, pair = _template(tokenizer, [text]), _template(tokenizer, [text, text])
        return cls(
            size=size,
            maskable=maskable,
            random_pool=np.flatnonzero(maskable),
            **{
                f"{name}_id": getattr(tokenizer, f"{name}_token_id", None)
                for name in ("mask", "pad", "cls", "sep", "bos", "eos", "unk")
            },
            prefix=single[0],
            suffix=single[1],
            pair_prefix=pair[0],
            middle=pair[1],
            pair_suffix=pair[-1],
            token_types="token_type_ids" in tokenizer.model_input_names,
            padding_side=tokenizer.padding_side,
            special=special,
            piece_flags=piece_flags(tokenizer, size),
            piece_bytes=piece_bytes(tokenizer, maskable),
        )

    @property
    def separator(self) -> int:
        """Id that marks a document end inside a stream: end of sequence, else separator. Raises `ValueError`."""
        for candidate in (self.eos_id, self.sep_id, self.bos_id):
            if candidate is not None:
                return candidate
        raise ValueError(
            "the tokenizer has no eos, sep or bos token to put between documents; "
            "add one, or use a packing that does not cross documents"
        )

    @cached_property
    def spelling(self) -> Spelling:
        """What spells parts of tokens. Raises `ValueError` unless the vocabulary is a byte-level one."""
        if self.piece_bytes is None:
            raise ValueError(
                "cuts between characters need a byte-level vocabulary (GPT-2, RoBERTa, Llama 3), which can spell any "
                "part of a token; use a tokenizer of that kind, or cut between tokens"
            )
        return Spelling(self.piece_bytes)

    @property
    def framing(self) -> np.ndarray:
        """Sorted ids of the tokens that stand around and between texts, as the tokenizer puts them."""
        ids = {self.cls_id, self.sep_id, self.bos_id, self.eos_id}
        ids |= {*self.prefix, *self.suffix, *self.pair_prefix, *self.middle, *self.pair_suffix}
        return np.array(sorted(i for i in ids if i is not None), np.int64)

    @property
    def pad_tells(self) -> bool:
        """Whether the padding token means padding alone, and is not also the end, separator or unknown token."""
        return self.pad_id not in (None, self.eos_id, self.sep_id, self.unk_id)

    def require(self, *names: str) -> None:
        """Raise `ValueError` unless the tokenizer has these tokens (`require("mask", "pad")`)."""
        for name in names:
            if getattr(self, f"{name}_id") is None:
                raise ValueError(
                    f"the tokenizer has no {name} token, which this objective needs; add one with "
                    f"tokenizer.add_special_tokens({{'{name}_token': '[{name.upper()}]'}}) "
                    "and resize the model's embeddings"
                )


def _some_text(tokenizer, ids: np.ndarray) -> str:
    """A text that has tokens; tokenizers of other scripts may have none for Latin letters."""
    for text in chain(["a"], (tokenizer.decode([i]) for i in ids[::-1].tolist())):
        if tokenizer(text, add_special_tokens=False)["input_ids"]:
            return text
    raise ValueError("no token of the tokenizer decodes to a text that has tokens")


def _template(tokenizer, texts: list[str]) -> list[tuple[int, ...]]:
    """Special ids before, between and after texts, as the tokenizer's post-processor puts them."""
    bare = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = list(tokenizer(*texts)["input_ids"])
    parts, start = [], 0
    for text in bare:
        at = next((i for i in range(start, len(ids) - len(text) + 1) if ids[i : i + len(text)] == text), start)
        parts.append(tuple(ids[start:at]))
        start = at + len(text)
    return [*parts, tuple(ids[start:])]
