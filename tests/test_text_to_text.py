"""Tasks as text: T5's prefixes and words, mixing, answers read back and scored, and a run from the command line."""

import gzip
import json
import random

import numpy as np
import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from pretrain_zoo.evaluation.chrf import chrf
from pretrain_zoo.evaluation.glue_tasks import GLUE
from pretrain_zoo.evaluation.text_to_text import (
    FORMATS,
    MixedTasks,
    mixing_rates,
    read_target,
    score_answers,
    translation_task,
    write_input,
    write_target,
)
from pretrain_zoo.scripts.run_text_to_text import main


def test_inputs_are_t5s():
    """The examples of appendix D, shortened."""
    wrong = "Mailman wanted John to be written."
    assert write_input("cola", [wrong]) == f"cola sentence: {wrong}"
    assert write_input("sst2", ["it confirms fincher's status ."]) == "sst2 sentence: it confirms fincher's status ."
    assert write_input("mrpc", ["We acted.", "I decided."]) == "mrpc sentence1: We acted. sentence2: I decided."
    assert write_input("rte", ["A cured B.", "B is a pig."]) == "rte sentence1: A cured B. sentence2: B is a pig."
    assert write_input("stsb", ["A.", "B."]) == "stsb sentence1: A. sentence2: B."
    assert write_input("qnli", ["Where?", "There."]) == "qnli question: Where? sentence: There."
    assert write_input("qqp", ["Why?", "How?"]) == "qqp question1: Why? question2: How?"
    assert write_input("mnli", ["It rains.", "It pours."]) == "mnli hypothesis: It pours. premise: It rains."
    pair = {"train": (["That is good."], ["Das ist gut."]), "validation": (["No."], ["Nein."])}
    task = translation_task(("English", "German"), pair)
    assert task.inputs["train"] == ["translate English to German: That is good."]
    assert task.targets["train"] == ["Das ist gut."] and task.name == "English to German"


def test_words_follow_glues_labels():
    """Each word beside what GLUE's own file holds for it."""
    known = {
        "cola": {"0": "unacceptable", "1": "acceptable"},
        "sst2": {"0": "negative", "1": "positive"},
        "mrpc": {"0": "not_equivalent", "1": "equivalent"},
        "qqp": {"0": "not_duplicate", "1": "duplicate"},
        **{t: {w: w for w in ("entailment", "not_entailment")} for t in ("qnli", "rte")},
        "mnli": {w: w for w in ("entailment", "neutral", "contradiction")},
    }
    assert set(known) == set(FORMATS) - {"stsb"}
    for name, words in known.items():
        labels = GLUE[name].labels
        assert {label: write_target(name, i) for i, label in enumerate(labels)} == words
        for i, label in enumerate(labels):
            assert read_target(name, words[label]) == i
            assert read_target(name, words[label].replace("_", " _ ")) == i  # as WordPiece decodes it
    assert read_target("cola", "not_entailment") is None and read_target("mnli", "") is None


def test_numbers_to_the_nearest_fifth():
    given = [0.0, 0.09, 0.11, 2.57, 2.6, 2.75, 3.75, 4.99, 5.0]
    written = ["0.0", "0.0", "0.2", "2.6", "2.6", "2.8", "3.8", "5.0", "5.0"]
    assert [write_target("stsb", x) for x in given] == written
    rng = random.Random(0)
    for _ in range(200):
        x = rng.uniform(0, 5)
        assert abs(read_target("stsb", write_target("stsb", x)) - x) <= 0.1 + 1e-9
    for text, number in {"3.8": 3.8, "3 . 8": 3.8, "4": 4.0, "5.2": None, "-1": None, "nan": None, "": None}.items():
        assert read_target("stsb", text) == number


def test_what_is_no_answer_counts_as_wrong():
    labels = np.array([0, 0, 1, 1])
    found = score_answers(GLUE["sst2"], ["negative", "acceptable", "positive", ""], labels)
    assert found == {"accuracy": 0.5, "score": 0.5, "invalid": 0.5}
    all_invalid = score_answers(GLUE["mnli"], ["x"] * 3, np.array([0, 1, 2]))
    assert all_invalid["accuracy"] == 0.0 and all_invalid["invalid"] == 1.0
    mrpc = score_answers(GLUE["mrpc"], ["", "equivalent"], np.array([0, 1]))  # the empty one is a false positive
    assert mrpc["f1"] == pytest.approx(2 / 3) and mrpc["accuracy"] == 0.5
    stsb = score_answers(GLUE["stsb"], ["1.0", "2.0", "cat"], np.array([1.0, 2.0, 3.0]))
    assert stsb["pearson"] == pytest.approx(np.corrcoef([1, 2, -1], [1, 2, 3])[0, 1]) and stsb["invalid"] == 1 / 3


def test_mixing_rates_by_hand():
    assert mixing_rates([10, 30]).tolist() == [0.25, 0.75]
    assert mixing_rates([10, 30, 10**9], limit=60).tolist() == pytest.approx([0.1, 0.3, 0.6])
    assert mixing_rates([100, 400], temperature=2.0).tolist() == pytest.approx([1 / 3, 2 / 3])  # 10 : 20
    assert mixing_rates([100, 10**9], limit=400, temperature=2.0).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert mixing_rates([1, 10**6], temperature=1e9).tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    for bad in ({"sizes": []}, {"sizes": [3, 0]}, {"sizes": [1], "limit": 0}, {"sizes": [1], "temperature": 0.0}):
        with pytest.raises(ValueError):
            mixing_rates(**bad)


def test_mixture_has_its_rates_and_whole_epochs():
    tasks, rates = [list(range(100)), list(range(1000, 1007)), [5000]], np.array([0.7, 0.2, 0.1])
    mixed = MixedTasks(tasks, rates, 20_000, seed=3)
    rows = np.array([mixed[i] for i in range(len(mixed))])
    for members, rate in zip(tasks, rates, strict=True):
        share = np.isin(rows, members).mean()
        assert abs(share - rate) < 5 * (rate * (1 - rate) / 20_000) ** 0.5
        own = rows[np.isin(rows, members)]
        epochs = own[: len(own) // len(members) * len(members)].reshape(-1, len(members))
        assert (np.sort(epochs, 1) == np.array(members)).all()  # each example once an epoch
        assert len(members) < 2 or (epochs[0] != epochs[1]).any()
    assert [mixed[i] for i in range(500)] == [MixedTasks(tasks, rates, 500, seed=3)[i] for i in range(500)]
    assert [mixed[i] for i in range(500)] != [MixedTasks(tasks, rates, 500, seed=4)[i] for i in range(500)]
    alike = MixedTasks([list(range(100))] * 2, np.array([0.5, 0.5]), 200, seed=3)
    one, other = (alike.example[alike.task == number][:50].tolist() for number in (0, 1))
    assert one != other and one != MixedTasks([list(range(100))], np.ones(1), 50, seed=4).example.tolist()


def test_chrf_by_hand():
    """ "abc" against "abd": 2 of 3 letters, 1 of 2 pairs, 0 of 1 triples; ref and text are equally long."""
    assert chrf(["abc"], ["abd"]) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    precision, recall = (1 + 1) / 2, (2 / 4 + 1 / 3) / 2  # "ab" against "abxy": orders 1 and 2 only
    assert chrf(["ab"], ["a b x y"]) == pytest.approx(5 * precision * recall / (4 * precision + recall))
    assert chrf(["", "ab"], ["ab", ""]) == 0.0
    with pytest.raises(ValueError, match="references"):
        chrf(["a"], [])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """SST-2's layout, its label the one word that tells it, and German that repeats the English."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    (folder / "SST-2").mkdir()
    for split, count in (("train", 256), ("dev", 64)):
        rows = []
        for _ in range(count):
            label = rng.randrange(2)
            words = rng.choices(["film", "story", "plot", "scene"], k=2)
            rows.append(f"{words[0]} {('dull', 'good')[label]} {words[1]}\t{label}")
        (folder / "SST-2" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    for name in ("train", "val"):
        lines = [" ".join(rng.choices(["ja", "nein", "gut"], k=2)) for _ in range(40)]
        for language in ("en", "de"):
            with gzip.open(folder / f"{name}.{language}.gz", "wt") as file:
                file.write("\n".join(lines) + "\n")
    return folder


def arguments(data, folder, *more: str) -> list[str]:
    files = ",".join(str(data / f"{name}.{lang}.gz") for name in ("train", "val") for lang in ("en", "de"))
    return [
        *("--model_name_or_path", "t5-tiny", "--vocab_size", "400", "--tasks", "sst2", "--data_dir", str(data)),
        *("--config_overrides", "num_layers=1,num_decoder_layers=1,d_model=64,num_heads=2,d_kv=32,d_ff=128"),
        *("--translation", f"English,German,{files}", "--output_dir", str(folder), "--cache_dir", str(data / "cache")),
        *("--use_cpu", "--max_target_length", "8", "--per_device_train_batch_size", "16", *more),
    ]


def test_run_learns_scores_and_resumes(data, tmp_path, capsys, monkeypatch):
    command = arguments(data, tmp_path / "run", "--max_steps", "60", "--save_steps", "20", "--save_total_limit", "3")
    assert main(command) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["tasks"]) == {"sst2", "English to German"}
    assert results["rates"]["sst2"] == pytest.approx(256 / 296)
    assert results["tasks"]["sst2"]["accuracy"] > 0.9 and results["tasks"]["sst2"]["invalid"] == 0
    table = (tmp_path / "run" / "predictions" / "sst2.tsv").read_text().splitlines()
    assert len(table) == 65 and table[1].startswith("sst2 sentence: ")
    right = sum(row.split("\t")[1] == row.split("\t")[2] for row in table[1:])
    assert right / 64 == results["tasks"]["sst2"]["accuracy"]
    assert "sst2" in capsys.readouterr().out

    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    ids = tokenizer("sst2 sentence: film good story", return_tensors="pt").input_ids
    assert tokenizer.decode(model.generate(ids, max_new_tokens=8)[0], skip_special_tokens=True).strip() == "positive"

    (tmp_path / "run" / "results.json").unlink()  # as if cut off after step 40
    for path in sorted((tmp_path / "run").glob("checkpoint-60*/*")):
        path.unlink()
    assert main(command) == 0
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["tasks"] == results["tasks"]
    assert [log["loss"] for log in again["history"]][-1] == [log["loss"] for log in results["history"]][-1]
    assert main(command) == 0 and "finished" in capsys.readouterr().out
    assert main([*command, "--temperature", "3"]) == 2 and "another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--tasks", "wnli"), "not written as text"),
        (("--tasks", "", "--translation", ""), "nothing to train on"),
        (("--translation", "English,German,a,b"), "four files"),
        (("--translation", "English,German,a,b,c,d"), "no file a"),
        (("--translation", "twice"), "English to German is given more than once"),
        (("--model_name_or_path", "bert-tiny"), "no encoder-decoder"),
        (("--max_steps", "0"), "1 or more"),
        (("--peft", "lora"), "leave it out"),
        (("--nonsense", "1"), "nonsense"),
    ],
)
def test_bad_input_ends_with_one_line(more, message, data, tmp_path, capsys):
    (data / "WNLI").mkdir(exist_ok=True)
    command = arguments(data, tmp_path / "run")
    pair = command[command.index("--translation") + 1]
    more = [f"{pair};{pair}" if value == "twice" else value for value in more]
    overrides = ("--config_overrides", "") if "bert-tiny" in more else ()
    assert main([*command, *more, *overrides]) == 2
    assert message in capsys.readouterr().err
