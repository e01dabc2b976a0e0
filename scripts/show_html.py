"""One page, without scripts or anything to load, that shows what objectives do to texts and who sees whom."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from html import escape
from typing import Any

import numpy as np

from pretrain_zoo.objectives import Objective
from pretrain_zoo.scripts.show_attention import Attention, describe, read
from pretrain_zoo.scripts.show_examples import ROLES, Example, Token, examples, token_texts, varied
from pretrain_zoo.scripts.show_style import STYLE

GROUPS = {"masked_lm": "Encoders", "causal_lm": "Decoders", "seq2seq": "Encoder–decoders", "": "Models of their own"}
"""Parts of the index by the architectures of their objectives, and one for all others."""
NAMES = {
    "text": "text",
    "input_ids": "the model reads",
    "decoder_input_ids": "the decoder reads",
    "predict": "to predict",
    "discriminator": "the discriminator reads",
}
"""What to call the lines of an example; others keep their names."""
EPOCHS, MOST = 6, 4
"""Examples are taken from so many epochs; of those that differ in kind so many are shown."""
CELL, LETTER, LABEL = 10, 4.3, 12
"""Sizes in an attention's picture: of a square, of a letter, and letters of a token at most."""


@dataclass(frozen=True)
class Card:
    """What the page says of one objective.

    Attributes:
        name: its name, or a title for a variant of it.
        objective: with the settings in force.
        paper: where it was published.
        examples: each with its attention and, where there is a generator, the tokens after it.
        preset: the model that the attention was read from.
        trouble: why there is no example.
    """

    name: str
    objective: Objective
    paper: str
    examples: Sequence[tuple[Example, Sequence[Picture], Sequence[Token]]] = ()
    preset: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Picture:
    """An attention with its tokens as people read them."""

    attention: Attention
    queries: Sequence[str]
    keys: Sequence[str]


def make_card(
    name: str,
    objective: Objective,
    paper: str,
    tokenizer: Any,
    preset: str,
    texts: Sequence[str],
    length: int,
    seed: int,
    **overrides: Any,
) -> Card:
    """Examples of the texts and their attention; texts, tokenizers and models that do not fit are said on the card.

    Args:
        preset, overrides: the model that attention is read from, and settings of its config.
        length: tokens of an example at most.
    """
    card = Card(name, objective, paper)
    try:
        found = varied(examples(objective, tokenizer, texts, length, seed, EPOCHS), MOST)
        readings = read(objective, preset, tokenizer, [example.columns for example in found], length, **overrides)
    except ValueError as error:
        return replace(card, trouble=str(error))
    shown = []
    for example, reading in zip(found, readings):
        after = _after_generator(example, reading.replaced, tokenizer)
        pictures = [
            Picture(attention, *(texts_of(tokenizer, ids) for ids in (attention.queries, attention.keys)))
            for attention in reading.attention
        ]
        shown.append((example, pictures, after))
    settings = "".join(f", {name}={value}" for name, value in overrides.items())
    return replace(card, examples=shown, preset=preset + settings)


def texts_of(tokenizer: Any, ids: list[int]) -> list[str]:
    """The tokens as text."""
    return [text for text, _ in token_texts(tokenizer, ids)]


def _after_generator(example: Example, ids: list[int] | None, tokenizer: Any) -> list[Token]:
    """What the discriminator reads; nothing where there is no generator."""
    before = [token.text for token in example.lines["text"]]
    texts = token_texts(tokenizer, ids or [])
    return [Token(*text, "replaced" if text[0] != was else "") for text, was in zip(texts, before)]


def page(cards: Sequence[Card], texts: Iterable[str], tokenizer: str, seed: int) -> str:
    """The page, as HTML."""
    shown = "".join(f"<p>{escape(text)}</p>" for text in texts)
    roles = "".join(f'<li><span class="t {role}">token</span> {escape(what)}</li>' for role, what in ROLES.items())
    head = (
        "<h1>What each objective does to a text</h1>"
        f'<div class="text">{shown}</div>'
        f"<p>Each paragraph is a document. Tokenizer: {escape(tokenizer)}. Seed: {seed}. Under a token that is not as "
        "it was stands what is to be predicted there, with its number where predictions come in an order; settings "
        "that are not the defaults are bold.</p>"
        f'<ul class="legend">{roles}</ul>'
        "<p>In the pictures of attention a row is a token that looks, and a filled square in it a token that it sees, "
        '<span class="sample now"></span> of this example or <span class="sample past"></span> of the memory of '
        "earlier ones. They were read off models with random weights: filled is where attention is not 0.</p>"
    )
    cards = sorted(cards, key=lambda card: list(GROUPS.values()).index(group_of(card.objective)))
    body = "".join(map(_card, cards))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>What each objective does to a text</title><style>{STYLE}</style></head>"
        f"<body><header>{head}</header>{_index(cards)}<main>{body}</main></body></html>\n"
    )


def _index(cards: Sequence[Card]) -> str:
    groups: dict[str, list[str]] = {group: [] for group in GROUPS.values()}
    for card in cards:
        groups[group_of(card.objective)].append(f'<a href="#{_anchor(card.name)}">{escape(card.name)}</a>')
    lines = (f"<div><h2>{group}</h2>{' '.join(links)}</div>" for group, links in groups.items() if links)
    return f"<nav>{''.join(lines)}</nav>"


def group_of(objective: Objective) -> str:
    """The part of the index that an objective is in."""
    return GROUPS.get(objective.architecture, GROUPS[""])


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def _card(card: Card) -> str:
    trouble = f'<p class="trouble">{escape(card.trouble)}</p>' if card.trouble else ""
    source = escape(card.paper)
    number = re.search(r"arXiv (\d{4}\.\d{4,5})", card.paper)
    if number:
        source = f'<a href="https://arxiv.org/abs/{number[1]}">{source}</a>'
    drawn = sketch(type(card.objective))
    drawn = f"<pre>{escape(drawn)}</pre>" if drawn else ""
    examples = "".join(_example(*example, card.preset) for example in card.examples)
    return (
        f'<section id="{_anchor(card.name)}"><h2>{escape(card.name)}</h2>'
        f'<p class="summary">{escape(card.objective.summary)} <cite>{source}</cite></p>'
        f"{drawn}{_settings(card.objective)}{trouble}{examples}</section>"
    )


def sketch(cls: type[Objective]) -> str:
    """The "before → after" of a docstring, of the class or else of its module."""
    module = inspect.getmodule(cls)
    for text in (inspect.getdoc(cls) or "", (module and inspect.getdoc(module)) or ""):
        for block in re.findall(r"\n\n((?:    .+\n?)+)", text):
            if "→" in block or "predict" in block:
                return inspect.cleandoc(block)
    return ""


def _settings(objective: Objective) -> str:
    parts = getattr(objective, "parts", (objective,))
    items = []
    for part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if field.init and not isinstance(value, Objective):
                default = field.default if field.default is not MISSING else value
                changed = ' class="changed"' if value != default else ""
                items.append(f"<li{changed}>{field.name}={escape(_number(value))}</li>")
    return f'<ul class="settings">{"".join(items)}</ul>' if items else ""


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _example(example: Example, pictures: Sequence[Picture], after: Sequence[Token], preset: str) -> str:
    lines = dict(example.lines)
    read = lines.get("input_ids", ())
    if [t.text for t in read] == [t.text for t in lines["text"]] and all(t.role in ("", "special") for t in read):
        lines["text"] = lines.pop("input_ids")  # nothing happens to it
    if all(t.note for t in read if t.role in ("masked", "replaced", "kept")) and any(t.note for t in read):
        lines.pop("predict", None)  # it stands under the tokens
    if after:
        lines["discriminator"] = list(after)
    rows = "".join(
        f"<dt>{escape(NAMES.get(name, name))}</dt><dd>{''.join(map(_token, tokens))}</dd>"
        for name, tokens in lines.items()
    )
    values = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in example.values.items())
    figures = "".join(_figure(picture, preset) for picture in pictures)
    return f'<article><dl>{rows}{"".join(values)}</dl><div class="figures">{figures}</div></article>'


def _token(token: Token) -> str:
    classes = " ".join(filter(None, ("t", token.role, "" if token.spaced else "joined")))
    note = f"<i>{escape(token.note)}</i>" if token.note else ""
    return f'<span class="{classes}">{escape(token.text) or "␣"}{note}</span>'


def _figure(picture: Picture, preset: str) -> str:
    attention = picture.attention
    layers = f"layer{'s' if len(attention.layers) > 1 else ''} {', '.join(map(str, attention.layers))}"
    where = ", ".join(filter(None, (preset, attention.name, layers)))
    caption = escape(f"{where}. {describe(attention.sees, attention.memory)}".strip())
    return f"<figure>{_svg(picture, caption)}<figcaption>{caption}</figcaption></figure>"


def _svg(picture: Picture, title: str) -> str:
    """Rows that look, columns that are seen; labelled unless all see all."""
    sees, memory = picture.attention.sees, picture.attention.memory
    count, seen = sees.shape
    plain = bool(sees.all())
    sides, tops = ([] if plain else [_short(text) for text in side] for side in (picture.queries, picture.keys))
    left, top = (LETTER * max(map(len, side), default=0) + 3 * bool(side) for side in (sides, tops))
    width, height = left + CELL * seen, top + CELL * count
    lines = "".join(f"M0 {CELL * i}h{CELL * seen}" for i in range(count + 1))
    lines += "".join(f"M{CELL * i} 0v{CELL * count}" for i in range(seen + 1))
    labels = "".join(f'<text x="-3" y="{CELL * i + 7}">{escape(text)}</text>' for i, text in enumerate(sides))
    labels += "".join(
        f'<text class="top" transform="translate({CELL * i + 7} -3)rotate(-90)">{escape(text)}</text>'
        for i, text in enumerate(tops)
    )
    past = np.arange(seen) < memory
    scale = 0.25 if plain else 0.85
    return (
        f'<svg role="img" viewBox="0 0 {width:.0f} {height:.0f}" style="width:{width * scale:.0f}px">'
        f'<title>{title}</title><g transform="translate({left:.0f} {top:.0f})">'
        f'<path class="now" d="{_squares(sees & ~past)}"/><path class="past" d="{_squares(sees & past)}"/>'
        f'<path class="lines" d="{lines}"/>{labels}</g></svg>'
    )


def _squares(filled: np.ndarray) -> str:
    """Runs of filled squares as the outline of a path."""
    parts: list[str] = []
    for row, line in enumerate(filled):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        parts += [
            f"M{CELL * a} {CELL * row}h{CELL * (b - a)}v{CELL}h{CELL * (a - b)}z" for a, b in edges.reshape(-1, 2)
        ]
    return "".join(parts)


def _short(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"
