"""Recipes of phases and mixtures: what they mean, what is refused, and one from the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import yaml
from conftest import make_texts
from phased_runs import COMMON, corpus

from pretrain_zoo.objectives import Documents
from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training.phase_recipes import pair
from pretrain_zoo.training.prepare import Data, get_phased_datasets


def test_steps_are_numbers_shares_and_the_rest(parse):
    def steps(*argv: str, **phases):
        return [phase.steps for phase in parse({"phases": {n: {"steps": s} for n, s in phases.items()}}, *argv).phases]

    assert steps(a=30, b=12) == [30, 12]
    assert parse({"phases": {"a": {"steps": 30}, "b": {"steps": 12}}}).training.max_steps == 42
    assert steps("--max_steps", "10", a=0.9, b=0.1) == [9, 1]
    assert steps("--max_steps", "10", a=1 / 3, b=None, c=1 / 3) == [3, 4, 3]
    assert steps("--max_steps", "50", a=0.5, b=None) == [25, 25]
    assert steps(a=0.5, b=0.5) == [1000, 1000]  # of the default, 2000
    assert steps("--max_steps", "999", a=0.5, b=499) == [500, 499]  # numbers are kept, shares are rounded
    assert steps("--max_steps", "10", a=0.25, b=5, c=None) == [2, 5, 3]
    assert steps("--max_steps", "10", a=1, b=0.449, c=0.449) == [1, 4, 5]


@pytest.mark.parametrize(
    ("recipe", "argv", "reason"),
    [
        (
            {"phases": {"a": {"steps": 5}, "b": {"steps": 6}}},
            ["--max_steps", "10"],
            "add up to 11, and max_steps is 10",
        ),
        ({"phases": {"a": {}, "b": {}}}, [], "at most one phase takes the rest"),
        ({"phases": {"a": {"steps": 0}}}, [], "phases.a: steps must be a whole number above 0"),
        ({"phases": {"a": {"steps": 1.5}}}, [], "phases.a: steps must be"),
        ({"phases": {"a": {"steps": 10}, "b": {}}}, ["--max_steps", "10"], "phases.b has no steps: 0 of 10"),
        ({"phases": {"a": {"steps": 0.999}, "b": {}}}, ["--max_steps", "10"], "phases.b has no steps"),
        ({"phases": {"a": {"steps": 9}}}, ["--num_train_epochs", "1"], "give --max_steps"),
        ({"phases": {"a": {"steps": 9, "mlm_probabilty": 0.3}}}, [], "phases.a.*did you mean --mlm_probability"),
        ({"phases": {"a": {"steps": 9, "objective": "mml"}}}, [], "unknown objective 'mml'; did you mean 'mlm'"),
        ({"phases": {"a": {"steps": 9, "max_seq_length": "x"}}}, [], "max_seq_length must be a whole number"),
        ({"phases": {"a": {"steps": 9, "per_device_train_batch_size": 0}}}, [], "per_device_train_batch_size must be"),
        ({"phases": {"a": {"steps": 9, "mixing": "rows"}}}, [], "mixing must be 'example' or 'batch'"),
        ({"phases": {"a": {"steps": 9, "lr_scheduler_type": "lineer"}}}, [], "phases.a.*lineer"),
        ({"phases": {"a": {"steps": 9, "lr_scheduler_kwargs": {"no_such": 1}}}}, [], "phases.a.*no_such"),
        ({"phases": {"a": {"steps": 9, "lr_scheduler_type": "reduce_lr_on_plateau"}}}, [], "no function of the step"),
        (
            {"phases": {"a": {"steps": 9, "gradient_accumulation_steps": 2}}},
            [],
            "phases.a: gradient_accumulation_steps is the same in the whole run.*per_device_train_batch_size",
        ),
        (
            {"phases": {"a": {"steps": 9, "mixture": {"en": {"seed": 2}}}}, "mixture": {"en": {}}},
            [],
            "a.mixture.en: seed",
        ),
        ({"mixture": {"en": {"model_name_or_path": "bert-tiny"}}}, [], "en: model_name_or_path.*give it to the run"),
        ({"phases": ["a", "b"]}, [], "phases must be names with settings"),
        ({"phases": {"a": 9}}, [], "phases.a must have settings below it"),
        ({"phases": {"a": {"steps": 9, "weight": 2}}}, [], "weight belongs to a component"),
        ({"phases": {"a b": {"steps": 9}}}, [], "'a b' is no name"),
        ({"mixture": {"en": 0, "ko": 0}}, [], "must not all be 0"),
        ({"mixture": {"en": -1}}, [], "weight must not be negative"),
        ({"mixture": {"en": "much"}}, [], "mixture.en must have settings below it"),
        ({"mixture": {"en": {"weight": "much"}}}, [], "en: weight must be a number"),
        ({"mixture": {"en": {"steps": 4}}}, [], "en: steps belongs to a phase"),
        ({"mixture": {"en": {}}}, ["--mixture.de.weight", "2"], "there is no mixture.de; there are: en"),
        ({"phases": {"long": {"steps": 9}}}, ["--phases.lang.steps", "2"], "did you mean long"),
        ({"phases": {"long": {"steps": 9}}}, ["--phases.long.steps"], "a value is missing"),
        ({"mixture": {"a": {}, "b": {"objective": "rtd"}}}, [], "rtd trains a model of its own kind"),
        ({"mixture": {"a": {}, "b": {"objective": "diffusion"}}}, [], "mix them by batch"),
        ({"sampling_alpha": 0.3}, [], "how to draw from a mixture, and there is none"),
        ({"mixture": {"a": {}}, "sampling_alpha": [1, 2, 3]}, [], "sampling_alpha must be a number, or two"),
        ({"mixture": {"a": {"mlm_probability": 0.3}}}, ["--mlm_probability", "0.2"], "say --mixture.a.mlm_probability"),
        (
            {"phases": {"a": {"steps": 9, "max_seq_length": 32}}},
            ["--max-seq-length=64"],
            "say --phases.a.max_seq_length",
        ),
    ],
)
def test_bad_recipes_are_refused_with_a_reason(parse, recipe, argv, reason):
    with pytest.raises(ValueError, match=reason):
        parse(recipe, *argv)


def test_the_nearest_setting_holds(parse):
    recipe = {
        "mlm_probability": 0.1,
        "max_seq_length": 64,
        "corpus": "run.txt",
        "validation_file": "held.txt",
        "mixture": {"one": {}, "two": {"mlm_probability": 0.2, "corpus": "two.txt", "weight": 3}},
        "phases": {
            "first": {"steps": 10},
            "second": {"steps": 5, "mlm_probability": 0.3, "max_seq_length": 128, "mixture": {"one": {"weight": 2}}},
            "third": {
                "steps": 5,
                "mixture": {"two": {"mlm_probability": 0.4, "weight": 0}, "one": {"objective": "clm"}},
            },
        },
    }
    first, second, third = parse(recipe).phases
    assert [c.objective.mlm_probability for c in first.components] == [0.1, 0.2]
    assert [c.objective.mlm_probability for c in second.components] == [0.3, 0.3]
    assert [c.weight for c in first.components] == [(1, 1), (3, 3)]
    assert [c.weight for c in second.components] == [(2, 2), (3, 3)]
    assert [c.max_seq_length for c in (*first.components, *second.components)] == [64, 64, 128, 128]
    assert [(c.corpus.corpus, c.corpus.validation_file) for c in first.components] == [
        ("run.txt", "held.txt"),
        ("two.txt", None),
    ]
    assert [(c.name, c.objective.name) for c in third.components] == [("third-one", "clm")]
    assert [c.name for c in second.components] == ["second-one", "second-two"]  # another rate and length
    assert (first.own_progress, second.own_progress) == (False, True)


def test_the_command_line_wins_over_the_file(parse):
    recipe = {
        "mlm_probability": 0.1,
        "mixture": {"one": {"weight": 1}, "two": {}},
        "phases": {"a": {"steps": 0.5}, "b": {"max_seq_length": 32}},
    }
    argv = ["--mlm_probability", "0.2", "--max_steps", "8", "--mixture.one.weight", "5", "--phases.b.max_seq_length=48"]
    a, b = parse(recipe, *argv, "--mixture.two", "7", "--phases.b.mixture.one.weight", "[1, 2]").phases
    assert [c.objective.mlm_probability for c in (*a.components, *b.components)] == [0.2] * 4
    assert [c.weight for c in a.components] == [(5, 5), (7, 7)] and b.components[0].weight == (1, 2)
    assert [c.max_seq_length for c in b.components] == [48, 48] and (a.steps, b.steps) == (4, 4)
    whole = parse(recipe, "--phases", '{"only": {"steps": 3}}').phases
    assert [(phase.name, phase.steps) for phase in whole] == [("only", 3)]


def test_a_component_that_only_changes_its_weight_stays_the_same(parse):
    recipe = {"mixture": {"x": {}, "y": {}}, "phases": {"a": {"steps": 3, "mixture": {"x": 4}}, "b": {"steps": 3}}}
    a, b = parse(recipe).phases
    assert [c.name for c in a.components] == [c.name for c in b.components] == ["x", "y"]
    recipe = {"phases": {"a": {"steps": 3, "mlm_probability": 0.3}, "b": {"steps": 3, "mlm_probability": 0.15}}}
    a, b = parse(recipe).phases
    assert [c.name for c in (*a.components, *b.components)] == ["a", "b"]
    assert a.components[0].order == b.components[0].order  # goes on reading where the first phase stopped


def test_weights_and_schedules_run_over_the_phase_that_says_something_of_them(parse):
    """Each apart: a phase with a masking rate of its own does not begin the run's sampling_alpha anew."""
    recipe = {
        "sampling_alpha": [0.7, 0.3],
        "mixture": {"x": {}, "y": {}},
        "phases": {
            "rate": {"steps": 3, "mlm_probability": 0.3},
            "weight": {"steps": 3, "mixture": {"x": [1, 2]}},
            "alpha": {"steps": 3, "sampling_alpha": 0.5},
            "neither": {"steps": 3, "max_seq_length": 32},
            "both": {"steps": 3, "mixture": {"x": {"weight": 2, "mlm_probability": 0.1}}},
        },
    }
    found = [(phase.own_progress, phase.own_weights) for phase in parse(recipe).phases]
    assert found == [(True, False), (False, True), (False, True), (False, False), (True, True)]


def test_components_come_in_the_order_of_their_last_phases(parse):
    recipe = {
        "mixture": {"mlm": {}, "clm": {"objective": "clm", "weight": 0}},
        "phases": {
            "a": {"steps": 3},
            "b": {"steps": 3, "mixture": {"mlm": 0, "clm": 1}},
            "c": {"steps": 3},
        },
    }
    run = parse(recipe)
    assert [[c.name for c in phase.components] for phase in run.phases] == [["mlm"], ["clm"], ["mlm"]]
    assert run.objective.names == ["clm", "mlm"]


def test_sizes_of_windows_are_no_sizes_of_corpora(parse):
    """Of a corpus read in windows only the first is known, which is as large as any other's."""
    _, vocabulary, one, two = corpus()

    @dataclass(frozen=True)
    class Window(Documents):
        windowed: ClassVar[bool] = True

    window = Window(**vars(two))
    data = {"x": Data(one, two), "y": Data(window, one)}
    recipe = {"mixture": {"x": {}, "y": {"weight": 2}}, "max_steps": 3}
    with pytest.raises(ValueError, match="that of y, read in windows, is not known; give weights"):
        get_phased_datasets(parse({**recipe, "sampling_alpha": 0.3}), data, vocabulary, {})
    assert len(get_phased_datasets(parse(recipe), data, vocabulary, {})[0])
    recipe["mixture"]["y"]["objective"] = "clm"  # one corpus each: sizes play no part
    assert len(get_phased_datasets(parse({**recipe, "sampling_alpha": 0.3}), data, vocabulary, {})[0])


def test_begin_and_end_of_a_value():
    assert pair([1, 2], "x") == (1.0, 2.0) and pair("0.5", "x") == (0.5, 0.5) and pair(None, "x") is None
    with pytest.raises(ValueError, match="x must be a number"):
        pair({}, "x")


def test_a_recipe_runs_from_the_command_line_and_is_kept(tmp_path, capsys):
    texts = make_texts(120)
    (tmp_path / "a.txt").write_text("\n\n".join(texts[:60]))
    (tmp_path / "b.txt").write_text("\n\n".join(texts[60:]))
    recipe = {
        **COMMON,
        "corpus": str(tmp_path / "a.txt"),
        "vocab_size": 200,
        "validation_fraction": 0.2,
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "sampling_alpha": 0.5,
        "mixture": {"one": {}, "two": {"corpus": str(tmp_path / "b.txt"), "language": "de"}},
        "phases": {
            "causal": {"steps": 2, "objective": "clm", "max_seq_length": 16},
            "masked": {"steps": 2, "mlm_probability": 0.4, "max_seq_length": 32, "learning_rate": 1e-3},
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["--config", str(path)]) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] == 4 and results["objective"] == "clm → mlm"
    assert {"masked-one.mlm_loss", "masked-two.mlm_loss", "loss"} <= set(results["held_out"])
    assert set(results["baseline"]) == {f"masked-{c}.{m}" for c in ("one", "two") for m in ("mlm_loss", "accuracy")}
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"{results['baseline']['masked-two.mlm_loss']:.3f}" in card
    assert main(["--config", str(path)]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["--config", str(path), "--phases.masked.mlm_probability", "0.2"]) == 2
    assert "holds another run; it differs in --phases" in capsys.readouterr().err
