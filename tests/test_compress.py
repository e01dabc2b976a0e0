"""Compression from the command line: what is done, what is measured, what loads; fine-tuning from a teacher."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from pretrain_zoo.evaluation.compression import Measured, as_table, latency, parameters, size_on_disk
from pretrain_zoo.evaluation.purpose import KeepZeros
from pretrain_zoo.models.compressed import load_compressed
from pretrain_zoo.models.int8_linear import Int8Linear, linear_layers, quantize_dynamic
from pretrain_zoo.models.pruning import prune_weights
from pretrain_zoo.scripts import run_glue
from pretrain_zoo.scripts.compress import main
from pretrain_zoo.scripts.pretrain import main as pretrain

SHAPE = "hidden_size=64,num_attention_heads=4,num_hidden_layers=4,intermediate_size=64"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a corpus, a tiny BERT trained on it for a few steps, and data of a task."""
    folder = tmp_path_factory.mktemp("compress")
    lines = "".join(
        f"The {a} sat on the {b}. It saw the {b}, and the {a} left.\n\n" for a in ["cat", "dog"] for b in "abcdef"
    )
    (folder / "corpus.txt").write_text(lines * 5)
    command = f"{settings(folder)} --objective mlm --model_name_or_path bert-mini --max_steps 100 --vocab_size 120"
    command += f" --config_overrides {SHAPE} --eval_strategy no --save_strategy no --output_dir {folder / 'mlm'}"
    assert pretrain(command.split()) == 0
    task = folder / "glue" / "SST-2"
    task.mkdir(parents=True)
    rows = [(f"the {a} {v} the {b}", int(a == "cat")) for a in ("cat", "dog") for v in ("saw", "sat on") for b in "abc"]
    text = "sentence\tlabel\n" + "".join(f"{sentence}\t{label}\n" for sentence, label in rows)
    for name in ("train", "dev"):
        (task / f"{name}.tsv").write_text(text)
    return folder


def settings(folder):
    common = f"--corpus {folder / 'corpus.txt'} --cache_dir {folder / 'cache'} --max_seq_length 16"
    return f"{common} --use_cpu --per_device_train_batch_size 4 --learning_rate 3e-3"


def compressed(trained, tmp_path, options, source="mlm", more=None):
    more = settings(trained) if more is None else more
    command = f"{trained / source} --output_dir {tmp_path / 'small'} {options} --latency_rows 2 --latency_length 8"
    assert main(f"{command} {more}".split()) == 0
    return json.loads((tmp_path / "small" / "results.json").read_text())["compression"]


def test_pruned_trained_on_and_quantised(trained, tmp_path, capsys):
    options = "--prune_neurons 0.9 --prune_heads 0.75 --importance gradient --importance_batches 2 --recover_steps 60"
    rows = compressed(trained, tmp_path, f"{options} --quantize dynamic_int8")
    assert [row["name"] for row in rows] == ["before", "pruned", "trained on", "dynamic_int8"]
    sizes = [row["megabytes"] for row in rows]
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3]
    assert rows[0]["parameters"] > rows[1]["parameters"] == rows[3]["parameters"]
    assert all(row["milliseconds"] > 0 for row in rows)
    losses = [row["metrics"]["perplexity"] for row in rows]
    assert losses[0] < losses[1] > losses[2] and losses[3] == pytest.approx(losses[2], rel=0.2)
    model = load_compressed(tmp_path / "small")
    layer = model.bert.encoder.layer[0]
    assert isinstance(layer.intermediate.dense, Int8Linear) and layer.intermediate.dense.out_features == 6
    assert layer.attention.self.query.out_features == 16 and model.config.intermediate_size == 6
    AutoTokenizer.from_pretrained(tmp_path / "small")
    said = " ".join(capsys.readouterr().out.split())
    assert "load_compressed" in said and "a batch is 2 × 8 tokens" in said


def test_zeros_stay_zero_while_training(trained, tmp_path):
    rows = compressed(trained, tmp_path, "--prune_weights 0.5 --prune_scope layer --recover_steps 10")
    before, pruned, after = (row["non_zero"] / row["parameters"] for row in rows)
    assert before > 0.99 and pruned < 0.75 and after == pytest.approx(pruned, abs=0.01)
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "small")
    zeros = [(layer.weight == 0).float().mean().item() for layer in linear_layers(plain).values()]
    assert all(share == pytest.approx(0.5, abs=0.02) for share in zeros)
    started = AutoModelForMaskedLM.from_pretrained(trained / "mlm")
    name = "bert.encoder.layer.0.output.dense"
    moved = plain.get_submodule(name).weight != started.get_submodule(name).weight
    assert (moved & (plain.get_submodule(name).weight != 0)).any()  # it was trained


def test_fewer_layers(trained, tmp_path):
    rows = compressed(trained, tmp_path, "--keep_layers 0,3")
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "small")
    source = AutoModelForMaskedLM.from_pretrained(trained / "mlm")
    assert plain.config.num_hidden_layers == 2 and [row["name"] for row in rows] == ["before", "pruned"]
    ours, theirs = plain.bert.encoder.layer[1].state_dict(), source.bert.encoder.layer[3].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(plain.cls.predictions.transform.dense.weight, source.cls.predictions.transform.dense.weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["nf4", "bfloat16"])
def test_checkpoints_that_auto_classes_load(trained, tmp_path, kind):
    if kind == "nf4":
        pytest.importorskip("bitsandbytes")
    rows = compressed(trained, tmp_path, f"--quantize {kind}")
    assert rows[1]["megabytes"] < 0.8 * rows[0]["megabytes"] and rows[1]["parameters"] == rows[0]["parameters"]
    assert rows[1]["metrics"]["perplexity"] == pytest.approx(rows[0]["metrics"]["perplexity"], rel=0.2)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "small")
    assert again.dtype == (torch.bfloat16 if kind == "bfloat16" else torch.float32)


def test_a_classifier_from_a_teacher_and_its_compression(trained, tmp_path):
    data = f"--task_name sst2 --data_dir {trained / 'glue'}"
    common = f"{data} --use_cpu --per_device_train_batch_size 4 --learning_rate 1e-3 --num_train_epochs 8"
    teach = f"{common} --model_name_or_path {trained / 'mlm'} --output_dir {tmp_path / 'teacher'}"
    assert run_glue.main(teach.split()) == 0
    teacher = tmp_path / "teacher" / "sst2" / "seed-42" / "model"
    learn = f"{common} --model_name_or_path {trained / 'mlm'} --output_dir {tmp_path / 'student'} --temperature 2"
    learn += f" --teacher {tmp_path}/teacher/{{task}}/seed-42/model --hard_weight 0.5 --intermediate_epochs 2"
    learn += f" --transfer_file {trained / 'glue' / 'SST-2' / 'train.tsv'}"
    assert run_glue.main(learn.split()) == 0
    student = tmp_path / "student" / "sst2" / "seed-42"
    alone, report = AutoModelForSequenceClassification.from_pretrained(student / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and alone.config.num_labels == 2
    found = json.loads((student / "results.json").read_text())
    assert found["settings"]["distillation_teacher"] == str(teacher) and found["score"] >= 0.5
    assert found["train_rows"] == 24  # 12 of them without labels
    shutil.copytree(teacher, tmp_path / "source" / "classifier")
    more = f"{data} --use_cpu --per_device_train_batch_size 4"
    options = "--prune_neurons 0.25 --prune_weights 0.3 --importance gradient --recover_steps 3 --quantize dynamic_int8"
    rows = compressed(tmp_path / "source", tmp_path, options, "classifier", more)
    assert [row["name"] for row in rows] == ["before", "pruned", "trained on", "dynamic_int8"]
    assert rows[0]["metrics"] == {"accuracy": json.loads((teacher.parent / "results.json").read_text())["score"]}
    assert rows[2]["non_zero"] < 0.9 * rows[2]["parameters"]
    assert type(load_compressed(tmp_path / "small")).__name__ == "BertForSequenceClassification"


def test_bad_commands(trained, tmp_path, capsys):
    where = f"--output_dir {tmp_path} {settings(trained)}"
    for command, message in (
        (f"{trained / 'mlm'} {where}", "nothing is to be done"),
        (f"nowhere --quantize bfloat16 {where}", "no folder 'nowhere'"),
        (f"{trained / 'mlm'} --prune_neurons 1.5 {where}", "must be in"),
        (f"{trained / 'mlm'} --prune_heads 0.5 --quantize nf4 {where}", "plain checkpoint"),
        (f"{trained / 'mlm'} --prune_neurons 0.5 --nonsense 3 {where}", "nonsense"),
        (f"{trained / 'mlm'} --keep_layers 0,9 {where}", "no layer 9"),
    ):
        assert main(command.split()) == 2
        assert message in " ".join(capsys.readouterr().err.split())


# measures


def test_sizes_and_numbers(trained):
    model = AutoModelForMaskedLM.from_pretrained(trained / "mlm")
    total = sum(p.numel() for p in model.parameters())
    assert size_on_disk(model) == pytest.approx(4 * total / 1e6, rel=0.05)
    assert parameters(model)[0] == total
    linear = sum(layer.weight.numel() for layer in linear_layers(model).values())
    prune_weights(model, 0.5)
    assert parameters(model)[1] == pytest.approx(total - linear / 2, abs=200)  # some biases are zero from the start
    zeros = parameters(model)[1]
    quantize_dynamic(model)
    assert parameters(model)[0] == total and parameters(model)[1] <= zeros
    assert size_on_disk(model) == pytest.approx((4 * total - 3 * linear) / 1e6, rel=0.1)
    assert set(latency({"a": model, "b": model}, 2, 8, rounds=2)) == {"a", "b"}


def test_keep_zeros():
    layer = torch.nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    holder = type("Holder", (), {"modules": layer.modules, "named_modules": lambda self: [("x", layer)]})()
    holder.get_output_embeddings = lambda: None
    callback = KeepZeros()
    callback.on_train_begin(None, None, None, model=holder)
    layer.weight.data += 1
    callback.on_step_end(None, None, None)
    assert layer.weight.tolist() == [[0, 2, 3], [4, 0, 0]]


def test_table():
    rows = [Measured("before", 8.0, 100, 100, 10.0, {"perplexity": 5.0})]
    rows.append(Measured("int8", 2.0, 100, 50, 5.0, {"perplexity": 5.5}))
    table = as_table(rows)
    cells = [list(column.cells) for column in table.columns]
    assert cells[1] == ["8.00 (100%)", "2.00 (25%)"] and cells[3] == ["100%", "50%"] and cells[5] == ["5.000", "5.500"]
