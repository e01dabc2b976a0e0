"""Train a tokenizer on any corpus and save it where `AutoTokenizer` finds it.

    python scripts/train_tokenizer.py --output_dir out/tokenizer --kind wordpiece --vocab_size 8000
    python scripts/train_tokenizer.py --output_dir out/ko --corpus "data/*.txt" --language ko --lowercase false

Without `--corpus` it uses the embedded corpus, which needs no download. A part of the documents
(`--validation_fraction`) or `--validation_file` is kept from training and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser, PreTrainedTokenizerBase

from pretrain_zoo.training.corpora import Corpus, CorpusArguments
from pretrain_zoo.training.embedded import text_hash
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.tokenizer import train_tokenizer

MEASURED_DOCUMENTS = 1000
"""The table is computed on at most this many documents."""


@dataclass
class TokenizerArguments:
    """What tokenizer to train."""

    output_dir: str = field(metadata={"help": "Folder to save the tokenizer in."})
    kind: str = field(
        default="wordpiece",
        metadata={"help": "wordpiece (BERT), bpe (RoBERTa) or gpt2.", "choices": ["wordpiece", "bpe", "gpt2"]},
    )
    vocab_size: int = field(default=8000, metadata={"help": "Tokens at most, special tokens included."})
    model_max_length: int = field(default=512, metadata={"help": "Longest input of the model, in tokens."})
    min_frequency: int = field(default=2, metadata={"help": "Merge pieces that stand together at least this often."})
    lowercase: bool = field(default=True, metadata={"help": "wordpiece: lower case."})
    strip_accents: bool | None = field(
        default=None, metadata={"help": "wordpiece: strip accents (default: as lowercase); takes Hangul apart."}
    )
    add_prefix_space: bool = field(
        default=False, metadata={"help": "bpe, gpt2: the first word of a text is like any other."}
    )


@dataclass(frozen=True)
class Training:
    """All documents of a corpus but every `every`-th, which `held_out` gives (none if `every` is 0)."""

    corpus: Corpus
    every: int

    def __iter__(self) -> Iterator[str]:
        return (text for number, text in enumerate(self.corpus, 1) if not self.every or number % self.every)

    def held_out(self) -> Iterator[str]:
        return (text for number, text in enumerate(self.corpus, 1) if self.every and not number % self.every)


def measure(tokenizer: PreTrainedTokenizerBase, texts: list[str], language: str = "en") -> dict[str, str]:
    """Figures of a tokenizer on `texts`: tokens per word, characters per token and the share of unknown tokens."""
    documents = encode(tokenizer.backend_tokenizer, texts, language)
    words = int(documents.word_starts.sum()) - len(documents)  # without the slots that close documents
    unknown = int((documents.tokens == tokenizer.unk_token_id).sum())
    return {
        "words": f"{words:,}",
        "tokens per word": f"{documents.num_tokens / words:.3f}",
        "characters per token": f"{sum(map(len, texts)) / documents.num_tokens:.2f}",
        "unknown tokens": f"{unknown / documents.num_tokens:.3%}",
    }


def main(args: list[str] | None = None) -> None:
    """Train, save and print a table; `args` as on the command line."""
    groups: Any = (TokenizerArguments, CorpusArguments)
    parser = HfArgumentParser(groups)
    arguments, corpus_arguments = parser.parse_args_into_dataclasses(args)
    corpus = corpus_arguments.open()
    if corpus_arguments.validation_file is not None:
        training, held_out = corpus, corpus_arguments.open(corpus_arguments.validation_file)
    else:
        fraction = corpus_arguments.validation_fraction
        training = Training(corpus, round(1 / fraction) if fraction else 0)
        held_out = training.held_out()

    if arguments.kind == "wordpiece":
        options = {"lowercase": arguments.lowercase, "strip_accents": arguments.strip_accents}
    else:
        options = {"add_prefix_space": arguments.add_prefix_space}
    tokenizer = train_tokenizer(
        training,
        arguments.kind,
        arguments.vocab_size,
        arguments.model_max_length,
        arguments.min_frequency,
        **options,
    )
    tokenizer.save_pretrained(arguments.output_dir)

    sample = list(islice(held_out, MEASURED_DOCUMENTS))
    measured = "held-out documents" if sample else "training documents"
    sample = sample or list(islice(corpus, MEASURED_DOCUMENTS))
    rows = {
        "kind": arguments.kind,
        "vocabulary": f"{len(tokenizer):,}",
        "corpus": f"{corpus.name} ({text_hash(corpus)})",
        measured: f"{len(sample):,}",
        **measure(tokenizer, sample, corpus_arguments.language),
        "saved in": arguments.output_dir,
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    main()
