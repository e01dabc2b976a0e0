"""Association tests against a brute force over single numbers, and the command."""

import itertools
import json
import math
import statistics

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pretrain_zoo.evaluation.bias import (
    associations,
    effect_size,
    find_tests,
    holm,
    permutation_p_value,
    read_test,
)
from pretrain_zoo.evaluation.sentence_vectors import default_pooling, sentence_vectors
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.scripts.measure_bias import main


def cosine(u, v):
    dot = sum(a * b for a, b in zip(u, v))
    return dot / math.sqrt(sum(a * a for a in u) * sum(b * b for b in v))


def brute_force(x, y, a, b):
    """Effect size and p-value by the definitions, without arrays."""

    def s(w):
        return statistics.fmean(cosine(w, v) for v in a) - statistics.fmean(cosine(w, v) for v in b)

    s_x, s_y = [s(w) for w in x], [s(w) for w in y]
    size = (statistics.fmean(s_x) - statistics.fmean(s_y)) / statistics.stdev(s_x + s_y)
    both, observed = s_x + s_y, sum(s_x) - sum(s_y)
    count = total = 0
    for chosen in itertools.combinations(range(len(both)), len(x)):
        inside = sum(both[i] for i in chosen)
        outside = sum(both[i] for i in range(len(both)) if i not in chosen)
        count += inside - outside >= observed - 1e-9
        total += 1
    return size, count / total


def vectors(seed, *sizes, shift=0.0):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(size, 5)) for size in sizes]
    parts[0][:, 0] += shift
    parts[2][:, 0] += shift
    return parts


@pytest.mark.parametrize("sizes", [(4, 4, 3, 3), (5, 3, 2, 4), (3, 6, 1, 1)])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_effect_size_and_p_value_are_those_of_brute_force(sizes, shift):
    for seed in range(3):
        x, y, a, b = vectors(seed, *sizes, shift=shift)
        s_x, s_y = associations(x, a, b), associations(y, a, b)
        size, p_value = brute_force(x.tolist(), y.tolist(), a.tolist(), b.tolist())
        assert effect_size(s_x, s_y) == pytest.approx(size)
        found, exact = permutation_p_value(s_x, s_y)
        assert exact and found == pytest.approx(p_value)


def test_partitions_with_equal_sums_count():
    values = np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
    # of 20 partitions, those with two or three ones of three: C(3,2)·3 + 1 = 10
    assert permutation_p_value(*values) == (0.5, True)


def test_sampled_p_value_agrees_with_the_exact_one_and_is_seeded():
    s_x, s_y = np.random.default_rng(0).normal(size=(2, 9)) + [[0.4], [0.0]]
    exact, all_counted = permutation_p_value(s_x, s_y, n_samples=math.comb(18, 9))
    sampled, counted = permutation_p_value(s_x, s_y, n_samples=math.comb(18, 9) - 1, seed=1)
    assert all_counted and not counted
    assert abs(sampled - exact) < 5 * math.sqrt(exact * (1 - exact) / 48_000)
    assert permutation_p_value(s_x, s_y, n_samples=2000, seed=3) == permutation_p_value(s_x, s_y, 2000, 3)
    assert permutation_p_value(s_x, s_y, n_samples=2000, seed=3) != permutation_p_value(s_x, s_y, 2000, 4)


def test_sampled_p_value_is_never_zero():
    apart = np.arange(30.0) + 100, np.arange(30.0)
    assert permutation_p_value(*apart, n_samples=1000) == (1 / 1000, False)


def test_vectors_without_direction_are_refused():
    x, y, a, b = vectors(0, 3, 3, 2, 2)
    x[1] = 0
    with pytest.raises(ValueError, match="no direction"):
        associations(x, a, b)
    with pytest.raises(ValueError, match="the same vector"):
        effect_size(np.ones(3), np.ones(3))


def test_holm():
    # smallest of three times 3, next times 2, largest times 1; never below the one before, at most 1
    assert holm([0.02, 0.5, 0.011]) == pytest.approx([0.04, 0.5, 0.033])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


# files


def content(**changes):
    sets = {
        "targ1": {"category": "Millers", "examples": ["the miller", "each baker", "my sister"]},
        "targ2": {"category": "Sailors", "examples": ["an old sailor", "the committee", "nobody"]},
        "attr1": {"category": "Flour", "examples": ["42 barrels of flour", "a letter"]},
        "attr2": {"category": "Bells", "examples": ["the ship's bell", "his umbrella"]},
    }
    return sets | changes


def test_reading_tests(tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps(content(), indent=2))  # one object over many lines
    (tmp_path / "notes.txt").write_text("no test")
    test = read_test(find_tests([tmp_path])[0])
    assert test.name == "one" and test.categories == ("Millers", "Sailors", "Flour", "Bells")
    assert test.texts[3] == ("the ship's bell", "his umbrella")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attr2": None}, "'attr2' must hold a category and a list of examples"),
        ({"attr2": {"category": "x", "examples": "text"}}, "'attr2' must hold"),
        ({"targ1": {"category": "x", "examples": ["one"]}}, "'targ1' holds 1 examples; a target needs two"),
        ({"attr1": {"category": "x", "examples": []}}, "'attr1' holds 0"),
    ],
)
def test_bad_tests_are_refused(tmp_path, change, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(content(**change)))
    with pytest.raises(ValueError, match=message):
        read_test(path)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder"):
        find_tests([tmp_path / "none.jsonl"])
    with pytest.raises(ValueError, match=r"holds no \.jsonl"):
        find_tests([tmp_path])
    (tmp_path / "bad.jsonl").write_text('{"targ1": ')
    with pytest.raises(ValueError, match="is no JSON object"):
        read_test(tmp_path / "bad.jsonl")


# vectors


@pytest.fixture(scope="module")
def model(wordpiece_tokenizer):
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return backbone("bert-tiny", wordpiece_tokenizer, **small).load(AutoModel).eval()


TEXTS = ["the miller", "an old sailor mends every window in winter", "nobody", "his umbrella"]


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_vectors_are_those_of_single_texts(pooling, model, wordpiece_tokenizer):
    found = sentence_vectors(model, wordpiece_tokenizer, TEXTS, pooling, batch_size=3)
    for text, vector in zip(TEXTS, found):
        with torch.no_grad():
            hidden = model(**wordpiece_tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = {"cls": hidden[0], "mean": hidden[1:-1].mean(0), "last": hidden[-2]}[pooling]
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, kind, pooling", [("gpt2-tiny", "bpe", "last"), ("t5-tiny", "bpe", "mean"),
                                                ("roberta-tiny", "byte_bpe", "cls")])  # fmt: skip
def test_other_architectures(name, kind, pooling, request):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    small = {"num_hidden_layers": 1} if name != "t5-tiny" else {"num_layers": 1}
    model = backbone(name, tokenizer, **small).load(AutoModel)
    assert default_pooling(model, tokenizer) == pooling
    found = sentence_vectors(model, tokenizer, TEXTS, pooling)
    assert found.shape == (4, model.config.hidden_size) and found.isfinite().all()


def test_poolings_that_cannot_be_are_refused(model, wordpiece_tokenizer, bpe_tokenizer):
    with pytest.raises(ValueError, match="must be one of cls, mean, last"):
        sentence_vectors(model, wordpiece_tokenizer, TEXTS, "max")
    with pytest.raises(ValueError, match="has no cls token"):
        sentence_vectors(model, bpe_tokenizer, TEXTS, "cls")


# the command


def test_command(tmp_path, model, wordpiece_tokenizer, capsys):
    model.save_pretrained(tmp_path / "model")
    wordpiece_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "one.jsonl").write_text(json.dumps(content()))
    (tmp_path / "two.jsonl").write_text(json.dumps(content(targ1=content()["targ2"], targ2=content()["targ1"])))
    output = tmp_path / "out" / "bias.json"
    command = f"--model_name_or_path {tmp_path / 'model'} --tests {tmp_path} --output_file {output} --pooling mean"
    assert main(command.split()) == 0
    assert "Millers" in capsys.readouterr().out
    results = json.loads(output.read_text())
    one, two = results["tests"]
    assert one["effect_size"] == pytest.approx(-two["effect_size"])  # the targets changed places
    single = {}
    for text in {text for part in content().values() for text in part["examples"]}:
        with torch.no_grad():
            hidden = model(**wordpiece_tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        single[text] = hidden[1:-1].mean(0).tolist()
    size, p_value = brute_force(*([single[text] for text in part["examples"]] for part in content().values()))
    assert one["effect_size"] == pytest.approx(size, rel=1e-3)
    assert one["p_value"] == pytest.approx(p_value) and one["exact"]


def test_command_refuses(tmp_path, capsys):
    (tmp_path / "one.jsonl").write_text(json.dumps(content()))
    assert main(["--model_name_or_path", "bert-tiny", "--tests", str(tmp_path)]) == 2
    assert "give --tokenizer_name" in capsys.readouterr().err
    assert main(["--model_name_or_path", str(tmp_path), "--tests", str(tmp_path / "none")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
