"""Packing against plain loops: every token once, no split sentence that fits, no document crossed where promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain_zoo.objectives import Documents, Vocabulary
from pretrain_zoo.objectives.documents import DOCUMENT_END, from_lists
from pretrain_zoo.objectives.segments import PACKINGS, pack

SEPARATOR = 3
FRAMED = Vocabulary(
    size=10_000,
    maskable=np.arange(10_000) > 4,
    random_pool=np.arange(5, 10_000),
    sep_id=SEPARATOR,
    prefix=(2,),
    suffix=(SEPARATOR,),
)

SENTENCES = st.lists(st.integers(1, 12), min_size=1, max_size=6)
CORPORA = st.lists(SENTENCES, min_size=1, max_size=8)


def corpus(sizes: list[list[int]]) -> tuple[Documents, list[list[list[int]]]]:
    """Documents of distinct token ids from the lengths of their sentences, and the same as lists."""
    ids = iter(range(5, 10_000))
    documents = [[[next(ids) for _ in range(n)] for n in document] for document in sizes]
    return from_lists(documents), documents


def packed(sizes, packing, length, **options) -> list[list[int]]:
    plan = pack(corpus(sizes)[0], FRAMED, length=length, packing=packing, **options)
    return plan.rows(np.arange(len(plan)))["input_ids"].tolist()


def greedy(pieces: list[list[int]], room: int) -> list[list[int]]:
    """Examples of whole pieces, as many as fit; longer pieces are cut first."""
    examples: list[list[int]] = []
    for piece in pieces:
        for part in [piece[i : i + room] for i in range(0, len(piece), room)]:
            if examples and len(examples[-1]) + len(part) <= room:
                examples[-1] += part
            else:
                examples.append(list(part))
    return examples


def expected(documents: list[list[list[int]]], packing: str, room: int) -> list[list[int]]:
    closed = [[*document[:-1], [*document[-1], SEPARATOR]] for document in documents]
    if packing == "blocks":
        stream = [token for document in closed for sentence in document for token in sentence]
        examples = [stream[i : i + room] for i in range(0, len(stream), room)]
    elif packing == "full_sentences":
        examples = greedy([sentence for document in closed for sentence in document], room)
    elif packing == "doc_sentences":
        examples = [example for document in documents for example in greedy(document, room)]
    else:
        examples = [example for document in documents for example in greedy([sum(document, [])], room)]
    return [example for example in examples if example != [SEPARATOR]]


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(1, 16), st.sampled_from(PACKINGS))
def test_packing_equals_a_plain_loop(sizes, room, packing):
    framed = [[2, *example, 3] for example in expected(corpus(sizes)[1], packing, room)]
    assert packed(sizes, packing, room + 2) == framed
    assert packed(sizes, packing, room, special=False) == [example[1:-1] for example in framed]


@settings(max_examples=60, deadline=None)
@given(CORPORA, st.integers(1, 16), st.sampled_from(PACKINGS))
def test_promises(sizes, room, packing):
    documents, lists = corpus(sizes)
    examples = packed(sizes, packing, room, special=False)
    assert all(1 <= len(example) <= room for example in examples)
    tokens = [token for example in examples for token in example if token != SEPARATOR]
    assert tokens == [token for document in lists for sentence in document for token in sentence]  # each once, in order
    where = {token: i for i, example in enumerate(examples) for token in example}
    for document in lists:
        if packing == "documents" and sum(map(len, document)) <= room:
            assert len({where[token] for sentence in document for token in sentence}) == 1
        for sentence in document:
            if packing in ("full_sentences", "doc_sentences") and len(sentence) <= room:
                assert len({where[token] for token in sentence}) == 1  # nothing that fits is split
    if packing in ("doc_sentences", "documents"):
        owner = {token: d for d, document in enumerate(lists) for sentence in document for token in sentence}
        assert all(len({owner[token] for token in example}) == 1 for example in examples)
        assert not any(SEPARATOR in example for example in examples)
    else:
        begins = {document[0][0] for document in lists[1:]}
        pairs = [pair for example in examples for pair in zip(example, example[1:])]
        assert all(before == SEPARATOR for before, token in pairs if token in begins)


def test_by_hand():
    sizes = [[2, 2], [7], [1]]  # tokens 5 6 | 7 8, 9 … 15, 16
    assert packed(sizes, "full_sentences", 5, special=False) == [
        [5, 6, 7, 8, 3],
        [9, 10, 11, 12, 13],
        [14, 15, 3, 16, 3],
    ]
    assert packed(sizes, "doc_sentences", 5, special=False) == [[5, 6, 7, 8], [9, 10, 11, 12, 13], [14, 15], [16]]
    assert packed(sizes, "documents", 5, special=False) == [[5, 6, 7, 8], [9, 10, 11, 12, 13], [14, 15], [16]]
    assert packed(sizes, "documents", 12, special=False) == [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15], [16]]
    assert packed(sizes, "blocks", 5, special=False) == [[5, 6, 7, 8, 3], [9, 10, 11, 12, 13], [14, 15, 3, 16, 3]]
    assert packed([[4]], "blocks", 4, special=False) == [[5, 6, 7, 8]]  # no example of a separator alone


def test_columns():
    documents, _ = corpus([[2, 1], [3]])
    plan = pack(
        documents,
        FRAMED,
        length=9,
        packing="blocks",
        columns=("word_starts", "sentence_starts", "document_ids"),
    )
    rows = plan.rows(np.array([0]))
    assert rows["input_ids"].tolist() == [[2, 5, 6, 7, 3, 8, 9, 10, 3]]
    assert rows["document_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0]]
    assert rows["sentence_starts"].tolist() == [[1, 1, 0, 1, 0, 1, 0, 0, 1]]
    assert rows["word_starts"].values.all()
    bare = pack(documents, FRAMED, length=4, packing="blocks", columns=("document_ids",), special=False)
    rows = bare.rows(np.array([1, 0]))
    assert rows["input_ids"].tolist() == [[8, 9, 10, 3], [5, 6, 7, 3]]
    assert rows["document_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]  # counted from the row's first


def test_real_text(documents, any_tokenizer):
    """The fixture's documents: as many tokens in as out, for lengths with and without long sentences."""
    vocabulary = Vocabulary.from_tokenizer(any_tokenizer)
    frame = len(vocabulary.prefix) + len(vocabulary.suffix)
    for packing in PACKINGS:
        for length in (8, 64, 4096):
            plan = pack(documents, vocabulary, length=length, packing=packing, columns=("word_starts",))
            rows = plan.rows(np.arange(len(plan)))
            assert rows["input_ids"].lengths.max() <= length
            slots = rows["input_ids"].lengths.sum() - frame * len(plan)
            ends = int((documents.tokens == DOCUMENT_END).sum()) if packing in ("blocks", "full_sentences") else 0
            assert documents.num_tokens <= slots <= documents.num_tokens + ends
            assert np.array_equal(rows["word_starts"].lengths, rows["input_ids"].lengths)


def test_refusals(documents):
    with pytest.raises(ValueError, match="no room"):
        pack(documents, FRAMED, length=2)
    with pytest.raises(ValueError, match="unknown packing 'sentences'; one of full_sentences"):
        pack(documents, FRAMED, length=8, packing="sentences")
    with pytest.raises(ValueError, match="no documents"):
        pack(from_lists([]), FRAMED, length=8)
    bare = Vocabulary(size=10, maskable=np.ones(10, bool), random_pool=np.arange(10))
    with pytest.raises(ValueError, match="no eos, sep or bos token"):
        pack(documents, bare, length=8, packing="full_sentences")
    assert len(pack(documents, bare, length=8, packing="doc_sentences")) > 0
