"""Learning-rate stretches of phases."""

from __future__ import annotations

import pytest

from pretrain_zoo.training.learning_rates import learning_rates


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


def test_a_share_of_warmup_is_rounded_up(parse):
    """As transformers does: a quarter of ten steps takes three."""
    (phase,) = parse({"phases": {"a": {"steps": 10, "warmup_steps": 0.25}}}).phases
    factor = learning_rates((phase,), Rates())
    assert [factor(step) for step in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_settings_of_the_runs_schedule_are_not_those_of_another_kind(parse):
    class Cosine(Rates):
        lr_scheduler_type, lr_scheduler_kwargs = "cosine_with_min_lr", {"min_lr_rate": 0.5}

    phases = parse({"phases": {"a": {"steps": 4, "lr_scheduler_type": "linear"}, "b": {"steps": 4}}}).phases
    factor = learning_rates(phases, Cosine())
    assert [factor(step) for step in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert [factor(4 + step) for step in (0, 2, 4)] == pytest.approx([1, 0.75, 0.5])  # half way, and at its end
