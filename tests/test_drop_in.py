"""Collators by the names and arguments of the examples that people know them from."""

import copy
import doctest

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import BatchEncoding

from pretrain_zoo import objectives
from pretrain_zoo.objectives import drop_in_seq2seq as named
from pretrain_zoo.objectives import get_objective


@pytest.fixture(scope="module")
def tokenizer(byte_bpe_tokenizer):
    tokenizer = copy.deepcopy(byte_bpe_tokenizer)
    pair, end = "$A </s> $B </s>", [("</s>", tokenizer.eos_token_id)]  # T5's frame: an end and no beginning
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", pair=pair, special_tokens=end)
    needed = (*get_objective("span_corruption").special_tokens, *get_objective("ul2").special_tokens)
    tokenizer.add_tokens(list(dict.fromkeys(needed)), special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def text(tokenizer, texts):
    return tokenizer(" ".join(texts), add_special_tokens=False).input_ids[:60]


def test_examples_run(tokenizer, text):
    globs = {**vars(named), "tokenizer": tokenizer, "text": text}
    found = [t for t in doctest.DocTestFinder().find(named, globs=globs) if t.examples]
    assert len(found) >= 5
    for example in found:
        assert doctest.DocTestRunner().run(example).failed == 0, example.name


@pytest.mark.parametrize("name", [n for n in dir(named) if n.startswith(("DataCollator", "Flax"))])
def test_names_are_offered(name):
    assert getattr(objectives, name) is getattr(named, name) and name in objectives.__all__


def test_flax_t5_collator_as_its_example_calls_it(tokenizer, text):
    """As `run_t5_mlm_flax.py` builds and calls it; the batch checked by splicing the targets into the inputs."""
    length, target = objectives.compute_input_and_target_lengths(40, 0.15, 3.0)
    collator = objectives.FlaxDataCollatorForT5MLM(
        tokenizer=tokenizer,
        noise_density=0.15,
        mean_noise_span_length=3.0,
        input_length=40,
        target_length=target,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    rows = [text[i : i + length] for i in (0, 7)]
    batch = collator([{"input_ids": np.array(row)} for row in rows])
    assert isinstance(batch, BatchEncoding) and all(isinstance(v, np.ndarray) for v in batch.values())
    assert batch["input_ids"].shape == (2, 40) and batch["labels"].shape == (2, target)
    assert (batch["decoder_input_ids"][:, 0] == tokenizer.pad_token_id).all()
    assert (batch["decoder_input_ids"][:, 1:] == batch["labels"][:, :-1]).all()
    sentinels = set(tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(100)]))
    for row, inputs, targets in zip(rows, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        assert inputs.pop() == targets.pop() == tokenizer.eos_token_id
        spans: dict[int, list[int]] = {}
        for token in targets:
            if token in sentinels:
                span = spans.setdefault(token, [])
            else:
                span.append(token)
        rebuilt = [t for token in inputs for t in (spans[token] if token in sentinels else [token])]
        assert rebuilt == row
    with pytest.raises(ValueError, match="pad_token_id is 7"):
        objectives.DataCollatorForT5MLM(tokenizer, 0.15, 3.0, 40, target, 7)
