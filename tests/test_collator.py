"""Collators alone: everything that Hugging Face's accept, the same batch from every form, and clear refusals."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from pretrain_zoo.objectives import (
    DataCollatorForCausalLM,
    DataCollatorForMaskedLM,
    DataCollatorForNgramMask,
    DataCollatorForWholeWordMask,
    Draws,
    ObjectiveCollator,
    Ragged,
    Vocabulary,
    get_objective,
)
from pretrain_zoo.objectives.base import Column
from pretrain_zoo.objectives.collator import pad_columns

MASKED = [DataCollatorForMaskedLM, DataCollatorForWholeWordMask, DataCollatorForNgramMask]


@pytest.fixture(scope="module")
def features(wordpiece_tokenizer, texts):
    """Six features of unlike length, lists."""
    encoded = wordpiece_tokenizer(texts[:6], max_length=60, truncation=True)
    return [{name: column[i] for name, column in encoded.items()} for i in range(6)]


def ids_only(features):
    return [{"input_ids": f["input_ids"]} for f in features]


def batch_of(tokenizer, features, collator=DataCollatorForMaskedLM, **settings):
    return {k: v.tolist() for k, v in collator(tokenizer, seed=5, **settings)(features).items()}


def pads(features, side="right"):
    length = max(len(f["input_ids"]) for f in features) + 3
    out = []
    for f in features:
        fill = [0] * (length - len(f["input_ids"]))
        out.append({k: v + fill if side == "right" else fill + v for k, v in f.items()})
    return out


# forms of features


def test_a_batch(wordpiece_tokenizer, features):
    batch = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=5)(features)
    lengths = [len(f["input_ids"]) for f in features]
    assert isinstance(batch, BatchEncoding)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert all(v.dtype == torch.int64 and v.shape == (6, max(lengths)) for v in batch.values())
    for b, (feature, n) in enumerate(zip(features, lengths)):
        original = torch.tensor(feature["input_ids"])
        selected = batch["labels"][b] != -100
        assert not selected[n:].any() and selected.any()
        assert torch.equal(batch["labels"][b][selected], original[selected[:n]])
        assert torch.equal(batch["input_ids"][b][:n][~selected[:n]], original[~selected[:n]])
        assert batch["input_ids"][b][n:].tolist() == [wordpiece_tokenizer.pad_token_id] * (max(lengths) - n)
        assert batch["attention_mask"][b].tolist() == [1] * n + [0] * (max(lengths) - n)


FORMS = {
    "int32 arrays": lambda f: [{k: np.array(v, np.int32) for k, v in x.items()} for x in f],
    "uint16 arrays": lambda f: [{k: np.array(v, np.uint16) for k, v in x.items()} for x in f],
    "tensors": lambda f: [{k: torch.tensor(v) for k, v in x.items()} for x in f],
    "BatchEncoding": lambda f: [BatchEncoding(x) for x in f],
    "tuples": lambda f: [{k: tuple(v) for k, v in x.items()} for x in f],
    "lists and arrays": lambda f: [{k: np.array(v) if i % 2 else v for k, v in x.items()} for i, x in enumerate(f)],
    "arrays and lists": lambda f: [{k: v if i % 2 else np.array(v) for k, v in x.items()} for i, x in enumerate(f)],
    "old labels": lambda f: [x | {"labels": x["input_ids"]} for x in f],
    "Dataset": lambda f: list(Dataset.from_list(f)),
    "Dataset of tensors": lambda f: list(Dataset.from_list(f).with_format("torch")),
    "Dataset of arrays": lambda f: list(Dataset.from_list(f).with_format("numpy")),
    "Dataset slice": lambda f: Dataset.from_list(f).__getitems__(list(range(6))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("collator", MASKED + [DataCollatorForCausalLM])
def test_every_form_gives_the_same_batch(form, collator, wordpiece_tokenizer, features):
    given = FORMS[form](copy.deepcopy(features))
    assert batch_of(wordpiece_tokenizer, given, collator) == batch_of(wordpiece_tokenizer, features, collator)


@pytest.mark.parametrize("collator", MASKED + [DataCollatorForCausalLM])
def test_ids_alone(collator, wordpiece_tokenizer, features):
    expected = batch_of(wordpiece_tokenizer, features, collator)
    del expected["token_type_ids"]
    bare = [f["input_ids"] for f in features]
    for given in (ids_only(features), bare, [np.array(x) for x in bare], [torch.tensor(x) for x in bare]):
        assert batch_of(wordpiece_tokenizer, given, collator) == expected


@pytest.mark.parametrize("collator", MASKED + [DataCollatorForCausalLM])
@pytest.mark.parametrize("names", [("input_ids", "attention_mask"), ("input_ids",)])
def test_padded_beforehand(collator, names, wordpiece_tokenizer, features):
    """The same predictions as without padding, and no attention to it, with or without a mask that says so."""
    expected = batch_of(wordpiece_tokenizer, ids_only(features), collator)
    length = max(len(f["input_ids"]) for f in features)
    given = [{name: f[name] for name in names} for f in pads(features)]
    batch = batch_of(wordpiece_tokenizer, given, collator)
    for name, rows in batch.items():
        fill = -100 if name == "labels" else 0
        assert [row[:length] for row in rows] == expected[name]
        assert [row[length:] for row in rows] == [[fill] * 3] * 6


def test_padded_on_the_left(wordpiece_tokenizer, features):
    tokenizer = copy.deepcopy(wordpiece_tokenizer)
    tokenizer.padding_side = "left"
    length = max(len(f["input_ids"]) for f in features)
    for collator in (*MASKED, DataCollatorForCausalLM):
        right, left = batch_of(wordpiece_tokenizer, features, collator), batch_of(tokenizer, features, collator)
        for name in right:
            for b, feature in enumerate(features):
                n = len(feature["input_ids"])
                assert left[name][b][length - n :] == right[name][b][:n]
                assert left[name][b][: length - n] == right[name][b][n:]
    given = [{k: f[k] for k in ("input_ids", "attention_mask")} for f in pads(features, "left")]
    batch = batch_of(wordpiece_tokenizer, given, DataCollatorForCausalLM)
    for b, feature in enumerate(features):  # neither padding nor the first token is a target
        ids = feature["input_ids"]
        assert batch["labels"][b] == [-100] * (length + 3 - len(ids) + 1) + ids[1:]


def test_special_tokens_mask_is_kept_to_and_not_handed_on(wordpiece_tokenizer, features):
    given = [f | {"special_tokens_mask": [i % 2 for i in range(len(f["input_ids"]))]} for f in features]
    for collator in MASKED:
        batch = collator(wordpiece_tokenizer, seed=0, mlm_probability=0.5)(given)
        assert "special_tokens_mask" not in batch
        assert (batch["labels"][:, ::2] != -100).any() and (batch["labels"][:, 1::2] == -100).all()


def test_other_columns(wordpiece_tokenizer, features):
    given = [
        f | {"label": i, "weight": i / 4, "flag": i > 2, "offsets": [0.5] * len(f["input_ids"])}
        for i, f in enumerate(features)
    ]
    for form in (given, list(Dataset.from_list(given).with_format("torch"))):
        batch = DataCollatorForMaskedLM(wordpiece_tokenizer)(form)
        assert batch["label"].tolist() == list(range(6)) and batch["label"].dtype == torch.int64
        assert batch["weight"].tolist() == [i / 4 for i in range(6)] and batch["weight"].dtype == torch.float32
        assert batch["flag"].tolist() == [i > 2 for i in range(6)]
        assert batch["offsets"].dtype == torch.float32
        assert batch["offsets"].sum() == 0.5 * sum(len(f["input_ids"]) for f in features)


def test_return_tensors_and_multiples(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer, pad_to_multiple_of=16, return_tensors="np")
    batch = collator(features)
    assert all(isinstance(v, np.ndarray) and v.shape == (6, 64) for v in batch.values())
    assert isinstance(collator(features, return_tensors="pt")["labels"], torch.Tensor)
    with pytest.raises(ValueError, match="return_tensors must be 'pt' or 'np', not 'tf'"):
        DataCollatorForMaskedLM(wordpiece_tokenizer, return_tensors="tf")
    with pytest.raises(ValueError, match="return_tensors must be 'pt' or 'np', not 'tf'"):
        collator(features, return_tensors="tf")


def test_word_ids(wordpiece_tokenizer, texts):
    encoding = wordpiece_tokenizer(texts[0])
    words = encoding.word_ids()
    feature = {"input_ids": encoding["input_ids"], "word_ids": words}
    collator = DataCollatorForWholeWordMask(wordpiece_tokenizer, seed=0, mlm_probability=0.3)
    for _ in range(5):
        batch = collator([feature])
        assert "word_ids" not in batch and "word_starts" not in batch
        chosen = {words[i] for i in np.flatnonzero(batch["labels"][0] != -100)}
        assert None not in chosen
        expected = [w in chosen for w in words]
        assert (batch["labels"][0] != -100).tolist() == expected


def test_sparse_labels(wordpiece_tokenizer, features):
    dense = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=5)(features)
    sparse = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=5, sparse_labels=True)(features)
    assert "labels" not in sparse
    flat = dense["labels"].flatten()
    assert sparse["label_positions"].tolist() == (flat != -100).nonzero().flatten().tolist()
    assert sparse["label_ids"].tolist() == flat[flat != -100].tolist()


def test_padding_columns_by_hand(wordpiece_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    columns = {
        "input_ids": Ragged.from_rows([[5, 6, 7], [8]], np.int64),
        "other": Ragged.from_rows([[1], [1, 2]], np.int64),
        "row": np.array([1, 2]),
        "label_positions": Ragged.from_rows([[0, 2], [0]], np.int64),
        "label_ids": Ragged.from_rows([[50, 70], [80]], np.int64),
    }
    flat = Column(axis="flat")
    spec = {
        "other": Column(pad=9, axis="target"),
        "label_positions": Column(axis="flat", index="input"),
        "label_ids": flat,
    }
    batch = pad_columns(columns, spec, vocabulary, min_lengths={"target": 3})
    assert {k: v.tolist() for k, v in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "other": [[1, 9, 9], [1, 2, 9]],
        "row": [1, 2],
        "label_positions": [0, 2, 3],
        "label_ids": [50, 70, 80],
    }
    batch = pad_columns(columns, spec, vocabulary, padding_side="left", pad_to_multiple_of=4, dense_labels=True)
    assert batch["input_ids"].tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]]
    assert batch["labels"].tolist() == [[-100, 50, -100, 70], [-100, -100, -100, 80]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]


# randomness


def test_torch_governs_the_noise(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer)
    torch.manual_seed(1)
    first, second = collator(features), collator(features)
    torch.manual_seed(1)
    again = collator(features)
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert not torch.equal(first["labels"], second["labels"])


def test_seed_fixes_the_nth_call(wordpiece_tokenizer, features):
    one, two = (DataCollatorForMaskedLM(wordpiece_tokenizer, seed=3) for _ in range(2))
    calls = [one(features) for _ in range(3)]
    torch.manual_seed(9)
    assert all(torch.equal(call["labels"], two(features)["labels"]) for call in calls)
    assert len({str(call["labels"].tolist()) for call in calls}) == 3
    other = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=4)(features)
    assert not torch.equal(calls[0]["labels"], other["labels"])


@pytest.mark.parametrize("seed", [None, 3])
def test_data_workers_differ_and_repeat(seed, wordpiece_tokenizer, features):
    def run():
        torch.manual_seed(0)
        collator = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=seed)
        loader = DataLoader([features[0]] * 16, batch_size=4, num_workers=2, collate_fn=collator)
        return [batch["labels"].tolist() for batch in loader]

    batches = run()
    assert len({str(batch) for batch in batches}) == 4  # the same four features, by two workers, twice each
    assert run() == batches


def test_example_ids_key_the_noise(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=3)
    given = [f | {"example_id": 40 + i} for i, f in enumerate(features)]
    batch = collator(given)
    assert "example_id" not in batch
    shuffled = collator(given[::-1])
    assert torch.equal(batch["labels"], shuffled["labels"].flip(0))
    alone = collator(given[2:3])["labels"][0]
    assert torch.equal(alone, batch["labels"][2][: len(alone)])
    later = collator([f | {"epoch": 1} for f in given])
    assert "epoch" not in later and not torch.equal(later["labels"], batch["labels"])
    objective, vocabulary = get_objective("mlm"), Vocabulary.from_tokenizer(wordpiece_tokenizer)
    rows = {"input_ids": Ragged.from_rows([f["input_ids"] for f in features])}
    example = np.arange(40, 46)
    in_training = objective.corrupt(rows, Draws.of(3, example, 0, example), vocabulary)["label_positions"]
    assert [np.flatnonzero(row != -100).tolist() for row in batch["labels"]] == in_training.tolist()


def test_static_masks_need_to_know_the_example(wordpiece_tokenizer, features):
    collator = DataCollatorForMaskedLM(wordpiece_tokenizer, dupe_factor=2)
    with pytest.raises(ValueError, match="integer column 'example_id'"):
        collator(features)
    epochs = [collator([f | {"example_id": i, "epoch": e} for i, f in enumerate(features)]) for e in range(4)]
    assert torch.equal(epochs[0]["labels"], epochs[2]["labels"])
    assert not torch.equal(epochs[0]["labels"], epochs[1]["labels"])


def test_no_batch_without_a_label(wordpiece_tokenizer):
    """Stock models' mean loss over no label is NaN: a row of two ordinary tokens has none in seven of ten draws."""
    for collator in MASKED[:2]:
        for seed in range(50):
            batch = collator(wordpiece_tokenizer, seed=seed, selection="independent")([[2, 20, 21, 3]])
            assert (batch["labels"] != -100).any()
    batch = DataCollatorForMaskedLM(wordpiece_tokenizer, seed=0)([[2, 3]])
    assert (batch["labels"] == -100).all()  # nothing there to predict


# in stock training


def trained(model, collator, dataset, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=3,
        logging_steps=1,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("collator", MASKED)
def test_stock_trainer_on_masked_lm(collator, wordpiece_tokenizer, features, tmp_path):
    model = BertForMaskedLM(
        BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    losses = trained(model, collator(wordpiece_tokenizer), Dataset.from_list(features), tmp_path)
    assert len(losses) == 2 and all(abs(loss - np.log(200)) < 1 for loss in losses)


def test_stock_trainer_on_causal_lm(wordpiece_tokenizer, features, tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=200, n_embd=32, n_layer=1, n_head=2))
    losses = trained(model, DataCollatorForCausalLM(wordpiece_tokenizer), Dataset.from_list(features), tmp_path)
    assert len(losses) == 2 and all(abs(loss - np.log(200)) < 1 for loss in losses)


# tokenizers and refusals


def without_pad(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None
    return tokenizer


def test_a_name_is_no_tokenizer():
    with pytest.raises(ValueError, match="a tokenizer is needed, not 'bert-base-uncased'; load one with AutoTokenizer"):
        ObjectiveCollator("mlm", "bert-base-uncased")
    with pytest.raises(ValueError, match="a tokenizer is needed, not NoneType"):
        ObjectiveCollator("mlm", None)


def test_a_tokenizer_without_padding(wordpiece_tokenizer):
    collator = DataCollatorForCausalLM(without_pad(wordpiece_tokenizer))
    assert collator([[20, 21], [22, 23]])["labels"].tolist() == [[-100, 21], [-100, 23]]
    with pytest.raises(ValueError, match="no pad token.*add_special_tokens"):
        collator([[20, 21], [22]])


def test_a_tokenizer_without_a_mask(wordpiece_tokenizer):
    tokenizer = copy.deepcopy(wordpiece_tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="no mask token, which this objective needs"):
        DataCollatorForMaskedLM(tokenizer)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "the batch has no features"),
        ([{"ids": [1]}], "need a column 'input_ids'; they have: ids"),
        ([{"input_ids": [5, 200]}], "input_ids hold 5 … 200, but the tokenizer's ids are 0 … 199"),
        ([{"input_ids": [5, -1]}], "input_ids hold -1 … 5"),
        ([{"input_ids": [5.5]}], "input_ids must hold integers"),
        ([{"input_ids": np.array([5.0])}], "input_ids must hold integers"),
        ([{"input_ids": "text"}], "column 'input_ids' must hold one list of numbers per example"),
        ([{"input_ids": [[5, 6]]}], "column 'input_ids' must hold one list of numbers per example"),
        ([{"input_ids": torch.tensor([[5, 6]])}], "more than one dimension"),
        ([{"input_ids": torch.tensor(5)}], "more than one dimension, or none"),
        ([{"input_ids": 5}], "column 'input_ids' must hold one list of numbers per example"),
        ([{"input_ids": [5], "text": "a"}], r"column 'text' holds str values.*remove_columns\('text'\)"),
        ([{"input_ids": [5], "text": ["a"]}], "column 'text' must hold one list of numbers"),
        ([{"input_ids": [5], "extra": None}], "column 'extra' holds NoneType values"),
        ([{"input_ids": [5], "more": [1, 2]}], "column 'more' must have one value per token"),
        ([{"input_ids": [5], "word_ids": [1, 2]}], "column 'word_ids' must have one value per token"),
        ([{"input_ids": [5], "more": [1]}, {"input_ids": [5]}], "column 'more' is missing in some features"),
        ([{"input_ids": [5]}, {"input_ids": [5], "more": [1]}], "column 'more' is missing in some features"),
    ],
)
def test_refused_features(features, message, wordpiece_tokenizer):
    for collator in (DataCollatorForMaskedLM, DataCollatorForCausalLM):
        with pytest.raises(ValueError, match=message):
            collator(wordpiece_tokenizer)(features)


def test_empty_rows(wordpiece_tokenizer):
    for collator in (*MASKED, DataCollatorForCausalLM):
        for empty in ([], np.array([]), torch.tensor([])):
            batch = collator(wordpiece_tokenizer)([{"input_ids": [2, 20, 21, 3]}, {"input_ids": empty}])
            assert batch["attention_mask"].tolist() == [[1] * 4, [0] * 4]
            assert batch["input_ids"][1].tolist() == [0] * 4


def test_objects_and_settings(wordpiece_tokenizer):
    objective = get_objective("mlm", mlm_probability=0.3)
    assert ObjectiveCollator(objective, wordpiece_tokenizer).objective is objective
    with pytest.raises(ValueError, match="no setting 'mlm_prob'; did you mean 'mlm_probability'"):
        DataCollatorForMaskedLM(wordpiece_tokenizer, mlm_prob=0.3)
    with pytest.raises(ValueError, match="settings"):
        ObjectiveCollator(objective, wordpiece_tokenizer, mlm_probability=0.2)
