"""What a model says: words it puts into gaps of held-out sentences, and how it goes on from their beginnings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rich.text import Text

from ..objectives import Documents, Vocabulary

SHORTEST, LONGEST = 10, 32
"""Tokens of the sentences shown."""


def examples(
    model: Any, tokenizer: Any, documents: Documents, fills: bool, count: int = 5, seed: int = 0
) -> list[Text]:
    """A few lines in colour; none for unfit documents.

    Args:
        model: a plain masked or causal LM.
        fills: whether it puts words into gaps, or goes on with a text. Its class does not say: XLM's does either.
    """
    model.eval()
    found = sentences(documents, tokenizer, count, seed)
    if not fills:
        return [continuation(model, tokenizer, ids, seed) for ids, _ in found]
    if tokenizer.mask_token_id is None:
        return []
    return [fill_mask(model, tokenizer, ids, gap) for ids, gap in found if gap >= 0]


def sentences(documents: Documents, tokenizer: Any, count: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """(ids, position of a word to leave out) of up to `count` sentences, in an order that `seed` decides."""
    words, tokens = documents.word_starts, documents.tokens
    starts = documents.sentences(documents.offsets[:-1])
    ends = np.append(starts[1:], len(tokens))
    ends = ends - (tokens[ends - 1] < 0)
    fitting = np.flatnonzero((ends - starts >= SHORTEST) & (ends - starts <= LONGEST))
    generator = np.random.default_rng(seed)
    for sentence in generator.permutation(fitting):
        if not count:
            return
        start, end = int(starts[sentence]), int(ends[sentence])
        # Whole words of one piece, no punctuation, not the first
        whole = [i for i in range(start + 1, end - 1) if words[i] and words[i + 1]]
        whole = [i for i in whole if len(w := tokenizer.decode([int(tokens[i])]).strip()) > 2 and w.isalpha()]
        if whole:
            count -= 1
            yield np.asarray(tokens[start:end], np.int64), int(generator.choice(whole)) - start


@torch.no_grad()
def fill_mask(model: Any, tokenizer: Any, ids: np.ndarray, gap: int, top: int = 3) -> Text:
    """A sentence with a gap, the `top` words the model puts there with their probabilities, and what stood there."""
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    answer, shown = int(ids[gap]), ids.copy()
    shown[gap] = tokenizer.mask_token_id
    row = [*vocabulary.prefix, *shown.tolist(), *vocabulary.suffix]
    logits = model(input_ids=torch.tensor([row], device=model.device)).logits[0, len(vocabulary.prefix) + gap]
    best = logits.float().softmax(-1).topk(top)
    before, _, after = tokenizer.decode(shown.tolist()).partition(tokenizer.mask_token)
    line = Text.assemble(before, ("____", "bold yellow"), after, "\n    ")
    for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        style = "bold green" if token == answer else "red"
        line.append(f"{tokenizer.decode([token]).strip()} {probability:.0%}", style).append("  ")
    return line.append(f"({tokenizer.decode([answer]).strip()})", "dim")


@torch.no_grad()
def continuation(model: Any, tokenizer: Any, ids: np.ndarray, seed: int, prompt: int = 6, new_tokens: int = 24) -> Text:
    """The first `prompt` tokens of a sentence and how the model goes on, sampled from its 20 likeliest tokens."""
    row = torch.tensor([ids[:prompt].tolist()], device=model.device)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=new_tokens,
            do_sample=True,
            top_k=20,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    start = tokenizer.decode(row[0], skip_special_tokens=True)
    whole = tokenizer.decode(out[0], skip_special_tokens=True)
    return Text.assemble((start, "bold"), (whole.removeprefix(start), "green"))
