"""Labels from a language model without training: which label's word does it find most likely?

    masked LM         the word's pieces are masks; the mean of their log-probabilities, all masks predicted at once
    causal LM         the log-likelihood of the word, and of what follows it in the template, given what stands before;
                      worked examples may stand before that (Brown et al. 2020, arXiv 2005.14165)
    encoder–decoder   T5 and relatives: the word behind the sentinel that stands for it in the input. Models with a mask
                      token (BART): the text from the word on, where a mask stands for it in the input

A word of several pieces has as many masks; the mean makes such words comparable with shorter ones (Schick and Schütze
2021, arXiv 2009.07118, multiply instead, which favours short words, and fill in piece by piece). Likelihoods of causal
and encoder–decoder models are sums, or means over tokens where `length_normalization` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .glue_tasks import Task
from .language_model import Batch, LanguageModel, run
from .prompts import Prompt
from .task_data import Examples

SENTINEL = "<extra_id_0>"
"""T5's first sentinel."""


def label_scores(
    language_model: LanguageModel,
    prompt: Prompt,
    examples: Examples,
    shots: Sequence[tuple[tuple[str, ...], str]] = (),
    length_normalization: bool = False,
) -> tuple[np.ndarray, float]:
    """Score of each label's word for each example, `[examples, words]`, and how many shots stood before on average.

    Args:
        language_model: what scores.
        prompt: templates and words.
        examples: what is classified; texts that are too long are cut.
        shots: worked examples to stand before, as texts and label; for causal models. Where not all fit, the first are
            left out.
        length_normalization: mean log-likelihood of tokens instead of the sum (masked LMs: always the mean).

    Raises:
        ValueError: for shots with a model that is not causal, and templates that do not fit into the model's length.
    """
    if shots and language_model.kind != "causal":
        raise ValueError(f"in-context examples are for causal models, and this one is {language_model.kind}")
    make = {"masked": _masked_rows, "causal": _causal_rows, "seq2seq": _seq2seq_rows}[language_model.kind]
    batch, used = make(language_model, prompt, examples, shots)
    log_probabilities = run(language_model, batch)
    mean = length_normalization or language_model.kind == "masked"
    scores = np.array([values.mean() if mean else values.sum() for values in log_probabilities])
    return scores.reshape(len(examples), len(prompt.words)), used


def predict(task: Task, prompt: Prompt, scores: np.ndarray) -> np.ndarray:
    """Predicted ids of labels from `label_scores`, or numbers of a regression."""
    labels = list(prompt.words)
    if task.labels is None:
        low, high = (float(label) for label in labels)
        return low + (high - low) / (1 + np.exp(np.clip(scores[:, 0] - scores[:, 1], -500, 500)))
    return np.array([task.labels.index(label) for label in labels])[scores.argmax(1)]


def _encode(tokenizer: Any, text: str) -> tuple[list[int], np.ndarray]:
    """Ids, and begin and end of each token in the text; −1 for special tokens."""
    encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    offsets = np.array(encoded["offset_mapping"]).reshape(-1, 2)
    offsets[np.array(encoded["special_tokens_mask"], bool)] = -1
    return encoded["input_ids"], offsets


def _fitted(lm: LanguageModel, prompt: Prompt, template: str, texts: tuple[str, ...], before: str = "") -> tuple:
    """The texts, the longer one cut at its end until the filled template fits with every word."""
    longest = max(prompt.words.values(), key=lambda word: len(lm.tokenizer.tokenize(word)))
    while True:
        excess = len(_encode(lm.tokenizer, before + prompt.fill(template, texts, longest)[0])[0]) - lm.max_length
        if excess <= 0:
            return texts
        spans = [_encode(lm.tokenizer, text)[1] for text in texts]
        spans = [own[own[:, 0] >= 0] for own in spans]
        longer = max(range(len(texts)), key=lambda i: len(spans[i]))
        if not len(spans[longer]):
            raise ValueError(f"the template {template!r} alone is longer than the model's {lm.max_length} tokens")
        kept = max(len(spans[longer]) - excess, 0)
        cut = texts[longer][: spans[longer][kept - 1][1]] if kept else ""
        texts = tuple(cut if i == longer else text for i, text in enumerate(texts))


def _slot(offsets: np.ndarray, begin: int, end: int, text: str) -> list[int]:
    places = np.flatnonzero((offsets[:, 0] >= 0) & (offsets[:, 0] < end) & (offsets[:, 1] > begin)).tolist()
    if not places:
        raise ValueError(f"the word {text[begin:end]!r} has no token of its own in this vocabulary; choose another")
    return places


def _masked_rows(lm: LanguageModel, prompt: Prompt, examples: Examples, shots: Any) -> tuple[Batch, float]:
    batch, mask = Batch(), lm.tokenizer.mask_token_id
    for texts in zip(*examples.texts):
        texts, known = _fitted(lm, prompt, prompt.cloze, texts), {}
        for word in prompt.words.values():
            text, begin, end = prompt.fill(prompt.cloze, texts, word)
            ids, offsets = _encode(lm.tokenizer, text)
            places = _slot(offsets, begin, end, text)
            masked = list(ids)
            for place in places:
                masked[place] = mask
            if tuple(masked) not in known:  # words of as many pieces share a row
                known[tuple(masked)] = len(batch.inputs)
                batch.inputs.append(masked)
            batch.reads.append((known[tuple(masked)], places, [ids[place] for place in places]))
    return batch, 0.0


def _causal_rows(lm: LanguageModel, prompt: Prompt, examples: Examples, shots: Any) -> tuple[Batch, float]:
    shots = shots[-lm.max_length :]  # no more fit
    worked = [prompt.fill(prompt.completion, texts, prompt.words[label])[0] + "\n\n" for texts, label in shots]
    lengths = np.cumsum([len(_encode(lm.tokenizer, text)[0]) for text in reversed(worked)])  # of the last n together
    batch, used = Batch(), []
    longest = max(prompt.words.values(), key=lambda word: len(lm.tokenizer.tokenize(word)))
    for texts in zip(*examples.texts):
        own = len(_encode(lm.tokenizer, prompt.fill(prompt.completion, texts, longest)[0])[0])
        used.append(int(np.searchsorted(lengths, lm.max_length - own, side="right")))
        before = "".join(worked[len(worked) - used[-1] :])
        texts = _fitted(lm, prompt, prompt.completion, texts, before)
        for word in prompt.words.values():
            text, begin, end = prompt.fill(prompt.completion, texts, word)
            ids, offsets = _encode(lm.tokenizer, before + text)
            places = _slot(offsets, len(before) + begin, len(before) + len(text), before + text)
            if places[0] == 0:
                raise ValueError(
                    "a causal model predicts nothing before the first token; let text stand before {label}"
                )
            batch.reads.append((len(batch.inputs), [place - 1 for place in places], [ids[place] for place in places]))
            batch.inputs.append(ids)
    return batch, float(np.mean(used))


def _seq2seq_rows(lm: LanguageModel, prompt: Prompt, examples: Examples, shots: Any) -> tuple[Batch, float]:
    tokenizer, batch = lm.tokenizer, Batch()
    start = lm.model.config.decoder_start_token_id
    sentinel = tokenizer.get_vocab().get(SENTINEL)
    if sentinel is None and tokenizer.mask_token is None:
        raise ValueError(f"{type(tokenizer).__name__} has neither {SENTINEL} nor a mask token for the model to fill")
    for texts in zip(*examples.texts):
        texts = _fitted(lm, prompt, prompt.cloze, texts)
        for word in prompt.words.values():
            text, begin, end = prompt.fill(prompt.cloze, texts, word)
            ids, offsets = _encode(tokenizer, text)
            places = _slot(offsets, begin, end, text)
            gap = tokenizer.mask_token_id if sentinel is None else sentinel
            source = [*ids[: places[0]], gap, *ids[places[-1] + 1 :]]
            if sentinel is None:  # the decoder says the whole text; from the word on it depends on the word
                tail = [i for i in range(places[0], len(ids)) if offsets[i, 0] >= 0]
                target, read = ids, tail
            else:
                target = [sentinel, *(ids[place] for place in places)]
                read = list(range(1, len(target)))
            batch.reads.append((len(batch.inputs), read, [target[i] for i in read]))
            batch.inputs.append(source)
            batch.targets.append([start, *target[:-1]])
    return batch, 0.0
