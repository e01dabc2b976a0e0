"""Train a tokenizer on any corpus and save it where `AutoTokenizer` finds it.

    python scripts/train_tokenizer.py --output_dir out/tokenizer --kind wordpiece --vocab_size 8000
    python scripts/train_tokenizer.py --output_dir out/ul2 --kind unigram --objective ul2
    python scripts/train_tokenizer.py --output_dir out/ko --corpus "data/*.txt" --language ko --lowercase false
    python scripts/train_tokenizer.py --output_dir out/en-ko --kind xlm-roberta --corpus pairs.tsv \
        --translation_columns en,ko --language en,ko --special_tokens "<en>,<ko>"

Without `--corpus` it uses the embedded corpus, which needs no download. A part of the documents
(`--validation_fraction`) or `--validation_file` is kept from training and measured.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from pretrain_zoo.objectives import get_objective
from pretrain_zoo.objectives.words import character_words
from pretrain_zoo.training.command_line import read_arguments, run_command
from pretrain_zoo.training.corpora import Corpus, CorpusArguments
from pretrain_zoo.training.embedded import text_hash
from pretrain_zoo.training.tokenizer import KINDS, tokens_for, train_tokenizer

MEASURED_DOCUMENTS = 1000
"""The table is computed on at most this many documents."""


@dataclass
class TokenizerArguments:
    """What tokenizer to train."""

    output_dir: str = field(metadata={"help": "Folder to save the tokenizer in."})
    kind: str = field(
        default="wordpiece",
        metadata={
            "help": "wordpiece (BERT, ModernBERT, ELECTRA), bpe (RoBERTa, BART), gpt2, unigram (T5), albert (also "
            "DeBERTaV3), xlnet, xlm-roberta or llama.",
            "choices": list(KINDS),
        },
    )
    objective: str | None = field(
        default=None,
        metadata={"help": "Objective to make it for (ul2, fim, mlm+nsp): its special tokens are added."},
    )
    special_tokens: str | None = field(
        default=None, metadata={"help": "Further special tokens, with commas between them: <en>,<ko>."}
    )
    vocab_size: int = field(default=8000, metadata={"help": "Tokens at most, special tokens included."})
    model_max_length: int = field(default=512, metadata={"help": "Longest input of the model, in tokens."})
    min_frequency: int = field(default=2, metadata={"help": "Merge pieces that stand together at least this often."})
    normalization: str | None = field(
        default=None,
        metadata={
            "help": "Unicode normalization form: nfc, nfkc or none (default: nfkc for Unigram, none for others)."
        },
    )
    lowercase: bool | None = field(
        default=None, metadata={"help": "Lower case (default: true for wordpiece and albert, false for others)."}
    )
    strip_accents: bool | None = field(
        default=None,
        metadata={
            "help": "Strip accents (default: as lowercase). wordpiece without --normalization takes Hangul apart, too."
        },
    )
    add_prefix_space: bool | None = field(
        default=None, metadata={"help": "bpe, gpt2: the first word of a text is like any other (default: false)."}
    )

    @property
    def options(self) -> dict[str, Any]:
        """Those of the kind that are set."""
        names = ("normalization", "lowercase", "strip_accents", "add_prefix_space")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Training:
    """All documents of a corpus but every `every`-th, which `held_out` gives (none if `every` is 0)."""

    corpus: Corpus
    every: int

    def __iter__(self) -> Iterator[str]:
        return (text for number, text in enumerate(self.corpus, 1) if not self.every or number % self.every)

    def held_out(self) -> Iterator[str]:
        return (text for number, text in enumerate(self.corpus, 1) if self.every and not number % self.every)


def measure(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> dict[str, str]:
    """Figures of a tokenizer on `texts`: tokens per word, characters per token and the share of unknown tokens.

    Words are those of `objectives.words`, the same whatever the tokenizer.
    """
    words = int(character_words("\n".join(texts))[0].sum())
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = [i for encoding in encodings for i in encoding.ids]
    return {
        "words": f"{words:,}",
        "tokens per word": f"{len(ids) / words:.3f}",
        "characters per token": f"{sum(map(len, texts)) / len(ids):.2f}",
        "unknown tokens": f"{ids.count(tokenizer.unk_token_id) / len(ids):.3%}",
    }


def split_corpus(arguments: CorpusArguments) -> tuple[Corpus | Training, list[str]]:
    """What to train on, and the documents to measure on: held-out ones, at most `MEASURED_DOCUMENTS`."""
    corpus = arguments.open()
    if arguments.validation_file is not None:
        return corpus, list(islice(arguments.open(arguments.validation_file), MEASURED_DOCUMENTS))
    fraction = arguments.validation_fraction
    training = Training(corpus, round(1 / fraction) if fraction else 0)
    return training, list(islice(training.held_out(), MEASURED_DOCUMENTS))


def print_table(rows: dict[str, str], console: Console) -> None:
    """Names and values."""
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table, markup=False)


def train(arguments: TokenizerArguments, corpus_arguments: CorpusArguments, console: Console) -> None:
    """Train, save and print a table. Raises `ValueError` and `OSError` for what cannot be."""
    folder = Path(arguments.output_dir)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"--output_dir {folder} holds files, and none of them is a tokenizer; give another folder")
    training, sample = split_corpus(corpus_arguments)
    special = [token.strip() for token in (arguments.special_tokens or "").split(",") if token.strip()]
    needs: tuple[str, ...] = ()
    if arguments.objective is not None:
        wanted, needs = tokens_for(get_objective(arguments.objective))
        special = [*wanted, *special]
    tokenizer = train_tokenizer(
        training,
        arguments.kind,
        arguments.vocab_size,
        arguments.model_max_length,
        arguments.min_frequency,
        special,
        needs,
        **arguments.options,
    )
    tokenizer.save_pretrained(arguments.output_dir)

    measured = "held-out documents" if sample else "training documents"
    corpus = corpus_arguments.open()
    sample = sample or list(islice(corpus, MEASURED_DOCUMENTS))
    rows = {
        "kind": arguments.kind,
        "vocabulary": f"{len(tokenizer):,}",
        "corpus": f"{corpus.name} ({text_hash(corpus)})",
        measured: f"{len(sample):,}",
        **measure(tokenizer, sample),
        "saved in": arguments.output_dir,
    }
    print_table(rows, console)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    groups = (TokenizerArguments, CorpusArguments)

    def work(console: Console) -> None:
        arguments, corpus = read_arguments(groups, argv, prog="train_tokenizer")
        train(arguments, corpus, console)

    return run_command(work, resumes=None)


if __name__ == "__main__":
    sys.exit(main())
