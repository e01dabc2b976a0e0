"""Models with an extended vocabulary: all else as it was, new rows as means of the old ones, what is refused."""

import json

import pytest
import torch
from extended_tokenizers import NEW, PLAIN, logits, make_extensions, train
from small_models import make_checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    ElectraConfig,
    ElectraForPreTraining,
    T5Config,
    T5ForConditionalGeneration,
)

from pretrain_zoo.models.extended_vocabulary import extend_checkpoint, extend_vocabulary, with_rows

CAUSAL, SEQ2SEQ = ("gpt2", "llama", "mixtral", "xlnet"), ("bart", "t5")


FAMILIES = {
    "bert": "wordpiece",
    "roberta": "bpe",
    "xlm-roberta": "unigram",
    "distilbert": "wordpiece",
    "albert": "unigram",
    "electra": "wordpiece",
    "deberta-v3": "unigram",
    "mpnet": "wordpiece",
    "modernbert": "wordpiece",
    "gpt2": "bpe",
    "llama": "llama",
    "mixtral": "llama",
    "xlnet": "unigram",
    "xlm": "bpe",
    "bart": "bpe",
    "t5": "unigram",
}


@pytest.fixture(scope="module")
def extensions():
    return make_extensions()


def model_of(family, folder):
    auto = AutoModelForSeq2SeqLM if family in SEQ2SEQ else AutoModelForMaskedLM
    if family in CAUSAL:
        auto = AutoModelForCausalLM
    return auto.from_pretrained(folder).eval()


@pytest.mark.parametrize(("family", "kind"), FAMILIES.items())
def test_model_is_what_it_was_and_new_rows_are_means(extensions, tmp_path, family, kind):
    old, extension = extensions[kind]
    make_checkpoint(family, old, tmp_path)
    before = model_of(family, tmp_path / family)
    with torch.no_grad():
        for parameter in before.parameters():
            if parameter.dim() == 1:
                parameter.normal_()  # biases, which begin at 0
        for name, buffer in before.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_()
    before.save_pretrained(tmp_path / family)
    extend_checkpoint(tmp_path / family, tmp_path / "new", extension.pieces, extension.first_id)
    extension.tokenizer.save_pretrained(tmp_path / "new")
    after, tokenizer = model_of(family, tmp_path / "new"), AutoTokenizer.from_pretrained(tmp_path / "new")

    size, first, wanted = before.config.vocab_size, extension.first_id, extension.first_id + len(extension.tokens)
    assert type(after) is type(before) and after.config.vocab_size == wanted == len(tokenizer)
    assert after.config.pad_token_id == before.config.pad_token_id
    kept = logits(before, old, PLAIN), logits(after, tokenizer, PLAIN)
    torch.testing.assert_close(kept[1][..., :first], kept[0][..., :first], rtol=1e-5, atol=1e-5)
    mean = torch.stack([kept[0][..., list(p)].mean(-1) for p in extension.pieces], -1)
    torch.testing.assert_close(
        kept[1][..., first:], mean, rtol=1e-4, atol=1e-4
    )  # a logit is linear in its row and bias
    assert torch.isfinite(logits(after, tokenizer, NEW[:2])).all()

    ours = after.get_input_embeddings().weight
    theirs = before.get_input_embeddings().weight
    for i, part in enumerate(extension.pieces):
        row = sum(theirs[piece].double() for piece in part) / len(part)
        torch.testing.assert_close(ours[first + i].double(), row, rtol=0, atol=1e-6)
    for name, value in before.state_dict().items():  # all else bit for bit
        now = after.state_dict()[name]
        assert torch.equal(now[:size] if now.shape != value.shape and now.shape[0] == wanted else now, value) or (
            name == "final_logits_bias" and torch.equal(now[:, :size], value)
        ), name
    tied = before.get_output_embeddings().weight is theirs
    assert (after.get_output_embeddings().weight is ours) == tied


def test_untied_output_embeddings(extensions, tmp_path):
    """T5 1.1: its config ties, its checkpoint does not."""
    old, extension = extensions["unigram"]
    config = T5Config(vocab_size=len(old), d_model=16, d_kv=4, num_heads=2, d_ff=32, num_layers=1)
    made = T5ForConditionalGeneration(config)
    made.lm_head.weight = torch.nn.Parameter(torch.randn(len(old), 16))
    made.save_pretrained(tmp_path / "old")
    before = T5ForConditionalGeneration.from_pretrained(tmp_path / "old").eval()
    assert torch.equal(before.lm_head.weight, made.lm_head.weight)
    extend_checkpoint(tmp_path / "old", tmp_path / "new", extension.pieces, extension.first_id)
    after = T5ForConditionalGeneration.from_pretrained(tmp_path / "new").eval()
    for mine, its in ((after.lm_head, before.lm_head), (after.shared, before.shared)):
        assert torch.equal(mine.weight[: len(old)], its.weight)
        for i, part in enumerate(extension.pieces):
            torch.testing.assert_close(mine.weight[extension.first_id + i], its.weight[list(part)].mean(0))
    assert after.encoder.embed_tokens.weight is after.shared.weight


def test_models_without_output_embeddings(extensions):
    old, extension = extensions["wordpiece"]
    config = ElectraConfig(
        vocab_size=len(old), embedding_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    before = ElectraForPreTraining(config).eval()
    after = extend_vocabulary(before, extension.pieces, extension.first_id)
    assert torch.equal(logits(after, extension.tokenizer, PLAIN), logits(before, old, PLAIN))


def test_rows_to_spare_are_used_first(extensions):
    old, extension = extensions["unigram"]
    config = T5Config(vocab_size=len(old) + 4, d_model=16, d_kv=4, num_heads=2, d_ff=32, num_layers=1)
    after = extend_vocabulary(T5ForConditionalGeneration(config), extension.pieces, extension.first_id)
    assert after.config.vocab_size == len(extension.tokenizer)
    config.vocab_size = 1000
    before = T5ForConditionalGeneration(config)
    after = extend_vocabulary(before, extension.pieces, extension.first_id)
    assert after.config.vocab_size == 1000
    assert torch.equal(
        after.shared.weight[len(extension.tokenizer) :], before.shared.weight[len(extension.tokenizer) :]
    )


def test_with_rows_by_hand():
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])  # the last is to spare
    made = with_rows(table, 4, [[0, 1], [1, 1, 0]], first_id=2)
    torch.testing.assert_close(made, torch.tensor([[1.0, 2.0], [3.0, 4.0], [2.0, 3.0], [7 / 3, 10 / 3]]))
    assert torch.equal(with_rows(table.T, 4, [[0, 1], [1, 1, 0]], first_id=2, axis=1), made.T)


def test_what_cannot_be_extended_is_refused(extensions, tmp_path):
    old, extension = extensions["bpe"]
    make_checkpoint("gpt2", train("wordpiece"), tmp_path)
    with pytest.raises(ValueError, match="has embeddings for"):
        extend_checkpoint(tmp_path / "gpt2", tmp_path / "new", [[1]], 10_000)
    model = model_of("gpt2", tmp_path / "gpt2")
    with pytest.raises(ValueError, match="needs pieces"):
        extend_vocabulary(model, [[1], []], 5)
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["Mine"]}))
    with pytest.raises(ValueError, match="Mine"):
        extend_checkpoint(tmp_path / "gpt2", tmp_path / "new", [[1]], 5)
