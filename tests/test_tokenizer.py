"""Trained tokenizers: the published layout of special tokens and pairs, and a round trip through AutoTokenizer."""

import pytest
from transformers import AutoTokenizer, BertConfig, GPT2Config, RobertaConfig

from pretrain_zoo.scripts import train_tokenizer as script
from pretrain_zoo.training.tokenizer import KINDS, train_tokenizer

TEXTS = [
    "The cat sat on the mat, and the cat didn't move. Was it the same cat?",
    "A mat is not a cat; cats sit on mats. The café was closed: 한국어 문장, 中文 too.",
    "Move the mat and the cat moves. “Why?” asked the man. 12 cats, 3 mats.",
] * 4
CONFIGS = {"wordpiece": BertConfig, "bpe": RobertaConfig, "gpt2": GPT2Config}


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


def test_wordpiece_case_and_accents():
    cased = train_tokenizer(TEXTS, vocab_size=400, lowercase=False)
    assert cased.convert_ids_to_tokens(cased("The café", add_special_tokens=False).input_ids) == ["The", "café"]
    # stripping accents takes Hangul apart; without it, syllables stay whole
    assert "한" in train_tokenizer(TEXTS, vocab_size=400, strip_accents=False).get_vocab()
    assert "한" not in train_tokenizer(TEXTS, vocab_size=400).get_vocab()


def test_wordpiece_alphabet_leaves_out_rare_characters():
    texts = ["aa bb ab ba " * 9, "x y z q"]
    tokenizer = train_tokenizer(texts, vocab_size=20)  # a quarter: five characters
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) <= 20
    assert {"a", "b", "##a", "##b", "q", "x", "y"} <= set(vocabulary) and "z" not in vocabulary
    assert tokenizer("z", add_special_tokens=False).input_ids == [tokenizer.unk_token_id]


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


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_add_prefix_space(kind):
    tokenizer = train_tokenizer(TEXTS, kind, 400, add_prefix_space=True)
    first = tokenizer.convert_ids_to_tokens(tokenizer("the cat", add_special_tokens=False).input_ids)
    assert first == ["Ġthe", "Ġcat"]


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


@pytest.mark.parametrize("kind", KINDS)
def test_bad_arguments(kind):
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        train_tokenizer(["", " \n"], kind, 400)
    with pytest.raises(ValueError, match="vocab_size 8 is too small"):
        train_tokenizer(TEXTS, kind, 8)
    with pytest.raises(TypeError, match="can be read only once"):
        train_tokenizer(iter(TEXTS), kind, 400)


def test_unknown_kind():
    with pytest.raises(ValueError, match="no kind of tokenizer 'wordpeice'; choose one of wordpiece, bpe, gpt2"):
        train_tokenizer(TEXTS, "wordpeice", 400)


@pytest.mark.parametrize("kind", KINDS)
def test_script(tmp_path, capsys, kind):
    (tmp_path / "corpus.txt").write_text("\n\n".join([*TEXTS, "zebra zebra zebra"]), encoding="utf-8")
    output = tmp_path / "tokenizer"
    command = (
        f"--output_dir {output} --corpus {tmp_path}/corpus.txt --kind {kind} --vocab_size 300 --model_max_length 64"
    )
    script.main([*command.split(), "--validation_fraction", "0.08"])  # every 12th document, so not the last
    printed = capsys.readouterr().out
    assert "held-out documents" in printed and "tokens per word" in printed
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert len(tokenizer) <= 300 and tokenizer.model_max_length == 64


def test_script_keeps_documents_from_training(tmp_path, capsys):
    documents = [*TEXTS[:11], "zyzzyva zyzzyva zyzzyva"] * 2
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents), encoding="utf-8")
    command = ["--output_dir", str(tmp_path / "a"), "--corpus", str(tmp_path / "corpus.txt"), "--vocab_size", "300"]
    script.main([*command, "--validation_fraction", "0.0833"])
    assert "zyzzyva" not in AutoTokenizer.from_pretrained(tmp_path / "a").get_vocab()
    script.main([*command, "--validation_fraction", "0"])
    assert "zyzzyva" in AutoTokenizer.from_pretrained(tmp_path / "a").get_vocab()
    assert "training documents" in capsys.readouterr().out


def test_measure():
    tokenizer = train_tokenizer(["aa bb"] * 3, vocab_size=40)
    figures = script.measure(tokenizer, ["aa bb, aa", "aa z"])
    assert figures == {
        "words": "6",
        "tokens per word": "1.000",
        "characters per token": f"{13 / 6:.2f}",
        "unknown tokens": f"{2 / 6:.3%}",
    }
