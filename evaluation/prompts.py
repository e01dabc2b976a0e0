r"""Tasks as text to be completed: templates, and a word for each label ("verbalizers").

    cloze       {text1} It was {label}.                  masked LMs; encoder–decoders, where the model fills in
    completion  Review: {text1}\nSentiment: {label}      causal LMs, the label last, so that examples can stand before

The cloze templates and words are those of Gao, Fisch and Chen 2021, "Making pre-trained language models better few-shot
learners" (arXiv 2012.15723, table 1), whose removal of the first text's final punctuation is left out; those of WNLI
and the probe tasks, and the completions, are ours.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .glue_tasks import Task


@dataclass(frozen=True)
class Prompt:
    """How a task becomes text.

    Attributes:
        cloze, completion: templates with the fields {text1}, {text2} (of pairs) and {label}, the last once; in
            `completion` it stands at the end.
        words: word of each label. Of a regression, words of two numbers, its ends: the prediction lies between them,
            by the probabilities of the two words.
    """

    cloze: str
    completion: str
    words: Mapping[str, str]

    def fill(self, template: str, texts: tuple[str, ...], word: str) -> tuple[str, int, int]:
        """The text with `word` as its label, and where the word begins and ends in it."""
        before, after = template.split("{label}")
        fields = {f"text{i}": text.strip() for i, text in enumerate(texts, 1)}
        head = before.format(**fields)
        return head + word + after.format(**fields), len(head), len(head) + len(word)


_YES_NO = {"0": "No", "1": "Yes"}
_ENTAILS = "{text1} ? {label}, {text2}"
_SAME = "{text1} {label}, {text2}"

PROMPTS: dict[str, Prompt] = {
    "sst2": Prompt("{text1} It was {label}.", "Review: {text1}\nIt was {label}", {"0": "terrible", "1": "great"}),
    "cola": Prompt(
        "{text1} This is {label}.", "Sentence: {text1}\nThis is {label}", {"0": "incorrect", "1": "correct"}
    ),
    "mnli": Prompt(
        _ENTAILS,
        "{text1}\nQuestion: {text2} Yes, no or maybe?\nAnswer: {label}",
        {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
    ),
    "qnli": Prompt(
        _ENTAILS,
        "Question: {text1}\nText: {text2}\nIs the question answered? {label}",
        {"entailment": "Yes", "not_entailment": "No"},
    ),
    "rte": Prompt(
        _ENTAILS,
        "{text1}\nQuestion: {text2} Yes or no?\nAnswer: {label}",
        {"entailment": "Yes", "not_entailment": "No"},
    ),
    "wnli": Prompt(_ENTAILS, "{text1}\nQuestion: {text2} Yes or no?\nAnswer: {label}", _YES_NO),
    "mrpc": Prompt(_SAME, "{text1}\n{text2}\nSame meaning? {label}", _YES_NO),
    "qqp": Prompt(_SAME, "{text1}\n{text2}\nSame meaning? {label}", _YES_NO),
    "stsb": Prompt(_SAME, "{text1}\n{text2}\nSame meaning? {label}", {"0": "No", "5": "Yes"}),
    "topic": Prompt(
        "{text1} This is about {label}.",
        "{text1}\nThis is about {label}",
        {"files": "files", "network": "networks", "concurrency": "threads", "learning": "learning"},
    ),
    "word_order": Prompt(
        "{text1} This is {label}.", "Sentence: {text1}\nThis is {label}", {"0": "incorrect", "1": "correct"}
    ),
    "sentence_pair": Prompt(_SAME, "{text1}\n{text2}\nRight order? {label}", {"in_order": "Yes", "swapped": "No"}),
}
"""By the name of the task."""


def get_prompt(task: Task, prompt_file: str | Path | None = None) -> Prompt:
    """The prompt of a task, or the one that a YAML file gives: `cloze`, `completion` and `words` (label → word).

    A file may leave out one of the templates; it then stands for both. Raises as `check_prompt`, and for a task that
    has none and a file that is malformed.
    """
    if prompt_file is None:
        if task.name not in PROMPTS:
            raise ValueError(
                f"there is no prompt for {task.title}; give --prompt_file, a YAML file with cloze, completion and words"
            )
        return check_prompt(PROMPTS[task.name], task, task.title)
    path = Path(prompt_file)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        # strings only: YAML's own types would make True of the word Yes
        content: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    known = {"cloze", "completion", "words"}
    if not isinstance(content, dict) or not set(content) <= known or not {"cloze", "completion"} & set(content):
        raise ValueError(f"{path} must hold words and cloze or completion (or both), and nothing else")
    words = content.get("words")
    if not isinstance(words, dict):
        raise ValueError(f"{path}: words must map labels to words")
    cloze, completion = content.get("cloze"), content.get("completion")
    prompt = Prompt(str(cloze or completion), str(completion or cloze), words)
    return check_prompt(prompt, task, str(path))


def check_prompt(prompt: Prompt, task: Task, where: str) -> Prompt:
    """The prompt, if it fits the task.

    Raises `ValueError` for unknown or missing fields, labels without a word, and words that are empty or the same.
    """
    wanted = {f"text{i}" for i in range(1, len(task.texts) + 1)}
    for template in (prompt.cloze, prompt.completion):
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        except ValueError as error:
            raise ValueError(f"{where}: the template {template!r} is malformed: {error}") from error
        if fields.count("label") != 1 or "{label}" not in template or set(fields) - {"label"} != wanted:
            needed = ", ".join(f"{{{name}}}" for name in sorted(wanted))
            raise ValueError(f"{where}: the template {template!r} must hold {needed} and, once, {{label}}")
    words = list(prompt.words.values())
    if len(set(words)) < len(words) or not all(word.strip() for word in words):
        raise ValueError(f"{where}: each label needs a word of its own, not {', '.join(map(repr, words))}")
    if task.labels is None:
        try:
            ends = [float(label) for label in prompt.words]
        except ValueError:
            ends = []
        if len(ends) != 2 or ends[0] == ends[1]:
            raise ValueError(f"{where}: {task.title} predicts a number; give words for two numbers, as 0: No, 5: Yes")
    elif set(prompt.words) != set(task.labels):
        raise ValueError(f"{where}: words are given for {', '.join(prompt.words)}; labels are {', '.join(task.labels)}")
    return prompt
