"""The pretraining command as a user runs it: arguments, recipes, a whole run, resuming, and every kind of bad input."""

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
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from pretrain_zoo.models import settings
from pretrain_zoo.objectives import get_objective
from pretrain_zoo.scripts.pretrain import main, pretrain
from pretrain_zoo.training.arguments import RECIPES, parse_arguments
from pretrain_zoo.training.objective_arguments import objective_from_arguments
from pretrain_zoo.training.prepare import check_model_name
from pretrain_zoo.training.run_folder import RUN, find_run
from pretrain_zoo.training.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
ANIMALS, PLACES = ("cat", "dog", "bird", "horse", "cow"), ("mat", "hill", "road", "roof", "field")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text file of fifty documents in a small language."""
    lines = []
    for i in range(50):
        for j in range(6):
            animal, place = ANIMALS[(i + j) % 5], PLACES[(i + 2 * j) % 5]
            lines.append(f"The {animal} sat on the {place}. It saw the other animals, and the {animal} left.")
        lines.append("")
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(corpus, cache, tmp_path):
    """Arguments of a run of a second, into `tmp_path / "run"`."""
    text = (
        f"--corpus {corpus} --cache_dir {cache} --output_dir {tmp_path / 'run'} --vocab_size 300 --use_cpu "
        "--max_seq_length 32 --per_device_train_batch_size 4 --max_steps 6 --logging_steps 2 --eval_steps 3 "
        "--save_steps 2 --save_total_limit 5 --validation_fraction 0.1"
    )
    return text.split()


def failure(capsys, arguments):
    """What a command that must fail says, checked to be one message without traceback."""
    assert main([str(a) for a in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    return message


# arguments


def test_settings_of_the_objective_and_of_everything_else():
    text = "--mlm_probability 0.3 --selection=exact --max_predictions_per_seq 7 --learning_rate 1e-4 --use_cpu"
    text += " --corpus x.txt --config_overrides hidden_size=64,hidden_act=relu"
    run = parse_arguments(text.split())
    assert run.objective == get_objective("mlm", mlm_probability=0.3, selection="exact", max_predictions_per_seq=7)
    assert run.training.learning_rate == 1e-4 and run.corpus.corpus == "x.txt"
    assert run.model.overrides == {"hidden_size": 64, "hidden_act": "relu"}


def test_defaults_follow_the_objective():
    assert parse_arguments(["--use_cpu"]).training.output_dir == "runs/modernbert-tiny-mlm"
    run = parse_arguments(["--objective", "clm", "--num_train_epochs", "2", "--use_cpu"])
    assert run.model.model_name_or_path == "gpt2-tiny" and run.training.output_dir == "runs/gpt2-tiny-clm"
    assert parse_arguments(["--objective", "mlm+nsp", "--use_cpu"]).model.model_name_or_path == "bert-tiny"
    assert run.training.max_steps == -1 and run.training.num_train_epochs == 2


@pytest.mark.parametrize(
    "model, rate", [("bert-tiny", 3e-3), ("bert-base", 5e-4), ("FacebookAI/roberta-base", 5e-5)], ids=str
)
def test_learning_rate_follows_the_model(model, rate):
    arguments = ["--model_name_or_path", model, "--use_cpu"]
    assert parse_arguments(arguments).training.learning_rate == rate
    assert parse_arguments([*arguments, "--learning_rate", "0.1"]).training.learning_rate == 0.1


@pytest.mark.parametrize(
    "arguments, value",
    [
        (["--max_predictions_per_seq", "none"], None),
        (["--max-predictions-per-seq", "3"], 3),
        (["--mlm.max_predictions_per_seq", "4"], 4),
    ],
)
def test_ways_to_write_a_setting(arguments, value):
    assert objective_from_arguments("mlm", arguments).max_predictions_per_seq == value


def test_settings_of_combined_objectives():
    joint = objective_from_arguments("mlm+span_mlm", ["--mlm.mlm_probability", "0.1", "--geometric_p", "0.4"])
    assert joint.parts[0].mlm_probability == 0.1 and joint.parts[1].mlm_probability == 0.15
    assert joint.parts[1].geometric_p == 0.4
    with pytest.raises(ValueError, match="could be --mlm.mlm_probability or --span_mlm.mlm_probability"):
        objective_from_arguments("mlm+span_mlm", ["--mlm_probability", "0.1"])
    with pytest.raises(ValueError, match="unknown argument --mlm.geometric_p"):
        objective_from_arguments("mlm+span_mlm", ["--mlm.geometric_p", "0.4"])


def test_switches_need_no_value():
    assert objective_from_arguments("clm", ["--document_attention", "--packing", "documents"]) == get_objective(
        "clm", document_attention=True, packing="documents"
    )
    assert not objective_from_arguments("clm", ["--document_attention", "false"]).document_attention


def test_command_line_wins_over_recipe(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("objective: clm\npacking: documents\nlearning_rate: 2e-3\nseed: 5\nconfig_overrides: null\n")
    run = parse_arguments(["--config", str(recipe), "--seed", "7", "--use_cpu"])
    assert run.objective == get_objective("clm", packing="documents")
    assert run.training.learning_rate == 2e-3 and run.training.seed == 7
    assert parse_arguments(["--config", str(recipe), "--objective", "mlm", "--use_cpu"]).objective_name == "mlm"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path, monkeypatch):
    monkeypatch.setattr(settings, "is_offline_mode", lambda: False)
    run = parse_arguments(["--config", path.stem, "--use_cpu"])
    name = str(run.model.model_name_or_path)
    if not name.startswith("runs/"):  # which another recipe makes
        check_model_name(name)
    assert run.training.max_steps > 0 or run.training.num_train_epochs > 0
    assert run.model.overrides is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert-tinny", "did you mean bert-tiny"),
        ("my-model", "presets: bert-tiny, .*owner/name"),
        ("/data/models/bert", "--model_name_or_path: there is no folder '/data/models/bert'"),
        ("./runs/bert", "there is no folder './runs/bert'"),
    ],
)
def test_models_that_are_not_there(name, message):
    with pytest.raises(ValueError, match=message):
        check_model_name(name)


def test_models_that_may_be_there(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "is_offline_mode", lambda: False)
    for name in ("bert-tiny", "FacebookAI/roberta-base", str(tmp_path)):
        check_model_name(name)


def test_models_that_were_never_fetched_are_refused_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "is_offline_mode", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="no folder 'runs/bert' .in .*, and no model of that name was fetched"):
        check_model_name("runs/bert")
    snapshot = tmp_path / "models--runs--bert" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--runs--bert" / "refs").mkdir()
    (tmp_path / "models--runs--bert" / "refs" / "main").write_text("0123")
    check_model_name("runs/bert")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokenizer_name", "/no/tokenizer"], "--tokenizer_name: there is no folder '/no/tokenizer'"),
        (["--objective", "distillation(mlm)", "--teacher", "./no"], "--teacher: there is no folder './no'"),
    ],
)
def test_folders_that_are_not_there_are_named(capsys, command, arguments, message):
    assert message in failure(capsys, command + arguments)


@pytest.mark.parametrize("note", [{"compression.json": {}}, {"config.json": {"quantization_config": {"bits": 4}}}])
def test_compressed_checkpoints_are_refused_before_the_corpus_is_tokenized(capsys, command, tmp_path, note):
    assert main(command) == 0
    ((name, added),) = note.items()
    path = tmp_path / "run" / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | added))
    capsys.readouterr()
    assert main([*command, "--model_name_or_path", str(tmp_path / "run"), "--output_dir", str(tmp_path / "more")]) == 2
    shown = capsys.readouterr()
    assert "holds compressed weights, which cannot be trained" in shown.err and "documents" not in shown.out
    assert not (tmp_path / "more").exists()


def test_an_unfit_family_is_refused_before_the_corpus_is_tokenized(capsys, command):
    assert main([*command, "--model_name_or_path", "modernbert-tiny", "--objective", "clm"]) == 2
    shown = capsys.readouterr()
    assert "the family modernbert, of which transformers has no AutoModelForCausalLM" in shown.err
    assert "gpt2-tiny" in shown.err and "documents" not in shown.out


def test_tiny_recipe_is_what_runs_without_arguments():
    bare, recipe = parse_arguments([]), parse_arguments(["--config", "modernbert-tiny"])
    assert (bare.objective, bare.model, bare.corpus) == (recipe.objective, recipe.model, recipe.corpus)
    assert bare.training.to_dict() == recipe.training.to_dict()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mlm_probabilty", "0.3"], "did you mean --mlm_probability "),
        (["--learning_rat", "1"], "did you mean --learning_rate?"),
        (["--objective", "whole_word_mln"], "did you mean 'whole_word_mlm'?"),
        (["--mlm_probability", "much"], "--mlm_probability: must be a number, not 'much'"),
        (["--mlm_probability", "1.5"], "must lie in 0 … 1"),
        (["--selection", "both"], "must be independent or exact, not 'both'"),
        (["--max_predictions_per_seq", "1.5"], "must be a whole number"),
        (["--mlm_probability"], "a value is missing"),
        (["--learning_rate", "much"], "invalid float value: 'much'"),
        (["corpus.txt"], "unexpected argument 'corpus.txt'"),
        (["--config", "nowhere"], "there is no recipe 'nowhere'; give a YAML file or one of: "),
        (["--config", "bert-tinyy"], "there is no recipe 'bert-tinyy'; did you mean bert-tiny or "),
        (["--mixture.en.corpus", "en.txt"], "there is no mixture.en; there are none: a recipe names them"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size must be 1 or more, not 0"),
        (["--torch_dtype", "int8"], "must be float32, bfloat16 or float16"),
        (["--config_overrides", "hidden_size"], "must read name=value"),
        (["--model_name_or_path", "bert-tny"], "did you mean bert-tiny"),
    ],
)
def test_bad_arguments(capsys, command, arguments, message):
    assert message in failure(capsys, command + arguments)


def test_damaged_recipe(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("objective: [mlm\n")
    (tmp_path / "b.yaml").write_text("- objective\n")
    assert "not valid YAML" in failure(capsys, ["--config", tmp_path / "a.yaml"])
    assert "must hold lines like" in failure(capsys, ["--config", tmp_path / "b.yaml"])


def test_a_component_without_corpus_is_no_component_of_the_default_one(tmp_path):
    recipe = tmp_path / "mixture.yaml"
    recipe.write_text("mixture:\n  en: {corpus: en.txt}\n  ko: {language: ko}\n")
    given = ["--config", str(recipe), "--use_cpu"]
    with pytest.raises(ValueError, match="mixture.ko names no corpus: give --mixture.ko.corpus, or in the recipe"):
        parse_arguments(given)
    assert len(parse_arguments([*given, "--mixture.ko.corpus", "embedded"]).phases) == 1
    recipe.write_text(recipe.read_text() + "corpus: all.txt\n")
    assert len(parse_arguments(given).phases) == 1
    recipe.write_text("mixture:\n  a: {mlm_probability: 0.3}\n  b: {}\n")  # both of the default corpus
    assert len(parse_arguments(given).phases) == 1


def test_help_lists_settings_of_the_objective(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--objective", "ngram_mlm", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(flag in shown for flag in ("--max_ngram", "--corpus", "--learning_rate", "--max_seq_length", "--config"))


# runs


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


# bad input, found before training


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
