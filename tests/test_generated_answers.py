"""Tasks as text on a trainer: encoded targets, the loss and its denominator, answers decoded."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretrain_zoo.evaluation.generated_answers import encode, generate, mean_over_tokens
from pretrain_zoo.evaluation.glue_tasks import GLUE
from pretrain_zoo.evaluation.task_data import Examples
from pretrain_zoo.evaluation.text_to_text import glue_text_task


def test_encoded_targets_end_and_are_cut(bpe_tokenizer):
    examples = Examples((["The miller mends a letter."] * 2,), np.array([1, 0]), ["0", "1"])
    task = glue_text_task(GLUE["cola"], {"train": examples, "validation": examples})
    rows = encode(task, "train", bpe_tokenizer, (12, 64))
    assert all(len(row["input_ids"]) == 12 for row in rows)
    assert bpe_tokenizer.decode(rows[0]["labels"], skip_special_tokens=True) == "acceptable"
    assert (
        rows[1]["labels"][-1] == bpe_tokenizer.eos_token_id and rows[1]["labels"].count(bpe_tokenizer.eos_token_id) == 1
    )
    assert len(encode(task, "train", bpe_tokenizer, (12, 3))[0]["labels"]) == 3
    with pytest.raises(ValueError, match="WNLI is not written"):
        glue_text_task(GLUE["wnli"], {})


def test_loss_does_not_depend_on_accumulation():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 11), torch.randint(11, (4, 6))
    labels[1, 2:] = -100
    count = (labels != -100).sum()
    whole = mean_over_tokens({"logits": logits}, labels, count)
    parts = sum(mean_over_tokens({"logits": logits[i : i + 1]}, labels[i : i + 1], count) for i in range(4))
    flat = labels.flatten() != -100
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1)[flat], labels.flatten()[flat])
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(mean_over_tokens({"logits": logits}, labels), expected)
    smooth = mean_over_tokens({"logits": logits}, labels, count, label_smoothing=0.1)
    uniform = -logits.log_softmax(-1).mean(-1).flatten()[flat].mean()
    torch.testing.assert_close(smooth, 0.9 * expected + 0.1 * uniform)


@pytest.mark.parametrize(("given", "beams"), [(None, 1), (4, 4)])
def test_answers_are_greedy_unless_beams_are_asked_for(given, beams, bpe_tokenizer):
    def predict(rows, **settings):
        assert settings == {"max_new_tokens": 9, "num_beams": beams, "do_sample": False}
        ids = bpe_tokenizer("nobody forgot")["input_ids"]
        return SimpleNamespace(predictions=np.array([[*ids, -100], [bpe_tokenizer.pad_token_id, *ids]]))

    arguments = SimpleNamespace(generation_num_beams=given)
    trainer = SimpleNamespace(predict=predict, args=arguments, processing_class=bpe_tokenizer)
    assert generate(trainer, [], 9) == ["nobody forgot"] * 2
