"""chrF: overlap of characters between a text and its reference; needs no words, hence no language's tokenizer.

Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", WMT 15.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

ORDER, BETA = 6, 2.0


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """chrF2 of a corpus, 0 to 1: F-score, recall counting twice, of character n-grams up to 6, white space left out.

    Counts are added over the corpus; precision and recall are means over the n of which both sides have any. This is
    sacreBLEU's chrF (divided by 100) with its default settings. Raises `ValueError` for lists of unlike length.

    >>> chrf(["the cat"], ["the cat"]), chrf(["dog"], ["cat"])
    (1.0, 0.0)
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} texts have {len(references)} references; give one for each")
    counts = [[0, 0, 0] for _ in range(ORDER)]
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = "".join(hypothesis.split()), "".join(reference.split())
        for n, sums in enumerate(counts, 1):
            found, wanted = _ngrams(ours, n), _ngrams(theirs, n)
            if wanted:  # a reference too short for this n says nothing
                for place, counter in enumerate((found, wanted, found & wanted)):
                    sums[place] += counter.total()
    present = [(both / found, both / wanted) for found, wanted, both in counts if found and wanted]
    if not present:
        return 0.0
    precision, recall = (sum(values) / len(present) for values in zip(*present, strict=True))
    if not precision + recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))
