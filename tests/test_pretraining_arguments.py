"""Arguments of the pretraining command: settings of objectives, defaults, recipes, help, what is refused."""

import pytest
from pretraining_commands import failure

from pretrain_zoo.models import settings
from pretrain_zoo.objectives import get_objective
from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training.arguments import RECIPES, parse_arguments
from pretrain_zoo.training.objective_arguments import objective_from_arguments
from pretrain_zoo.training.prepare import check_model_name

# settings and defaults


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


# recipes


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


def test_tiny_recipe_is_what_runs_without_arguments():
    bare, recipe = parse_arguments([]), parse_arguments(["--config", "modernbert-tiny"])
    assert (bare.objective, bare.model, bare.corpus) == (recipe.objective, recipe.model, recipe.corpus)
    assert bare.training.to_dict() == recipe.training.to_dict()


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


# help and refusals


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


def test_help_lists_settings_of_the_objective(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--objective", "ngram_mlm", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(flag in shown for flag in ("--max_ngram", "--corpus", "--learning_rate", "--max_seq_length", "--config"))
