"""From arguments to what a run is made of: tokenizer, tokenized corpus, datasets."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..models.presets import list_presets
from ..objectives import Documents, Objective, Vocabulary
from .arguments import ModelArguments, RunArguments
from .dataset import EvaluationDataset, PretrainingDataset
from .documents import load_documents
from .embedded import text_hash
from .tokenizer import train_tokenizer

KINDS = dict.fromkeys(("roberta", "xlm-roberta", "bart", "t5", "switch"), "bpe")
KINDS |= dict.fromkeys(("gpt2", "llama", "mixtral"), "gpt2")
"""Kind of tokenizer that is trained for a preset's family; "wordpiece" for all others."""


@dataclass
class Data:
    """Tokenized text of a run: what it trains on and what is held out."""

    train: Documents
    held_out: Documents


def check_model_name(name: str) -> None:
    """Raise `ValueError`, with the nearest presets, for a name that is no preset, folder or model of the Hub."""
    if "/" in name or name in list_presets() or Path(name).is_dir():
        return
    near = difflib.get_close_matches(name, list_presets(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"presets: {', '.join(list_presets())}."
    raise ValueError(f"there is no preset or folder {name!r}; {hint} A model of the Hub is written owner/name")


def get_tokenizer(
    model: ModelArguments, corpus: Iterable[str], cache_dir: str, special_tokens: Iterable[str] = ()
) -> PreTrainedTokenizerBase:
    """The tokenizer named, else the checkpoint's, else one trained on the corpus (once, kept in `cache_dir`).

    Where the model is a preset, whose embeddings are made for the tokenizer, it gets those of `special_tokens` that it
    lacks.
    """
    name = str(model.model_name_or_path)
    source = model.tokenizer_name or (None if name in list_presets() else name)
    if source is None:
        kind = KINDS.get(name.rpartition("-")[0], "wordpiece")
        source = str(_trained(corpus, kind, model.vocab_size, cache_dir))
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token  # only the attention mask tells padding
    if name in list_presets():
        tokenizer.add_tokens(
            [token for token in special_tokens if token not in tokenizer.get_vocab()], special_tokens=True
        )
    return tokenizer


def _trained(corpus: Iterable[str], kind: str, vocab_size: int, cache_dir: str) -> Path:
    key = f"{text_hash(corpus)} {kind} {vocab_size} {version('tokenizers')}"
    folder = Path(cache_dir) / f"tokenizer-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    if not folder.is_dir():
        unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        train_tokenizer(corpus, kind, vocab_size).save_pretrained(unfinished)
        try:
            os.replace(unfinished, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
            shutil.rmtree(unfinished)
    return folder


def get_data(run: RunArguments, tokenizer: PreTrainedTokenizerBase, cache_dir: str) -> Data:
    """The corpus, tokenized, in its two parts."""
    train, held_out = load_documents(replace(run.corpus, cache_dir=cache_dir), tokenizer, run.training.seed)
    if held_out is None:
        raise ValueError("a validation_fraction of 0 leaves nothing to evaluate on; give a --validation_file as well")
    return Data(train, held_out)


def get_datasets(
    run: RunArguments, objective: Objective, data: Data, vocabulary: Vocabulary
) -> tuple[PretrainingDataset, EvaluationDataset]:
    """The draws of the run and its held-out examples; sets `max_steps` from epochs where those were given."""
    args = run.training
    length, seed = run.model.max_seq_length, args.seed if args.data_seed is None else args.data_seed
    global_batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps <= 0:
        if args.num_train_epochs <= 0:
            raise ValueError("give --max_steps or --num_train_epochs, above 0")
        plan = objective.plan(data.train, vocabulary, length=length, seed=seed, epoch=0, global_batch=global_batch)
        args.max_steps = math.ceil(args.num_train_epochs * len(plan) / global_batch)
    sizes: dict[str, Any] = {"length": length, "seed": seed, "global_batch": global_batch}
    train = PretrainingDataset(objective, data.train, vocabulary, max_steps=args.max_steps, **sizes)
    held_out = EvaluationDataset(objective, data.held_out, vocabulary, max_rows=args.max_eval_samples, **sizes)
    return train, held_out
