"""Trained tokenizers: the published layout of special tokens and pairs, and a round trip through AutoTokenizer."""

import pytest
import torch
from tokenizer_texts import TEXTS
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
    XLNetConfig,
)

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.training.tokenizer import KINDS, train_tokenizer

CONFIGS = {
    "wordpiece": BertConfig,
    "bpe": RobertaConfig,
    "gpt2": GPT2Config,
    "unigram": T5Config,
    "albert": AlbertConfig,
    "deberta-v3": DebertaV2Config,
    "xlnet": XLNetConfig,
    "xlm-roberta": XLMRobertaConfig,
    "llama": LlamaConfig,
}
PRESETS = {
    "wordpiece": "bert-tiny",
    "bpe": "roberta-tiny",
    "albert": "albert-tiny",
    "deberta-v3": "deberta-v3-tiny",
    "xlm-roberta": "xlm-roberta-tiny",
}


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train_tokenizer(TEXTS, kind, 400) for kind in KINDS}


def test_wordpiece_is_bert(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pair = tokenizer("The CAT", "[MASK] café")
    assert tokenizer.convert_ids_to_tokens(pair.input_ids) == [
        "[CLS]",
        "the",
        "cat",
        "[SEP]",
        "[MASK]",
        "cafe",
        "[SEP]",
    ]
    assert pair.token_type_ids == [0, 0, 0, 0, 1, 1, 1]
    assert tokenizer.num_special_tokens_to_add(pair=False) == 2
    assert tokenizer.decode(tokenizer("The cats didn't").input_ids, skip_special_tokens=True) == "the cats didn ' t"


def test_bpe_is_roberta(tokenizers):
    tokenizer = tokenizers["bpe"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pair = tokenizer("The cat", "The <mask> 中")
    expected = [
        "<s>",
        "The",
        "Ġcat",
        "</s>",
        "</s>",
        "The",
        "<mask>",
        "Ġä¸Ń",
        "</s>",
    ]  # the mask takes the space before
    assert tokenizer.convert_ids_to_tokens(pair.input_ids) == expected
    assert "token_type_ids" not in pair
    assert tokenizer.cls_token == tokenizer.bos_token == "<s>" and tokenizer.sep_token == tokenizer.eos_token == "</s>"
    offsets = tokenizer("The cat", add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    assert offsets == [(0, 3), (4, 7)]  # trimmed
    assert tokenizer.decode(tokenizer("naïve 😀").input_ids, skip_special_tokens=True) == "naïve 😀"


def test_gpt2(tokenizers):
    tokenizer = tokenizers["gpt2"]
    assert tokenizer.all_special_tokens == ["<|endoftext|>"] and tokenizer.eos_token_id == 0
    assert tokenizer.convert_ids_to_tokens(tokenizer("The cat<|endoftext|>").input_ids) == [
        "The",
        "Ġcat",
        "<|endoftext|>",
    ]
    assert tokenizer.pad_token is None


def test_unigram_is_t5(tokenizers):
    tokenizer = tokenizers["unigram"]
    assert tokenizer.convert_ids_to_tokens(range(3)) == ["<pad>", "</s>", "<unk>"]
    pair = tokenizer("The  cat\n", "a mat.")
    assert tokenizer.decode(pair.input_ids) == "The cat</s> a mat.</s>" and "token_type_ids" not in pair
    assert tokenizer.tokenize("the cat") == ["▁the", "▁cat"]
    assert tokenizer("ﬁne", add_special_tokens=False).input_ids == tokenizer("fine", add_special_tokens=False).input_ids


def test_albert_layout(tokenizers):
    tokenizer = tokenizers["albert"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    pair = tokenizer("The CAT", "the [MASK] mat")
    assert tokenizer.convert_ids_to_tokens(pair.input_ids) == [
        *("[CLS]", "▁the", "▁cat", "[SEP]"),
        *("▁the", "[MASK]", "▁mat", "[SEP]"),
    ]
    assert pair.token_type_ids == [0] * 4 + [1] * 4


def test_xlnet_layout(tokenizers):
    tokenizer = tokenizers["xlnet"]
    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    assert tokenizer.convert_ids_to_tokens(range(9)) == special
    pair = tokenizer("the cat", "the mat")
    assert tokenizer.convert_ids_to_tokens(pair.input_ids) == [
        "▁the",
        "▁cat",
        "<sep>",
        "▁the",
        "▁mat",
        "<sep>",
        "<cls>",
    ]
    assert pair.token_type_ids == [0, 0, 0, 1, 1, 1, 2]
    padded = tokenizer(["the cat", "the"], padding=True)
    assert padded.input_ids[1][0] == 5


def test_xlm_roberta_and_llama_layouts(tokenizers):
    tokenizer = tokenizers["xlm-roberta"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pair = tokenizer("the cat", "the mat").input_ids
    assert tokenizer.convert_ids_to_tokens(pair) == ["<s>", "▁the", "▁cat", "</s>", "</s>", "▁the", "▁mat", "</s>"]
    tokenizer = tokenizers["llama"]
    assert tokenizer.convert_ids_to_tokens(range(4)) == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("the cat").input_ids) == ["<s>", "▁the", "▁cat"]
    text = "two  spaces\nline 😀"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_config", [False, True])
def test_round_trip(tokenizers, tmp_path, kind, with_config):
    """Saved tokenizers come back the same, also beside a model's config, which may name another class."""
    tokenizer = tokenizers[kind]
    tokenizer.save_pretrained(tmp_path)
    if with_config:
        CONFIGS[kind]().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast and loaded.model_max_length == 512
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    mask = tokenizer.mask_token or "x"
    for texts in (("The cat didn't move.",), (f"Café {mask} 한국어", "two  spaces\nline")):
        before, after = (t(*texts, return_offsets_mapping=True) for t in (tokenizer, loaded))
        assert dict(before) == dict(after)


@pytest.mark.parametrize("kind", KINDS)
def test_same_text_same_tokenizer(tokenizers, kind):
    for _ in range(3):
        again = train_tokenizer(list(TEXTS), kind, 400)
        assert again.backend_tokenizer.to_str() == tokenizers[kind].backend_tokenizer.to_str()


@pytest.mark.parametrize(("kind", "preset"), PRESETS.items())
def test_presets_of_the_family_take_it(tokenizers, kind, preset):
    tokenizer = tokenizers[kind]
    model = backbone(preset, tokenizer, max_length=16).load(AutoModelForMaskedLM)
    batch = tokenizer(["The cat sat.", "a mat"], padding=True, return_tensors="pt")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert torch.isfinite(model(**batch).logits).all()
