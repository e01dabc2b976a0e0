"""Speed of collators against others on the same text: what `benchmark` prints first."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForPermutationLanguageModeling,
    PreTrainedTokenizerBase,
)

from pretrain_zoo.objectives import (
    DataCollatorForCausalLM,
    DataCollatorForMaskedLM,
    DataCollatorForNgramMask,
    DataCollatorForWholeWordMask,
    Documents,
    Draws,
    ObjectiveCollator,
    Vocabulary,
    get_objective,
    list_objectives,
)
from pretrain_zoo.objectives.collator import pad_columns
from pretrain_zoo.training.embedded import embedded_documents
from pretrain_zoo.training.tokenizer import train_tokenizer

ROWS, LENGTH = 256, 512
OBJECTIVE_ROWS = 64
"""Rows of a batch where whole objectives are timed."""
COMBINED = ("mlm+nsp", "ngram_mlm+sop")
SPECIAL = [f"<extra_id_{i}>" for i in range(100)] + ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
SPECIAL += ["[R]", "[S]", "[X]", "<s>", "</s>"]


def medians(runs: Mapping[str, Callable[[], Any]], rounds: int, turns: int = 3) -> dict[str, float]:
    """Median seconds of processor time of each function.

    They take turns; a turn is `rounds` calls in a row, as a data worker makes them, after one that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            run()
            for _ in range(rounds):
                started = time.process_time()
                run()
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def text_and_tokenizer() -> tuple[list[str], PreTrainedTokenizerBase]:
    """Prose of the embedded corpus, and a WordPiece tokenizer of 8,000 tokens trained on it."""
    texts = embedded_documents()
    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=8000)
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    return texts, tokenizer


def features_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, list]]:
    """`ROWS` rows of `LENGTH` tokens of running text, with characters' offsets, as lists."""
    room = LENGTH - 2
    text = "\n".join(texts)[: 8 * ROWS * LENGTH]
    encoding = tokenizer(text, verbose=False, add_special_tokens=False, return_offsets_mapping=True)
    if len(encoding["input_ids"]) < ROWS * room:
        raise ValueError(f"the embedded corpus has no {ROWS * room:,} tokens here; install its packages")
    features = []
    for start in range(0, ROWS * room, room):
        ids = [tokenizer.cls_token_id, *encoding["input_ids"][start : start + room], tokenizer.sep_token_id]
        offsets = [(0, 0), *encoding["offset_mapping"][start : start + room], (0, 0)]
        features.append({"input_ids": ids, "offset_mapping": offsets})
    return features


def bare_masking(rows: list[np.ndarray], vocabulary: Vocabulary, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """BERT's masking as a few lines of NumPy, for rows of one length."""
    ids = np.stack(rows)
    selected = (rng.random(ids.shape) < 0.15) & vocabulary.maskable[ids]
    labels = np.where(selected, ids, -100)
    decide = rng.random(ids.shape)
    ids[selected & (decide < 0.8)] = vocabulary.mask_id
    random = selected & (decide >= 0.9)
    ids[random] = rng.choice(vocabulary.random_pool, int(random.sum()))
    return {"input_ids": ids, "labels": labels, "attention_mask": np.ones_like(ids)}


def compare_collators(
    features: list[dict[str, list]], tokenizer: PreTrainedTokenizerBase, rounds: int
) -> list[dict[str, Any]]:
    """Seconds per batch of our collators and of others on the same features."""
    lists = [{"input_ids": f["input_ids"]} for f in features]
    arrays = [{"input_ids": np.array(f["input_ids"])} for f in features]
    rows = [f["input_ids"] for f in arrays]
    ours = DataCollatorForMaskedLM(tokenizer)
    stock = DataCollatorForLanguageModeling(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it masks without random and unchanged tokens
        stock_words = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True)
    causal = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    vocabulary, rng = ours.vocabulary, np.random.default_rng(0)
    words, ngrams, ours_causal = (
        kind(tokenizer) for kind in (DataCollatorForWholeWordMask, DataCollatorForNgramMask, DataCollatorForCausalLM)
    )
    exact = DataCollatorForMaskedLM(tokenizer, selection="exact")
    tosses = DataCollatorForWholeWordMask(tokenizer, selection="independent")
    cases: list[tuple[str, Callable[[], Any], str, Callable[[], Any]]] = [
        ("masked LM, arrays", lambda: ours(arrays), "stock", lambda: stock(arrays)),
        ("masked LM, lists", lambda: ours(lists), "stock", lambda: stock(lists)),
        ("masked LM, arrays", lambda: ours(arrays), "bare NumPy", lambda: bare_masking(rows, vocabulary, rng)),
        ("masked LM, exact count", lambda: exact(arrays), "stock", lambda: stock(arrays)),
        ("whole words", lambda: words(arrays), "stock, whole_word_mask", lambda: stock_words([*map(dict, features)])),
        ("whole words, a coin each", lambda: tosses(arrays), "stock, whole_word_mask", lambda: None),
        ("n-grams", lambda: ngrams(arrays), "stock, whole_word_mask", lambda: None),
        ("causal LM, arrays", lambda: ours_causal(arrays), "stock, mlm=False", lambda: causal(arrays)),
    ]
    results: list[dict[str, Any]] = []
    slow = 0.0
    for name, ours_run, other, other_run in cases:
        runs = {"ours": ours_run, "other": other_run}
        found = medians(runs, rounds)
        if other == "stock, whole_word_mask":  # once is enough
            found["other"] = slow = max(slow, found["other"])
        ratio = found["other"] / found["ours"]
        results.append(
            {"name": name, "against": other, "seconds": found["ours"], "other": found["other"], "ratio": ratio}
        )
    return results


def compare_permutation(
    features: list[dict[str, list]], tokenizer: PreTrainedTokenizerBase, rounds: int
) -> list[dict[str, Any]]:
    """Seconds per batch of permutation LM and span masking, and of the stock collator that does a part of either."""
    arrays = [{"input_ids": np.array(f["input_ids"])} for f in features]
    stock = DataCollatorForPermutationLanguageModeling(tokenizer)
    other = medians({"other": lambda: stock(arrays)}, rounds=1)["other"]
    results = []
    for name in ("plm", "span_mlm"):
        collator = ObjectiveCollator(name, tokenizer, sparse_labels=True)
        seconds = medians({name: partial(collator, arrays)}, rounds)[name]
        found = {"name": name, "against": "stock, permutations", "seconds": seconds, "other": other}
        results.append(found | {"ratio": other / seconds})
    return results


def with_translations(documents: Documents) -> Documents:
    """The documents as if every second one were the translation of the one before it."""
    pairs = np.arange(len(documents) // 2 * 2).reshape(-1, 2)
    languages = np.arange(len(documents), dtype=np.int16) % 2
    return replace(documents, translations=pairs, languages=languages)


def time_objectives(
    documents: Documents,
    vocabulary: Vocabulary,
    features: list[dict[str, list]],
    tokenizer: PreTrainedTokenizerBase,
    rounds: int,
) -> list[dict[str, Any]]:
    """Seconds and tokens per batch of each objective, from tokenized documents to padded arrays.

    An epoch's plan, in which pairs are built, counts with its share per batch. `ratio` is the tokens per second over
    those of `DataCollatorForLanguageModeling` on as many rows, whose tokens are cut and framed beforehand.
    """
    stock = DataCollatorForLanguageModeling(tokenizer)
    lists = [{"input_ids": f["input_ids"]} for f in features[:OBJECTIVE_ROWS]]
    results: list[dict[str, Any]] = []
    for name in (*list_objectives(), *COMBINED):
        if name == "distillation":  # the data are those of what it wraps
            continue
        objective = get_objective(name)
        objective.check(vocabulary)
        corpus = with_translations(documents) if name == "tlm" else documents
        for epoch in (0, 1):  # what the first plan of a run looks up once is there in the next
            started = time.process_time()
            plan = objective.plan(corpus, vocabulary, length=LENGTH, seed=0, epoch=epoch, global_batch=OBJECTIVE_ROWS)
            planning = time.process_time() - started
        example = np.arange(min(OBJECTIVE_ROWS, len(plan)))
        draws = Draws.of(0, example, 0, example)

        def run(objective=objective, plan=plan, example=example, draws=draws) -> dict[str, np.ndarray]:
            columns = objective.corrupt(plan.rows(example), draws, vocabulary)
            return pad_columns(columns, objective.columns, vocabulary)

        found = medians({"ours": run, "stock": lambda: stock(lists)}, rounds)
        tokens = int(plan.rows(example)["input_ids"].lengths.sum())
        seconds = found["ours"] + planning * len(example) / len(plan)
        ratio = (tokens / seconds) / (len(lists) * LENGTH / found["stock"])
        results.append(
            {"name": name, "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "ratio": ratio}
        )
    return results
