"""Collators in the stock Trainer, with stock models."""

import numpy as np
import pytest
from collator_features import MASKED, make_features
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from pretrain_zoo.objectives import DataCollatorForCausalLM


@pytest.fixture(scope="module")
def features(wordpiece_tokenizer, texts):
    return make_features(wordpiece_tokenizer, texts)


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
