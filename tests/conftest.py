"""Shared by all tests: a fixed text, and small tokenizers of four kinds trained on it."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import math
import random
from collections import Counter
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

torch.set_num_threads(1)
# The same examples at every run of CI; elsewhere new ones, which may find what the fixed ones do not.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

WHO = "the miller,an old sailor,Dr. Weber,my sister,the committee,nobody,a naïve apprentice,the 東京 office,each baker"
WHAT = "mends,forgot,doesn't understand,carried,has rewritten,will photograph,counted,couldn't find,overestimates"
WHOM = (
    "the well-known clock,42 barrels of flour,a letter,l'encyclopédie,the unbelievable misunderstanding,his umbrella,"
    "her counterrevolutionary pamphlet,every window,the ship's bell,nothing"
)
WHERE = "by the river,in winter,after the war,at home,under a café table,between two villages,for £3.50,,,"
TAILS = ".,.,.,.,!,?,; so it goes.,... or not."


def make_texts(count: int = 200, seed: int = 0) -> list[str]:
    """Documents of one to eight sentences: contractions, hyphens, figures, accents, Han characters, long words."""
    rng = random.Random(seed)

    def sentence() -> str:
        parts = [rng.choice(options.split(",")) for options in (WHO, WHAT, WHOM, WHERE)]
        text = " ".join(part for part in parts if part)
        return text[0].upper() + text[1:] + rng.choice(TAILS.split(","))

    return [" ".join(sentence() for _ in range(rng.randint(1, 8))) for _ in range(count)]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """200 short documents of several sentences."""
    return make_texts()


def _template(tokenizer: Tokenizer, begin: str, end: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
    )


@pytest.fixture(scope="session")
def wordpiece_tokenizer(texts) -> PreTrainedTokenizerFast:
    """BERT's kind: `##` inside words, `[CLS] A [SEP] B [SEP]` with token types."""
    from pretrain_zoo.training.tokenizer import train_tokenizer  # the library's own trainer gives another every time

    return train_tokenizer(texts, "wordpiece", vocab_size=200)


@pytest.fixture(scope="session")
def tokenizer_folder(wordpiece_tokenizer, tmp_path_factory) -> Path:
    """Where `wordpiece_tokenizer` is saved."""
    folder = tmp_path_factory.mktemp("tokenizer")
    wordpiece_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bpe_tokenizer(texts) -> PreTrainedTokenizerFast:
    """LLaMA's kind: BPE with `▁` for spaces, `<s> A </s> B </s>`, begin and end but no cls and sep tokens."""
    names = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>", "mask": "<mask>"}
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=220, special_tokens=list(names.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    _template(tokenizer, "<s>", "</s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


@pytest.fixture(scope="session")
def byte_bpe_tokenizer(texts) -> PreTrainedTokenizerFast:
    """RoBERTa's kind: byte-level BPE with `Ġ` for spaces, `<s> A </s></s> B </s>`, padding id 1."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    names = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


@pytest.fixture(scope="session")
def unigram_tokenizer(texts) -> PreTrainedTokenizerFast:
    """ALBERT's kind: Unigram with `▁` for spaces, `[CLS] A [SEP] B [SEP]` with token types."""
    names = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    # Pieces by frequency: the library's trainer gives another vocabulary every time.
    pieces: Counter[str] = Counter()
    for word, count in Counter(f"▁{word}" for text in texts for word in text.split()).items():
        for i in range(len(word)):
            for j in range(i + 1, min(len(word), i + 10) + 1):
                pieces[word[i:j]] += count
    ranked = sorted(pieces, key=lambda p: (len(p) > 1, -pieces[p] * len(p), p))[:300]
    scores = [(name, 0.0) for name in names.values()] + [(p, math.log(pieces[p] / pieces.total())) for p in ranked]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=1))
    tokenizer.add_special_tokens(list(names.values()))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _template(tokenizer, "[CLS]", "[SEP]")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


TOKENIZER_KINDS = ("wordpiece", "bpe", "byte_bpe", "unigram")


@pytest.fixture(params=TOKENIZER_KINDS)
def any_tokenizer(request) -> PreTrainedTokenizerFast:
    """Each of the four tokenizers in turn."""
    return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.fixture(scope="session")
def documents(texts, wordpiece_tokenizer):
    """The texts as `Documents`, by the WordPiece tokenizer."""
    from pretrain_zoo.training.encode import encode

    return encode(wordpiece_tokenizer.backend_tokenizer, texts)


@pytest.fixture(scope="session")
def vocabulary(wordpiece_tokenizer):
    """The WordPiece tokenizer's."""
    from pretrain_zoo.objectives import Vocabulary

    return Vocabulary.from_tokenizer(wordpiece_tokenizer)


@pytest.fixture(scope="session")
def checkpoints(wordpiece_tokenizer, tmp_path_factory):
    """Folder of a small checkpoint by its family, made when asked for."""
    from small_models import make_checkpoint

    folder = tmp_path_factory.mktemp("families")
    return cache(lambda family: make_checkpoint(family, wordpiece_tokenizer, folder))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A text file of fifty documents in a small language."""
    from pretraining_commands import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def command(corpus, tmp_path) -> list[str]:
    """Arguments of a pretraining run of a second, into the folder "run"."""
    from pretraining_commands import command_of

    return command_of(corpus, tmp_path / "run")


@pytest.fixture
def parse(tmp_path):
    """Arguments from a recipe of phases and a command line."""
    import yaml
    from phased_runs import COMMON

    from pretrain_zoo.training.arguments import parse_arguments

    def parsed(recipe: dict, *argv: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**COMMON, **recipe}, sort_keys=False))
        return parse_arguments(["--config", str(path), *argv])

    return parsed
