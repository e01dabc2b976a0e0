"""The show script: every objective is listed and can be shown; what changed is told apart by colour."""

import copy

import numpy as np
import pytest

from pretrain_zoo.objectives import Vocabulary, get_objective, list_objectives
from pretrain_zoo.objectives.registry import objective_class
from pretrain_zoo.scripts.show import KEPT, REPLACED, SPECIAL, main, paper, show, split_texts
from pretrain_zoo.scripts.show_examples import token_texts
from pretrain_zoo.training.tokenizer import train_tokenizer

TEXTS = [
    "The cat sat on the mat. It saw the birds in the garden. Then the cat went to sleep on the old mat.",
    "A dog ran over the hill. The old man gave the dog some bread. The dog went home with the man.",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 10, "wordpiece", 200)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return str(path)


def styles(line, style):
    """What stands in a line in this style."""
    return [line.plain[span.start : span.end] for span in line.spans if str(span.style) == style]


def named(lines, name):
    return [line for line in lines if line.plain.strip().startswith(f"{name}  ")]


def test_list_names_every_objective(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name in list_objectives():
        assert name in shown and objective_class(name).summary.split("(")[0].strip() in shown


def test_papers():
    assert paper(objective_class("mlm")) == "Devlin et al. 2018, arXiv 1810.04805"
    assert paper(objective_class("ngram_mlm")) == "Lan et al. 2019, arXiv 1909.11942"
    assert all(paper(objective_class(name)) for name in list_objectives())


def test_colours_tell_what_happened(tokenizer):
    objective = get_objective("mlm", mlm_probability=1.0, mask_replace_prob=0.4, random_replace_prob=0.3)
    lines = show(objective, tokenizer, TEXTS, 64, seed=2)
    before, after, targets = (named(lines, name)[0] for name in ("text", "input_ids", "predict"))
    words = [piece for piece in before.plain.split()[1:] if not piece.startswith("[")]
    masked, replaced, kept = (styles(after, style) for style in (SPECIAL, REPLACED, KEPT))
    assert set(masked) == {"[MASK]"} and len(masked) > 5 and len(replaced) > 5
    assert len(masked) + len(replaced) + len(kept) == len(words)
    assert targets.plain.split()[1:] == words


def test_predicted_tokens_that_stay_are_marked(tokenizer):
    objective = get_objective("mlm", mlm_probability=0.4, mask_replace_prob=0.0, random_replace_prob=0.0)
    lines = show(objective, tokenizer, TEXTS, 64)
    after, targets = named(lines, "input_ids")[0], named(lines, "predict")[0]
    assert styles(after, KEPT) == styles(targets, KEPT) and len(styles(after, KEPT)) > 5
    assert not styles(after, REPLACED) and not styles(after, SPECIAL)


@pytest.mark.parametrize("name", list_objectives())
def test_every_objective_can_be_shown(name, tokenizer):
    objective, tokenizer = get_objective(name), copy.deepcopy(tokenizer)
    tokenizer.add_tokens(list(objective.special_tokens), special_tokens=True)
    lines = show(objective, tokenizer, TEXTS * 4, 32)
    assert named(lines, "text") and any(line.plain.strip() for line in lines)


def test_command(capsys, folder):
    command = ["--objective", "whole_word_mlm", "--tokenizer_name", folder, "--mlm_probability", "0.5", TEXTS[0]]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "predict whole masked words" in shown and "[MASK]" in shown and "dog" not in shown
    assert main([*command, "--seed", "1"]) == 0
    assert capsys.readouterr().out != shown


def test_texts_among_settings():
    assert split_texts("mlm", ["--mlm_probability", "0.3", "one text", "--selection=exact", "two"]) == (
        ["--mlm_probability", "0.3", "--selection=exact"],
        ["one text", "two"],
    )
    assert split_texts("clm", ["--document_attention", "one text"]) == (["--document_attention"], ["one text"])
    assert split_texts("clm", ["--document_attention", "true", "text"])[1] == ["text"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--objective", "mln"], "did you mean 'mlm'?"),
        (["--mlm_probabilty", "1"], "did you mean --mlm_probability"),
        (["--tokenizer_name", "./nowhere"], "nowhere"),
    ],
)
def test_errors(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_byte_level_pieces_keep_their_spaces():
    tokenizer = train_tokenizer(TEXTS * 10, "gpt2", 320)
    texts = token_texts(tokenizer, tokenizer(TEXTS[0]).input_ids)
    assert "".join(" " * (spaced and i > 0) + text for i, (text, spaced) in enumerate(texts)) == TEXTS[0]
    assert Vocabulary.from_tokenizer(tokenizer).size == len(np.unique(list(tokenizer.get_vocab().values())))
