"""Paragraphs, questions in SQuAD's layout that a model can learn, and a small checkpoint for them."""

import json

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from pretrain_zoo.models.presets import backbone

ANIMALS = ("miller", "sailor", "baker", "sister")


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def paragraph(words, seed=0):
    """A text of the words of the shared corpus, and where each begins."""
    rng = np.random.default_rng(seed)
    known = "the miller mends a clock by river sailor carried forgot 42 barrels of flour bell".split()  # noqa: SIM905
    chosen = [known[i] for i in rng.integers(len(known), size=words)]
    starts = np.cumsum([0, *[len(word) + 1 for word in chosen]])[:-1]
    return " ".join(chosen), chosen, starts


def learnable(count, silent=False, seed=0):
    """Paragraphs of one fact each; the question names who, the answer is where."""
    rng = np.random.default_rng(seed)
    places = ("river", "town", "hill", "road", "house", "field")
    articles = []
    for i in range(count):
        who, place = ANIMALS[rng.integers(4)], places[rng.integers(6)]
        text = f"In winter the {who} is at the {place} at home. Nobody forgot the bell."
        asked = "sailor" if who != "sailor" and silent and i % 3 == 0 else who
        answers = [] if asked != who else [{"text": place, "answer_start": text.index(place)}]
        qa = {"id": f"q{i}", "question": f"Where is the {asked}?", "answers": answers, "is_impossible": not answers}
        articles.append({"title": f"t{i % 5}", "paragraphs": [{"context": text, "qas": [qa]}]})
    return {"version": "v2.0", "data": articles}


def rows_of(content):
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = {key: [a[key] for a in qa["answers"]] for key in ("text", "answer_start")}
                yield {"id": qa["id"], "question": qa["question"], "context": paragraph["context"], "answers": answers}


def make_checkpoint(folder, tokenizer):
    """A small BERT as pretraining leaves it."""
    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    backbone("bert-tiny", tokenizer, **small).load(AutoModelForMaskedLM).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
