"""Questions on paragraphs in SQuAD's JSON layout or from the Hub, checked before anything is trained on them."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_OPEN: dict[str, Any] = {".json": open, ".gz": gzip.open, ".xz": lzma.open}
_COLUMNS = ("id", "question", "context", "answers")


@dataclass(frozen=True)
class Question:
    """A question on a paragraph.

    Attributes:
        id: unique in its data set.
        question, context: texts.
        answers: gold answers; none if the paragraph does not answer the question.
        starts: where they begin in `context`, in characters.
        title: the article that the paragraph is from.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    title: str = ""


def read_squad(path: str | Path) -> list[Question]:
    """Questions of a file in SQuAD's layout, 1.1 or 2.0: .json, .json.gz or .json.xz.

    Raises `ValueError`, naming place and remedy, for a file that is no JSON or of another layout, and as
    `check_questions`; `OSError` if it cannot be read.
    """
    path = Path(path)
    if path.suffix not in _OPEN:
        raise ValueError(f"{path}: SQuAD files end in .json, .json.gz or .json.xz")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with _OPEN[path.suffix](path, "rt", encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or no JSON ({error}); download it again") from error
    questions = []
    for i, article in enumerate(_get(content, "data", list, str(path))):
        here = f"{path}: data[{i}]"
        for j, paragraph in enumerate(_get(article, "paragraphs", list, here)):
            there = f"{here}.paragraphs[{j}]"
            context = _get(paragraph, "context", str, there)
            for k, item in enumerate(_get(paragraph, "qas", list, there)):
                questions.append(_question(item, context, str(article.get("title", "")), f"{there}.qas[{k}]"))
    return check_questions(questions, str(path))


def _question(item: Any, context: str, title: str, place: str) -> Question:
    name, question = _get(item, "id", str, place), _get(item, "question", str, place)
    impossible = item.get("is_impossible", False)
    answers = [] if impossible else _get(item, "answers", list, place)  # plausible answers stand elsewhere
    texts = tuple(_get(answer, "text", str, f"{place}.answers") for answer in answers)
    starts = tuple(_get(answer, "answer_start", int, f"{place}.answers") for answer in answers)
    return Question(name, question, context, texts, starts, title)


def _get(mapping: Any, key: str, kind: type, place: str) -> Any:
    if not isinstance(mapping, Mapping) or key not in mapping:
        raise ValueError(f"{place} has no {key!r}; SQuAD's layout is data → paragraphs → context, qas → id, question")
    if not isinstance(mapping[key], kind):
        raise ValueError(f"{place}: {key!r} must be of type {kind.__name__}, not {type(mapping[key]).__name__}")
    return mapping[key]


def from_rows(rows: Iterable[Mapping[str, Any]], name: str) -> list[Question]:
    """Questions from rows as the Hub's `squad` and `squad_v2` have them: id, title, context, question, answers.

    Raises `ValueError` for missing columns, and as `check_questions`.
    """
    questions = []
    for row in rows:
        missing = [column for column in _COLUMNS if column not in row]
        if missing:
            raise ValueError(
                f"{name} has no column {', '.join(missing)}; it has {', '.join(row)}, and SQuAD's are "
                f"{', '.join(_COLUMNS)}"
            )
        answers = row["answers"]
        if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= set(answers):
            raise ValueError(f"{name}: the column answers must hold lists under text and answer_start")
        texts, starts = tuple(answers["text"]), tuple(map(int, answers["answer_start"]))
        questions.append(
            Question(str(row["id"]), row["question"], row["context"], texts, starts, str(row.get("title", "")))
        )
    return check_questions(questions, name)


def read_hub(name: str, config: str | None, split: str) -> list[Question]:
    """Questions of a data set on the Hub, such as `rajpurkar/squad_v2`. Raises as `from_rows`."""
    from datasets import load_dataset

    return from_rows(load_dataset(name, config, split=split), f"{name}, split {split}")


def check_questions(questions: list[Question], name: str) -> list[Question]:
    """The questions, if they can be used.

    Raises `ValueError` if there are none, ids occur twice, texts are empty, or answers do not stand at their offsets.
    """
    if not questions:
        raise ValueError(f"{name} holds no questions")
    seen: set[str] = set()
    astray = []
    for item in questions:
        if item.id in seen:
            raise ValueError(f"{name}: the id {item.id} occurs twice; predictions could not be told apart")
        seen.add(item.id)
        if not item.question.strip() or not item.context.strip():
            raise ValueError(f"{name}: question {item.id} has an empty question or context")
        if len(item.answers) != len(item.starts):
            raise ValueError(f"{name}: question {item.id} has {len(item.answers)} answers, {len(item.starts)} offsets")
        for text, start in zip(item.answers, item.starts):
            if not text or start < 0 or item.context[start : start + len(text)] != text:
                astray.append((item, text, start))
    if astray:
        item, text, start = astray[0]
        there = item.context[max(start, 0) : max(start, 0) + max(len(text), 1)]
        raise ValueError(
            f"{name}: {len(astray)} answers do not stand at their answer_start (counted in characters, not bytes); in "
            f"question {item.id} the answer is {text!r}, and at {start} stands {there!r}"
        )
    return questions


def split_by_article(
    questions: Sequence[Question], fraction: float, seed: int, name: str
) -> tuple[list[Question], list[Question]]:
    """Questions to train on, and those of about `fraction` of the articles, so that no paragraph is in both.

    Raises `ValueError` if there are fewer than two articles, or the fraction is not between 0 and 1.
    """
    titles = sorted({question.title for question in questions})
    if len(titles) < 2:
        raise ValueError(f"{name} holds one article only, and articles are not divided; give --validation_file")
    if not 0 < fraction < 1:
        raise ValueError(f"--validation_fraction must lie between 0 and 1, not be {fraction}")
    count = min(max(round(fraction * len(titles)), 1), len(titles) - 1)
    chosen = {titles[i] for i in np.random.default_rng(seed).permutation(len(titles))[:count]}
    return [q for q in questions if q.title not in chosen], [q for q in questions if q.title in chosen]
