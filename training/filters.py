"""What a pass over a corpus counts, and which of its documents are left out.

Documents go through the filters in the order of the corpus; of documents that are alike the first one stays.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

Row = tuple[str, ...]
"""A document: one text, or a text and its translation."""

NEAR_PERMUTATIONS, SHINGLE = 128, 5
"""Near-duplicates: values of a MinHash signature, and words in a row that are one element of a document's set."""


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the place and the remedy."""


@dataclass
class Tally:
    """Counts of one pass over a corpus.

    Attributes:
        skip_bad_rows: count rows that cannot be read instead of stopping at them.
        documents: documents that came through (of parallel text: pairs).
        characters: their characters.
        dropped: number of documents and rows left out, by the reason.
    """

    skip_bad_rows: bool = False
    documents: int = 0
    characters: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def bad(self, reason: str, message: str) -> None:
        """A row that cannot be read. Raises `CorpusError` with `message` unless such rows are skipped."""
        if not self.skip_bad_rows:
            raise CorpusError(f"{message} (--on_bad_rows skip leaves such rows out and counts them.)")
        self.dropped[reason] += 1


@dataclass(frozen=True)
class Filters:
    """Documents to leave out; those without any text always are.

    Attributes:
        min_characters: shorter documents are left out (pairs with a shorter side).
        deduplicate: "exact": documents whose text stood in an earlier one, white space at the ends aside. "near": also
            those whose sets of five words in a row are, by MinHash (Broder 1997), as similar to an earlier document's
            as `similarity`; this needs the library datasketch. Memory: about 100 bytes per document ("near": 3 kB).
        similarity: Jaccard similarity from which documents count as near-duplicates.
    """

    min_characters: int = 0
    deduplicate: str = "no"
    similarity: float = 0.8

    def __post_init__(self):
        if self.deduplicate not in ("no", "exact", "near"):
            raise ValueError(f"--deduplicate must be no, exact or near, not {self.deduplicate!r}")
        if not 0 < self.similarity < 1:
            raise ValueError(f"the similarity of near-duplicates must lie between 0 and 1, not {self.similarity}")

    def apply(self, rows: Iterable[Row | None], tally: Tally) -> Iterator[Row]:
        """The rows that stay; `None`, a row that could not be read, is left out."""
        tests: list[tuple[str, Callable[[Row], bool]]] = [("blank", _is_blank)]
        if self.min_characters > 0:
            reason = f"shorter than {self.min_characters} characters"
            tests.append((reason, lambda row: min(map(len, row)) < self.min_characters))
        if self.deduplicate != "no":
            tests.append(("duplicate", _Seen()))
        if self.deduplicate == "near":
            tests.append(("near-duplicate", _SeenAlike(self.similarity)))
        for row in rows:
            if row is None:
                continue
            for reason, drops in tests:
                if drops(row):
                    tally.dropped[reason] += 1
                    break
            else:
                tally.documents += 1
                tally.characters += sum(map(len, row))
                yield row


def _is_blank(row: Row) -> bool:
    return any(not text or text.isspace() for text in row)


class _Seen:
    """Whether a row was seen before, by 128 bits of its hash."""

    def __init__(self) -> None:
        self.digests: set[bytes] = set()

    def __call__(self, row: Row) -> bool:
        text = "\0".join(text.strip() for text in row)
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        before = len(self.digests)
        self.digests.add(digest)
        return len(self.digests) == before


class _SeenAlike:
    """Whether a row much like this one was seen before, by datasketch's MinHash and its LSH index."""

    def __init__(self, similarity: float):
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise CorpusError(
                "--deduplicate near needs the library datasketch: pip install datasketch; or use --deduplicate exact"
            ) from error
        self.signature = lambda: MinHash(NEAR_PERMUTATIONS, seed=1)
        self.index = MinHashLSH(similarity, NEAR_PERMUTATIONS)
        self.similarity, self.count = similarity, 0

    def __call__(self, row: Row) -> bool:
        words = " ".join(row).lower().split()
        signature = self.signature()
        last = max(len(words) - SHINGLE, 0) + 1
        signature.update_batch([" ".join(words[i : i + SHINGLE]).encode(errors="replace") for i in range(last)])
        if self.index.query(signature):
            return True
        self.index.insert(self.count, signature)
        self.count += 1
        return False
