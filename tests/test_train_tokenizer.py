"""The command that trains tokenizers: held-out documents, its figures, objectives, folders of other files."""

import pytest
from tokenizer_texts import TEXTS
from transformers import AutoTokenizer

from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.scripts import train_tokenizer as script
from pretrain_zoo.training.tokenizer import KINDS, train_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_script(tmp_path, capsys, kind):
    (tmp_path / "corpus.txt").write_text("\n\n".join([*TEXTS, "zebra zebra zebra"]), encoding="utf-8")
    output = tmp_path / "tokenizer"
    command = (
        f"--output_dir {output} --corpus {tmp_path}/corpus.txt --kind {kind} --vocab_size 300 --model_max_length 64"
    )
    script.main([*command.split(), "--validation_fraction", "0.08"])  # every 12th document, so not the last
    printed = capsys.readouterr().out
    assert "held-out documents" in printed and "tokens per word" in printed
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert len(tokenizer) <= 300 and tokenizer.model_max_length == 64


def test_script_keeps_documents_from_training(tmp_path, capsys):
    documents = [*TEXTS[:11], "zyzzyva zyzzyva zyzzyva"] * 2
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents), encoding="utf-8")
    command = ["--output_dir", str(tmp_path / "a"), "--corpus", str(tmp_path / "corpus.txt"), "--vocab_size", "300"]
    script.main([*command, "--validation_fraction", "0.0833"])
    assert "zyzzyva" not in AutoTokenizer.from_pretrained(tmp_path / "a").get_vocab()
    script.main([*command, "--validation_fraction", "0"])
    assert "zyzzyva" in AutoTokenizer.from_pretrained(tmp_path / "a").get_vocab()
    assert "training documents" in capsys.readouterr().out


def test_script_writes_into_no_folder_of_other_files(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    command = ["--output_dir", str(tmp_path), "--corpus", str(tmp_path / "corpus.txt"), "--vocab_size", "300"]
    assert script.main(command) == 2
    assert "holds files, and none of them is a tokenizer" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_script_for_an_objective(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    command = ["--output_dir", str(tmp_path / "a"), "--corpus", str(tmp_path / "corpus.txt"), "--kind", "gpt2"]
    assert script.main([*command, "--vocab_size", "500", "--objective", "fim", "--special_tokens", "<en>, <ko>"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    get_objective("fim").check(Vocabulary.from_tokenizer(tokenizer))
    assert tokenizer.tokenize("<ko>") == ["<ko>"]


def test_measure():
    tokenizer = train_tokenizer(["aa bb"] * 3, vocab_size=40)
    figures = script.measure(tokenizer, ["aa bb, aa", "aa z"])
    assert figures == {
        "words": "6",
        "tokens per word": "1.000",
        "characters per token": f"{13 / 6:.2f}",
        "unknown tokens": f"{2 / 6:.3%}",
    }
