"""Bad input that the pretraining command finds before training, or stops at: corpora, tokenizers, sizes, folders."""

import json

import pytest
from pretraining_commands import failure
from transformers import AutoTokenizer

from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training.run_folder import RUN, find_run
from pretrain_zoo.training.tokenizer import train_tokenizer


def test_bad_corpora(capsys, command, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Ein Satz.\n\nnoch größer\n".encode("latin-1"))
    (tmp_path / "rows.jsonl").write_text('{"content": "A sentence."}\n')
    for name, message in (
        ("empty.txt", "is empty"),
        ("latin.txt", "latin.txt, line 3: byte 18 (0xf6) is not valid UTF-8"),
        ("rows.jsonl", "there is no column 'text', only 'content'; choose with --text_column"),
        ("none.txt", "There is no file or folder"),
    ):
        assert message in failure(capsys, [*command, "--corpus", tmp_path / name])
    assert not (tmp_path / "run").exists()  # a mended command is not refused as another run


def test_tokenizer_without_mask_token(capsys, command, tmp_path):
    train_tokenizer(["a cat sat"] * 9, "gpt2", 300).save_pretrained(tmp_path / "named")
    named = ["--model_name_or_path", "gpt2-tiny", "--tokenizer_name", tmp_path / "named"]
    message = failure(capsys, [*command, *named, "--objective", "mlm"])
    assert "has no mask token, which this objective needs" in message


def test_text_that_the_tokenizer_does_not_know(capsys, command, tmp_path):
    train_tokenizer(["고양이가 매트에 앉았다"] * 9, "wordpiece", 100).save_pretrained(tmp_path / "korean")
    message = failure(capsys, [*command, "--tokenizer_name", tmp_path / "korean"])
    assert "of the corpus' tokens are unknown to the tokenizer; raise --vocab_size, or name a tokenizer" in message
    assert not (tmp_path / "run").exists()


def test_vocabulary_larger_than_the_embeddings(capsys, command, tmp_path):
    message = failure(capsys, [*command, "--config_overrides", "vocab_size=20"])
    assert "vocab_size 20 is too small" in message
    assert main(command) == 0
    big = tmp_path / "big"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    tokenizer.add_tokens([f"word{i}" for i in range(50)])
    tokenizer.save_pretrained(big)
    other = ["--output_dir", tmp_path / "other", "--model_name_or_path", tmp_path / "run", "--tokenizer_name", big]
    assert "has embeddings for" in failure(capsys, [*command, *other])


def test_bad_sizes(capsys, command):
    assert "leaves no room" in failure(capsys, [*command, "--max_seq_length", "2"])
    assert "above 0" in failure(capsys, [*command, "--max_steps", "0"])
    assert "between 0 and 1" in failure(capsys, [*command, "--validation_fraction", "1"])


def test_nan_loss_stops_the_run(capsys, command):
    message = failure(capsys, [*command, "--learning_rate", "1e30", "--max_grad_norm", "0", "--warmup_steps", "0"])
    assert "the loss became NaN or infinite at step" in message and "--learning_rate" in message


def test_folder_that_is_no_run(capsys, command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("text")
    assert "--overwrite_output_dir" in failure(capsys, command)
    assert main([*command, "--overwrite_output_dir"]) == 0
    assert (tmp_path / "run" / "thesis.tex").exists()  # only what a run writes is replaced


def test_differences_between_runs_are_all_named(tmp_path):
    (tmp_path / RUN).write_text(json.dumps({"identity": {"seed": 1, "batch": 8, "objective": "mlm"}}))
    with pytest.raises(ValueError, match=r"--batch 16 \(there 8\), --seed 2 \(there 1\)"):
        find_run(tmp_path, {"seed": 2, "batch": 16, "objective": "mlm"}, overwrite=False)
    assert find_run(tmp_path, {"seed": 1, "batch": 8, "objective": "mlm"}, overwrite=False) is None


def test_traceback_on_request(command, monkeypatch):
    monkeypatch.setenv("PRETRAIN_ZOO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown objective"):
        main([*command, "--objective", "nothing"])
