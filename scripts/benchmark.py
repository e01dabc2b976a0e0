"""Speed of collators and of a training step, against what one would use otherwise, on this machine.

    python -m pretrain_zoo.scripts.benchmark
    python -m pretrain_zoo.scripts.benchmark --json benchmark.json --only collators

Everything runs on one thread, on text of the embedded corpus, and takes a minute or two. What is compared takes turns
in one process. Times are medians of processor time, which other programs on the machine disturb less than the clock's.

*Collators* get batches of 256 × 512 tokens: `transformers`' `DataCollatorForLanguageModeling` on the same features, and
a bare NumPy function that does the least that gives the same result (stack the rows, draw, mask, make the labels and an
attention mask); permutation LM and span masking stand beside `DataCollatorForPermutationLanguageModeling`.
*Objectives* are timed from tokenized documents to padded arrays, the building of pairs included, on batches of 64 × 512
tokens, beside `DataCollatorForLanguageModeling` on rows made beforehand. *Steps* are forward pass, backward pass
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
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForMaskedLM

from pretrain_zoo.models.presets import Backbone, backbone
from pretrain_zoo.objectives import Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.collator import pad_columns
from pretrain_zoo.objectives.replaced_tokens import ReplacedTokenDetection
from pretrain_zoo.scripts.benchmark_collators import (
    LENGTH,
    OBJECTIVE_ROWS,
    ROWS,
    compare_collators,
    compare_permutation,
    features_of,
    medians,
    text_and_tokenizer,
    time_objectives,
)
from pretrain_zoo.scripts.benchmark_steps import distillation_steps, rtd_against_its_networks
from pretrain_zoo.training.encode import encode

STEP_ROWS, STEP_LENGTH, STEPS = 32, 128, 3
BERT: dict[str, Any] = {"vocab_size": 30_000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}


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
        title = f"Objectives, from tokenized documents to padded arrays, {OBJECTIVE_ROWS} × {LENGTH} tokens"
        table = Table(title=title)
        for heading in ("objective", "ms", "M tokens/s", "times stock"):
            table.add_column(heading, justify="left" if heading == "objective" else "right")
        for row in results["objectives"]:
            rates = (row["tokens_per_second"] / 1e6, row["ratio"])
            table.add_row(row["name"], f"{row['seconds'] * 1e3:.2f}", *(f"{rate:.1f}" for rate in rates))
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
        for row in results["distillation_steps"]:
            console.print(
                f"distillation, {row['name']}: a step takes {row['ratio']:.2f} times as long as the student's and the "
                "teacher's forward pass one by one"
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
        features = features_of(texts, tokenizer)
        results["collators"] = compare_collators(features, tokenizer, options.rounds)
        results["collators"] += compare_permutation(features, tokenizer, options.rounds)
        joined = ["\n".join(texts[i : i + 50]) for i in range(0, len(texts), 50)]  # long enough to fill rows
        documents = encode(tokenizer.backend_tokenizer, joined)
        results["objectives"] = time_objectives(documents, vocabulary, features, tokenizer, options.rounds)
    if options.only != "collators":
        results["steps"] = compare_steps()
        electra = backbone("electra-tiny", tokenizer)
        objective = get_objective("rtd")
        assert isinstance(objective, ReplacedTokenDetection)
        results["rtd_step"] = rtd_against_its_networks(objective, electra, vocabulary)
        results["distillation_steps"] = distillation_steps(tokenizer, vocabulary)
    print_tables(results, Console())
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
