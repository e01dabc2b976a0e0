"""What the trainers of all kinds of tokenizers share: normalisation, words and characters of a text, batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import normalizers

BATCH = 256
"""Texts are handed to the library's trainers in batches of this many."""

FORMS = {"nfc": normalizers.NFC, "nfkc": normalizers.NFKC}
"""Unicode normalization forms. Under both, Hangul syllables are whole."""


class TooSmallError(ValueError):
    """A vocabulary has no room for what its kind needs.

    Args:
        needed: tokens it needs at least.
        reason: what needs them.
    """

    def __init__(self, needed: int, reason: str):
        super().__init__(f"{reason} {needed}")
        self.needed, self.reason = needed, reason


def normalizer(normalization: str | None, lowercase: bool, strip_accents: bool) -> Any:
    """The library's normalizer, or `None` if there is nothing to do.

    Args:
        normalization: "nfc", "nfkc" or `None`.
        lowercase: lower case.
        strip_accents: é becomes e; what this takes apart and has no accent (Hangul) is put together again.

    Raises `ValueError` for another form.

    >>> normalizer("nfkc", True, True).normalize_str("Ｃafé 한글")
    'cafe 한글'
    """
    form = unicode_form(normalization)
    steps = [form] if form else []
    if lowercase:
        steps.append(normalizers.Lowercase())
    if strip_accents:
        steps += [normalizers.NFD(), normalizers.StripAccents(), form or normalizers.NFC()]
    return normalizers.Sequence(steps) if steps else None


def unicode_form(normalization: str | None) -> Any:
    """The normalizer of a form by name; `None` for `None`. Raises `ValueError` for an unknown name."""
    if normalization is None or normalization == "none":
        return None
    if normalization not in FORMS:
        raise ValueError(f"normalization must be nfc, nfkc or none, not {normalization!r}")
    return FORMS[normalization]()


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, `BATCH` at a time. Raises `ValueError` at the end if all were blank."""
    batch: list[str] = []
    any_text = False
    for text in texts:
        any_text = any_text or bool(text.strip())
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if not any_text:
        raise ValueError("There is no text to train a tokenizer on.")
    yield batch


def count_words(texts: Iterable[str], normalizer: Any, pre_tokenizer: Any) -> Counter[str]:
    """How often each word stands in the texts, words being what the pre-tokenizer gives; blank texts raise."""
    counts: Counter[str] = Counter()
    for batch in batches(texts):
        for text in batch:
            if normalizer is not None:
                text = normalizer.normalize_str(text)
            counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(text))
    return counts


def count_characters(words: Mapping[str, int]) -> Counter[str]:
    """How often each character stands in words with these counts."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    return counts


def most_frequent(counts: Mapping[str, int], limit: int) -> list[str]:
    """The `limit` most frequent, ties by name; sorted by name."""
    return sorted(sorted(counts, key=lambda name: (-counts[name], name))[:limit])
