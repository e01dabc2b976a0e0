"""Trained tokenizers: the published layout of special tokens and pairs, and a round trip through AutoTokenizer."""

import itertools
import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
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
from pretrain_zoo.objectives import ObjectiveCollator, Vocabulary, get_objective, list_objectives
from pretrain_zoo.scripts import train_tokenizer as script
from pretrain_zoo.training.arguments import ModelArguments
from pretrain_zoo.training.prepare import get_tokenizer
from pretrain_zoo.training.tokenizer import KINDS, tokens_for, train_tokenizer
from pretrain_zoo.training.unigram import Lattices, _prune, _seed, train_unigram

TEXTS = [
    "The cat sat on the mat, and the cat didn't move. Was it the same cat?",
    "A mat is not a cat; cats sit on mats. The café was closed: 한국어 문장, 中文 too.",
    "Move the mat and the cat moves. “Why?” asked the man. 12 cats, 3 mats.",
] * 4
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
UNIGRAM = ("unigram", "albert", "deberta-v3", "xlnet", "xlm-roberta")
TOO_SMALL = {"unigram": 3, "albert": 5, "deberta-v3": 5, "xlm-roberta": 5}


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
    size = TOO_SMALL.get(kind, 8)
    with pytest.raises(ValueError, match=f"vocab_size {size} is too small"):
        train_tokenizer(TEXTS, kind, size)
    with pytest.raises(ValueError, match="vocab_size 204 is too small.*203 more special tokens"):
        objective = get_objective("ul2")
        train_tokenizer(TEXTS, kind, 204, special_tokens=objective.special_tokens)
    with pytest.raises(ValueError, match="nfc, nfkc or none, not 'nfd'"):
        train_tokenizer(TEXTS, kind, 400, normalization="nfd")
    with pytest.raises(TypeError, match="can be read only once"):
        train_tokenizer(iter(TEXTS), kind, 400)


def test_unknown_kind():
    with pytest.raises(
        ValueError, match="no kind of tokenizer 'wordpeice'; choose one of wordpiece, bpe, gpt2, unigram"
    ):
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


def test_script_writes_into_no_folder_of_other_files(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    command = ["--output_dir", str(tmp_path), "--corpus", str(tmp_path / "corpus.txt"), "--vocab_size", "300"]
    assert script.main(command) == 2
    assert "holds files, and none of them is a tokenizer" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_measure():
    tokenizer = train_tokenizer(["aa bb"] * 3, vocab_size=40)
    figures = script.measure(tokenizer, ["aa bb, aa", "aa z"])
    assert figures == {
        "words": "6",
        "tokens per word": "1.000",
        "characters per token": f"{13 / 6:.2f}",
        "unknown tokens": f"{2 / 6:.3%}",
    }


# layouts


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


PRESETS = {
    "wordpiece": "bert-tiny",
    "bpe": "roberta-tiny",
    "albert": "albert-tiny",
    "deberta-v3": "deberta-v3-tiny",
    "xlm-roberta": "xlm-roberta-tiny",
}


@pytest.mark.parametrize(("kind", "preset"), PRESETS.items())
def test_presets_of_the_family_take_it(tokenizers, kind, preset):
    tokenizer = tokenizers[kind]
    model = backbone(preset, tokenizer, max_length=16).load(AutoModelForMaskedLM)
    batch = tokenizer(["The cat sat.", "a mat"], padding=True, return_tensors="pt")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert torch.isfinite(model(**batch).logits).all()


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


# special tokens of objectives


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


def test_script_for_an_objective(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    command = ["--output_dir", str(tmp_path / "a"), "--corpus", str(tmp_path / "corpus.txt"), "--kind", "gpt2"]
    assert script.main([*command, "--vocab_size", "500", "--objective", "fim", "--special_tokens", "<en>, <ko>"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    get_objective("fim").check(Vocabulary.from_tokenizer(tokenizer))
    assert tokenizer.tokenize("<ko>") == ["<ko>"]


# normalization and Korean

KOREAN = [
    "이 영화는 정말 재미있었다. 배우들의 연기가 훌륭했고 음악도 좋았다.",
    "한국어 문장은 띄어쓰기가 있다. 고양이가 café에서 잠을 잤다.",
    "정말 좋은 영화였다! 다시 보고 싶은 영화, 음악이 좋았다. ＡＢＣ",
] * 5
OPTIONS = [
    ("wordpiece", {"lowercase": False}),
    ("wordpiece", {"strip_accents": False}),
    ("wordpiece", {"normalization": "nfc"}),
    ("bpe", {"lowercase": True, "normalization": "nfc"}),
    ("unigram", {}),
    ("xlm-roberta", {"lowercase": True}),
    ("albert", {}),
    ("llama", {}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_korean(kind, options, tmp_path):
    """Syllables stay whole, decomposed text has the ids of composed text where it is normalized."""
    train_tokenizer(KOREAN, kind, 600, **options).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = tokenizer.get_vocab()
    assert not any(0x1100 <= ord(c) < 0x1200 for token in vocabulary for c in token)  # conjoining letters
    if kind != "bpe":
        assert any("영화" in token for token in vocabulary)
    text = "영화는 정말 좋았다 café"
    decoded = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    stripped = kind in ("albert", "bpe") or "normalization" in options or options.get("lowercase") is True
    assert decoded == (text.replace("é", "e") if stripped else text)
    if kind in UNIGRAM or "normalization" in options:
        assert tokenizer(unicodedata.normalize("NFD", text)).input_ids == tokenizer(text).input_ids


def test_normalization_forms():
    def words(**options):
        tokenizer = train_tokenizer([*TEXTS, "ＡＢ Ab café"], "bpe", 400, **options)
        return tokenizer.decode(tokenizer("ＡＢ Ab café").input_ids, skip_special_tokens=True)

    assert words() == "ＡＢ Ab café"
    assert words(normalization="nfkc") == "AB Ab café"
    assert words(normalization="nfkc", lowercase=True, strip_accents=False) == "ab ab café"
    assert words(lowercase=True) == "ａｂ ab cafe"
    assert words(strip_accents=True) == "ＡＢ Ab cafe"


# training Unigram

WORDS = {"abab": 3, "aba": 2, "bb": 1, "abc": 2, "ccab": 4, "a": 1}


def spellings(word, pieces):
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        at = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        parts = [word[a:b] for a, b in itertools.pairwise(at)]
        if pieces.issuperset(parts):
            yield parts


def lattices() -> tuple[Lattices, np.ndarray, list[str]]:
    made, _ = _seed(WORDS, 2)
    score = np.log(np.random.default_rng(0).dirichlet(np.ones(len(made.sizes))))
    return made, score, made.texts()


def test_seeds_are_all_repeated_substrings():
    made, score = _seed(WORDS, 2)
    counts: dict[str, int] = {}
    for word, count in WORDS.items():
        for i, j in itertools.combinations(range(len(word) + 1), 2):
            counts[word[i:j]] = counts.get(word[i:j], 0) + count
    expected = {text: n * len(text) for text, n in counts.items() if n >= 2 or len(text) == 1}
    assert set(made.texts()) == set(expected)
    total = sum(expected.values())
    for text, value in zip(made.texts(), score, strict=True):
        assert value == pytest.approx(np.log(expected[text] / total))


def test_expected_counts_by_all_spellings():
    made, score, texts = lattices()
    by_text = dict(zip(texts, score, strict=True))
    expected = dict.fromkeys(texts, 0.0)
    for word, count in WORDS.items():
        ways = list(spellings(word, set(texts)))
        weights = np.exp([sum(by_text[part] for part in way) for way in ways])
        for way, weight in zip(ways, count * weights / weights.sum(), strict=True):
            for part in way:
                expected[part] += weight
    np.testing.assert_allclose(made.expected_counts(score), [expected[text] for text in texts], rtol=1e-9)


@pytest.mark.parametrize("whole", [True, False])
def test_best_spellings_by_all_spellings(whole):
    made, score, texts = lattices()
    by_text = dict(zip(texts, score, strict=True))
    long = np.flatnonzero(made.sizes > 1)
    pieces, of = made.spell(score, made.first[long], made.sizes[long], whole=whole)
    for row, piece in enumerate(long):
        ways = [way for way in spellings(texts[piece], set(texts)) if whole or len(way) > 1]
        best = max(sum(by_text[part] for part in way) for way in ways)
        assert score[pieces[of == row]].sum() == pytest.approx(best)


def test_unigram_training():
    pieces = dict(train_unigram(WORDS, 6))
    assert len(pieces) <= 6 and {"a", "b", "c"} <= set(pieces)
    assert train_unigram(dict(reversed(WORDS.items())), 6) == list(pieces.items())
    scores = list(pieces.values())
    assert scores == sorted(scores, reverse=True) and sum(np.exp(scores)) <= 1 + 1e-9
    model = models.Unigram([("<unk>", -100.0), *pieces.items()], unk_id=0)
    assert sum(pieces[token.value] for token in model.tokenize("ababab")) == pytest.approx(
        max(sum(pieces[part] for part in way) for way in spellings("ababab", set(pieces)))
    )


def test_pruning_by_hand():
    """Pieces go whose replacement by their best other spelling costs the text least, counted in best spellings."""
    made, score, texts = lattices()
    by_text = dict(zip(texts, score, strict=True))

    def best(word, without=()):
        ways = [way for way in spellings(word, set(texts)) if list(without) != way]
        return max(ways, key=lambda way: sum(by_text[part] for part in way))

    used = dict.fromkeys(texts, 0.0)
    for word, count in WORDS.items():
        for part in best(word):
            used[part] += count
    total = sum(used.values())
    losses = {}
    for piece, count in used.items():
        if len(piece) > 1 and count:
            parts = best(piece, [piece])
            after = total + count * (len(parts) - 1)
            new = sum(np.log((used[part] + count) / after) for part in parts)
            losses[piece] = count * (np.log(count / total) - new)
    ranked = sorted(losses, key=lambda piece: -losses[piece])
    characters = [text for text in texts if len(text) == 1]
    assert len(ranked) > 2
    for size in range(len(characters), len(characters) + len(ranked) + 2):
        kept = {texts[i] for i in _prune(made, score, size)}
        assert kept == {*characters, *ranked[: size - len(characters)]}


@pytest.mark.parametrize("kind", [*UNIGRAM, "llama"])
def test_pieces_do_not_mix_scripts(kind):
    texts = ["cats, 12cats 한국어text, 한국어text. (mats) mats... abc中文"] * 9
    tokenizer = train_tokenizer(texts, kind, 360)
    vocabulary = set(tokenizer.get_vocab()) - set(Vocabulary.from_tokenizer(tokenizer).special)
    assert {"▁cats", "▁mats", "text", "12"} & vocabulary
    for token in vocabulary - {f"<0x{byte:02X}>" for byte in range(256)}:
        kinds = {
            unicodedata.name(c).split()[0] if c.isalpha() else unicodedata.category(c)[0] for c in token.strip("▁")
        }
        assert len(kinds) <= 1, token
