"""List the objectives, or show what one does to a text: what goes in, what the model sees, what it has to predict.

    python -m pretrain_zoo.scripts.show --list
    python -m pretrain_zoo.scripts.show --objective whole_word_mlm "Pretraining is embarrassingly parallel."
    python -m pretrain_zoo.scripts.show --objective mlm --mlm_probability 0.4 --seed 1 --tokenizer ./my-tokenizer
    python -m pretrain_zoo.scripts.show --html page.html --text_file my.txt --tokenizer ./my-tokenizer

Mask tokens and sentinels are yellow, tokens put in place of others red, tokens to predict that stay as they are green,
others that were not in the text, or not there, blue. Settings of the objective are flags. Each text is a document;
without any, two short ones are shown. `--html` writes a page for a browser, of all objectives unless one is named, that
also shows which tokens see which.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pretrain_zoo.objectives import Objective, get_objective, list_objectives
from pretrain_zoo.objectives.registry import objective_class
from pretrain_zoo.scripts.show_examples import Token, examples
from pretrain_zoo.scripts.show_html import make_card, page
from pretrain_zoo.training.arguments import ModelArguments, default_model
from pretrain_zoo.training.command_line import ArgumentParser, run_command
from pretrain_zoo.training.corpora import CorpusArguments
from pretrain_zoo.training.objective_arguments import objective_from_arguments, parts_of, settings_of
from pretrain_zoo.training.prepare import get_tokenizer

TEXTS = [
    "The cat sat on the mat. It watched the unbelievably small birds in the garden. Then it went to sleep.",
    "A language model predicts words. It learns from text that nobody has labelled.",
]
ROWS, PAGE_LENGTH, DOCUMENTS = 4, 48, 8
"""Examples printed at most, tokens of an example on a page, texts taken of a file."""
VARIANTS: list[tuple[str, Objective, str, str, dict[str, Any]]] = [
    ("clm, documents apart", get_objective("clm", document_attention=True), "clm", "gpt2-tiny", {}),
    ("mlm, sliding window", get_objective("mlm"), "mlm", "modernbert-tiny", {"local_attention": 12}),
]
"""More for the page: title, objective, its name, model and settings of that."""
SPECIAL, REPLACED, KEPT = "bold yellow", "bold red", "bold green"
STYLES = {"": "", "masked": SPECIAL, "sentinel": SPECIAL, "special": "dim", "replaced": REPLACED, "kept": KEPT}
STYLES |= {"target": KEPT, "inserted": "bold cyan", "moved": "cyan", "deleted": "strike"}
"""Styles of the roles of tokens."""
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


def pieces(tokens: list[Token]) -> Text:
    """Tokens in the colours of their roles, with spaces where the tokenizer has them."""
    line = Text()
    for i, token in enumerate(tokens):
        line.append(" " if token.spaced and i else "").append(token.text, STYLES[token.role])
    return line


def show(objective: Objective, tokenizer: Any, texts: list[str], length: int = 64, seed: int = 0) -> list[Text]:
    """The lines that show examples made of the texts.

    Raises `ValueError` for texts and tokenizers that the objective cannot use.
    """
    lines = []
    for example in islice(examples(objective, tokenizer, texts, length, seed), ROWS):
        shown = {name: pieces(tokens) for name, tokens in example.lines.items()}
        shown |= {name: Text(value) for name, value in example.values.items()}
        lines += [Text.assemble((f"{name:>18}  ", "dim"), content) for name, content in shown.items()] + [Text()]
    return lines


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


def get_texts(given: argparse.Namespace, texts: list[str]) -> list[str]:
    """The texts named on the command line, or the example's. Raises `ValueError` for a file that cannot be read."""
    texts = [*texts, *given.text]
    if given.text_file is not None:
        texts += islice(CorpusArguments(given.text_file).open(), DOCUMENTS)
    return texts or TEXTS


def write_page(given: argparse.Namespace, settings: list[str], texts: list[str], known: list[str]) -> str:
    """Write the page of one objective, or of all of them; returns a line for people."""
    if given.objective is None and settings:
        raise ValueError(f"{settings[0]}: settings of an objective need its name; give --objective, too")
    length = given.max_seq_length or PAGE_LENGTH
    names = [given.objective] if given.objective else list_objectives()
    wanted = [] if given.objective else VARIANTS
    wanted = [*((n, objective_from_arguments(n, settings, known), n, default_model(n), {}) for n in names), *wanted]
    cards = []
    for title, objective, name, preset, overrides in wanted:
        tokenizer = tokenizer_for(objective, preset, given.tokenizer_name)
        source = ", ".join(filter(None, map(paper, parts_of(name))))
        cards.append(make_card(title, objective, source, tokenizer, preset, texts, length, given.seed, **overrides))
    path = Path(given.html)
    path.parent.mkdir(parents=True, exist_ok=True)
    named = given.tokenizer_name or "one for each family of models, trained on the embedded corpus"
    path.write_text(page(cards, texts, named, given.seed), encoding="utf-8")
    return f"{path}: {len(cards)} objectives and variants, {path.stat().st_size / 1000:.0f} kB"


def tokenizer_for(objective: Objective, preset: str, name: str | None) -> Any:
    """The tokenizer named, or one for the preset, with the special tokens that the objective needs."""
    corpus = CorpusArguments()
    model = ModelArguments(model_name_or_path=preset, tokenizer_name=name)
    return get_tokenizer(model, corpus.open(), os.path.expanduser(corpus.cache_dir), objective)


def run(argv: list[str] | None, console: Console) -> None:
    """List, print or write what the arguments ask for. Raises `ValueError` or `OSError` for bad ones."""
    parser = ArgumentParser(
        prog="show",
        usage="show [--list] [--objective NAME] [--SETTING VALUE …] [--html PAGE] [TEXT …]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="list all objectives")
    parser.add_argument("--markdown", action="store_true", help="the list as Markdown")
    parser.add_argument("--objective", help="default: mlm; of a page, all")
    parser.add_argument("--html", metavar="PAGE", help="write a page for a browser to this file")
    parser.add_argument("--text", action="append", default=[], help="a text; may be given several times")
    parser.add_argument("--text_file", help=f"a file of texts, as for pretrain; its first {DOCUMENTS} are shown")
    parser.add_argument(
        "--tokenizer_name", "--tokenizer", help="folder or Hub name; default: one trained on the embedded corpus"
    )
    parser.add_argument(
        "--max_seq_length", type=int, help=f"tokens of an example; default: 64, of a page {PAGE_LENGTH}"
    )
    parser.add_argument("--seed", type=int, default=0)
    given, remaining = parser.parse_known_args(argv)
    if given.list:
        print(objectives_markdown()) if given.markdown else console.print(objectives_table())
        return
    known = [action.dest for action in parser._actions]
    name = given.objective or "mlm"
    settings, texts = split_texts(name, remaining)
    texts = get_texts(given, texts)
    if given.html:
        console.print(write_page(given, settings, texts, known), markup=False)
        return
    objective = objective_from_arguments(name, settings, known)
    tokenizer = tokenizer_for(objective, default_model(name), given.tokenizer_name)
    lines = show(objective, tokenizer, texts, given.max_seq_length or 64, given.seed)
    console.print(f"[bold]{name}[/bold]: {objective.summary}\n")
    for line in lines:
        console.print(line)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(lambda console: run(argv, console), resumes=None)


if __name__ == "__main__":
    sys.exit(main())
