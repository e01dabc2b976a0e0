"""The README: its code runs, its table lists what there is, its links and arguments exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from pretrain_zoo.objectives import ObjectiveCollator, get_objective, registry
from pretrain_zoo.scripts.show import main, objectives_markdown
from pretrain_zoo.training.arguments import parse_arguments
from pretrain_zoo.training.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny BERT in place of the one that the README names."""
    tokenizer = train_tokenizer(
        ["The cat sat on the mat. It watched the unbelievably small birds."] * 4, vocab_size=120
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def code(marker):
    (block,) = [text for language, text in BLOCKS if language == "python" and marker in text]
    return block


def test_collator_in_a_trainer(checkpoint, tmp_path):
    text = (
        code("Trainer(").replace("google-bert/bert-base-uncased", str(checkpoint)).replace('"out"', f'"{tmp_path}/out"')
    )
    text = text.replace("max_steps=3", 'max_steps=3, use_cpu=True, report_to="none", save_strategy="no"')
    done = {}
    exec(text, done)
    assert done["trainer"].state.global_step == 3
    batch = done["trainer"].data_collator(done["dataset"][:8])
    assert (batch["labels"] != -100).any() and batch["labels"].shape == batch["input_ids"].shape


def test_own_objective(monkeypatch, checkpoint, tmp_path):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    (tmp_path / "one_span.py").write_text(code("one_span_mlm"))  # a module: dataclasses look theirs up
    monkeypatch.syspath_prepend(tmp_path)
    __import__("one_span")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    collator = ObjectiveCollator(
        get_objective("one_span_mlm", mask_replace_prob=1.0, random_replace_prob=0.0), tokenizer, seed=0
    )
    features = [tokenizer("the cat sat on the mat and the birds sat on the cat") for _ in range(200)]
    batch = collator(features)
    chosen = batch["labels"] != -100
    assert torch.equal(chosen, batch["input_ids"] == tokenizer.mask_token_id)
    starts = (chosen[:, 1:] & ~chosen[:, :-1]).sum(1)
    assert starts.max() == 1 and starts.sum() > 150 and len({tuple(row) for row in chosen.tolist()}) > 5


def test_table_lists_every_objective():
    listed = README.split("<!-- objectives:begin")[1].split("-->\n", 1)[1].split("<!-- objectives:end")[0]
    assert listed.strip() == objectives_markdown(), "put the output of `show --list --markdown` into the README"


def commands():
    found = []
    for text in (text for language, text in BLOCKS if language == "bash"):
        found += [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return found


@pytest.mark.parametrize("command", [c for c in commands() if re.search(r"scripts[./]pretrain\b", c)])
def test_arguments_are_known(command):
    words = command.split("pretrain_zoo.scripts.pretrain" if "-m" in command else "scripts/pretrain.py")[1].split()
    assert parse_arguments([word for word in words if word != "--bf16"]).training.max_steps


@pytest.mark.parametrize("command", [c for c in commands() if re.search(r"scripts\.(?!pretrain\b|show\b)", c)])
def test_flags_are_in_the_help(command, capsys):
    name = re.search(r"pretrain_zoo\.scripts\.\w+", command)[0]
    for script in (name, "pretrain_zoo.scripts.pretrain"):  # whose arguments some scripts pass on
        with pytest.raises(SystemExit):
            importlib.import_module(script).main(["--help"])
    shown = capsys.readouterr().out
    flags = re.findall(r"--\w+", command)
    assert flags and all(flag in shown for flag in flags)


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 4 and all((ROOT / link).exists() for link in links), links


def test_show_command(capsys):
    (command,) = [c for c in commands() if "scripts.show" in c]
    name, text = shlex.split(command)[-2:]
    assert name in registry.list_objectives() and text
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "--list" in shown and "--markdown" in shown and "--objective" in shown
