"""Speed of collators and of a training step, against what one would use otherwise, on this machine.

    python -m pretrain_zoo.scripts.benchmark
    python -m pretrain_zoo.scripts.benchmark --json benchmark.json --only collators

Everything runs on one thread, on text of the embedded corpus, and takes a minute or two. What is compared takes turns
in one process. Times are medians of processor time, which other programs on the machine disturb less than the clock's.

*Collators* get batches of 256 × 512 tokens: `transformers`' `DataCollatorForLanguageModeling` on the same features, and
a bare NumPy function that does the least that gives the same result (stack the rows, draw, mask, make the labels and an
attention mask). *Objectives* are timed from planned examples to padded arrays. *Steps* are forward pass, backward pass
and AdamW on 32 × 128 tokens with a BERT of 4 layers, 256 wide, and a vocabulary of 30,000: with logits for labelled
positions only, against `BertForMaskedLM` with logits for all positions. Each runs in a process of its own; its memory
is how far the peak of the process (`ru_maxrss`) rises above where it stands once model, gradients and the optimizer's
state are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from pretrain_zoo.models.presets import Backbone, backbone
from pretrain_zoo.objectives import (
    DataCollatorForCausalLM,
    DataCollatorForMaskedLM,
    DataCollatorForNgramMask,
    DataCollatorForWholeWordMask,
    Documents,
    Draws,
    Ragged,
    Vocabulary,
    get_objective,
    list_objectives,
)
from pretrain_zoo.objectives.collator import pad_columns
from pretrain_zoo.objectives.replaced_tokens import ReplacedTokenDetection
from pretrain_zoo.scripts.benchmark_steps import rtd_against_its_networks
from pretrain_zoo.training.embedded import embedded_documents
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.tokenizer import train_tokenizer

ROWS, LENGTH = 256, 512
STEP_ROWS, STEP_LENGTH, STEPS = 32, 128, 3
BERT: dict[str, Any] = {"vocab_size": 30_000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
SPECIAL = [f"<extra_id_{i}>" for i in range(100)] + ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
SPECIAL += ["[R]", "[S]", "[X]", "<s>", "</s>"]


def medians(runs: Mapping[str, Callable[[], Any]], rounds: int, turns: int = 3) -> dict[str, float]:
    """Median seconds of processor time of each function.

    They take turns; a turn is `rounds` calls in a row, as a data worker makes them, after one that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            run()
            for _ in range(rounds):
                started = time.process_time()
                run()
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def text_and_tokenizer() -> tuple[list[str], PreTrainedTokenizerBase]:
    """Prose of the embedded corpus, and a WordPiece tokenizer of 8,000 tokens trained on it."""
    texts = embedded_documents()
    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=8000)
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    return texts, tokenizer


def features_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, list]]:
    """`ROWS` rows of `LENGTH` tokens of running text, with characters' offsets, as lists."""
    room = LENGTH - 2
    text = "\n".join(texts)[: 8 * ROWS * LENGTH]
    encoding = tokenizer(text, verbose=False, add_special_tokens=False, return_offsets_mapping=True)
    if len(encoding["input_ids"]) < ROWS * room:
        raise ValueError(f"the embedded corpus has no {ROWS * room:,} tokens here; install its packages")
    features = []
    for start in range(0, ROWS * room, room):
        ids = [tokenizer.cls_token_id, *encoding["input_ids"][start : start + room], tokenizer.sep_token_id]
        offsets = [(0, 0), *encoding["offset_mapping"][start : start + room], (0, 0)]
        features.append({"input_ids": ids, "offset_mapping": offsets})
    return features


def bare_masking(rows: list[np.ndarray], vocabulary: Vocabulary, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """BERT's masking as a few lines of NumPy, for rows of one length."""
    ids = np.stack(rows)
    selected = (rng.random(ids.shape) < 0.15) & vocabulary.maskable[ids]
    labels = np.where(selected, ids, -100)
    decide = rng.random(ids.shape)
    ids[selected & (decide < 0.8)] = vocabulary.mask_id
    random = selected & (decide >= 0.9)
    ids[random] = rng.choice(vocabulary.random_pool, int(random.sum()))
    return {"input_ids": ids, "labels": labels, "attention_mask": np.ones_like(ids)}


def compare_collators(
    features: list[dict[str, list]], tokenizer: PreTrainedTokenizerBase, rounds: int
) -> list[dict[str, Any]]:
    """Seconds per batch of our collators and of others on the same features."""
    lists = [{"input_ids": f["input_ids"]} for f in features]
    arrays = [{"input_ids": np.array(f["input_ids"])} for f in features]
    rows = [f["input_ids"] for f in arrays]
    ours = DataCollatorForMaskedLM(tokenizer)
    stock = DataCollatorForLanguageModeling(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it masks without random and unchanged tokens
        stock_words = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True)
    causal = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    vocabulary, rng = ours.vocabulary, np.random.default_rng(0)
    words, ngrams, ours_causal = (
        kind(tokenizer) for kind in (DataCollatorForWholeWordMask, DataCollatorForNgramMask, DataCollatorForCausalLM)
    )
    exact = DataCollatorForMaskedLM(tokenizer, selection="exact")
    tosses = DataCollatorForWholeWordMask(tokenizer, selection="independent")
    cases: list[tuple[str, Callable[[], Any], str, Callable[[], Any]]] = [
        ("masked LM, arrays", lambda: ours(arrays), "stock", lambda: stock(arrays)),
        ("masked LM, lists", lambda: ours(lists), "stock", lambda: stock(lists)),
        ("masked LM, arrays", lambda: ours(arrays), "bare NumPy", lambda: bare_masking(rows, vocabulary, rng)),
        ("masked LM, exact count", lambda: exact(arrays), "stock", lambda: stock(arrays)),
        ("whole words", lambda: words(arrays), "stock, whole_word_mask", lambda: stock_words([*map(dict, features)])),
        ("whole words, a coin each", lambda: tosses(arrays), "stock, whole_word_mask", lambda: None),
        ("n-grams", lambda: ngrams(arrays), "stock, whole_word_mask", lambda: None),
        ("causal LM, arrays", lambda: ours_causal(arrays), "stock, mlm=False", lambda: causal(arrays)),
    ]
    results: list[dict[str, Any]] = []
    slow = 0.0
    for name, ours_run, other, other_run in cases:
        runs = {"ours": ours_run, "other": other_run}
        found = medians(runs, rounds)
        if other == "stock, whole_word_mask":  # once is enough
            found["other"] = slow = max(slow, found["other"])
        ratio = found["other"] / found["ours"]
        results.append(
            {"name": name, "against": other, "seconds": found["ours"], "other": found["other"], "ratio": ratio}
        )
    return results


def time_objectives(documents: Documents, vocabulary: Vocabulary, rounds: int) -> list[dict[str, Any]]:
    """Seconds and tokens per batch of each objective that plain text serves, from planned examples to padded arrays."""
    results: list[dict[str, Any]] = []
    for name in list_objectives():
        objective = get_objective(name)
        try:
            objective.check(vocabulary)
            plan = objective.plan(documents, vocabulary, length=LENGTH, seed=0, epoch=0, global_batch=ROWS)
        except ValueError:  # it needs another kind of corpus (translations)
            continue
        example = np.arange(min(ROWS, len(plan)))
        rows, draws = plan.rows(example), Draws.of(0, example, 0, example)

        def run(objective=objective, rows=rows, draws=draws) -> dict[str, np.ndarray]:
            return pad_columns(objective.corrupt(rows, draws, vocabulary), objective.columns, vocabulary)

        seconds = medians({name: run}, rounds)[name]
        tokens = int(rows["input_ids"].lengths.sum())
        results.append({"name": name, "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds})
    return results


def run_steps(kind: str) -> dict[str, float]:
    """Median seconds of a step and the growth of this process's peak memory in MiB; `kind` is "ours" or "stock"."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pool = np.arange(5, BERT["vocab_size"])
    maskable = np.append(np.zeros(5, bool), np.ones(len(pool), bool))
    vocabulary = Vocabulary(BERT["vocab_size"], maskable, pool, mask_id=4, pad_id=0, cls_id=2, sep_id=3)
    objective, config = get_objective("mlm"), BertConfig(**BERT, intermediate_size=4 * BERT["hidden_size"])
    model = objective.build(Backbone(config), vocabulary) if kind == "ours" else BertForMaskedLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = np.random.default_rng(0).choice(pool, (STEP_ROWS, STEP_LENGTH))

    def step(rows: int) -> None:
        example = np.arange(rows)
        columns = {"input_ids": Ragged(ids[:rows].reshape(-1), np.full(rows, STEP_LENGTH))}
        columns = objective.corrupt(columns, Draws.of(0, example, 0, example), vocabulary)
        arrays = pad_columns(columns, objective.columns, vocabulary, dense_labels=kind == "stock")
        batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
        output = model(**batch)
        loss = output.loss if kind == "stock" else output.sums["mlm"] / objective.counts(batch)["mlm"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = medians({"step": lambda: step(STEP_ROWS)}, STEPS, turns=1)["step"]
    return {"seconds": seconds, "mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def compare_steps() -> dict[str, Any]:
    """Our step and the stock one, each in a process of its own."""
    found: dict[str, Any] = {}
    for kind in ("ours", "stock"):
        command = [sys.executable, "-m", "pretrain_zoo.scripts.benchmark", "--step", kind]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    for figure in ("seconds", "mebibytes"):
        found[f"{figure}_ratio"] = found["stock"][figure] / found["ours"][figure]
    return found


def print_tables(results: Mapping[str, Any], console: Console) -> None:
    """What was measured, as tables."""
    if "collators" in results:
        table = Table(title=f"Collators, {ROWS} × {LENGTH} tokens, one thread")
        for heading in ("collator", "ms", "M tokens/s", "against", "ms", "times faster"):
            table.add_column(heading, justify="left" if heading in ("collator", "against") else "right")
        for row in results["collators"]:
            speed = ROWS * LENGTH / row["seconds"] / 1e6
            figures = (f"{row['seconds'] * 1e3:.2f}", f"{speed:.1f}", row["against"], f"{row['other'] * 1e3:.2f}")
            table.add_row(row["name"], *figures, f"{row['ratio']:.1f}")
        console.print(table)
        table = Table(title="Objectives, from planned examples to padded arrays")
        for heading in ("objective", "ms", "M tokens/s"):
            table.add_column(heading, justify="left" if heading == "objective" else "right")
        for row in results["objectives"]:
            table.add_row(row["name"], f"{row['seconds'] * 1e3:.2f}", f"{row['tokens_per_second'] / 1e6:.1f}")
        console.print(table)
    if "steps" in results:
        steps = results["steps"]
        table = Table(title=f"Masked-LM training step, {STEP_ROWS} × {STEP_LENGTH} tokens, one thread")
        for heading in ("", "labelled positions only", "BertForMaskedLM", "ratio"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, figure, unit in (("time", "seconds", "s"), ("peak memory of a step", "mebibytes", "MiB")):
            shown = [f"{steps[kind][figure]:,.2f} {unit}" for kind in ("ours", "stock")]
            table.add_row(name, *shown, f"{steps[f'{figure}_ratio']:.2f}")
        console.print(table)
        rtd = results["rtd_step"]
        console.print(
            f"replaced-token detection: a step takes {rtd['ratio']:.2f} times as long as its two networks one by one"
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")
    parser.add_argument("--only", choices=["collators", "steps"], help="measure one part")
    parser.add_argument(
        "--rounds", type=int, default=5, help="times that each is run in a row, three times over (default: 5)"
    )
    parser.add_argument("--step", choices=["ours", "stock"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        print(json.dumps(run_steps(options.step)))
        return
    torch.set_num_threads(1)
    np.ones(31 << 20, np.uint8)  # after a block of this size is freed, malloc keeps memory, as in a process in training
    texts, tokenizer = text_and_tokenizer()
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    results: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
        | {"transformers": transformers.__version__},
        "machine": platform.processor() or platform.machine(),
    }
    if options.only != "steps":
        results["collators"] = compare_collators(features_of(texts, tokenizer), tokenizer, options.rounds)
        documents = encode(tokenizer.backend_tokenizer, texts[:2000])
        results["objectives"] = time_objectives(documents, vocabulary, options.rounds)
    if options.only != "collators":
        results["steps"] = compare_steps()
        electra = backbone("electra-tiny", tokenizer)
        objective = get_objective("rtd")
        assert isinstance(objective, ReplacedTokenDetection)
        results["rtd_step"] = rtd_against_its_networks(objective, electra, vocabulary)
    print_tables(results, Console())
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
