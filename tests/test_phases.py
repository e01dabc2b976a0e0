"""Runs of several phases: recipes, ranges of draws, learning-rate stretches, resuming across boundaries."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import make_texts
from transformers import TrainingArguments

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training.arguments import parse_arguments
from pretrain_zoo.training.baselines import component_baselines
from pretrain_zoo.training.dataset import DrawCollator
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.learning_rates import learning_rates
from pretrain_zoo.training.mixed_evaluation import MixedEvaluationDataset
from pretrain_zoo.training.mixture import Component, Phase, PhasedDataset
from pretrain_zoo.training.phases import pair
from pretrain_zoo.training.quotas import Weights
from pretrain_zoo.training.tokenizer import train_tokenizer
from pretrain_zoo.training.trainer import PretrainingTrainer

COMMON = {"model_name_or_path": "bert-tiny", "use_cpu": True, "output_dir": "out"}


@pytest.fixture
def parse(tmp_path):
    """Arguments from a recipe and a command line."""

    def parsed(recipe: dict, *argv: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**COMMON, **recipe}, sort_keys=False))
        return parse_arguments(["--config", str(path), *argv])

    return parsed


# recipes


def test_steps_are_numbers_shares_and_the_rest(parse):
    def steps(*argv: str, **phases):
        return [phase.steps for phase in parse({"phases": {n: {"steps": s} for n, s in phases.items()}}, *argv).phases]

    assert steps(a=30, b=12) == [30, 12]
    assert parse({"phases": {"a": {"steps": 30}, "b": {"steps": 12}}}).training.max_steps == 42
    assert steps("--max_steps", "10", a=0.9, b=0.1) == [9, 1]
    assert steps("--max_steps", "10", a=1 / 3, b=None, c=1 / 3) == [3, 4, 3]
    assert steps("--max_steps", "50", a=0.5, b=None) == [25, 25]
    assert steps(a=0.5, b=0.5) == [1000, 1000]  # of the default, 2000


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


# learning rates


class Rates:
    """What of `TrainingArguments` a schedule reads."""

    learning_rate, warmup_steps, lr_scheduler_type, lr_scheduler_kwargs = 2e-3, 0.0, "linear", None


def test_one_schedule_spans_phases_that_say_nothing_of_it(parse):
    run = parse({"phases": {"a": {"steps": 5}, "b": {"steps": 5}}})
    assert learning_rates(run.phases, run.training) is None


def test_each_phase_has_its_stretch_as_soon_as_one_says_so(parse):
    phases = parse(
        {
            "phases": {
                "a": {"steps": 10, "warmup_steps": 4, "lr_scheduler_type": "constant_with_warmup"},
                "b": {"steps": 8, "learning_rate": 1e-3, "warmup_steps": 0.25},
                "c": {
                    "steps": 10,
                    "lr_scheduler_type": "wsd",
                    "lr_scheduler_kwargs": {"num_decay_steps": 0.4, "decay_type": "linear"},
                },
            }
        }
    ).phases
    factor = learning_rates(phases, Rates())
    found = [factor(step) for step in range(28)]
    assert found[:10] == pytest.approx([0, 0.25, 0.5, 0.75] + [1.0] * 6)
    assert found[10:18] == pytest.approx([0.5 * x for x in (0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)])
    assert found[18:] == pytest.approx([1.0] * 6 + [1, 0.75, 0.5, 0.25])
    assert factor(28) == pytest.approx(0, abs=1e-9)  # asked for after the last step


def test_begin_and_end_of_a_value():
    assert pair([1, 2], "x") == (1.0, 2.0) and pair("0.5", "x") == (0.5, 0.5) and pair(None, "x") is None
    with pytest.raises(ValueError, match="x must be a number"):
        pair({}, "x")


# draws


@pytest.fixture(scope="module")
def text():
    """(tokenizer, vocabulary, documents to train on, held out)."""
    texts = make_texts(120)
    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=200)
    documents = encode(tokenizer.backend_tokenizer, texts)
    halves = documents.select(np.arange(100)), documents.select(np.arange(100, 120))
    return tokenizer, Vocabulary.from_tokenizer(tokenizer), *halves


def one(name: str, component: Component, steps: int, rows: int, own_progress: bool = False) -> Phase:
    return Phase(name, steps, rows, (component,), Weights((1.0,), (1.0,)), own_progress=own_progress)


def two_phases(text, micro_batches: int = 1, rows: tuple[int, int] = (8, 4), own_progress: bool = False):
    """Four steps causal in short rows, then four masked in long ones and smaller batches, mixed with more text."""
    _, vocabulary, train, held_out = text
    causal = Component("causal", get_objective("clm"), 12, train, held_out)
    falling = get_objective("mlm", mlm_probability=0.8, final_mlm_probability=0.0, packing="documents")
    masked = Component("masked", falling, 24, train, held_out, order=1)
    other = Component("other", get_objective("mlm"), 24, held_out, train, order=2)
    shares = Weights((3.0, 1.0), (1.0, 3.0))
    second = Phase("second", 4, rows[1], (masked, other), shares, own_progress=own_progress)
    return PhasedDataset([one("first", causal, 4, rows[0]), second], vocabulary, micro_batches=micro_batches, seed=5)


def test_phases_are_consecutive_ranges_of_draws(text):
    data = two_phases(text, micro_batches=2)
    assert data.global_batch == 16 and len(data) == 8 * 16
    numbers, sizes = [], []
    for begin in range(0, len(data), 8):
        draws = data.__getitems__(list(range(begin, begin + 8))).draws
        numbers += draws.number.tolist()
        sizes.append(len(draws))
        step = begin // 16
        assert set(draws.component.tolist()) <= ({0} if step < 4 else {1, 2})
        np.testing.assert_array_equal(draws.progress, step / 8)
    assert numbers == list(range(4 * 16 + 4 * 8)) and sizes == [8] * 8 + [4] * 8
    with pytest.raises(ValueError, match="from one phase into the next"):
        data.__getitems__([63, 64])


def test_draws_do_not_depend_on_the_division_into_micro_batches(text):
    one_by_one, four_by_four = two_phases(text, 1, (8, 4)), two_phases(text, 4, (2, 1))
    for step in range(8):
        whole = one_by_one.__getitems__(list(range(step * 8, step * 8 + 8))).draws
        parts = [four_by_four.__getitems__(list(range(step * 8 + i, step * 8 + i + 2))).draws for i in range(0, 8, 2)]
        assert np.concatenate([part.key for part in parts]).tolist() == whole.key.tolist()


def test_schedules_run_over_the_phase_that_has_them(text):
    """The rate falls from .8 to 0: over the run, the second phase begins at .4; over the phase, at .8."""
    for own, begin in ((False, 0.5), (True, 0.0)):
        data = two_phases(text, own_progress=own)
        progress = data.__getitems__(list(range(32, 40))).draws.progress
        np.testing.assert_array_equal(progress, begin)
        quota = [data.__getitems__(list(range(s * 8, s * 8 + 8))).draws.component for s in range(4, 8)]
        shares = [(component == 1).mean() for component in quota]
        slope = (
            np.interp(np.arange(4), [0, 4], [0.75, 0.25]) if own else np.interp(np.arange(4, 8), [0, 8], [0.75, 0.25])
        )
        assert np.abs(np.array(shares) - slope).max() <= 0.25  # batches of four


def test_a_component_goes_on_reading_in_the_next_phase(text):
    _, vocabulary, train, held_out = text
    parts = [
        Component(name, get_objective("mlm", mlm_probability=rate), 24, train, held_out, order=0)
        for name, rate in (("a", 0.3), ("b", 0.15))
    ]
    data = PhasedDataset([one("a", parts[0], 5, 8), one("b", parts[1], 120, 8)], vocabulary, micro_batches=1)
    plain = PhasedDataset([one("a", parts[0], 125, 8)], vocabulary, micro_batches=1)
    steps = [list(range(step * 8, step * 8 + 8)) for step in range(125)]
    for numbers in steps:
        found, expected = data.__getitems__(numbers).draws, plain.__getitems__(numbers).draws
        assert found.example.tolist() == expected.example.tolist() and found.epoch.tolist() == expected.epoch.tolist()
    assert found.epoch.max() > 0


def test_evaluation_is_of_the_phase_just_trained(text):
    data = two_phases(text)
    held_out = MixedEvaluationDataset(data, max_rows=6)

    def names(step: int) -> set[str]:
        batches = [batch for group in held_out.after(step).batches(4) for batch in group]
        found = {int(c) for batch in batches for c in held_out.__getitems__(batch).draws.component}
        return {data.components[c].name for c in found}

    assert names(0) == names(1) == names(4) == {"causal"}
    assert names(5) == names(8) == {"masked", "other"}


def test_each_component_of_the_last_phase_has_its_own_trivial_answer(text):
    """Token frequencies of the component's corpus, counted anew, on the tokens that its held-out rows ask for."""
    vocabulary, data = text[1], two_phases(text)
    held_out = MixedEvaluationDataset(data, max_rows=6)
    found = component_baselines(held_out)
    assert set(found) == {"masked.mlm_loss", "masked.accuracy", "other.mlm_loss", "other.accuracy"}
    collator = DrawCollator(data.objective, vocabulary)
    for name, corpus in (("masked", text[2]), ("other", text[3])):
        number = [c.name for c in data.components].index(name)
        begin, end = held_out._begins[number : number + 2].tolist()
        labels = [i for row in range(begin, end) for i in collator(held_out[row])["label_ids"].tolist()]
        times = Counter(corpus.tokens[corpus.tokens >= 0].tolist())
        total = sum(times.values()) + vocabulary.size
        assert labels and min(labels) >= 0
        by_hand = -sum(math.log((times[label] + 1) / total) for label in labels) / len(labels)
        assert found[f"{name}.mlm_loss"] == pytest.approx(by_hand)


def trainer_of(text, folder: Path, rates=None, **arguments) -> PretrainingTrainer:
    tokenizer, vocabulary, *_ = text
    data = two_phases(text)
    torch.manual_seed(3)
    model = data.objective.build(backbone("bert-tiny", tokenizer, max_length=32), vocabulary)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **arguments,
    )
    return PretrainingTrainer(
        model, args, data, MixedEvaluationDataset(data, max_rows=5), learning_rates=rates, processing_class=tokenizer
    )


def test_a_run_resumes_anywhere_and_ends_with_the_same_weights(text, tmp_path):
    """Before, at and after the boundary, and within blocks of quotas; with dropout, AdamW and moving shares."""

    def rates(step: int) -> float:
        return (1 + math.cos(step)) / 2

    saving = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    whole = trainer_of(text, tmp_path / "whole", rates, **saving)
    whole.train()
    logs = [log for log in whole.state.log_history if "loss" in log]
    assert [log["learning_rate"] for log in logs] == pytest.approx([1e-3 * rates(step) for step in range(8)])
    assert [any(n.startswith("causal.clm") for n in log) for log in logs] == [True] * 4 + [False] * 4
    assert all("masked.mlm_loss" in log or "other.mlm_loss" in log for log in logs[4:])
    evaluations = [
        {n for n in log if n.endswith(("mlm_loss", "clm_loss"))}
        for log in whole.state.log_history
        if "eval_loss" in log
    ]
    assert evaluations == [{"eval_causal.clm_loss"}] * 2 + [{"eval_masked.mlm_loss", "eval_other.mlm_loss"}] * 2
    for step in (2, 4, 6):
        again = trainer_of(text, tmp_path / f"again-{step}", rates, **saving)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
            assert torch.equal(a, b), (step, name)


def test_a_checkpoint_of_other_phases_is_refused(text):
    data = two_phases(text)
    saved = json.loads(json.dumps(data.state(5)))
    two_phases(text).restore(saved)
    with pytest.raises(ValueError, match="draws other data.*phases"):
        two_phases(text, rows=(8, 2)).restore(saved)


def test_pairs_made_anew_in_each_epoch_resume_without_planning_old_ones(text):
    _, vocabulary, train, held_out = text
    pairs = Component("pairs", get_objective("mlm+nsp"), 32, train, held_out)
    more = Component("more", get_objective("mlm+nsp"), 24, train, held_out, order=1)
    phases = [one("short", more, 10, 8), one("long", pairs, 90, 8)]
    data = PhasedDataset(phases, vocabulary, micro_batches=1)
    state = json.loads(json.dumps(data.state(98)))
    expected = data.__getitems__(list(range(99 * 8, 100 * 8))).draws
    assert expected.epoch.min() >= 1
    again = PhasedDataset(phases, vocabulary, micro_batches=1)
    again.restore(state)
    assert again.__getitems__(list(range(99 * 8, 100 * 8))).draws.key.tolist() == expected.key.tolist()
    assert len(again._sources[1]._plans) <= 2


@pytest.mark.parametrize("name", ["mlm+nsp", "rtd", "span_corruption"])
def test_objectives_with_models_of_their_own_go_through_phases(text, name):
    """BERT's short rows, then long ones: the same objective and model, other lengths and batches."""
    tokenizer, vocabulary, train, held_out = text
    if name == "span_corruption":
        from training_runs import text as with_sentinels

        tokenizer, vocabulary, train = with_sentinels()
        held_out = train
    objective = get_objective(name)
    short = Component("short", objective, 16, train, held_out)
    long = Component("long", objective, 32, train, held_out, order=1)
    data = PhasedDataset([one("a", short, 1, 6), one("b", long, 1, 3)], vocabulary, micro_batches=1)
    model = {"rtd": "electra-tiny", "span_corruption": "t5-tiny"}.get(name, "bert-tiny")
    built = data.objective.build(backbone(model, tokenizer, max_length=64), vocabulary)
    alone = objective.build(backbone(model, tokenizer, max_length=64), vocabulary)
    assert type(built) is type(alone) and set(built.state_dict()) == set(alone.state_dict())
    for numbers, length, rows in ((range(6), 16, 6), (range(6, 12), 32, 3)):
        batch = DrawCollator(data.objective, vocabulary)(data.__getitems__(list(numbers)))
        assert batch["input_ids"].shape[0] == rows and length / 2 < batch["input_ids"].shape[1] <= length
        output = built(**batch)
        assert set(output.sums) == set(objective.terms)
        sum(output.sums.values()).backward()


# the script


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
