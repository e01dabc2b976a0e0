"""GLUE's layouts, tasks of one's own, the offline probes and the leaderboard's files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_texts
from glue_files import FILES, FOLDERS, LABELS, row, write_task

from pretrain_zoo.evaluation.glue_tasks import GLUE, PROBES, TASKS, get_tasks
from pretrain_zoo.evaluation.predictions import submission_name, write_predictions
from pretrain_zoo.evaluation.probes import TOPICS, sentences, topic_of, write_probes
from pretrain_zoo.evaluation.tables import DataError, read_columns
from pretrain_zoo.evaluation.task_data import custom_task, from_dataset, load_task

IDS = {  # the Hub's, and those of most published checkpoints
    "mnli": {"entailment": 0, "neutral": 1, "contradiction": 2},
    "qnli": {"entailment": 0, "not_entailment": 1},
    "rte": {"entailment": 0, "not_entailment": 1},
}


@pytest.mark.parametrize("name", LABELS)
def test_each_layout_is_read(tmp_path, name):
    write_task(tmp_path, name)
    splits = load_task(GLUE[name], tmp_path)
    assert len(splits) == len(FILES[name])
    for stem, (split, examples) in zip(FILES[name], splits.items(), strict=True):
        expected = [row(name, stem, i) for i in range(7)]
        assert [list(texts) for texts in zip(*examples.texts)] == [texts for _, _, texts in expected]
        if stem.startswith("test"):
            assert examples.labels is None and examples.index == [str(i) for i in range(7)], split
            continue
        wanted = [LABELS[name][i % len(LABELS[name])] for i in range(7)]
        if name == "stsb":
            assert examples.labels.tolist() == [float(text) for text in wanted]
        else:
            assert examples.labels.tolist() == [IDS[name][text] if name in IDS else int(text) for text in wanted]


def test_diagnostic_set_goes_with_mnli(tmp_path):
    write_task(tmp_path, "mnli")
    (tmp_path / "diagnostic").mkdir()
    (tmp_path / "diagnostic" / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\tA.\tB.\n")
    assert load_task(GLUE["mnli"], tmp_path)["ax"].texts == (["A."], ["B."])


def test_damaged_rows_of_qqp_are_left_out_of_training_only(tmp_path):
    folder = write_task(tmp_path, "qqp")
    with open(folder / "train.tsv", "a") as file:
        file.write("402555\t536040\t536041\tHow do I control my horny emotions?\n")
    assert len(load_task(GLUE["qqp"], tmp_path)["train"]) == 7
    with open(folder / "test.tsv", "a") as file:
        file.write("8\tonly one\n")
    with pytest.raises(DataError, match=r"test\.tsv, line 9: 2 columns"):
        load_task(GLUE["qqp"], tmp_path)


def break_file(folder, split, change):
    path = folder / f"{split}.tsv"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("sst2", lambda text: text.replace("sentence\t", "text\t", 1), r"no column 'sentence'; it has 'text', 'label'"),
        ("sst2", lambda text: text.replace("\t1\n", "\tpositive\n", 1), r"unknown label 'positive' \(first in example"),
        ("rte", lambda text: text.replace("\tentailment\n", "\tneutral\n", 1), r"RTE has entailment, not_entailment"),
        ("stsb", lambda text: text.replace("2.800", "similar"), r"predicts a number"),
        ("stsb", lambda text: text.replace("2.800", "nan"), r"not finite"),
        ("cola", lambda text: "", r"'train' is empty"),
        ("wnli", lambda text: text.partition("\n")[0] + "\n", r"'train' is empty"),
        ("rte", lambda text: text + "9\tonly one sentence\n", r"line 9: 2 columns, and 'label' is column 4"),
    ],
)
def test_bad_data_stops_with_the_reason(tmp_path, name, change, message):
    break_file(write_task(tmp_path, name), "train", change)
    with pytest.raises(DataError, match=message):
        load_task(GLUE[name], tmp_path)


def test_missing_folders_files_and_tasks_are_named(tmp_path):
    with pytest.raises(DataError, match=r"has no folder CoLA; it has: none"):
        load_task(GLUE["cola"], tmp_path)
    (write_task(tmp_path, "qnli") / "train.tsv").unlink()
    with pytest.raises(DataError, match=r"QNLI needs .*train\.tsv"):
        load_task(GLUE["qnli"], tmp_path)
    with pytest.raises(DataError, match=r"did you mean sst2"):
        get_tasks("stt2")
    (tmp_path / "a.tsv").write_bytes(b"sentence\tlabel\n\xff\t1\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_columns(tmp_path / "a.tsv", ["sentence"])


def test_names_of_tasks():
    assert [task.name for task in get_tasks("all")] == list(GLUE) and len(GLUE) == 9
    assert [task.name for task in get_tasks("SST-2, CoLA,stsb,word_order")] == ["sst2", "cola", "stsb", "word_order"]
    assert set(TASKS) == set(GLUE) | set(PROBES)


def test_samples_are_nested_and_the_same_each_time(tmp_path):
    write_task(tmp_path, "cola", rows=40)
    examples = load_task(GLUE["cola"], tmp_path)["train"]
    small, large = examples.sample(10), examples.sample(25)
    assert small.index == examples.sample(10).index and set(small.index) < set(large.index)
    assert small.labels.tolist() == [int(examples.labels[int(i)]) for i in small.index]
    assert examples.sample(None) is examples and examples.sample(40) is examples


def test_hub_columns():
    from datasets import Dataset

    columns = {"premise": ["a"], "hypothesis": ["b"], "idx": [4]}
    examples = from_dataset(GLUE["mnli"], Dataset.from_dict(columns | {"label": [2]}))
    assert examples.texts == (["a"], ["b"]) and examples.labels.tolist() == [2] and examples.index == ["4"]
    assert from_dataset(GLUE["mnli"], Dataset.from_dict(columns | {"label": [-1]})).labels is None
    with pytest.raises(DataError, match="3 are known"):
        from_dataset(GLUE["mnli"], Dataset.from_dict(columns | {"label": [3]}))
    with pytest.raises(DataError, match="no column 'hypothesis'"):
        from_dataset(GLUE["mnli"], Dataset.from_dict({"premise": ["a"], "label": [0]}))


def test_hub_splits_of_mnli(monkeypatch):
    import datasets

    def load(name, configuration):
        columns = {"premise": ["a"], "hypothesis": [configuration], "idx": [0], "label": [1]}
        names = ["train", *(f"{split}_{kind}matched" for split in ("validation", "test") for kind in ("", "mis"))]
        return {
            split: datasets.Dataset.from_dict(columns) for split in (names if configuration == "mnli" else ["test"])
        }

    monkeypatch.setattr(datasets, "load_dataset", load)
    splits = load_task(GLUE["mnli"])
    assert set(splits) == set(GLUE["mnli"].splits) and splits["ax"].texts[1] == ["ax"]

    def fail(name, configuration):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="no network. Give a folder"):
        load_task(GLUE["cola"])


# tasks of one's own


def write_rows(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".csv":
        quoted = ['"' + str(row["text"]).replace('"', '""') + f'",{row["label"]}' for row in rows]
        path.write_text("\n".join(["text,label", *quoted]))
    else:
        path.write_text("\n".join(["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in rows)]))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".jsonl.gz"])
def test_own_task_from_any_format(tmp_path, suffix):
    rows = [{"text": f'영화 {i}, "아주" 좋다', "label": i % 12} for i in range(24)]
    train, validation = (write_rows(tmp_path / f"{name}{suffix}", rows) for name in ("train", "validation"))
    task, splits = custom_task(train, validation, validation)
    assert task.labels == tuple(map(str, range(12)))  # by value: 10 behind 9
    assert splits["train"].texts == ([row["text"] for row in rows],)
    assert splits["validation"].labels.tolist() == [row["label"] for row in rows]
    assert splits["test"].labels is None and task.metrics == ("accuracy", "f1")


def test_numbers_with_a_point_make_a_regression(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "a", "label": 0.5}, {"text": "b", "label": 2}])
    task, splits = custom_task(path, path)
    assert task.is_regression and splits["train"].labels.tolist() == [0.5, 2.0] and task.num_labels == 1
    with pytest.raises(DataError, match="cannot score"):
        custom_task(path, path, metrics=("accuracy",))


def test_own_task_refuses_what_does_not_fit(tmp_path):
    good = write_rows(tmp_path / "good.csv", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    other = write_rows(tmp_path / "other.csv", [{"text": "a", "label": "z"}])
    same = write_rows(tmp_path / "same.csv", [{"text": "a", "label": "x"}] * 3)
    with pytest.raises(DataError, match=r"other\.csv: unknown label 'z'"):
        custom_task(good, other)
    with pytest.raises(DataError, match="nothing to tell apart"):
        custom_task(same, same)
    with pytest.raises(DataError, match="no column 'review'"):
        custom_task(good, good, text_columns=("review",))
    with pytest.raises(DataError, match="there is no file"):
        custom_task(good, tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match=r"empty\.csv: the file is empty"):
        custom_task(tmp_path / "empty.csv", good)
    gaps = write_rows(tmp_path / "gaps.csv", [{"text": "a", "label": "x"}, {"text": "b", "label": ""}] * 2)
    with pytest.raises(DataError, match=r"gaps\.csv: example 2 has no label in column 'label'"):
        custom_task(gaps, good)
    for name in ("text", "label"):
        rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"} | {name: None}]
        with pytest.raises(DataError, match=f"line 2: '{name}' is null"):
            custom_task(write_rows(tmp_path / f"{name}.jsonl", rows), good)
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "label": 1}\n{"text": ')
    with pytest.raises(DataError, match="line 2: not JSON"):
        custom_task(tmp_path / "bad.jsonl", good)
    with pytest.raises(DataError, match="not known"):
        custom_task(write_rows(tmp_path / "a.txt", [{"text": "a", "label": 1}]), good, text_columns=("text",))


# probes


def test_probes_are_tasks_in_glue_layout(tmp_path):
    texts = [
        f"{text}\n" + " ".join(f"This {key} {i} is one of those many {word}." for word in words.split()[:8])
        for i, text in enumerate(make_texts(120))
        for key, words in [list(TOPICS.items())[i % 4]]
    ]
    write_probes(tmp_path, texts, train_size=80, dev_size=40)
    for name, task in PROBES.items():
        splits = load_task(task, tmp_path)
        train, dev = splits["train"], splits["validation"]
        assert set(np.unique(train.labels)) == set(range(task.num_labels)), name
        assert len(train) <= 80 and len(dev) <= 40
        shared = set(zip(*train.texts)) & set(zip(*dev.texts))
        assert len(shared) < len(set(zip(*dev.texts)))  # documents differ; made-up sentences may be alike
    keys = {word for words in TOPICS.values() for word in words.split()}
    topic = load_task(PROBES["topic"], tmp_path)["train"]
    assert not keys & {word for text in topic.texts[0] for word in text.lower().strip(".").split()}
    order = load_task(PROBES["word_order"], tmp_path)["train"]
    natural = {text for document in texts for text in sentences(document)}
    for text, label in zip(order.texts[0], order.labels):
        assert (text in natural) == bool(label)
        assert label or any(sorted(text.split()) == sorted(other.split()) for other in natural)
    pair = load_task(PROBES["sentence_pair"], tmp_path)["train"]
    lowered = {(text[0].lower() + text[1:]).rstrip(".!?:") for text in natural}
    for a, b, label in zip(*pair.texts, pair.labels):
        assert (f"{b} {a}" if label else f"{a} {b}") in lowered


def test_topic_needs_a_clear_majority():
    assert topic_of("file directory path file files") == "files"
    assert topic_of("file directory path file files server client socket") is None  # not twice as many
    assert topic_of("file directory path file") is None  # fewer than five


def test_text_without_topics_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing for Topic"):
        write_probes(tmp_path, make_texts(30))


# the leaderboard's files


def test_submission_files(tmp_path):
    names = {submission_name(GLUE["mnli"], split) for split in ("test", "test_mismatched", "ax")}
    assert names == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}
    assert submission_name(GLUE["cola"], "test") == "CoLA.tsv"
    write_predictions(tmp_path / "x" / "RTE.tsv", GLUE["rte"], ["0", "1"], np.array([1, 0]))
    expected = "index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    assert (tmp_path / "x" / "RTE.tsv").read_text() == expected
    write_predictions(tmp_path / "STS-B.tsv", GLUE["stsb"], ["0", "1"], np.array([5.3, 1.23456]))
    assert (tmp_path / "STS-B.tsv").read_text() == "index\tprediction\n0\t5.000\n1\t1.235\n"
    write_predictions(tmp_path / "SST-2.tsv", GLUE["sst2"], ["7"], np.array([1]))
    assert (tmp_path / "SST-2.tsv").read_text() == "index\tprediction\n7\t1\n"
    assert FOLDERS["sst2"] == GLUE["sst2"].title
