"""Objectives by name: suggestions, duplicates, and a package of someone else's that defines one in a file."""

import importlib
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import ObjectiveCollator, get_objective, list_objectives, registry
from pretrain_zoo.objectives.base import Objective
from pretrain_zoo.objectives.mlm import MaskedLM

PACKAGE = '''
"""Token deletion: a tenth of the tokens is left out, and each token before a gap predicts what is missing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pretrain_zoo.objectives import Objective, Ragged, register
from pretrain_zoo.objectives.losses import masked_lm_loss
from pretrain_zoo.objectives.mlm import allowed
from pretrain_zoo.objectives.noise import bernoulli, row_counts


@register("token_deletion")
@dataclass(frozen=True)
class TokenDeletion(Objective):
    summary: ClassVar[str] = "predict deleted tokens from those before them"
    deletion_probability: float = 0.1
    packing: str = "doc_sentences"

    def corrupt(self, rows, draws, vocabulary):
        ids = rows["input_ids"]
        gone = bernoulli(draws.key, ids, self.deletion_probability)
        gone = gone[allowed(rows, vocabulary, gone)]
        gone = gone[np.diff(gone, prepend=-2) > 1]  # no two in a row, so that the token before is there
        kept = np.ones(len(ids.values), bool)
        kept[gone] = False
        text = ids.keep(kept)
        counts = row_counts(gone, ids.offsets)
        before = np.cumsum(kept)[gone] - 1 - np.repeat(text.offsets[:-1], counts)
        return {
            "input_ids": text,
            "label_positions": Ragged(before, counts),
            "label_ids": Ragged(ids.values[gone], counts),
        }

    def loss(self, outputs, batch):
        return masked_lm_loss(self.name, outputs, batch)
'''


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def install(folder, monkeypatch, name: str, source: str, entries: str):
    """A package on the path as pip would have put it there."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pretrain_zoo.objectives]\n{entries}\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def package(tmp_path, monkeypatch, clean_registry):
    install(tmp_path, monkeypatch, "someones_package", PACKAGE, "token_deletion = someones_package:TokenDeletion")
    yield "someones_package"
    sys.modules.pop("someones_package", None)


def test_ours():
    names = list_objectives()
    assert names == sorted(names) and {"mlm", "whole_word_mlm", "ngram_mlm", "clm"} <= set(names)
    for name in names:
        objective = get_objective(name)
        assert objective.name.split("(")[0] == name and objective.summary and isinstance(objective, Objective)


def test_settings():
    assert get_objective("mlm", mlm_probability=0.3).mlm_probability == 0.3
    with pytest.raises(ValueError, match="'mlm' has no setting 'max_ngram'; it has: mlm_probability"):
        get_objective("mlm", max_ngram=2)
    with pytest.raises(ValueError, match="no setting 'mlm_probabilty'; did you mean 'mlm_probability'"):
        get_objective("mlm", mlm_probabilty=0.3)


def test_suggestions():
    with pytest.raises(ValueError, match="unknown objective 'whole_word_ml'; did you mean 'whole_word_mlm'"):
        get_objective("whole_word_ml")
    with pytest.raises(ValueError, match="unknown objective 'xyzzy'; known: .*clm.*mlm"):
        get_objective("xyzzy")


def test_duplicates(clean_registry):
    with pytest.raises(ValueError, match="'mlm' is registered by pretrain_zoo.objectives.mlm.MaskedLM already"):

        @registry.register("mlm")
        @dataclass(frozen=True)
        class Another(Objective):
            pass

    assert registry.register("mlm")(MaskedLM) is MaskedLM  # the same class again, as a reloaded module does
    assert registry.objective_class("mlm") is MaskedLM


def test_listed_without_import_and_loaded_by_name(package):
    assert "token_deletion" in list_objectives()
    assert package not in sys.modules
    objective = get_objective("token_deletion", deletion_probability=0.2)
    assert package in sys.modules and objective.deletion_probability == 0.2 and objective.name == "token_deletion"
    assert "token_deletion" in list_objectives()


def test_imported_by_its_user_first(package):
    module = importlib.import_module(package)
    assert "token_deletion" in list_objectives()
    assert isinstance(get_objective("token_deletion"), module.TokenDeletion)


def test_a_class_from_elsewhere_in_a_package(package, tmp_path, monkeypatch):
    """An entry point may name a class that another module defines, and one without `@register`."""
    source = """
from dataclasses import dataclass
from pretrain_zoo.objectives.mlm import MaskedLM
from someones_package import TokenDeletion

@dataclass(frozen=True)
class Half(MaskedLM):
    mlm_probability: float = 0.5
"""
    entries = "half_mlm = someones_other:Half"
    (tmp_path / "other").mkdir()
    install(tmp_path / "other", monkeypatch, "someones_other", source, entries)
    half = get_objective("half_mlm")
    assert half.name == "half_mlm" and half.mlm_probability == 0.5 and set(half.terms) == {"half_mlm"}
    assert get_objective("mlm").name == "mlm"
    assert {"half_mlm", "token_deletion"} <= set(list_objectives())
    sys.modules.pop("someones_other", None)


def test_reexported_class(tmp_path, monkeypatch, clean_registry):
    """The class lies in another module than the entry point names."""
    source = "from someones_package import TokenDeletion"
    install(tmp_path, monkeypatch, "someones_package", PACKAGE, "token_deletion = someones_front:TokenDeletion")
    (tmp_path / "someones_front.py").write_text(source)
    importlib.invalidate_caches()
    assert get_objective("token_deletion").name == "token_deletion"
    assert "token_deletion" in list_objectives()
    for name in ("someones_front", "someones_package"):
        sys.modules.pop(name, None)


def test_two_packages_of_one_name(package, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    install(tmp_path / "other", monkeypatch, "thieves", PACKAGE, "token_deletion = thieves:TokenDeletion")
    with pytest.raises(ValueError, match="'token_deletion' of .* is registered by .* already"):
        list_objectives()


def test_the_name_of_one_of_ours(tmp_path, monkeypatch, clean_registry):
    install(tmp_path, monkeypatch, "thieves", PACKAGE, "mlm = thieves:TokenDeletion")
    with pytest.raises(ValueError, match="'mlm' of thieves:TokenDeletion is registered by pretrain_zoo.objectives.mlm"):
        list_objectives()
    assert type(get_objective("mlm")) is MaskedLM


def test_no_objective(tmp_path, monkeypatch, clean_registry):
    install(tmp_path, monkeypatch, "someones_function", "def f(): ...", "f = someones_function:f")
    with pytest.raises(ValueError, match="'f': someones_function:f is no class derived from Objective"):
        get_objective("f")
    sys.modules.pop("someones_function", None)


def test_someones_objective_collates_plans_and_trains(package, wordpiece_tokenizer, documents, texts):
    objective = get_objective("token_deletion")
    collator = ObjectiveCollator(objective, wordpiece_tokenizer, seed=0)
    rows = [wordpiece_tokenizer(text, max_length=64, truncation=True).input_ids for text in texts[:8]]
    dense = collator(rows)
    for b, row in enumerate(rows):
        kept = dense["input_ids"][b][dense["attention_mask"][b] == 1].tolist()
        following = dense["labels"][b].tolist()
        restored = [token for pair in zip(kept, following) for token in pair if token != -100]
        assert restored == row  # what is left and what is predicted make the text
    plan = objective.plan(documents, collator.vocabulary, length=64, seed=0, epoch=0, global_batch=4)
    assert plan.rows(np.arange(4))["input_ids"].lengths.max() <= 64

    torch.manual_seed(0)
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), collator.vocabulary)
    batch = ObjectiveCollator(objective, wordpiece_tokenizer, seed=0, sparse_labels=True)(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(**batch).sums["token_deletion"] / objective.counts(batch)["token_deletion"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(losses[0] - np.log(200)) < 0.5 and losses[-1] < losses[0] - 0.1
