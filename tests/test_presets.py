"""Backbones: published sizes, configs fitted to tokenizers, checkpoints, and what is refused."""

import json

import pytest
import torch
from small_models import Size
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertForPreTraining,
    PreTrainedTokenizerFast,
)

from pretrain_zoo.models.families import FAMILIES
from pretrain_zoo.models.presets import Backbone, backbone, list_presets

# Parameters of the released checkpoints (Hub name, model without head unless the class says otherwise), with the
# vocabulary they were released with: (parameters, vocabulary).
PUBLISHED = {
    "bert-tiny": (4_385_920, 30522),  # google/bert_uncased_L-2_H-128_A-2, "4.4M"
    "bert-mini": (11_170_560, 30522),  # "11.2M" (Turc et al. 2019, table 1: 11.3)
    "bert-small": (28_763_648, 30522),  # "28.8M"
    "bert-medium": (41_373_184, 30522),  # "41.4M"
    "bert-base": (109_482_240, 30522),
    "bert-large": (335_141_888, 30522),
    "roberta-base": (124_645_632, 50265),
    "roberta-large": (355_359_744, 50265),
    "xlm-roberta-base": (278_043_648, 250002),
    "xlm-roberta-large": (559_890_432, 250002),
    "distilbert-base": (66_362_880, 30522),
    "albert-base": (11_683_584, 30000),
    "albert-large": (17_683_968, 30000),
    "albert-xlarge": (58_724_864, 30000),
    "albert-xxlarge": (222_595_584, 30000),
    "electra-base": (108_891_648, 30522),
    "electra-large": (334_092_288, 30522),
    "deberta-v3-xsmall": (70_682_112, 128100),
    "deberta-v3-small": (141_304_320, 128100),
    "deberta-v3-base": (183_831_552, 128100),
    "deberta-v3-large": (434_012_160, 128100),
    "mpnet-base": (109_486_464, 30527),
    "modernbert-base": (149_014_272, 50368),
    "modernbert-large": (394_781_696, 50368),
    "gpt1-base": (116_534_784, 40478),
    "gpt2-base": (124_439_808, 50257),
    "gpt2-medium": (354_823_168, 50257),
    "gpt2-large": (774_030_080, 50257),
    "gpt2-xl": (1_557_611_200, 50257),
    "xlnet-base": (116_718_336, 32000),
    "xlnet-large": (360_268_800, 32000),
    "bart-base": (139_420_416, 50265),
    "bart-large": (406_291_456, 50265),
    "t5-small": (60_506_624, 32128),
    "t5-base": (222_903_552, 32128),
    "t5-large": (737_668_096, 32128),
    "t5-3b": (2_851_598_336, 32128),
    "t5-11b": (11_307_321_344, 32128),
}
PUBLISHED_CAUSAL_LM = {
    "llama-135m": (134_515_008, 49152),
    "llama-360m": (361_821_120, 49152),
    "llama-1.1b": (1_100_048_384, 32000),
    "llama-7b": (6_738_415_616, 32000),
    "llama-13b": (13_015_864_320, 32000),
    "llama-70b": (68_976_648_192, 32000),
    "mixtral-8x7b": (46_702_792_704, 32000),
}
# Known in millions only: (millions, vocabulary)
PUBLISHED_MILLIONS = {
    "electra-small": (13.5, 30522),
    "modernbert-small": (32, 50368),
    "modernbert-medium": (68, 50368),
    "llama-small": (42, 32000),
    "llama-base": (110, 32000),
    "t5-tiny": (15.6, 32128),
    "t5-mini": (31.2, 32128),
    "switch-base": (619, 32128),
    "switch-large": (26_300, 32128),
    "xlm-base": (249, 95000),
}
# Brown et al. 2020, table 2.1, in millions; what they give in two digits is 2 % or less off the sum of its weights
GPT3 = {"small": 125, "medium": 350, "large": 760, "xl": 1300, "2.7b": 2700, "6.7b": 6700, "13b": 13000, "175b": 175000}
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}


def make_tokenizer(words=20, leave_out=(), first=()):
    """Word-level tokenizer with special tokens in front; `first`: ordinary tokens before them."""
    special = {name: token for name, token in SPECIAL.items() if name not in leave_out}
    vocabulary = [*first, *special.values(), *(f"w{i}" for i in range(words))]
    model = models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)


def count(preset, size, auto_class=AutoModel):
    with torch.device("meta"):
        return backbone(preset, Size(size)).load(auto_class).num_parameters()


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameters_equal_the_released_model(preset):
    parameters, size = PUBLISHED[preset]
    assert count(preset, size) == parameters


@pytest.mark.parametrize("preset", PUBLISHED_CAUSAL_LM)
def test_parameters_equal_the_released_causal_model(preset):
    parameters, size = PUBLISHED_CAUSAL_LM[preset]
    assert count(preset, size, AutoModelForCausalLM) == parameters


@pytest.mark.parametrize("preset", PUBLISHED_MILLIONS)
def test_parameters_round_to_the_published_figure(preset):
    millions, size = PUBLISHED_MILLIONS[preset]
    assert count(preset, size) / 1e6 == pytest.approx(millions, rel=0.012)


@pytest.mark.parametrize("size", GPT3)
def test_parameters_round_to_the_table_of_gpt3(size):
    assert count(f"gpt3-{size}", 50257) / 1e6 == pytest.approx(GPT3[size], rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_smallest_of_each_family_runs_at_full_length(family):
    tokenizer = make_tokenizer()
    preset = next(name for name in list_presets() if name.startswith(f"{family}-"))
    built = backbone(preset, tokenizer, max_length=96)
    torch.manual_seed(0)
    model = built.load(AutoModel).eval()
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 25
    rows = torch.randint(5, 25, (2, 96))
    decoder = {"decoder_input_ids": rows} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        hidden = model(input_ids=rows, attention_mask=torch.ones_like(rows), **decoder).last_hidden_state
    assert hidden.shape == (2, 96, model.config.hidden_size) and hidden.isfinite().all()
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_special_ids_come_from_the_tokenizer():
    tokenizer = make_tokenizer(first=("a", "b", "c"))
    config = backbone("bert-tiny", tokenizer).config
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (28, 3, 4, 5)
    assert backbone("bart-tiny", tokenizer).config.decoder_start_token_id == 5
    assert backbone("bart-tiny", tokenizer).config.forced_eos_token_id == 5
    assert backbone("t5-tiny", tokenizer).config.decoder_start_token_id == 3
    modernbert = backbone("modernbert-tiny", tokenizer).config
    assert (modernbert.cls_token_id, modernbert.sep_token_id) == (4, 5)  # begin and end tokens stand in


def test_a_tokenizer_without_padding_freezes_no_embedding():
    tokenizer = make_tokenizer(leave_out=("pad_token",))
    for preset in ("bert-tiny", "gpt2-tiny", "llama-tiny"):
        built = backbone(preset, tokenizer)
        assert built.config.pad_token_id is None
        assert built.load(AutoModel).get_input_embeddings().padding_idx is None


def test_vocabulary_counts_to_the_largest_id():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 40}, unk_token="a")))
    assert backbone("gpt2-tiny", tokenizer).config.vocab_size == 41
    assert backbone("gpt2-tiny", tokenizer, vocab_size=64).config.vocab_size == 64
    with pytest.raises(ValueError, match="vocab_size 40 is too small.*up to 40.*at least 41"):
        backbone("gpt2-tiny", tokenizer, vocab_size=40)


@pytest.mark.parametrize(
    ("preset", "pad_at", "max_length", "rows"),
    [
        ("bert-tiny", 0, None, 512),
        ("bert-tiny", 0, 128, 512),
        ("bert-tiny", 0, 1024, 1024),
        ("roberta-tiny", 1, None, 514),  # as released: padding id 1
        ("roberta-tiny", 0, None, 513),
        ("roberta-tiny", 7, 600, 608),
        ("mpnet-tiny", 1, 512, 514),
        ("gpt2-tiny", 0, 2048, 2048),
    ],
)
def test_positions_hold_the_longest_row(preset, pad_at, max_length, rows):
    tokenizer = make_tokenizer(first=[f"f{i}" for i in range(pad_at)])
    assert tokenizer.pad_token_id == pad_at
    built = backbone(preset, tokenizer, max_length=max_length)
    assert built.config.max_position_embeddings == rows
    ids = torch.full((1, max_length or 512), tokenizer.eos_token_id)
    built.load(AutoModel).eval()(input_ids=ids, attention_mask=torch.ones_like(ids))  # an IndexError if one is missing


def test_settings_by_own_and_common_names():
    tokenizer = make_tokenizer()
    assert backbone("gpt2-tiny", tokenizer, num_hidden_layers=3).config.n_layer == 3
    assert backbone("gpt2-tiny", tokenizer, n_layer=3).config.num_hidden_layers == 3
    assert len(backbone("modernbert-tiny", tokenizer, num_hidden_layers=5).config.layer_types) == 5
    assert backbone("bert-tiny", tokenizer).load(AutoModelForSequenceClassification, num_labels=7).num_labels == 7
    with pytest.raises(ValueError, match="bert has no setting 'num_layers'; did you mean .*'num_hidden_layers'"):
        backbone("bert-tiny", tokenizer, num_layers=3)
    with pytest.raises(
        ValueError, match="bert has no setting 'hidden_droput_prob'; did you mean 'hidden_dropout_prob'"
    ):
        backbone("bert-tiny", tokenizer).load(AutoModel, hidden_droput_prob=0.0)
    with pytest.raises(ValueError, match="no setting 'model_type'"):
        backbone("bert-tiny", tokenizer, model_type="gpt2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bert-tny", "'bert-tiny'"), ("bert-base-uncased", "'bert-base'"), ("xx", "known: albert-base")],
)
def test_unknown_preset(name, expected):
    with pytest.raises(ValueError, match="unknown preset") as error:
        backbone(name, make_tokenizer())
    assert expected in str(error.value) and "owner/name" in str(error.value)


@pytest.mark.parametrize(
    ("preset", "missing", "message"),
    [
        ("roberta-tiny", ("pad_token",), "roberta-tiny needs a padding token"),
        ("t5-tiny", ("pad_token",), "t5-tiny needs a padding token"),
        ("bart-tiny", ("eos_token",), "bart-tiny begins its output with the end token"),
    ],
)
def test_missing_special_tokens(preset, missing, message):
    with pytest.raises(ValueError, match=f"{message}.*add_special_tokens"):
        backbone(preset, make_tokenizer(leave_out=missing))


def test_weights_follow_the_global_seed_and_options():
    built = backbone("bert-tiny", make_tokenizer(), attn_implementation="eager", dtype=torch.bfloat16)
    models_ = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models_.append(built.load(BertForPreTraining))
    first, same, other = (model.bert.embeddings.word_embeddings.weight for model in models_)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert first.dtype is torch.bfloat16 and models_[0].config._attn_implementation == "eager"
    assert models_[0].config is not models_[1].config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    model = backbone("roberta-tiny", make_tokenizer(first=("a",)), max_length=64, max_position_embeddings=66).load(
        AutoModelForMaskedLM
    )
    model.save_pretrained(folder)
    return folder, model


def test_checkpoint_round_trip(checkpoint):
    folder, model = checkpoint
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".json") == ["model.safetensors"]
    built = backbone(str(folder), make_tokenizer(first=("a",)), max_length=64, hidden_dropout_prob=0.25)
    assert isinstance(built, Backbone) and built.checkpoint == str(folder)
    loaded = built.load(AutoModelForMaskedLM)
    assert loaded.config.hidden_dropout_prob == 0.25
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_checkpoint_in_half_precision_loads_in_single_unless_asked(checkpoint, tmp_path):
    checkpoint[1].to(torch.bfloat16).save_pretrained(tmp_path)
    checkpoint[1].to(torch.float32)
    tokenizer = make_tokenizer(first=("a",))
    assert backbone(str(tmp_path), tokenizer).load(AutoModel).dtype is torch.float32
    assert backbone(str(tmp_path), tokenizer, dtype=torch.bfloat16).load(AutoModel).dtype is torch.bfloat16


def test_a_folder_without_slash_is_a_checkpoint_and_a_preset_comes_first(checkpoint, monkeypatch):
    folder, _ = checkpoint
    monkeypatch.chdir(folder.parent)
    assert backbone(folder.name, make_tokenizer(first=("a",))).checkpoint == folder.name
    (folder.parent / "bert-tiny").mkdir(exist_ok=True)
    assert backbone("bert-tiny", make_tokenizer()).checkpoint is None


def test_checkpoint_that_does_not_fit(checkpoint):
    folder = str(checkpoint[0])
    with pytest.raises(ValueError, match="embeddings for 26 tokens.*go up to 26.*resize_token_embeddings"):
        backbone(folder, make_tokenizer(first=("a",), words=21))
    with pytest.raises(ValueError, match="positions for 64 tokens .*=66.*rows have up to 65.*max_length=64 or less"):
        backbone(folder, make_tokenizer(first=("a",)), max_length=65)
    with pytest.raises(ValueError, match="padding id 1, the tokenizer's is 0"):
        backbone(folder, make_tokenizer())
    with pytest.raises(ValueError, match="no setting 'hidden_dropout'"):
        backbone(folder, make_tokenizer(first=("a",)), hidden_dropout=0.0)
    with pytest.raises(ValueError, match="bert-tiny has positions for 16 tokens"):
        backbone("bert-tiny", make_tokenizer(), max_length=17, max_position_embeddings=16)


def test_a_family_without_the_head(checkpoint):
    with pytest.raises(ValueError, match="the preset is of the family t5.*no AutoModelForMaskedLM.* bert-tiny, "):
        backbone("t5-tiny", make_tokenizer()).load(AutoModelForMaskedLM)
    with pytest.raises(ValueError, match=f"{checkpoint[0]} is of the family .*no AutoModelForSeq2SeqLM"):
        backbone(str(checkpoint[0]), make_tokenizer(first=("a",))).load(AutoModelForSeq2SeqLM)


def test_only_safetensors_are_read(checkpoint, tmp_path):
    checkpoint[1].config.save_pretrained(tmp_path)
    torch.save(checkpoint[1].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        backbone(str(tmp_path), make_tokenizer(first=("a",))).load(AutoModelForMaskedLM)


def test_no_remote_code(checkpoint, tmp_path):
    config = AutoConfig.from_pretrained(checkpoint[0]).to_dict()
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('code of the checkpoint was run')")
    with pytest.raises(ValueError):
        backbone(str(tmp_path), make_tokenizer())
