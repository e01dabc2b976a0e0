"""Numbers of languages: who decides them, what is refused, and that they reach rows and checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.pretraining import PretrainingModel
from pretrain_zoo.objectives.ragged import Ragged
from pretrain_zoo.scripts.pretrain import pretrain
from pretrain_zoo.training.arguments import parse_arguments
from pretrain_zoo.training.languages import codes_of, number_languages, with_languages
from pretrain_zoo.training.tokenizer import train_tokenizer

ENGLISH = [f"The {animal} number {i} sat on the mat." for i, animal in enumerate(["cat", "dog", "bird"] * 8)]
GERMAN = [f"{animal} Nummer {i} saß auf der Matte." for i, animal in enumerate(["Die Katze", "Ein Hund", "Er"] * 8)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(ENGLISH + GERMAN, "wordpiece", 200)


def parts(tokenizer, name="xlm-tiny", **overrides):
    return backbone(name, tokenizer, max_length=32, **overrides)


def test_presets_have_an_embedding_for_each_language(tokenizer):
    made = parts(tokenizer)
    assert number_languages(["de", "en", "ko"], made, {}) == {"de": 0, "en": 1, "ko": 2}
    assert made.config.n_langs == 3 and made.config.lang2id == {"de": 0, "en": 1, "ko": 2}
    assert made.config.id2lang == {"0": "de", "1": "en", "2": "ko"}
    more = parts(tokenizer, n_langs=5)  # as told
    assert number_languages(["de", "en"], more, {"n_langs": 5}) == {"de": 0, "en": 1} and more.config.n_langs == 5
    with pytest.raises(ValueError, match=r"3 languages \(de, en, ko\), the model embeddings of 2"):
        number_languages(["de", "en", "ko"], parts(tokenizer, n_langs=2), {"n_langs": 2})


def test_one_language_needs_no_number(tokenizer):
    for name in ("xlm-tiny", "bert-tiny"):
        made = parts(tokenizer, name)
        assert number_languages(["en"], made, {}) == {} and getattr(made.config, "lang2id", None) is None
    assert number_languages(["en", "de"], parts(tokenizer, "bert-tiny"), {}) == {"en": 0, "de": 1}


def test_checkpoints_know_their_languages(tokenizer):
    made = parts(tokenizer, n_langs=3)
    made.config.lang2id = {"fr": 0, "de": 1, "en": 2}
    overrides = {"n_langs": 3}
    assert number_languages(["en", "de"], made, overrides) == {"en": 2, "de": 1}
    assert number_languages(["en"], made, overrides) == {"en": 2}  # one language, and the model tells it from others
    assert made.config.lang2id == {"fr": 0, "de": 1, "en": 2}
    with pytest.raises(ValueError, match="embeddings of fr, de, en .* none of ko, ja"):
        number_languages(["en", "ko", "ja"], made, overrides)


def test_columns():
    ids = Ragged.from_rows([[5, 6, 7], [8]])
    rows = {"input_ids": ids}
    assert with_languages(rows, ()) is rows and with_languages(rows, (2, 0)) is rows  # texts that do not say which
    assert with_languages(rows, (3,))["langs"].tolist() == [[3, 3, 3], [3]]
    pairs = {"input_ids": ids, "langs": ids.with_values(np.array([0, 0, 1, 1]))}
    assert with_languages(pairs, (4, 2))["langs"].tolist() == [[4, 4, 2], [2]]
    assert pairs["langs"].values.tolist() == [0, 0, 1, 1]


def test_codes_of_a_run(tmp_path):
    assert codes_of(parse_arguments(["--use_cpu", "--language", "ko"])) == ["ko"]
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(
        "mixture: {a: {corpus: a.txt, language: de}, b: {objective: tlm, corpus: 'c,d', language: 'en, de'}}"
    )
    assert codes_of(parse_arguments(["--use_cpu", "--config", str(recipe)])) == ["de", "en"]


def test_runs_go_on_with_the_numbers_of_their_checkpoint(tmp_path, monkeypatch):
    """Trained on en,de; then on de,en, and on German alone: the model gets the same numbers."""
    for name, texts in (("en", ENGLISH), ("de", GERMAN)):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts) + "\n")
    common = ["--validation_fraction", "0.2", "--vocab_size", "200", "--max_seq_length", "32", "--max_steps", "2"]
    common += ["--per_device_train_batch_size", "4", "--use_cpu", "--cache_dir", str(tmp_path / "cache")]
    seen: list[set[tuple[int, str]]] = []

    def run(output, languages, objective, *more):
        files = ",".join(str(tmp_path / f"{code}.txt") for code in languages.split(","))
        arguments = ["--objective", objective, "--corpus", files, "--language", languages, *common, *more]
        made = parse_arguments([*arguments, "--output_dir", str(tmp_path / output)])
        seen.append(set())
        pretrain(made, Console(quiet=True))
        return json.loads((tmp_path / output / "config.json").read_text())

    forward = PretrainingModel.forward

    def watched(self, **batch):
        real = batch["attention_mask"] == 1
        for ids, langs, mask in zip(batch["input_ids"], batch["langs"], real):
            seen[-1] |= set(zip(langs[mask].tolist(), ids[mask].tolist()))
        return forward(self, **batch)

    monkeypatch.setattr(PretrainingModel, "forward", watched)
    config = run("first", "en,de", "tlm", "--model_name_or_path", "xlm-tiny")
    assert config["n_langs"] == 2 and config["lang2id"] == {"en": 0, "de": 1}
    first = ["--model_name_or_path", str(tmp_path / "first")]
    assert run("second", "de,en", "tlm", *first)["lang2id"] == {"en": 0, "de": 1}
    run("third", "de", "mlm", *first, "--validation_file", str(tmp_path / "de.txt"))
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "first").get_vocab()
    english, german = vocabulary["mat"], vocabulary["matte"]
    for pairs in seen[:2]:
        assert (0, english) in pairs and (1, german) in pairs
        assert (1, english) not in pairs and (0, german) not in pairs
    assert {number for number, _ in seen[2]} == {1}
