"""Corpora whose every token has an id of its own, sentence pairs planned from them, and BERT's sequential loop."""

import numpy as np

from pretrain_zoo.objectives import Vocabulary, get_objective, keyed
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.pair_plan import CUT, DOCUMENT, PAIRS, SENTENCE, SHORT, TARGET

CLS, SEP, PAD, MASK = 1, 2, 0, 3
FIRST = 10  # first ordinary id


def make_vocabulary(size):
    maskable = np.arange(size) >= FIRST
    return Vocabulary(
        size=size,
        maskable=maskable,
        random_pool=np.flatnonzero(maskable),
        pad_id=PAD,
        mask_id=MASK,
        cls_id=CLS,
        sep_id=SEP,
        prefix=(CLS,),
        suffix=(SEP,),
        pair_prefix=(CLS,),
        middle=(SEP,),
        pair_suffix=(SEP,),
        token_types=True,
    )


def make_corpus(lengths):
    """Nested sentence lengths → (documents, the same as nested lists); every token has an id of its own."""
    number, nested = FIRST, []
    for document in lengths:
        nested.append([])
        for length in document:
            nested[-1].append(list(range(number, number + length)))
            number += length
    return from_lists(nested), nested, make_vocabulary(number)


def random_lengths(documents=30, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, longest, rng.integers(1, 15)).tolist() for _ in range(documents)]


def plan_of(name, documents, vocabulary, length=32, seed=3, epoch=0, **settings):
    objective = get_objective(name, **settings)
    return objective.plan(documents, vocabulary, length=length, seed=seed, epoch=epoch, global_batch=1)


def texts_of(rows):
    """(A, B, label) of each row, by token types."""
    found = []
    for ids, types, label in zip(
        rows["input_ids"].tolist(), rows["token_type_ids"].tolist(), rows["pair_labels"].tolist(), strict=True
    ):
        second = types.index(1)
        assert ids[0] == CLS and ids[second - 1] == SEP and ids[-1] == SEP
        assert types == [0] * second + [1] * (len(ids) - second)
        found.append((ids[1 : second - 1], ids[second:-1], label))
    return found


def reference_pairs(nested, room, seed, epoch, short_seq_prob, random_next):
    """create_instances_from_document of BERT, sentence by sentence, before truncation; (A, B, label, sentences)."""

    def uniform(key, position, stream):
        return float(keyed.uniform_at(key, np.array([position]), stream)[0])

    def integer(key, position, stream, high):
        return int(keyed.integers_at(key, np.array([position]), stream, high)[0])

    found = []
    for number, document in enumerate(nested):
        key = keyed.combine(seed, PAIRS, epoch, number)
        target = room
        if uniform(key, 0, SHORT) < short_seq_prob:
            target = 2 + integer(key, 0, TARGET, room - 1)
        chunk, i = [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                start = i - len(chunk) + 1
                bits = int(keyed.bits_at(key, np.array([start]), CUT)[0])
                cut = 1 + ((bits >> 32) * max(len(chunk) - 1, 1) >> 32)
                one = bool(bits & 1)
                a, b = sum(chunk[:cut], []), sum(chunk[cut:], [])
                if random_next and (one or len(chunk) == 1):
                    one = True
                    pair = keyed.combine(key, start)
                    others = [d for d in range(len(nested)) if d != number]
                    other = nested[others[integer(pair, 0, DOCUMENT, len(others))]]
                    b = []
                    for sentence in other[integer(pair, 0, SENTENCE, len(other)) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - cut
                elif one:
                    a, b = b, a
                if random_next or len(chunk) > 1:
                    found.append((a, b, int(one), len(chunk)))
                chunk = []
            i += 1
    return found
