"""Preparation measured: its speed against `run_mlm.py`, the start of a run from a warm cache, and the memory it takes.

    python -m pretrain_zoo.scripts.benchmark_preparation speed
    python -m pretrain_zoo.scripts.benchmark_preparation speed --corpus my.txt --characters 20000000 --num_proc 2
    python -m pretrain_zoo.scripts.benchmark_preparation start --corpus my.txt --objective mlm nsp plm
    python -m pretrain_zoo.scripts.benchmark_preparation memory --corpus my.txt --megabytes 500 --limit 50

`speed`: ours and the preparation of transformers' `run_mlm.py` get the same texts and the same tokenizer, and end with
blocks of 512 tokens. Ours reads the texts, tokenizes them with the starts of words and sentences, writes the cache and
packs; `run_mlm.py` tokenizes by `datasets.map` and cuts blocks by a second `map` over its `group_texts`, both with
Arrow files as cache. They take turns; figures are medians, of clock time and of the processor time of this process and
those it starts.

`start`: what `pretrain` does between its imports and its first batch, in a process of its own, with the tokenized text
in the cache. The preparation that fills it is not counted.

`memory`: the texts, over and over, each time with other numbers in them, are written as a file of so many megabytes and
prepared, packing left out, by a process that may take `--limit` MiB more than its imports took (`RLIMIT_DATA`: what it
allocates for itself, resident or not). Pages of the cache that are mapped from disk are not its own and are reported
apart: the system takes them back when others need the room.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pretrain_zoo.objectives import Vocabulary
from pretrain_zoo.objectives.segments import pack
from pretrain_zoo.training.arguments import parse_arguments
from pretrain_zoo.training.corpora import CorpusArguments
from pretrain_zoo.training.dataset import DrawCollator
from pretrain_zoo.training.documents import load_documents, tokenize_corpus
from pretrain_zoo.training.prepare import get_data, get_datasets, get_tokenizer
from pretrain_zoo.training.tokenizer import train_tokenizer

LENGTH = 512
BLOCKS = 1024
VOCABULARY, TRAINED_ON = 8000, 2000
"""Size of the tokenizer, and how many texts it is trained on."""


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


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Ours and `run_mlm.py`'s in turns."""
    corpus = list(CorpusArguments(options.corpus).open())
    ends = np.cumsum([len(text) for text in corpus])
    texts = corpus[: int(np.searchsorted(ends, options.characters)) + 1]
    tokenizer = train_tokenizer(texts[:TRAINED_ON], "wordpiece", vocab_size=VOCABULARY, model_max_length=int(1e9))
    runs: dict[str, Any] = {"ours": ours, "run_mlm": run_mlm}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in runs}
    for run in runs.values():
        seconds(run, texts[:10], tokenizer, 1)  # imports and whatever else is done once
    for _ in range(options.rounds):
        for name, run in runs.items():
            found[name].append(seconds(run, texts, tokenizer, options.num_proc))
    results: dict[str, Any] = {"characters": sum(map(len, texts)), "num_proc": options.num_proc}
    for name, times in found.items():
        processor, clock = (statistics.median(figures) for figures in list(zip(*times))[:2])
        tokens = times[0][2]
        results[name] = {"processor_seconds": processor, "clock_seconds": clock, "tokens": tokens}
        rate = f"{tokens / processor / 1e3:.0f} k tokens/s"
        print(f"{name:8} {processor:7.2f} s of processor, {clock:7.2f} s of clock, {rate}")
    for which, (name, what) in enumerate({"processor": "processor time", "clock": "clock time"}.items()):
        ratios = [theirs[which] / mine[which] for mine, theirs in zip(found["ours"], found["run_mlm"])]
        results[f"{name}_ratio"] = statistics.median(ratios)
        rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"ours is {results[f'{name}_ratio']:.2f} times as fast in {what} (rounds: {rounds})")
    return results


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """What `work` returns in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def first_batch(arguments: list[str]) -> dict[str, float]:
    """Seconds of each step from arguments to the first batch, and the number of tokens; run in a new process."""
    times = [("", time.perf_counter())]
    run = parse_arguments(arguments)
    cache_dir = os.path.expanduser(run.corpus.cache_dir)
    tokenizer = get_tokenizer(run.model, (), cache_dir, run.objective)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    times.append(("arguments and tokenizer", time.perf_counter()))
    data = get_data(run, tokenizer, cache_dir)
    times.append(("corpus", time.perf_counter()))
    train, held_out = get_datasets(run, run.objective, data, vocabulary)
    times.append(("examples", time.perf_counter()))
    DrawCollator(run.objective, vocabulary)(train.__getitems__(list(range(train.global_batch))))
    times.append(("first batch", time.perf_counter()))
    steps = {name: end - start for (_, start), (name, end) in zip(times, times[1:])}
    return {**steps, "tokens": data.train.num_tokens + data.held_out.num_tokens}


def start(options: argparse.Namespace) -> dict[str, Any]:
    """The same start several times, after one that fills the cache."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = trained(options.corpus)
        tokenizer.save_pretrained(f"{folder}/tokenizer")
        arguments = f"--tokenizer_name {folder}/tokenizer --cache_dir {folder}/cache --output_dir {folder}/run"
        arguments += f" --max_steps 1000 --use_cpu --max_seq_length {LENGTH}"
        results: dict[str, Any] = {}
        for objective in options.objective:
            command = [*arguments.split(), "--corpus", options.corpus, "--objective", objective]
            apart(first_batch, command)
            found = [apart(first_batch, command) for _ in range(options.rounds)]
            steps = {name: statistics.median(times[name] for times in found) for name in found[0]}
            tokens = steps.pop("tokens")
            print(f"{objective}, from a warm cache of {tokens:,} tokens: {sum(steps.values()):.2f} s")
            print(
                "".join(f"    {name:24} {time_taken:.2f} s\n" for name, time_taken in steps.items()), end="", flush=True
            )
            results[objective] = {"seconds": steps, "tokens": tokens}
    return results


def trained(corpus: str) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer, made for the first texts of the corpus."""
    texts = [text for text, _ in zip(CorpusArguments(corpus).open(), range(TRAINED_ON))]
    return train_tokenizer(texts, "wordpiece", vocab_size=VOCABULARY)


def prepare_in(arguments: CorpusArguments, tokenizer: str, limit: int | None) -> dict[str, float]:
    """Tokenize and split in this process, which may allocate `limit` bytes more; peaks in MiB beyond what it had."""
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    small = Path(arguments.cache_dir) / "small.txt"
    small.parent.mkdir()
    small.write_text("\n\n".join(f"Text number {i}, for what is loaded once." for i in range(20)))
    load_documents(CorpusArguments(str(small), cache_dir=arguments.cache_dir), loaded)
    before = memory_of_process()
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (before["VmData"] + limit, resource.RLIM_INFINITY))
    train, held_out = load_documents(arguments, loaded)
    after = memory_of_process()
    assert held_out is not None
    grown = {name: (after[name] - before[name]) / 2**20 for name in ("VmHWM", "VmData", "RssAnon")}
    return {**grown, "tokens": train.num_tokens + held_out.num_tokens}


def memory_of_process() -> dict[str, int]:
    """Bytes of this process by Linux's names: VmHWM (peak resident), VmData (allocated), RssAnon (of it resident)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith(" kB")}


def write_large(texts: list[str], path: Path, size: int) -> None:
    """The texts over and over, each with a number of its own, until the file has `size` bytes."""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(cycle(texts)):
            if file.tell() >= size:
                return
            file.write(f"Text {number}. {text}\n\n")


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """A large file prepared under a limit."""
    if sys.platform != "linux":
        raise SystemExit("memory is measured by Linux's /proc only")
    with tempfile.TemporaryDirectory() as folder:
        texts = list(CorpusArguments(options.corpus).open())
        tokenizer = train_tokenizer(texts[:TRAINED_ON], "wordpiece", vocab_size=VOCABULARY)
        tokenizer.save_pretrained(f"{folder}/tokenizer")
        path = Path(folder) / "large.txt"
        write_large(texts, path, options.megabytes << 20)
        del texts
        arguments = CorpusArguments(str(path), cache_dir=f"{folder}/cache")
        found = apart(prepare_in, arguments, f"{folder}/tokenizer", options.limit << 20)
        size = path.stat().st_size / 2**20
    print(f"{size:.0f} MiB of text, {found['tokens']:,} tokens, prepared with {options.limit} MiB to allocate")
    print(f"peak of resident memory, pages mapped from the cache included: {found['VmHWM']:.0f} MiB more than before")
    print(f"its own memory afterwards: {found['RssAnon']:.0f} MiB more than before")
    return {"mebibytes": size, "limit": options.limit, "found": found}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="speed", choices=("speed", "start", "memory"))
    parser.add_argument("--corpus", default="embedded", help="as for pretrain (default: the embedded corpus)")
    parser.add_argument("--characters", type=int, default=8_000_000, help="speed: how much text (default: 8 million)")
    parser.add_argument("--num_proc", type=int, default=1, help="speed: processes that each of both uses (default: 1)")
    parser.add_argument("--objective", nargs="+", default=["mlm"], help="start: what runs train (default: mlm)")
    parser.add_argument("--megabytes", type=int, default=500, help="memory: size of the file in MiB (default: 500)")
    parser.add_argument("--limit", type=int, default=50, help="memory: what preparation may allocate (default: 50 MiB)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is run (default: 3)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args(arguments)
    results = {"speed": speed, "start": start, "memory": memory}[options.what](options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
