"""Special tokens of trained tokenizers: those that presets and objectives need, their places, their names in text."""

import json
import unicodedata
from dataclasses import replace

import pytest
from tokenizer_texts import TEXTS, UNIGRAM
from tokenizers import Tokenizer

from pretrain_zoo.objectives import ObjectiveCollator, Vocabulary, get_objective, list_objectives
from pretrain_zoo.training.arguments import ModelArguments
from pretrain_zoo.training.prepare import get_tokenizer
from pretrain_zoo.training.tokenizer import KINDS, tokens_for, train_tokenizer


@pytest.mark.parametrize("kind", UNIGRAM)
def test_names_of_special_tokens_are_plain_text_to_a_corpus(kind):
    """When a corpus is tokenized, special tokens in it are text, as their low score makes them."""
    tokenizer = train_tokenizer(
        [*TEXTS, "<mask> <pad> [MASK] <extra_id_0>"], kind, 400, special_tokens=["<extra_id_0>"]
    )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    ids = set(backend.encode("a <mask> [MASK] <pad> <extra_id_0> cat", add_special_tokens=False).ids)
    assert not ids & set(Vocabulary.from_tokenizer(tokenizer).special.values()) - {tokenizer.unk_token_id}


# presets

PUBLISHED = {  # model of the released tokenizer, and its first tokens
    "bert": ("WordPiece", ["[PAD]"]),  # [unused0] and so on stand between it and the others
    "roberta": ("BPE", ["<s>", "<pad>", "</s>", "<unk>"]),
    "bart": ("BPE", ["<s>", "<pad>", "</s>", "<unk>"]),
    "xlm-roberta": ("Unigram", ["<s>", "<pad>", "</s>", "<unk>"]),
    "albert": ("Unigram", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    "deberta-v3": ("Unigram", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]),
    "xlnet": ("Unigram", ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"]),
    "t5": ("Unigram", ["<pad>", "</s>", "<unk>"]),
    "switch": ("Unigram", ["<pad>", "</s>", "<unk>"]),
    "gpt2": ("BPE", []),
    "llama": ("BPE", ["<unk>", "<s>", "</s>", "<0x00>"]),
    "mixtral": ("BPE", ["<unk>", "<s>", "</s>", "<0x00>"]),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_preset_gets_the_kind_that_was_published(family, tmp_path):
    model, first = PUBLISHED[family]
    found = get_tokenizer(ModelArguments(model_name_or_path=f"{family}-tiny", vocab_size=600), TEXTS, str(tmp_path))
    assert json.loads(found.backend_tokenizer.to_str())["model"]["type"] == model
    assert found.convert_ids_to_tokens(range(len(first))) == first
    assert ("mat" in "".join(found.tokenize("MAT"))) == (family in ("bert", "albert"))  # lower case


@pytest.mark.parametrize("family", ["bert", "albert", "t5"])
def test_accents_are_stripped_from_english_alone(family, tmp_path):
    """Hangul and kana keep their letters whole; NFC, since decomposed text looks the same."""
    texts = ["Ein Bär läuft. 고양이가 매트에 앉았다. ガラスのドア。 naïve café"] * 8
    model = ModelArguments(model_name_or_path=f"{family}-tiny", vocab_size=300)
    other = get_tokenizer(model, texts, str(tmp_path), languages=["de", "ko"])
    ids = other("Bär 고양이가 ガラス", add_special_tokens=False).input_ids
    assert unicodedata.is_normalized("NFC", "".join(other.convert_ids_to_tokens(ids)))
    assert other.decode(ids).replace(" ", "").lower() == "bär고양이가ガラス" and other.unk_token_id not in ids
    english = get_tokenizer(model, texts, str(tmp_path), languages=["en"])
    assert ("cafe" in english.decode(english("café").input_ids)) == (family != "t5")


def test_a_trained_tokenizer_gets_the_mask_that_its_objective_needs(tmp_path):
    model = ModelArguments(model_name_or_path="t5-tiny", vocab_size=600)
    plain = get_tokenizer(model, TEXTS, str(tmp_path), get_objective("span_corruption"))
    assert plain.mask_token is None and "<extra_id_99>" in plain.get_vocab()
    masked = get_tokenizer(model, TEXTS, str(tmp_path), get_objective("denoising"))
    assert masked.mask_token == "<mask>" and "<extra_id_99>" not in masked.get_vocab()
    get_objective("denoising").check(Vocabulary.from_tokenizer(masked))
    plain.save_pretrained(tmp_path / "named")
    named = get_tokenizer(replace(model, tokenizer_name=str(tmp_path / "named")), (), "", get_objective("denoising"))
    assert named.mask_token is None  # whoever names one chooses its mask by --mask_token


# objectives


def features(tokenizer, name):
    ids = [tokenizer(text).input_ids[:12] for text in TEXTS[:3] * 2]
    rows = [{"input_ids": row} for row in ids]
    if name == "tlm":
        return [row | {"input_ids_pair": row["input_ids"]} for row in rows]
    if name in ("nsp", "sop"):
        return [row | {"pair_labels": i % 2} for i, row in enumerate(rows)]
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_for_each_objective(kind):
    """Every registered objective works with a tokenizer trained for it, of any kind that it can work with at all."""
    for name in list_objectives():
        objective = get_objective("distillation(mlm)" if name == "distillation" else name)
        special, needs = tokens_for(objective)
        tokenizer = train_tokenizer(TEXTS, kind, 700, special_tokens=special, needs=needs)
        assert len(tokenizer) <= 700
        vocabulary = Vocabulary.from_tokenizer(tokenizer)
        assert set(special) <= set(vocabulary.special)
        if kind == "xlnet" and (objective.architecture == "seq2seq" or name in ("nsp", "sop")):
            continue  # it pads on the left, which encoder-decoders refuse, and ends with <cls>, which pairs begin with
        if kind in ("gpt2", "unigram") and name in ("nsp", "sop"):
            continue  # it puts nothing before texts
        if name == "distillation":
            objective.wrapped.check(vocabulary)  # its collator waits for a teacher
            continue
        objective.check(vocabulary)
        batch = ObjectiveCollator(objective, tokenizer)(features(tokenizer, name))
        assert batch["input_ids"].max() < len(tokenizer), name


def test_special_tokens_come_last_as_in_t5():
    special = get_objective("span_corruption").special_tokens
    tokenizer = train_tokenizer(TEXTS, "unigram", 400, special_tokens=[*special, "<en>", "<ko>"], needs=["mask"])
    last = tokenizer.convert_ids_to_tokens(range(len(tokenizer) - 103, len(tokenizer)))
    assert last[:4] == ["<mask>", "<ko>", "<en>", "<extra_id_99>"] and last[-1] == "<extra_id_0>"
    assert tokenizer.mask_token == "<mask>"
    assert tokenizer.tokenize("<en> the <extra_id_7> cat <ko>") == ["<en>", "▁the", "<extra_id_7>", "▁cat", "<ko>"]
