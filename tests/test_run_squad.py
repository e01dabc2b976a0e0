"""The command for question answering: it trains, answers, evaluates, goes on, and refuses."""

import json

import pytest
from squad_questions import learnable, make_checkpoint, rows_of, write

from pretrain_zoo.evaluation.squad_metrics import squad_scores
from pretrain_zoo.evaluation.squad_trainer import SquadTrainer
from pretrain_zoo.scripts.run_squad import main

SHORT = "--max_seq_length 64 --doc_stride 8 --max_query_length 20 --max_answer_length 6 --use_cpu --eval_strategy no"
FAMILIES = {"roberta-tiny": "byte_bpe", "xlnet-tiny": "unigram", "albert-base": "unigram"}
FAMILIES |= {"deberta-v3-tiny": "unigram", "modernbert-tiny": "wordpiece"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, wordpiece_tokenizer):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), wordpiece_tokenizer)


def test_command_trains_answers_and_evaluates(checkpoint, tmp_path, capsys):
    train = write(tmp_path / "train.json", learnable(160, silent=True))
    dev = write(tmp_path / "dev.json", learnable(40, silent=True, seed=1))
    out = tmp_path / "out"
    command = f"--model_name_or_path {checkpoint} --train_file {train} --validation_file {dev} --output_dir {out} "
    command += f"{SHORT} --num_train_epochs 12 --learning_rate 2e-3 --save_strategy no"
    assert main(command.split()) == 0, capsys.readouterr().err
    assert "SQuAD 2.0" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    metrics = results["metrics"]
    assert metrics["HasAns_f1"] > 90 and metrics["best_f1"] >= metrics["f1"] > 75
    predictions = json.loads((out / "predictions.json").read_text())
    odds = json.loads((out / "null_odds.json").read_text())
    gold = {row["id"]: row["answers"]["text"] for row in rows_of(learnable(40, silent=True, seed=1))}
    assert squad_scores(predictions, gold)["f1"] == pytest.approx(metrics["f1"])
    assert all((odds[name] > 0) == (answer == "") for name, answer in predictions.items())
    best = json.loads((out / "nbest_predictions.json").read_text())
    again = {n: "" if odds[n] > metrics["best_f1_thresh"] else best[n][0]["text"] for n in gold}
    assert squad_scores(again, gold)["f1"] == pytest.approx(metrics["best_f1"])
    # the saved model gives the same answers
    evaluation = (
        f"--model_name_or_path {out / 'model'} --validation_file {dev} --output_dir {tmp_path / 'again'} {SHORT}"
    )
    assert main(evaluation.split()) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "again" / "predictions.json").read_text()) == predictions
    # and the finished run is not done again
    (out / "predictions.json").unlink()
    assert main(command.split()) == 0 and not (out / "predictions.json").exists()


def test_a_run_that_was_cut_off_ends_with_the_same_answers(checkpoint, tmp_path, monkeypatch, capsys):
    train = write(tmp_path / "train.json", learnable(24))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fixed = f"--model_name_or_path {checkpoint} --train_file {train} --validation_fraction 0.2 "
    fixed += SHORT.replace("--eval_strategy no", "") + " --num_train_epochs 3 --per_device_train_batch_size 8"
    assert main([*fixed.split(), "--output_dir", str(whole)]) == 0, capsys.readouterr().err
    saved = SquadTrainer._save_checkpoint

    def save_and_stop(self, *args, **kwargs):
        saved(self, *args, **kwargs)
        if self.state.epoch >= 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SquadTrainer, "_save_checkpoint", save_and_stop)
    assert main([*fixed.split(), "--output_dir", str(cut)]) == 130
    monkeypatch.undo()
    assert main([*fixed.split(), "--output_dir", str(cut)]) == 0, capsys.readouterr().err
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (whole, cut))
    assert one["metrics"] == two["metrics"] and not one["version_2"]
    losses = [[log["eval_loss"] for log in results["history"]] for results in (one, two)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    first, second = (json.loads((folder / "nbest_predictions.json").read_text()) for folder in (whole, cut))
    assert first == second
    assert not (whole / "null_odds.json").exists() and not list(cut.glob("checkpoint-*"))


@pytest.mark.parametrize("name, kind", FAMILIES.items())
def test_other_families_train(name, kind, tmp_path, request, capsys):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    train = write(tmp_path / "train.json", learnable(10))
    layers = "n_layer=1" if name.startswith("xlnet") else "num_hidden_layers=1"
    command = f"--model_name_or_path {name} --tokenizer_name {tmp_path / 'tokenizer'} --train_file {train} "
    command += f"--validation_fraction 0.2 --output_dir {tmp_path / 'out'} {SHORT} --max_steps 1 "
    assert main([*command.split(), "--config_overrides", layers]) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "predictions.json").is_file()


def test_adapters_train_and_load(checkpoint, tmp_path, capsys):
    train = write(tmp_path / "train.json", learnable(10))
    command = f"--model_name_or_path {checkpoint} --train_file {train} --validation_fraction 0.2 {SHORT} --max_steps 3 "
    command += f"--output_dir {tmp_path / 'out'} --peft lora"
    assert main(command.split()) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 < results["trainable_parameters"] < results["parameters"] / 2
    dev = write(tmp_path / "dev.json", learnable(10))
    evaluation = f"--model_name_or_path {tmp_path / 'out' / 'model'} --validation_file {dev} {SHORT} "
    assert main([*evaluation.split(), "--output_dir", str(tmp_path / "again")]) == 0, capsys.readouterr().err
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    again = json.loads((tmp_path / "again" / "predictions.json").read_text())
    assert predictions and all(again[name] == answer for name, answer in predictions.items())


def test_command_refuses(checkpoint, tmp_path, bpe_tokenizer, capsys):
    dev = write(tmp_path / "dev.json", learnable(5))

    def failure(*arguments):
        assert main([*map(str, arguments), "--output_dir", str(tmp_path / "out"), "--use_cpu"]) == 2
        return capsys.readouterr().err

    model = ("--model_name_or_path", checkpoint)
    assert "there are no data" in failure(*model)
    assert "needs a --validation_file" in failure(*model, "--train_file", dev)
    assert "has no head for question answering" in failure(*model, "--validation_file", dev, "--max_seq_length", 200)
    assert "--metric must be one of squad, korquad" in failure(*model, "--validation_file", dev, "--metric", "f1")
    assert "not both" in failure(*model, "--validation_file", dev, "--dataset_name", "rajpurkar/squad")
    bpe_tokenizer.save_pretrained(tmp_path / "bpe")
    gpt = ("--model_name_or_path", "gpt2-tiny", "--tokenizer_name", tmp_path / "bpe", "--train_file", dev)
    assert "has no cls token" in failure(*gpt, "--validation_fraction", "0.2")
