"""Causal LM: the shift happens once, padding and other documents are no targets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import DataCollatorForCausalLM, Draws, Ragged, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.documents import from_lists


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=200, n_embd=32, n_layer=2, n_head=2)).eval()


def labels_of(rows, vocabulary, **settings) -> list[list[tuple[int, int]]]:
    """(position, label) of each prediction, row by row."""
    count = np.arange(len(rows["input_ids"]))
    out = get_objective("clm", **settings).corrupt(rows, Draws.of(0, count, 0, count), vocabulary)
    assert np.array_equal(out["input_ids"].values, rows["input_ids"].values)
    pairs = zip(out["label_positions"].tolist(), out["label_ids"].tolist())
    return [list(zip(positions, ids)) for positions, ids in pairs]


def test_by_hand(vocabulary):
    ids = Ragged.from_rows([[10, 11, 12], [13], [], [14, 15]], np.int64)
    assert labels_of({"input_ids": ids}, vocabulary) == [[(0, 11), (1, 12)], [], [], [(0, 15)]]
    documents = Ragged.from_rows([[0, 0, 1], [0], [], [0, 1]], np.int64)
    assert labels_of({"input_ids": ids, "document_ids": documents}, vocabulary) == [[(0, 11)], [], [], []]
    for mask, expected in (([1, 1, 0], [(0, 11)]), ([0, 1, 1], [(1, 12)])):
        attention = Ragged.from_rows([mask, [1], [], [0, 0]], np.int64)
        found = labels_of({"input_ids": ids, "attention_mask": attention}, vocabulary)
        assert found == [expected, [], [], []]


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_loss_is_the_shifted_cross_entropy(padding_side, wordpiece_tokenizer, model, texts):
    """GPT2LMHeadModel's own loss on the batch, against each row alone and unpadded."""
    rows = [
        wordpiece_tokenizer(text, max_length=30 + 5 * i, truncation=True).input_ids for i, text in enumerate(texts[:4])
    ]
    tokenizer = type(wordpiece_tokenizer)(
        tokenizer_object=wordpiece_tokenizer.backend_tokenizer, pad_token="[PAD]", padding_side=padding_side
    )
    batch = DataCollatorForCausalLM(tokenizer)(rows)
    position_ids = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        loss = model(**batch, position_ids=position_ids).loss
        sums = torch.zeros(())
        for row in rows:
            ids = torch.tensor([row])
            sums += F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    count = sum(len(row) - 1 for row in rows)
    assert (batch["labels"] != -100).sum() == count
    torch.testing.assert_close(loss, sums / count)


def test_end_token_stays_a_target_where_it_pads(byte_bpe_tokenizer):
    tokenizer = type(byte_bpe_tokenizer)(
        tokenizer_object=byte_bpe_tokenizer.backend_tokenizer, eos_token="</s>", pad_token="</s>"
    )
    end = tokenizer.eos_token_id
    batch = DataCollatorForCausalLM(tokenizer)([[50, 51, end, 52, end], [53, end]])
    assert batch["labels"].tolist() == [[-100, 51, end, 52, end], [-100, end, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]


def test_plan_by_hand(vocabulary):
    corpus = from_lists([[[10, 11], [12]], [[13, 14]]])
    end = vocabulary.separator
    objective = get_objective("clm", document_attention=True)
    plan = objective.plan(corpus, vocabulary, length=5, seed=0, epoch=0, global_batch=1)
    rows = plan.rows(np.arange(len(plan)))
    assert rows["input_ids"].tolist() == [[10, 11, 12, end, 13], [14, end]]
    assert rows["document_ids"].tolist() == [[0, 0, 0, 0, 1], [0, 0]]
    assert labels_of(rows, vocabulary) == [[(0, 11), (1, 12), (2, end)], [(0, end)]]
    rows = get_objective("clm").plan(corpus, vocabulary, length=5, seed=0, epoch=0, global_batch=1).rows(np.array([0]))
    assert labels_of(rows, vocabulary) == [[(0, 11), (1, 12), (2, end), (3, 13)]]


def test_every_token_but_the_first_of_a_block_is_a_target(documents, vocabulary):
    plan = get_objective("clm").plan(documents, vocabulary, length=64, seed=0, epoch=0, global_batch=1)
    rows = plan.rows(np.arange(len(plan)))
    labels = labels_of(rows, vocabulary)
    assert rows["input_ids"].lengths.sum() == len(documents.tokens)
    assert [len(row) for row in labels] == (rows["input_ids"].lengths - 1).tolist()


def test_settings():
    with pytest.raises(ValueError, match="unknown packing 'sentences'"):
        get_objective("clm", packing="sentences")


def test_loss_of_random_weights_is_that_of_a_uniform_guess(vocabulary, texts, wordpiece_tokenizer):
    """ln V, in the model as it is trained; a label that the input already shows would cost less."""
    objective = get_objective("clm")
    torch.manual_seed(0)
    model = objective.build(backbone("gpt2-tiny", wordpiece_tokenizer), vocabulary).eval()
    rows = Ragged.from_rows([np.array(wordpiece_tokenizer(text).input_ids) for text in texts[:50]])
    count = np.arange(len(rows))
    columns = objective.corrupt({"input_ids": rows}, Draws.of(0, count, 0, count), vocabulary)
    batch = to_tensors(pad_columns(columns, objective.columns, vocabulary))
    with torch.no_grad():
        loss = model(**batch).sums["clm"] / objective.counts(batch)["clm"]
    assert float(loss) == pytest.approx(math.log(vocabulary.size), rel=0.03)
