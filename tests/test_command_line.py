"""What every command does around its work."""

import types

import pytest

from pretrain_zoo.evaluation.finetune_arguments import FinetuneArguments
from pretrain_zoo.scripts import few_shot, pretrain, run_glue, run_squad, run_text_to_text
from pretrain_zoo.training.arguments import PretrainingArguments
from pretrain_zoo.training.command_line import ArgumentParser, check_processes, check_reporters, run_command


def fail(error):
    def work(console):
        console.print("before")
        raise error

    return work


def test_work_that_ends_well_gives_code_0_and_prints(capsys):
    assert run_command(lambda console: console.print("done")) == 0
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize("error", [ValueError("no [MASK] token"), OSError("no [MASK] token")])
def test_bad_input_is_one_line_and_code_2(error, capsys):
    assert run_command(fail(error)) == 2
    shown = capsys.readouterr()
    assert shown.err == "error: no [MASK] token\n"
    assert shown.out == "before\n"


def test_a_long_message_is_not_broken(capsys):
    run_command(fail(ValueError("word " * 60 + "end")))
    assert capsys.readouterr().err.count("\n") == 1


def test_other_errors_are_raised_unless_named():
    with pytest.raises(KeyError):
        run_command(fail(KeyError("a")))
    assert run_command(fail(KeyError("a")), errors=(KeyError,)) == 2


def test_traceback_when_asked_for(monkeypatch):
    monkeypatch.setenv("PRETRAIN_ZOO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a cause"):
        run_command(fail(ValueError("a cause")))


@pytest.mark.parametrize(
    "resumes, line", [(None, "interrupted\n"), ("from there", "interrupted; the same command goes on from there\n")]
)
def test_interruption_says_what_goes_on(resumes, line, capsys):
    assert run_command(fail(KeyboardInterrupt()), resumes=resumes) == 130
    assert capsys.readouterr().out == "before\n\n" + line


def test_only_the_first_process_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert run_command(fail(ValueError("a cause"))) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_the_parser_raises():
    parser = ArgumentParser()
    parser.add_argument("--steps", type=int)
    with pytest.raises(ValueError, match="--steps"):
        parser.parse_args(["--steps", "many"])


def test_unknown_arguments_are_named_with_the_nearest(capsys):
    parser = ArgumentParser(FinetuneArguments)
    for given, message in (
        (["--max_seq_lenght", "64"], "unknown argument --max_seq_lenght; did you mean --max_seq_length"),
        (["--max-seq-lenght=64"], "unknown argument --max-seq-lenght=64; did you mean --max_seq_length"),
        (["--xyz"], "unknown argument --xyz; see --help"),
        (["notes.txt"], "unknown argument notes.txt; see --help"),
    ):
        with pytest.raises(ValueError, match=message):
            parser.parse_args_into_dataclasses(given)
    known, rest = parser.parse_args_into_dataclasses(["--seed", "7", "--other", "1"], return_remaining_strings=True)
    assert known.seed == 7 and rest == ["--other", "1"]


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    alone = types.SimpleNamespace(world_size=1)
    check_processes(alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(types.SimpleNamespace(world_size=2))
    with pytest.raises(ValueError, match="2 processes were started"):
        check_processes(alone)


def test_loggers_that_are_not_installed_are_refused(monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["wandb"])
    for named in ([], ["wandb"], ["none"]):
        check_reporters(types.SimpleNamespace(report_to=named))
    for settings in (PretrainingArguments, FinetuneArguments):
        with pytest.raises(ValueError, match="--report_to tensorboard: the package is not installed; `pip install"):
            settings(output_dir="out", report_to="tensorboard")


COMMANDS = {
    pretrain: [],
    run_glue: ["--model_name_or_path", "m", "--task_name", "probes"],
    run_squad: ["--model_name_or_path", "m", "--validation_file", "f"],
    few_shot: ["--model_name_or_path", "m", "--task_name", "probes"],
    run_text_to_text: ["--tasks", "cola", "--data_dir", "d"],
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.rsplit(".")[-1])
def test_every_command_that_trains_checks_its_processes(command, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.main([*COMMANDS[command], "--output_dir", str(tmp_path / "out")]) == 2
    assert "2 processes were started" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
