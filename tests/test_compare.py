"""The gallery: its settings are known, and a row is what the run wrote down."""

import json
import math

import pytest
from conftest import make_texts

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.scripts.compare import COMBINED, COMMON, LEFT_OUT, SETTINGS, main, markdown, trivial_loss
from pretrain_zoo.training.arguments import parse_arguments


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_known(name, wordpiece_tokenizer):
    assert name not in LEFT_OUT and ("+" not in name or name in COMBINED)
    arguments = [f"--{key}={value}" for key, value in (COMMON | SETTINGS[name]).items()]
    run = parse_arguments(["--objective", name, *arguments])
    assert run.training.max_steps == (COMMON | SETTINGS[name])["max_steps"]
    backbone(str(run.model.model_name_or_path), wordpiece_tokenizer, **run.model.overrides)


def test_trivial_answers_by_hand():
    half = {"replaced_rate": 0.25}
    assert trivial_loss("discriminator", {}, half) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    results = {"objective": "all_tokens_mlm", "baseline": {"token_loss": 5.0}}
    copied = 0.75 * -math.log(0.75) + 0.25 * (-math.log(0.25) + 5)
    assert trivial_loss("mlm", results, half) == pytest.approx(copied)
    results = {"objective": "mlm+nsp", "pair_label_loss": 0.6, "baseline": {"token_loss": 5.0}}
    assert trivial_loss("nsp", results, {}) == 0.6 and trivial_loss("mlm", results, {}) == 5.0
    assert trivial_loss("mlm", {"objective": "mlm", "baseline": None}, {}) is None


def test_unknown_objectives_are_refused_before_the_first_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--objectives", "mlm,rtdd", "--output_dir", str(tmp_path / "runs")])
    assert stop.value.code == 2 and not (tmp_path / "runs").exists()
    assert "unknown objective 'rtdd'; did you mean 'rtd'" in capsys.readouterr().err


def test_table_of_two_runs(tmp_path, capsys):
    corpus, folder = tmp_path / "corpus.txt", tmp_path / "runs"
    corpus.write_text("\n\n".join(make_texts(60)))
    shared = f"--corpus {corpus} --cache_dir {tmp_path / 'cache'} --output_dir {folder} --max_steps 2 --vocab_size 200"
    shared += " --max_seq_length 32 --per_device_train_batch_size 4 --use_cpu --model_name_or_path bert-tiny"
    shared += " --validation_fraction 0.3"
    assert main(f"--objectives mlm+nsp,denoising {shared}".split()) == 1  # BERT has no decoder
    lines = (folder / "compare.md").read_text().splitlines()
    assert len(lines) == 5 and lines[4].startswith("| `denoising` | | | ")
    results = json.loads((folder / "mlm-nsp" / "results.json").read_text())
    for line, term in zip(lines[2:4], ("mlm", "nsp"), strict=True):
        cells = [cell.strip(" *`") for cell in line.strip("|").split("|")]
        assert cells[:4] == ["mlm+nsp", "bert-tiny", "2", term]
        assert float(cells[6]) == pytest.approx(results["held_out"][f"{term}_loss"], abs=6e-4)
    assert math.log(200) - 0.5 < float(lines[2].split("|")[5]) < math.log(200) + 0.5
    assert "mlm+nsp" in capsys.readouterr().out
    assert markdown([{"objective": "x", "term": "", "error": "because"}]).endswith("| `x` | | | because | | | |")
