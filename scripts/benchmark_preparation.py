"""Speed of preparation: texts to packed blocks, against the preparation of transformers' `run_mlm.py`.

    python -m pretrain_zoo.scripts.benchmark_preparation
    python -m pretrain_zoo.scripts.benchmark_preparation --num_proc 2 --characters 20000000

Both get the same texts of the embedded corpus and the same tokenizer, and end with blocks of 512 tokens. Ours reads the
texts, tokenizes them with the starts of words and sentences, writes the cache and packs; `run_mlm.py` tokenizes by
`datasets.map` and cuts blocks by a second `map` over its `group_texts`, both with Arrow files as cache. Figures are
processor time, of this process and those it starts; they take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from transformers import PreTrainedTokenizerBase

from pretrain_zoo.objectives import Vocabulary
from pretrain_zoo.objectives.segments import pack
from pretrain_zoo.training.documents import tokenize_corpus
from pretrain_zoo.training.embedded import embedded_documents
from pretrain_zoo.training.tokenizer import train_tokenizer

LENGTH = 512
BLOCKS = 1024


def ours(texts: list[str], tokenizer: PreTrainedTokenizerBase, folder: str, num_proc: int) -> int:
    """Tokenize and pack; returns the number of tokens in blocks."""
    documents = tokenize_corpus(texts, tokenizer, folder, num_proc, disable_tqdm=True)
    plan = pack(documents, Vocabulary.from_tokenizer(tokenizer), length=LENGTH, packing="full_sentences", columns=())
    index = np.arange(len(plan))
    return sum(len(plan.rows(index[i : i + BLOCKS])["input_ids"].values) for i in range(0, len(plan), BLOCKS))


def run_mlm(texts: list[str], tokenizer: PreTrainedTokenizerBase, folder: str, num_proc: int) -> int:
    """What `run_mlm.py` does without `--line_by_line`; returns the number of tokens in blocks."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()

    def tokenize(examples: dict[str, list]) -> Any:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples: dict[str, list]) -> dict[str, list]:
        joined = {name: list(chain(*examples[name])) for name in examples}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        return {name: [t[i : i + LENGTH] for i in range(0, total, LENGTH)] for name, t in joined.items()}

    processes = num_proc if num_proc > 1 else None
    rows = Dataset.from_dict({"text": texts})
    options: dict[str, Any] = {"batched": True, "num_proc": processes, "load_from_cache_file": False}
    rows = rows.map(tokenize, remove_columns=["text"], cache_file_name=f"{folder}/tokens.arrow", **options)
    rows = rows.map(group_texts, cache_file_name=f"{folder}/blocks.arrow", **options)
    return len(rows) * LENGTH


def seconds(run: Any, *args: Any) -> tuple[float, float, int]:
    """Processor time, clock time, and what `run` returns, with a new folder."""

    def spent() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    with tempfile.TemporaryDirectory() as folder:
        before, clock = spent(), time.perf_counter()
        tokens = run(*args[:2], folder, *args[2:])
        return spent() - before, time.perf_counter() - clock, tokens


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=8_000_000, help="how much text (default: 8 million)")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that each of both uses (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is run (default: 3)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args(arguments)
    corpus = embedded_documents(os.path.expanduser("~/.cache/pretrain_zoo"))
    ends = np.cumsum([len(text) for text in corpus])
    texts = corpus[: int(np.searchsorted(ends, options.characters)) + 1]
    tokenizer = train_tokenizer(texts[:2000], "wordpiece", vocab_size=8000)
    tokenizer.model_max_length = int(1e9)
    runs: dict[str, Any] = {"ours": ours, "run_mlm": run_mlm}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            found[name].append(seconds(run, texts, tokenizer, options.num_proc))
    results: dict[str, Any] = {"characters": sum(map(len, texts)), "num_proc": options.num_proc}
    for name, times in found.items():
        processor, clock = (statistics.median(figures) for figures in list(zip(*times))[:2])
        tokens = times[0][2]
        results[name] = {"processor_seconds": processor, "clock_seconds": clock, "tokens": tokens}
        speed = f"{tokens / processor / 1e3:.0f} k tokens/s"
        print(f"{name:8} {processor:7.2f} s of processor, {clock:7.2f} s of clock, {speed}")
    results["ratio"] = results["run_mlm"]["processor_seconds"] / results["ours"]["processor_seconds"]
    print(f"ours is {results['ratio']:.2f} times as fast")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
