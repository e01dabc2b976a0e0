"""Extended vocabularies: what stays as it was, what the new rows are, and that training goes on."""

import json

import numpy as np
import pytest
import torch
from small_models import LENGTH, make_checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    ElectraConfig,
    ElectraForPreTraining,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from pretrain_zoo.models.extended_vocabulary import extend_checkpoint, extend_vocabulary, with_rows
from pretrain_zoo.objectives import Vocabulary
from pretrain_zoo.scripts import extend_tokenizer as script
from pretrain_zoo.training.tokenizer import train_tokenizer
from pretrain_zoo.training.tokenizer_extension import extend_tokenizer

OLD = [
    "The cat sat on the mat, and the cat didn't move. Was it the same cat?",
    "A mat is not a cat; cats sit on mats. The café was closed on every window and door.",
    "Move the mat and the cat moves. Why? asked the man. 12 cats, 3 mats, xylophone quiz jungle bowl.",
] * 6
NEW = [
    "The myocardial infarction was treated; myocardial tissue and cardial inflammation.",
    "Acute myocardial infarction, infarction of the myocardium. 고양이가 매트에 앉았다. 심근경색 환자가 왔다.",
] * 9
PLAIN = ["The cat sat on the mat.", "A man asked: was it the same door?", "cats and mats, 3 or 12", "xylophone"]
KINDS = ("wordpiece", "bpe", "unigram", "llama")
CAUSAL, SEQ2SEQ = ("gpt2", "llama", "mixtral", "xlnet"), ("bart", "t5")


def train(kind):
    return train_tokenizer(OLD, kind, 420, special_tokens=["<extra_id_0>", "<extra_id_1>"], needs=("mask", "pad"))


@pytest.fixture(scope="module")
def extensions():
    made = {}
    for kind in KINDS:
        old = train(kind)
        made[kind] = old, extend_tokenizer(old, NEW, 140, min_frequency=3)
    return made


def pieces_by_hand(old, kind, token):
    """Ids by the old tokenizer's rules, in plain Python (WordPiece: greedy; others: by text that holds the token)."""
    vocabulary = old.get_vocab()
    if kind == "wordpiece":
        inside = token.startswith("##")
        rest, ids = token.removeprefix("##"), []
        while rest:
            fits = [n for n in range(len(rest), 0, -1) if ("##" if inside or ids else "") + rest[:n] in vocabulary]
            if not fits:
                return [old.unk_token_id]
            ids.append(vocabulary[("##" if inside or ids else "") + rest[: fits[0]]])
            rest = rest[fits[0] :]
        return ids
    if kind == "bpe":  # no space before: the byte-level alphabet is one character per byte
        ranks = {tuple(m): i for i, m in enumerate(json.loads(old.backend_tokenizer.to_str())["model"]["merges"])}
        parts = list(token)
        while pairs := [(ranks[p], i) for i, p in enumerate(zip(parts, parts[1:])) if p in ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [vocabulary[part] for part in parts]
    return [piece.id for piece in old.backend_tokenizer.model.tokenize(token)]


@pytest.mark.parametrize("kind", KINDS)
def test_old_text_keeps_its_ids(extensions, kind):
    old, extension = extensions[kind]
    new = extension.tokenizer
    assert {t: i for t, i in new.get_vocab().items() if i < extension.first_id} == old.get_vocab()
    assert new.convert_ids_to_tokens(range(extension.first_id, len(new))) == list(extension.tokens)
    for text in [*PLAIN, *OLD, "<extra_id_1> a <mask> cat", "日 cat"]:
        ids = new(text, text).input_ids
        assert ids == old(text, text).input_ids or max(ids) >= extension.first_id
    assert all(max(new(text).input_ids) < extension.first_id for text in PLAIN)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_differ_only_where_new_tokens_stand(extensions, kind):
    """Random strings of old and new text: each word without new tokens has the pieces that it had."""
    old, extension = extensions[kind]
    rng = np.random.default_rng(0)
    texts = OLD[:3] + NEW[:2]
    changed = 0
    for _ in range(400):
        parts = [texts[rng.integers(5)][(at := rng.integers(60)) : at + rng.integers(1, 9)] for _ in range(3)]
        before, after = (t("".join(parts), add_special_tokens=False).input_ids for t in (old, extension.tokenizer))
        if not after or max(after) < extension.first_id:
            assert after == before, parts
        changed += after != before
    assert 20 < changed < 390


@pytest.mark.parametrize("kind", KINDS)
def test_new_text_has_fewer_tokens_and_comes_back(extensions, kind):
    old, extension = extensions[kind]
    text = "Acute myocardial infarction, 심근경색 환자"
    before, after = old.tokenize(text), extension.tokenizer.tokenize(text)
    assert len(extension.tokens) <= 140
    if kind == "wordpiece":
        assert "myocardial" in after and extension.unknown > 0
    else:
        assert len(after) < 0.7 * len(before)
        assert extension.tokenizer.decode(extension.tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert extension.tokenizer.unk_token_id not in extension.tokenizer(text).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_those_of_the_old_tokenizer(extensions, kind):
    old, extension = extensions[kind]
    for token, pieces in zip(extension.tokens, extension.pieces, strict=True):
        assert list(pieces) == pieces_by_hand(old, kind, token), token


def test_no_merge_gives_an_old_token():
    """abc is in the vocabulary, but "abc" is spelled ab c, since a b is merged first: it stays so."""
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(("a", "b", "c", "d", "ab", "bc", "abc"))}, merges))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    old = PreTrainedTokenizerFast(tokenizer_object=backend)
    extension = extend_tokenizer(old, ["abc " * 9 + "cd " * 8], 9)
    assert extension.tokens == ("cd",) and extension.pieces == ((2, 3),)
    assert old("abc cd").input_ids == [4, 2, 2, 3]
    assert extension.tokenizer("abc cd").input_ids == [4, 2, 7]
    assert extension.tokenizer.get_vocab() == old.get_vocab() | {"cd": 7}


def test_unknown_characters_take_half_of_the_new_tokens_at_most():
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    old = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    extension = extend_tokenizer(old, ["ab " * 9 + "".join(f"{c} " * (20 - i) for i, c in enumerate("cdefghij"))], 6)
    assert extension.tokens == ("c", "d", "e", "ab")  # the most frequent ones, and what is to be learned beside them


def test_unknown_characters_cost_what_they_did():
    """An unknown character costs 10 more than the least probable piece, so no new piece is less probable than that."""
    pieces = {"abcdefghi": -1.0} | dict.fromkeys(("qa", "bc", "de", "fg", "hi", "v", "w"), -3.0)
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), *pieces.items()], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    old = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    # v w, -6, becomes vw, log(8 / 2008) = -5.5; an unknown character at -15.5 would be dearer than five pieces at -3
    extension = extend_tokenizer(old, ["vw " * 8 + "v " * 2000], 9)
    assert extension.tokens == ("vw",)
    assert json.loads(extension.tokenizer.backend_tokenizer.to_str())["model"]["vocab"][-1] == ["vw", -3.0]
    for tokenizer in (old, extension.tokenizer):
        assert tokenizer("qabcdefghi").input_ids == [0, 1]  # -13 - 1, not 5 · -3


@pytest.mark.parametrize("kind", KINDS)
def test_same_text_same_extension(extensions, kind):
    again = extend_tokenizer(train(kind), list(NEW), 140, min_frequency=3)
    assert again.tokenizer.backend_tokenizer.to_str() == extensions[kind][1].tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_comes_back(extensions, kind, tmp_path):
    old, extension = extensions[kind]
    extension.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == extension.tokenizer.get_vocab()
    assert loaded.special_tokens_map == old.special_tokens_map and loaded.padding_side == old.padding_side
    texts = [*PLAIN, *NEW, "a <mask>, <extra_id_0> b"]
    assert loaded(texts).input_ids == extension.tokenizer(texts).input_ids
    before, after = Vocabulary.from_tokenizer(old), Vocabulary.from_tokenizer(loaded)
    assert after.special == before.special and after.maskable[: before.size].tolist() == before.maskable.tolist()
    assert (after.prefix, after.suffix, after.mask_id) == (before.prefix, before.suffix, before.mask_id)


@pytest.mark.parametrize("kind", ["bpe", "llama", "unigram"])
def test_an_old_token_never_comes_about_anew(kind):
    """What spells the name of a special token stays plain text to a corpus, however often it stands there."""
    old = train_tokenizer(OLD, kind, 420, special_tokens=["qmqsx"])
    extension = extend_tokenizer(old, ["aqmqsx bqmqsx cqmqsx dqmqsx"] * 20, 60, min_frequency=30)
    assert len(set(extension.tokens)) == len(extension.tokens) == len(extension.tokenizer) - len(old)
    assert not set(extension.tokens) & set(old.get_vocab())
    backend = extension.tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    ids = backend.encode("aqmqsx bqmqsx", add_special_tokens=False).ids
    assert old.convert_tokens_to_ids("qmqsx") not in ids and max(ids) >= extension.first_id


def test_bad_arguments(extensions):
    old, _ = extensions["bpe"]
    with pytest.raises(ValueError, match="no new tokens"):
        extend_tokenizer(old, ["The cat sat on the mat"] * 9, 10)
    with pytest.raises(ValueError, match="new_tokens must be 1 or more"):
        extend_tokenizer(old, NEW, 0)
    with pytest.raises(TypeError, match="only once"):
        extend_tokenizer(old, iter(NEW), 10)


# models


def model_of(family, folder):
    auto = AutoModelForSeq2SeqLM if family in SEQ2SEQ else AutoModelForMaskedLM
    if family in CAUSAL:
        auto = AutoModelForCausalLM
    return auto.from_pretrained(folder).eval()


@torch.no_grad()
def logits(model, tokenizer, texts):
    columns = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    inputs = {"input_ids": columns["input_ids"], "attention_mask": columns["attention_mask"]}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = columns["input_ids"]
    return model(**inputs).logits


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


# the script


def write(path, texts):
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return str(path)


def test_script_and_training_goes_on(tmp_path, capsys):
    from pretrain_zoo.scripts import pretrain

    corpus = write(tmp_path / "old.txt", OLD)
    common = ["--cache_dir", str(tmp_path / "cache"), "--use_cpu", "--max_seq_length", "32", "--save_steps", "2"]
    common += ["--max_steps", "2", "--per_device_train_batch_size", "4", "--eval_steps", "2", "--logging_steps", "1"]
    tiny = ["--config_overrides", "hidden_size=32,num_attention_heads=2,embedding_size=16", "--vocab_size", "150"]
    base = ["--objective", "rtd", "--model_name_or_path", "electra-tiny", "--corpus", corpus]
    assert pretrain.main([*base, *tiny, *common, "--output_dir", str(tmp_path / "rtd")]) == 0

    domain = write(tmp_path / "new.txt", NEW)
    command = [str(tmp_path / "rtd"), "--corpus", domain, "--output_dir", str(tmp_path / "more")]
    assert script.main([*command, "--new_tokens", "40", "--min_frequency", "3", "--validation_fraction", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "held-out documents" in printed and "tokens per word" in printed
    old, new = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("rtd", "more"))
    assert len(old) < len(new) <= len(old) + 40

    before, after = (AutoModelForMaskedLM.from_pretrained(tmp_path / n / "generator").eval() for n in ("rtd", "more"))
    torch.testing.assert_close(logits(after, new, PLAIN)[..., : len(old)], logits(before, old, PLAIN))
    go_on = ["--objective", "rtd", "--model_name_or_path", str(tmp_path / "more"), "--corpus", domain, *common]
    assert pretrain.main([*go_on, "--validation_fraction", "0.2", "--output_dir", str(tmp_path / "on")]) == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "on")) == len(new)


def test_script_refuses_to_write_over_the_checkpoint(tmp_path, capsys):
    assert script.main([str(tmp_path), "--output_dir", str(tmp_path), "--corpus", "x.txt"]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert script.main(["./nowhere", "--output_dir", str(tmp_path), "--corpus", "x.txt"]) == 2
    assert "checkpoint: there is no folder './nowhere'" in capsys.readouterr().err
