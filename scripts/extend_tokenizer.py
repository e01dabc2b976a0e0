"""Extend a checkpoint for a domain or a language: new tokens, whose embeddings begin as the mean of their old pieces'.

    python -m pretrain_zoo.scripts.extend_tokenizer runs/bert-tiny-mlm --corpus domain.txt --output_dir runs/extended
    python -m pretrain_zoo.scripts.pretrain --model_name_or_path runs/extended --corpus domain.txt --objective mlm

Text without new tokens keeps its ids and, to floating-point precision, its outputs. What `--corpus` holds out
(`--validation_fraction`, or `--validation_file`) is measured before and after. The result loads with `Auto…` classes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from pretrain_zoo.models.extended_vocabulary import extend_checkpoint
from pretrain_zoo.models.settings import check_checkpoint
from pretrain_zoo.scripts.train_tokenizer import MEASURED_DOCUMENTS, measure, split_corpus
from pretrain_zoo.training.command_line import read_arguments, run_command
from pretrain_zoo.training.corpora import CorpusArguments
from pretrain_zoo.training.tokenizer_extension import extend_tokenizer


@dataclass
class ExtensionArguments:
    """What to extend, and by how much."""

    checkpoint: str = field(metadata={"help": "Folder of a trained model, or its name on the Hub."})
    output_dir: str = field(metadata={"help": "Folder for the extended one."})
    new_tokens: int = field(default=2000, metadata={"help": "Tokens to add at most."})
    min_frequency: int = field(default=5, metadata={"help": "How often a new token stands in the corpus at least."})


def extend(arguments: ExtensionArguments, corpus_arguments: CorpusArguments, console: Console) -> dict[str, Any]:
    """Extend, save and print a table; returns the figures. Raises `ValueError` and `OSError` for what cannot be."""
    folder = Path(arguments.output_dir)
    if folder.resolve() == Path(arguments.checkpoint).resolve():
        raise ValueError("--output_dir is the checkpoint itself; give another folder")
    check_checkpoint(arguments.checkpoint, "checkpoint")
    old = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
    training, sample = split_corpus(corpus_arguments)
    measured = "held-out documents" if sample else "training documents"
    sample = sample or list(islice(training, MEASURED_DOCUMENTS))
    extension = extend_tokenizer(old, training, arguments.new_tokens, arguments.min_frequency)
    models = extend_checkpoint(arguments.checkpoint, folder, extension.pieces, extension.first_id)
    for path in (folder, *(file.parent for file in folder.glob("*/config.json"))):
        extension.tokenizer.save_pretrained(path)

    before, after = (measure(tokenizer, sample) for tokenizer in (old, extension.tokenizer))
    table = Table("", "before", "after")
    table.add_row("tokens", f"{extension.first_id:,}", f"{extension.first_id + len(extension.tokens):,}")
    table.add_row("rows of embeddings", "", f"{models[0].config.vocab_size:,}")
    table.add_row("new tokens that were unknown", "", f"{extension.unknown:,}")
    table.add_row(measured, f"{len(sample):,}", f"{len(sample):,}")
    for name in before:
        table.add_row(name, before[name], after[name])
    console.print(table)
    console.print(f"some new tokens: {' '.join(extension.tokens[-12:])}", markup=False)
    console.print(f"saved in {folder}", markup=False)
    return {"new_tokens": len(extension.tokens), "before": before, "after": after}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    groups = (ExtensionArguments, CorpusArguments)

    def work(console: Console) -> None:
        arguments, corpus = read_arguments(groups, argv, prog="extend_tokenizer", first="--checkpoint")
        extend(arguments, corpus, console)

    return run_command(work, resumes=None)


if __name__ == "__main__":
    sys.exit(main())
