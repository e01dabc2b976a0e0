"""Measure how a checkpoint's vectors associate social groups with attributes: WEAT and SEAT effect sizes.

    python -m pretrain_zoo.scripts.measure_bias --model_name_or_path runs/bert-tiny-mlm --tests sent-bias/tests
    python scripts/measure_bias.py --model_name_or_path google-bert/bert-base-uncased --tests weat6.jsonl weat7.jsonl

The tests are JSON files in the layout of sent-bias (May et al. 2019): two sets of targets, two of attributes. The table
gives effect sizes and one-sided p-values; with several tests, also p-values corrected for their number (Holm). A test
says something where it finds an association, and little where it finds none. Results go to `--output_file` as JSON.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer, HfArgumentParser

from pretrain_zoo.evaluation.bias import (
    AssociationTest,
    associations,
    effect_size,
    find_tests,
    holm,
    permutation_p_value,
    read_test,
)
from pretrain_zoo.evaluation.sentence_vectors import default_pooling, sentence_vectors
from pretrain_zoo.models.presets import backbone, list_presets
from pretrain_zoo.training.command_line import run_command
from pretrain_zoo.training.prepare import check_model_name
from pretrain_zoo.training.run_folder import write_json


@dataclass
class BiasArguments:
    """What to measure."""

    model_name_or_path: str = field(metadata={"help": "A folder or a model of the Hub (owner/name)."})
    tests: list[str] = field(metadata={"help": "Files in the layout of sent-bias, or folders of them."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Folder or Hub name (default: the model's)."})
    pooling: str | None = field(
        default=None, metadata={"help": "cls, mean or last (default: cls, for causal models last, for others mean)."}
    )
    n_samples: int = field(
        default=100_000, metadata={"help": "Partitions to draw; all are counted where there are no more."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the drawn partitions."})
    batch_size: int = field(default=64, metadata={"help": "Texts at a time."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, … (default: a GPU if there is one)."})
    output_file: str | None = field(default=None, metadata={"help": "Write the results to this JSON file."})


def measure(arguments: BiasArguments, model: Any, tokenizer: Any, tests: list[AssociationTest]) -> dict[str, Any]:
    """Effect sizes and p-values of all tests."""
    pooling = arguments.pooling or default_pooling(model, tokenizer)
    texts = sorted({text for test in tests for part in test.texts for text in part})
    vectors = sentence_vectors(model, tokenizer, texts, pooling, arguments.batch_size).numpy()
    place = {text: i for i, text in enumerate(texts)}
    unknown = _unknown(tokenizer, texts)
    rows: list[dict[str, Any]] = []
    for test in tests:
        x, y, a, b = (vectors[[place[text] for text in part]] for part in test.texts)
        try:
            s_x, s_y = associations(x, a, b), associations(y, a, b)
            size = effect_size(s_x, s_y)
        except ValueError as error:
            raise ValueError(f"{test.name}: {error}") from error
        p_value, exact = permutation_p_value(s_x, s_y, arguments.n_samples, arguments.seed)
        own = [place[text] for part in test.texts for text in part]
        rows.append(
            {
                "test": test.name,
                "targets": list(test.categories[:2]),
                "attributes": list(test.categories[2:]),
                "sizes": [len(part) for part in test.texts],
                "effect_size": size,
                "p_value": p_value,
                "exact": exact,
                "unknown_tokens": float(np.mean([unknown[i] for i in own])),
            }
        )
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows])):
        row["p_value_holm"] = corrected
    return {
        "model": arguments.model_name_or_path,
        "pooling": pooling,
        "n_samples": arguments.n_samples,
        "seed": arguments.seed,
        "tests": rows,
        "versions": {name: version(name) for name in ("pretrain-zoo", "torch", "transformers")},
    }


def _unknown(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Whether each text has a token that stands for something the vocabulary lacks."""
    if tokenizer.unk_token_id is None:
        return np.zeros(len(texts), bool)
    ids = tokenizer(texts, add_special_tokens=False, truncation=True, verbose=False)["input_ids"]
    return np.array([tokenizer.unk_token_id in row for row in ids])


def results_table(results: dict[str, Any]) -> Table:
    """The table that the command prints."""
    rows = results["tests"]
    table = Table(title=f"{results['model']}, pooling {results['pooling']}", title_justify="left")
    for heading in ("test", "targets", "attributes"):
        table.add_column(heading)
    several, unknown = len(rows) > 1, any(row["unknown_tokens"] for row in rows)
    for heading in ("effect size", "p", *["p (Holm)"] * several, *["unknown"] * unknown):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = [f"{row['effect_size']:+.2f}", f"{row['p_value']:.4g}"]
        figures += [f"{row['p_value_holm']:.4g}"] * several + [f"{row['unknown_tokens']:.0%}"] * unknown
        style = "bold" if row["p_value_holm"] < 0.01 else None
        table.add_row(row["test"], " / ".join(row["targets"]), " / ".join(row["attributes"]), *figures, style=style)
    return table


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = HfArgumentParser(BiasArguments)  # type: ignore[arg-type]
    arguments: BiasArguments = parser.parse_args_into_dataclasses(argv)[0]

    def work(console: Console) -> None:
        tests = [read_test(path) for path in find_tests(arguments.tests)]
        name = arguments.model_name_or_path
        check_model_name(name)
        if name in list_presets() and arguments.tokenizer_name is None:
            raise ValueError(f"{name} has random weights and no tokenizer of its own; give --tokenizer_name")
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer_name or name, trust_remote_code=False)
        model: Any = backbone(name, tokenizer).load(AutoModel)
        model.to(torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")))
        results = measure(arguments, model, tokenizer, tests)
        console.print(results_table(results))
        if arguments.output_file is not None:
            path = Path(arguments.output_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, results)

    return run_command(work, resumes=None)


if __name__ == "__main__":
    sys.exit(main())
