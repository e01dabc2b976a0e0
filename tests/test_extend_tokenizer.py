"""The command that extends a checkpoint's vocabulary: training goes on from it, and nothing is written over."""

import torch
from extended_tokenizers import NEW, OLD, PLAIN, logits
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pretrain_zoo.scripts import extend_tokenizer as script


def write(path, texts):
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return str(path)


def test_script_and_training_goes_on(tmp_path, capsys):
    from pretrain_zoo.scripts import pretrain

    corpus = write(tmp_path / "old.txt", OLD)
    common = ["--cache_dir", str(tmp_path / "cache"), "--use_cpu", "--max_seq_length", "32", "--save_steps", "2"]
    common += ["--max_steps", "2", "--per_device_train_batch_size", "4", "--eval_steps", "2", "--logging_steps", "1"]
    tiny = ["--config_overrides", "hidden_size=32,num_attention_heads=2,embedding_size=16", "--vocab_size", "150"]
    base = ["--objective", "rtd", "--model_name_or_path", "electra-tiny", "--corpus", corpus]
    assert pretrain.main([*base, *tiny, *common, "--output_dir", str(tmp_path / "rtd")]) == 0

    domain = write(tmp_path / "new.txt", NEW)
    command = [str(tmp_path / "rtd"), "--corpus", domain, "--output_dir", str(tmp_path / "more")]
    assert script.main([*command, "--new_tokens", "40", "--min_frequency", "3", "--validation_fraction", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "held-out documents" in printed and "tokens per word" in printed
    old, new = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("rtd", "more"))
    assert len(old) < len(new) <= len(old) + 40

    before, after = (AutoModelForMaskedLM.from_pretrained(tmp_path / n / "generator").eval() for n in ("rtd", "more"))
    torch.testing.assert_close(logits(after, new, PLAIN)[..., : len(old)], logits(before, old, PLAIN))
    go_on = ["--objective", "rtd", "--model_name_or_path", str(tmp_path / "more"), "--corpus", domain, *common]
    assert pretrain.main([*go_on, "--validation_fraction", "0.2", "--output_dir", str(tmp_path / "on")]) == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "on")) == len(new)


def test_script_refuses_to_write_over_the_checkpoint(tmp_path, capsys):
    assert script.main([str(tmp_path), "--output_dir", str(tmp_path), "--corpus", "x.txt"]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert script.main(["./nowhere", "--output_dir", str(tmp_path), "--corpus", "x.txt"]) == 2
    assert "checkpoint: there is no folder './nowhere'" in capsys.readouterr().err
