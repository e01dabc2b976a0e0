"""Collators that draw sentence pairs, and pairs drawn beforehand: batches for stock models, what is refused."""

import pytest
import torch
from transformers import AlbertForPreTraining, BertForPreTraining

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import DataCollatorForNSP, DataCollatorForSOP, ObjectiveCollator


def sentence_features(texts, tokenizer, count=12):
    lines = [[s.strip() + "." for s in text.split(".") if s.strip()] for text in texts]
    return [
        {"sentences": [tokenizer(s, add_special_tokens=False)["input_ids"] for s in found]}
        for found in lines
        if len(found) > 2
    ][:count]


def test_nsp_collator_feeds_the_stock_model(texts, wordpiece_tokenizer):
    collator = DataCollatorForNSP(wordpiece_tokenizer, max_length=64, seed=0)
    batch = collator(sentence_features(texts, wordpiece_tokenizer))
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_label"}
    assert batch["input_ids"].shape[1] <= 64 and set(batch["next_sentence_label"].tolist()) == {0, 1}
    parts = backbone("bert-tiny", wordpiece_tokenizer)
    torch.manual_seed(0)
    model = parts.load(BertForPreTraining).eval()
    output = model(**batch)
    expected = torch.nn.functional.cross_entropy(output.prediction_logits.flatten(0, 1), batch["labels"].flatten())
    expected += torch.nn.functional.cross_entropy(output.seq_relationship_logits, batch["next_sentence_label"])
    assert torch.isclose(output.loss, expected)
    assert not torch.equal(
        collator(sentence_features(texts, wordpiece_tokenizer))["input_ids"][:4, :30], batch["input_ids"][:4, :30]
    )


def test_sop_collator_takes_text_or_ids_and_feeds_the_stock_model(texts, unigram_tokenizer):
    sentences = [["one river", "two winters ago", "the clock"], ["a letter", "nothing more"]]
    ids = [{"sentences": [unigram_tokenizer(s, add_special_tokens=False)["input_ids"] for s in d]} for d in sentences]
    as_text = [{"sentences": d} for d in sentences]
    lines = [{"text": "\n".join(d)} for d in sentences]
    batches = [DataCollatorForSOP(unigram_tokenizer, max_length=40, seed=1)(f) for f in (ids, as_text, lines)]
    assert "sentence_order_label" in batches[0]
    for other in batches[1:]:
        assert all(torch.equal(batches[0][name], other[name]) for name in batches[0])
    torch.manual_seed(0)
    model = backbone("albert-tiny", unigram_tokenizer).load(AlbertForPreTraining)
    assert torch.isfinite(model(**batches[0]).loss)


def test_collator_alone_makes_only_pairs_if_asked(texts, wordpiece_tokenizer):
    collator = DataCollatorForNSP(wordpiece_tokenizer, objective="nsp", max_length=64)
    batch = collator(sentence_features(texts, wordpiece_tokenizer))
    assert "labels" not in batch and "next_sentence_label" in batch


def test_collator_refuses_what_it_cannot_pair(wordpiece_tokenizer):
    collator = DataCollatorForNSP(wordpiece_tokenizer)
    with pytest.raises(ValueError, match="'sentences'.*or 'text'"):
        collator([{"input_ids": [5, 6]}])
    with pytest.raises(ValueError, match="the corpus, or its held-out part, has 1"):
        collator([{"sentences": [[20, 21], [22]]}])
    with pytest.raises(ValueError, match="the sentences hold others"):
        collator([{"sentences": [[20, 2100]]}, {"sentences": [[22]]}])
    with pytest.raises(ValueError, match="give no pair"):
        DataCollatorForSOP(wordpiece_tokenizer)([{"sentences": [[22]]}])


def test_ready_made_pairs_go_through_the_ordinary_collator(wordpiece_tokenizer):
    features = [dict(wordpiece_tokenizer("the clock", "his umbrella"), next_sentence_label=i) for i in (0, 1)]
    batch = ObjectiveCollator("mlm+nsp", wordpiece_tokenizer)(features)
    assert batch["next_sentence_label"].tolist() == [0, 1] and "labels" in batch
    for feature in features:
        del feature["next_sentence_label"]
    with pytest.raises(ValueError, match="pair_labels"):
        ObjectiveCollator("mlm+nsp", wordpiece_tokenizer)(features)


def test_static_noise_is_refused_where_pairs_are_drawn_anew(wordpiece_tokenizer):
    with pytest.raises(ValueError, match="dupe_factor"):
        DataCollatorForNSP(wordpiece_tokenizer, dupe_factor=10)
    collator = ObjectiveCollator("mlm+nsp", wordpiece_tokenizer, dupe_factor=10)
    pair = wordpiece_tokenizer("the miller", "an old sailor")
    with pytest.raises(ValueError, match="dupe_factor"):
        collator([{**pair, "next_sentence_label": 0}])
