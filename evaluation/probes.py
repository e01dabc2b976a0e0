"""Three small tasks in GLUE's layout made of any English text, by default the embedded corpus: no download.

topic           sentence → files, network, concurrency or learning      (SST-2's layout)
word_order      sentence → 1, or 0 where neighbouring words are swapped  (CoLA's layout, no header)
sentence_pair   two parts of a sentence → in_order or swapped            (RTE's layout)

They tell what pretraining has taught a small model, in the manner of probing tasks (Conneau et al. 2018, arXiv
1805.01070: word order is their "bigram shift"). They compare models with each other, not with published figures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..training.embedded import embedded_documents, text_hash

FORMAT = 2
"""Version of the rules below; raised when they change, so that the files are made anew."""
TOPICS = {
    "files": "file files directory directories path paths filename folder disk archive",
    "network": "server client socket request requests response connection http url host network download upload",
    "concurrency": "thread threads process processes lock queue event loop coroutine task tasks worker workers rank",
    "learning": "tensor tensors gradient model models training layer layers module optimizer loss attention tokens",
}
"""Words that give a document its topic. They are left out of the sentences, which have to be told by what remains."""
TRAIN_SIZE, DEV_SIZE = 1200, 400
"""Rows of each task, unless the text gives fewer."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_WORD = re.compile(r"[a-z]+")


def sentences(document: str, shortest: int = 8, longest: int = 30) -> list[str]:
    """The sentences of a document, of `shortest` to `longest` words, without tabs."""
    found = (text for line in document.splitlines() for text in _SENTENCE_END.split(line.replace("\t", " ")))
    return [text for text in found if shortest <= text.count(" ") + 1 <= longest]


def topic_of(document: str) -> str | None:
    """The topic whose words the document has most of, twice as many as of any other and five at least; else none."""
    words = _WORD.findall(document.lower())
    counts = sorted((sum(word in set(keys.split()) for word in words), topic) for topic, keys in TOPICS.items())
    (second, _), (first, topic) = counts[-2:]
    return topic if first >= max(5, 2 * second) else None


def topic_rows(documents: list[str], rng: np.random.Generator, size: int) -> list[tuple[str, str]]:
    """(two sentences of a document, its topic), the topics about equally often and their words left out."""
    keys = "|".join(word for words in TOPICS.values() for word in words.split())
    known = re.compile(rf"\b({keys})\b", re.IGNORECASE)
    found: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for document in documents:
        topic = topic_of(document)
        if topic is not None:
            texts = sentences(document)
            pairs = [f"{a} {b}" for a, b in zip(texts[::2], texts[1::2])]
            found[topic] += [known.sub("…", text) for text in pairs[:20]]
    share = min([size // len(TOPICS), *map(len, found.values())])
    rows = [(found[topic][i], topic) for topic in TOPICS for i in rng.permutation(len(found[topic]))[:share]]
    return [rows[i] for i in rng.permutation(len(rows))]


def word_order_rows(documents: list[str], rng: np.random.Generator, size: int) -> list[tuple[str, str]]:
    """(sentence, "1"), or (the sentence with three pairs of neighbouring words swapped, "0"), half of each.

    The first word and the last stay, so that capitals and full stops tell nothing.
    """
    texts = [text for document in documents for text in sentences(document)[:10]]
    rows = []
    for number, i in enumerate(rng.permutation(len(texts))[:size]):
        words = texts[i].split(" ")
        if number % 2:
            for place in rng.permutation(np.arange(1, len(words) - 2, 2))[:3]:
                words[place], words[place + 1] = words[place + 1], words[place]
        changed = " ".join(words)
        rows.append((changed, "1" if changed == texts[i] else "0"))
    return [rows[i] for i in rng.permutation(len(rows))]


def sentence_pair_rows(documents: list[str], rng: np.random.Generator, size: int) -> list[tuple[str, str, str]]:
    """(one part of a sentence, the other, "in_order" or "swapped"), half of each.

    The first letter is made small and the last stop is left out, so that they tell nothing.
    """
    texts = [text for document in documents for text in sentences(document, shortest=10)[:10]]
    rows = []
    for number, i in enumerate(rng.permutation(len(texts))[:size]):
        words = (texts[i][0].lower() + texts[i][1:]).rstrip(".!?:").split(" ")
        cut = len(words) // 2 + int(rng.integers(-1, 2))
        first, second = " ".join(words[:cut]), " ".join(words[cut:])
        rows.append((second, first, "swapped") if number % 2 else (first, second, "in_order"))
    return rows


def write_probes(
    folder: Path, documents: Iterable[str], train_size: int = TRAIN_SIZE, dev_size: int = DEV_SIZE, seed: int = 0
) -> None:
    """Write the tasks' train.tsv and dev.tsv; no document gives rows to both.

    Raises `ValueError` if the text gives no rows for a task.
    """
    rng = np.random.default_rng(seed)
    documents = list(documents)
    order = rng.permutation(len(documents))
    held_out = max(1, len(documents) * dev_size // (train_size + dev_size))
    parts = {"dev": order[:held_out], "train": order[held_out:]}
    for stem, size in (("train", train_size), ("dev", dev_size)):
        part = [documents[i] for i in parts[stem]]
        topics = topic_rows(part, rng, size)
        _write(folder / "Topic" / f"{stem}.tsv", topics, ("sentence", "label"))
        order_rows = [("probe", label, "", text) for text, label in word_order_rows(part, rng, size)]
        _write(folder / "WordOrder" / f"{stem}.tsv", order_rows)
        pairs = [(str(i), *row) for i, row in enumerate(sentence_pair_rows(part, rng, size))]
        _write(folder / "SentencePair" / f"{stem}.tsv", pairs, ("index", "sentence1", "sentence2", "label"))


def _write(path: Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
    if not rows:
        raise ValueError(f"the text has nothing for {path.parent.name}: it needs more documents of several sentences")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(row) for row in (*([header] if header else []), *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def embedded_probes(cache_dir: str) -> Path:
    """Folder of the probe tasks of the embedded corpus, made once."""
    documents = embedded_documents(os.path.expanduser(cache_dir))
    folder = Path(os.path.expanduser(cache_dir)) / f"probes-{FORMAT}-{text_hash(documents)}"
    if not folder.is_dir():
        unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
        write_probes(unfinished, documents)
        try:
            os.replace(unfinished, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder
