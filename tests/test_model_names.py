"""Models that pretraining may begin from: names, folders that are not there, checkpoints that cannot be trained."""

import json

import pytest
from pretraining_commands import failure

from pretrain_zoo.models import settings
from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training.prepare import check_model_name


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
