"""List the objectives, or show what one does to a text: what goes in, what the model sees, what it has to predict.

    python -m pretrain_zoo.scripts.show --list
    python -m pretrain_zoo.scripts.show --objective whole_word_mlm "Pretraining is embarrassingly parallel."
    python -m pretrain_zoo.scripts.show --objective mlm --mlm_probability 0.4 --seed 1 --tokenizer_name ./my-tokenizer

Masked and other special tokens are yellow, tokens put in place of others red, tokens to predict that stay as they are
green. Settings of the objective are flags. Each text is a document; without any, two short ones are shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import re
import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pretrain_zoo.objectives import Columns, Documents, Draws, Objective, Ragged, Vocabulary, list_objectives
from pretrain_zoo.objectives.registry import objective_class
from pretrain_zoo.training.arguments import ModelArguments, default_model
from pretrain_zoo.training.corpora import CorpusArguments
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.objective_arguments import objective_from_arguments, settings_of
from pretrain_zoo.training.prepare import get_tokenizer

TEXTS = [
    "The cat sat on the mat. It watched the unbelievably small birds in the garden. Then it went to sleep.",
    "A language model predicts words. It learns from text that nobody has labelled.",
]
ROWS, SHORTEST = 4, 16
"""Examples shown at most, and the length below which none is tried."""
SPECIAL, REPLACED, KEPT = "bold yellow", "bold red", "bold green"
_CITATION = re.compile(r"([A-Z][\w’-]+(?: et al\.| & [A-Z][\w’-]+) \d{4})(?:[^;()]{0,150}?, (arXiv \d{4}\.\d{4,5}))?")


def objectives_table() -> Table:
    """Every registered objective: name, what it does, where it was published."""
    table = Table("objective", "the model learns to", "paper")
    for name in list_objectives():
        table.add_row(name, objective_class(name).summary, paper(objective_class(name)))
    return table


def objectives_markdown() -> str:
    """The same as a table in Markdown, which the README holds."""
    rows = [(f"`{n}`", objective_class(n).summary, paper(objective_class(n))) for n in list_objectives()]
    return "\n".join(
        f"| {' | '.join(row)} |" for row in [("objective", "the model learns to", "paper"), ("---",) * 3, *rows]
    )


def paper(cls: type[Objective]) -> str:
    """The first citation ("Devlin et al. 2018, arXiv 1810.04805") in the docstring of a class, or else its module."""
    module = inspect.getmodule(cls)
    for text in (cls.__doc__ or "", (module and module.__doc__) or ""):
        found = _CITATION.search(" ".join(text.split()))
        if found:
            return ", ".join(filter(None, found.groups()))
    return ""


def pieces(tokenizer: Any, ids: Any, styles: list[str] | None = None) -> Text:
    """Tokens as text, each in its style, with spaces where the tokenizer has them."""
    line = Text()
    marked = sum(token.startswith(("Ġ", "▁")) for token in tokenizer.get_vocab()) > len(tokenizer) / 50
    special = set(tokenizer.all_special_tokens)
    for i, token in enumerate(tokenizer.convert_ids_to_tokens([int(i) for i in ids])):
        starts = not marked or token in special or token.startswith(("Ġ", "▁"))
        shown = tokenizer.convert_tokens_to_string([token]).strip() if marked and token not in special else token
        line.append(" " if starts and i else "").append(shown, styles[i] if styles else "")
    return line


def show(objective: Objective, tokenizer: Any, texts: list[str], length: int = 64, seed: int = 0) -> list[Text]:
    """The lines that show examples made of the texts.

    Raises `ValueError` for texts and tokenizers that the objective cannot use.
    """
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    objective.check(vocabulary)
    documents: Documents = encode(tokenizer.backend_tokenizer, texts)
    pairs = np.arange(len(documents) // 2 * 2).reshape(-1, 2)  # each second text stands for a translation
    documents = dataclasses.replace(documents, translations=pairs)
    options = {"seed": seed, "epoch": 0, "global_batch": 1}
    plan = objective.plan(documents, vocabulary, length=length, **options)
    while not len(plan) and length > SHORTEST:  # some plans drop what does not fill an example
        length //= 2
        plan = objective.plan(documents, vocabulary, length=length, **options)
    count = min(len(plan), ROWS)
    if not count:
        raise ValueError("these texts give no example; give longer ones, or more of them")
    rows = plan.rows(np.arange(count))
    before = rows["input_ids"].tolist()
    columns = objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)
    lines = []
    for row in range(count):
        lines += _example(columns, before[row], row, tokenizer, vocabulary) + [Text()]
    return lines


def _example(columns: Columns, before: list[int], row: int, tokenizer: Any, vocabulary: Vocabulary) -> list[Text]:
    def line(name: str, content: Text) -> Text:
        return Text.assemble((f"{name:>18}  ", "dim"), content)

    predicted = columns["label_positions"].row(row).tolist() if "label_positions" in columns else []
    lines = [line("text", pieces(tokenizer, before))]
    for name, column in columns.items():
        if name.endswith("input_ids") and isinstance(column, Ragged):
            ids = column.row(row).tolist()
            lines.append(line(name, pieces(tokenizer, ids, _styles(ids, before, predicted, vocabulary))))
    if "label_ids" in columns:
        targets = columns["label_ids"].row(row)
        lines.append(line("predict", pieces(tokenizer, targets[targets >= 0], [KEPT] * len(targets))))
    for name, column in columns.items():
        if not isinstance(column, Ragged) and np.ndim(column) == 1:
            lines.append(line(name, Text(str(column[row]))))
    return lines


def _styles(ids: list[int], before: list[int], predicted: list[int], vocabulary: Vocabulary) -> list[str]:
    """A style for each token of an input; what became of tokens shows only where positions stay the same."""
    same = len(ids) == len(before)
    some = set(predicted) if len(predicted) < len(ids) - 1 else set()  # all are predicted: that says nothing
    styles = []
    for i, token in enumerate(ids):
        changed = same and token != before[i]
        if not vocabulary.maskable[token]:
            styles.append(SPECIAL if changed or not same or token == vocabulary.mask_id else "dim")
        else:
            styles.append(REPLACED if changed else KEPT if same and i in some else "")
    return styles


def split_texts(name: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Settings of the objective with their values, and the texts among the arguments."""
    switches = {setting for _, setting, hint, _ in settings_of(name) if hint is bool}
    settings, texts, waiting = [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--"):
            texts.append(argument)
            continue
        settings.append(argument)
        switch = argument[2:].rpartition(".")[2].replace("-", "_") in switches
        if "=" not in argument and waiting and (not switch or waiting[0].lower() in ("true", "false")):
            settings.append(waiting.pop(0))
    return settings, texts


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "show",
        usage="show [--list] [--objective NAME] [--SETTING VALUE …] [TEXT …]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="list all objectives")
    parser.add_argument("--markdown", action="store_true", help="the list as Markdown")
    parser.add_argument("--objective", default="mlm")
    parser.add_argument("--tokenizer_name", help="folder or Hub name; default: one trained on the embedded corpus")
    parser.add_argument("--max_seq_length", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given, remaining = parser.parse_known_args(argv)
    console = Console(highlight=False)
    if given.list:
        print(objectives_markdown()) if given.markdown else console.print(objectives_table())
        return 0
    try:
        settings, texts = split_texts(given.objective, remaining)
        objective = objective_from_arguments(given.objective, settings, [action.dest for action in parser._actions])
        corpus = CorpusArguments()
        model = ModelArguments(model_name_or_path=default_model(given.objective), tokenizer_name=given.tokenizer_name)
        tokenizer = get_tokenizer(model, corpus.open(), os.path.expanduser(corpus.cache_dir), objective.special_tokens)
        lines = show(objective, tokenizer, texts or TEXTS, given.max_seq_length, given.seed)
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
        return 2
    console.print(f"[bold]{given.objective}[/bold]: {objective.summary}\n")
    for line in lines:
        console.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
