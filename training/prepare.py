"""From arguments to what a run is made of: tokenizer, tokenized corpus, datasets."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..models.presets import list_presets
from ..models.settings import check_checkpoint
from ..objectives import Documents, Objective, Vocabulary
from .arguments import ModelArguments, RunArguments
from .dataset import EvaluationDataset, PretrainingDataset
from .documents import load_documents
from .embedded import text_hash
from .mixed_evaluation import MixedEvaluationDataset
from .mixture import Component, Phase, PhasedDataset
from .quotas import Weights
from .survey import summary, survey
from .tokenizer import train_tokenizer

KINDS = {family: family for family in ("albert", "deberta-v3", "llama", "xlm-roberta", "xlnet")}
KINDS |= dict.fromkeys(("t5", "switch"), "unigram") | dict.fromkeys(("roberta", "bart"), "bpe")
KINDS |= dict.fromkeys(("gpt1", "gpt2", "gpt3"), "gpt2") | {"mixtral": "llama"}
"""Kind of tokenizer that is trained for a preset's family, the published one's; "wordpiece" for all others."""


@dataclass(frozen=True)
class Texts:
    """The texts of several corpora, one after another; can be read any number of times."""

    corpora: tuple[Iterable[str], ...]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.corpora)


def all_texts(run: RunArguments) -> Iterable[str]:
    """The texts of all corpora of a run."""
    corpora = {str(c.corpus): c.corpus for phase in run.phases for c in phase.components} or {"": run.corpus}
    return Texts(tuple(corpus.open() for corpus in corpora.values()))


@dataclass
class Data:
    """Tokenized text of a run: what it trains on and what is held out, and a summary of the corpus for people."""

    train: Documents
    held_out: Documents
    summary: str = ""


def check_model_name(name: str) -> None:
    """Raise `ValueError`, with the nearest presets, for a name that is no preset, folder or model of the Hub."""
    if name in list_presets() or Path(name).is_dir():
        return
    if "/" in name:
        return check_checkpoint(name, "--model_name_or_path")
    near = difflib.get_close_matches(name, list_presets(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"presets: {', '.join(list_presets())}."
    raise ValueError(f"there is no preset or folder {name!r}; {hint} A model of the Hub is written owner/name")


def get_tokenizer(
    model: ModelArguments,
    corpus: Iterable[str],
    cache_dir: str,
    objective: Objective | None = None,
    languages: Collection[str] = ("en",),
) -> PreTrainedTokenizerBase:
    """The tokenizer named, else the checkpoint's, else one trained on the corpus (once, kept in `cache_dir`).

    One trained here strips accents, where its kind does, from English text alone: they tell letters apart in most other
    `languages` of the corpus, and without them Hangul is taken apart.

    Where the model is a preset, whose embeddings are made for the tokenizer, it gets the special tokens of `objective`
    that it lacks, and one trained here its mask too.
    """
    name = str(model.model_name_or_path)
    source = model.tokenizer_name or (None if name in list_presets() else name)
    trained = source is None
    if source is None:
        kind = KINDS.get(name.rpartition("-")[0], "wordpiece")
        options = {} if {*languages} <= {"en"} else {"strip_accents": False}
        source = str(_trained(corpus, kind, model.vocab_size, cache_dir, options))
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token  # only the attention mask tells padding
    if model.mask_token is not None and tokenizer.mask_token is None:
        if name not in list_presets() and model.mask_token not in tokenizer.get_vocab():
            raise ValueError(
                f"--mask_token {model.mask_token!r} is no token of {source}, whose embeddings have no row for a new "
                "one; name a token that is there and rare"
            )
        tokenizer.add_special_tokens({"mask_token": model.mask_token})
    if objective is not None and name in list_presets():
        if trained and "mask" in objective.needs and tokenizer.mask_token is None:
            tokenizer.add_special_tokens({"mask_token": "<mask>"})
        missing = [token for token in objective.special_tokens if token not in tokenizer.get_vocab()]
        tokenizer.add_tokens(missing, special_tokens=True)
    return tokenizer


def _trained(corpus: Iterable[str], kind: str, vocab_size: int, cache_dir: str, options: dict[str, Any]) -> Path:
    key = f"{text_hash(corpus)} {kind} {vocab_size} {version('tokenizers')} {options or ''}".strip()
    folder = Path(cache_dir) / f"tokenizer-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    if not folder.is_dir():
        unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        train_tokenizer(corpus, kind, vocab_size, **options).save_pretrained(unfinished)
        try:
            os.replace(unfinished, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
            shutil.rmtree(unfinished)
    return folder


def get_data(run: RunArguments, tokenizer: PreTrainedTokenizerBase, cache_dir: str) -> Data:
    """The corpus, tokenized, in its two parts."""
    arguments = replace(run.corpus, cache_dir=cache_dir)
    train, held_out = load_documents(arguments, tokenizer, run.training.seed)
    if held_out is None:
        raise ValueError("a validation_fraction of 0 leaves nothing to evaluate on; give a --validation_file as well")
    if train.windowed:
        size = f"{len(train):,} documents, {train.num_tokens:,} tokens"
        return Data(train, held_out, f"{arguments.corpus}: read in windows, the first of {size}")
    corpus = arguments.open()
    parts = (train, held_out) if arguments.validation_file is None else (train,)
    return Data(train, held_out, summary(corpus, survey(corpus, cache_dir), *parts))


def check_known(documents: Documents, vocabulary: Vocabulary) -> None:
    """Raise `ValueError` if most of the text is unknown to the tokenizer, so that there is little to predict."""
    tokens = documents.tokens[:1_000_000]
    unknown = int((tokens == vocabulary.unk_id).sum()) if vocabulary.unk_id is not None else 0
    if 2 * unknown > len(tokens):
        raise ValueError(
            f"{unknown / len(tokens):.0%} of the corpus' tokens are unknown to the tokenizer; raise --vocab_size, or "
            "name a tokenizer of the corpus' language (--tokenizer_name)"
        )


def get_all_data(run: RunArguments, tokenizer: PreTrainedTokenizerBase, cache_dir: str) -> dict[str, Data]:
    """The corpora by component's name; of a run without phases the only one, by ""."""
    if not run.phases:
        return {"": get_data(run, tokenizer, cache_dir)}
    components = {c.name: c for phase in run.phases for c in phase.components}
    read: dict[str, Data] = {}
    for component in components.values():
        if str(component.corpus) not in read:
            read[str(component.corpus)] = get_data(replace(run, corpus=component.corpus), tokenizer, cache_dir)
    return {name: read[str(component.corpus)] for name, component in components.items()}


def corpus_summary(run: RunArguments, data: dict[str, Data]) -> dict[str, Any]:
    """Names and sizes of the corpora of a run, each counted once."""
    arguments = [c.corpus for phase in run.phases for c in phase.components] or [run.corpus]
    parts = list({part.train.fingerprint: part for part in data.values()}.values())
    return {
        "name": ", ".join(dict.fromkeys(corpus.corpus for corpus in arguments)),
        "documents": sum(len(part.train) for part in parts),
        "tokens": sum(part.train.num_tokens for part in parts),
        "held_out_documents": sum(len(part.held_out) for part in parts),
        "fingerprint": " ".join(part.train.fingerprint for part in parts),
    }


def get_phased_datasets(
    run: RunArguments, data: dict[str, Data], vocabulary: Vocabulary, languages: Mapping[str, int]
) -> tuple[PhasedDataset, MixedEvaluationDataset]:
    """As `get_datasets`, for a run of several phases or components."""
    args = run.training
    seed = args.seed if args.data_seed is None else args.data_seed
    arguments = {c.name: c for phase in run.phases for c in phase.components}
    orders = list(dict.fromkeys(c.order for c in arguments.values()))
    components = {}
    for name, c in arguments.items():
        numbers = tuple(languages[code] for code in c.languages) if languages else ()
        text, order = data[name], orders.index(c.order)
        components[name] = Component(name, c.objective, c.max_seq_length, text.train, text.held_out, numbers, order)
    phases = []
    for phase in run.phases:
        own = phase.components
        kinds = Counter(c.objective_name for c in own)
        unknown = [c.name for c in own if kinds[c.objective_name] > 1 and data[c.name].train.windowed]
        if phase.alpha is not None and unknown:
            raise ValueError(
                f"sampling_alpha draws corpora by size, and that of {unknown[0]}, read in windows, is not known; "
                "give weights in place of sampling_alpha, or leave window_characters out"
            )
        weights = Weights(
            tuple(c.weight[0] for c in own),
            tuple(c.weight[1] for c in own),
            tuple(data[c.name].train.num_tokens for c in own),
            tuple(c.objective_name for c in own),
            phase.alpha,
        )
        drawn = tuple(components[c.name] for c in own)
        moving = phase.own_progress, phase.own_weights
        phases.append(Phase(phase.name, phase.steps, phase.rows, drawn, weights, phase.mixing, *moving))
    micro_batches = args.gradient_accumulation_steps * args.world_size
    train = PhasedDataset(phases, vocabulary, micro_batches=micro_batches, seed=seed)
    return train, MixedEvaluationDataset(train, max_rows=args.max_eval_samples, seed=seed)


def get_datasets(
    run: RunArguments,
    objective: Objective,
    data: Data,
    vocabulary: Vocabulary,
    languages: Mapping[str, int] | None = None,
) -> tuple[PretrainingDataset, EvaluationDataset]:
    """The draws of the run and its held-out examples; sets `max_steps` from epochs where those were given.

    `languages` are those of `number_languages`.
    """
    args = run.training
    length, seed = run.model.max_seq_length, args.seed if args.data_seed is None else args.data_seed
    global_batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps <= 0:
        if args.num_train_epochs <= 0:
            raise ValueError("give --max_steps or --num_train_epochs, above 0")
        if data.train.windowed:
            raise ValueError("how long an epoch of a corpus is that is read in windows is not known; give --max_steps")
        plan = objective.plan(data.train, vocabulary, length=length, seed=seed, epoch=0, global_batch=global_batch)
        args.max_steps = math.ceil(args.num_train_epochs * len(plan) / global_batch)
    sizes: dict[str, Any] = {"length": length, "seed": seed, "global_batch": global_batch}
    sizes["languages"] = tuple(languages[code] for code in run.corpus.languages) if languages else ()
    train = PretrainingDataset(objective, data.train, vocabulary, max_steps=args.max_steps, **sizes)
    held_out = EvaluationDataset(objective, data.held_out, vocabulary, max_rows=args.max_eval_samples, **sizes)
    return train, held_out
