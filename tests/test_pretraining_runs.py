"""Whole runs of the pretraining command: from corpus to checkpoint, killed and resumed, going on, on two processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pretraining_commands import failure
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from pretrain_zoo.scripts.pretrain import main, pretrain
from pretrain_zoo.training.arguments import parse_arguments
from pretrain_zoo.training.run_folder import RUN

ROOT = Path(__file__).resolve().parent.parent


# one process


def test_masked_lm_from_corpus_to_checkpoint(capsys, command, tmp_path):
    assert main(command) == 0
    shown, folder = capsys.readouterr().out, tmp_path / "run"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = tokenizer("the cat sat on the [MASK].", return_tensors="pt")
    assert model(**text).logits.shape[-1] == len(tokenizer)
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 6 and results["parameters"] == sum(p.numel() for p in model.parameters())
    assert set(results["held_out"]) >= {"loss", "perplexity", "accuracy"} and results["baseline"]["perplexity"] > 1
    assert f"{results['held_out']['perplexity']:,.1f}" in shown and "held-out accuracy" in shown
    assert (folder / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert "pipeline_tag: fill-mask" in (folder / "README.md").read_text()
    assert not list(folder.glob("*.bin")) and not (folder / "training_args.bin").exists()

    assert main(command) == 0  # finished: shows the same figures and trains nothing
    again = capsys.readouterr().out
    assert "finished" in again and "step 2/6" not in again and f"{results['held_out']['perplexity']:,.1f}" in again
    assert "--seed 7 (there 42)" in failure(capsys, [*command, "--seed", "7"])
    assert main([*command, "--seed", "7", "--overwrite_output_dir"]) == 0
    assert json.loads((folder / RUN).read_text())["identity"]["seed"] == 7


def test_causal_lm_exports_a_generator(capsys, command, tmp_path):
    assert main([*command, "--objective", "clm", "--num_train_epochs", "0.5", "--max_steps", "-1"]) == 0
    assert "gpt2-tiny, clm" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, pad_token_id=0).shape == (1, 5)
    assert "pipeline_tag: text-generation" in (tmp_path / "run" / "README.md").read_text()


def test_killed_run_resumes_to_the_same_weights(capsys, command, tmp_path):
    whole = [tmp_path / "whole" if a == str(tmp_path / "run") else a for a in command]
    assert main([str(a) for a in whole]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "pretrain_zoo.scripts.pretrain", *command], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoint-2").exists():
            assert process.poll() is None or (tmp_path / "run" / "checkpoint-2").exists()
            assert time.monotonic() < deadline, "no checkpoint appeared"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    if (tmp_path / "run" / "results.json").exists():
        pytest.skip("the run was faster than the kill")
    capsys.readouterr()
    assert main(command) == 0
    assert "resuming from" in capsys.readouterr().out
    one, other = (AutoModelForMaskedLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_trains_on(command, tmp_path):
    assert main(command) == 0
    onward = [str(tmp_path / "onward") if a == str(tmp_path / "run") else a for a in command]
    assert main([*onward, "--model_name_or_path", str(tmp_path / "run"), "--objective", "whole_word_mlm"]) == 0
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("run", "onward"))
    assert before == after  # the checkpoint's own tokenizer, not one trained anew


def test_a_trained_tokenizer_gets_the_tokens_an_objective_needs(command, tmp_path):
    assert main([*command, "--objective", "ul2", "--max_steps", "1", "--vocab_size", "400"]) == 0
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "run").get_vocab()
    assert {"<extra_id_0>", "<extra_id_99>", "[R]", "[S]", "[X]"} <= set(vocabulary)


# several processes


@pytest.mark.distributed
@pytest.mark.skipif(shutil.which("accelerate", path=str(Path(sys.executable).parent)) is None, reason="no accelerate")
def test_two_processes(command, tmp_path):
    accelerate = Path(sys.executable).parent / "accelerate"
    launch = [accelerate, "launch", "--config_file", ROOT / "accelerate_config.yaml", "--num_processes", "2"]
    launch += ["--main_process_port", "0", ROOT / "scripts" / "pretrain.py"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [a for a in command if a != "--use_cpu"]
    done = subprocess.run([*map(str, launch), *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out perplexity") == 1  # one process prints
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["device"] == "2 × cpu" and results["batch"] == 8 and results["steps"] == 6


def test_processes_that_do_not_know_of_each_other_are_refused(corpus, tmp_path, monkeypatch):
    run = parse_arguments(["--corpus", str(corpus), "--output_dir", str(tmp_path), "--use_cpu", "--max_steps", "2"])
    assert run.training.world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")  # as a launcher sets it, with nothing that joined the processes
    with pytest.raises(ValueError, match="use_cpu"):
        pretrain(run, Console())
