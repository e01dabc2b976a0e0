"""Translation LM: layout, positions, languages, masks on both sides, and the collator."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_texts
from training_runs import LENGTH, build, text
from transformers import RobertaConfig, RobertaForMaskedLM, XLMConfig, XLMWithLMHeadModel

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import DataCollatorForTLM, Draws, Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.training.translations import tokenize_translations

SEP = 3


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    maskable = np.arange(100) > 4
    return Vocabulary(
        size=100,
        maskable=maskable,
        random_pool=np.flatnonzero(maskable),
        mask_id=4,
        pad_id=0,
        sep_id=SEP,
        pair_prefix=(2,),
        middle=(SEP,),
        pair_suffix=(SEP,),
    )


@pytest.fixture(scope="module")
def documents():
    made = from_lists([[[10, 11], [12]], [[20, 21]], [[30] * 9], [[40, 41, 42]], [[50] * 9], [[60] * 9]])
    return replace(made, translations=np.array([[0, 1], [3, 2], [4, 5]]), languages=np.array([0, 1, 1, 0, 0, 2]))


def plan_of(objective, documents, vocabulary, length=64):
    return objective.plan(documents, vocabulary, length=length, seed=0, epoch=0, global_batch=1)


def test_layout_of_xlm(documents, vocabulary):
    """`</s> x </s> </s> y </s>`: four separators, positions from 0 again at y's own."""
    rows = plan_of(get_objective("tlm"), documents, vocabulary).rows(np.array([0]))
    assert rows["input_ids"].tolist() == [[SEP, 10, 11, 12, SEP, SEP, 20, 21, SEP]]
    assert rows["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert rows["langs"].tolist() == [[0] * 5 + [1] * 4]


def test_layout_of_pairs(documents, vocabulary):
    objective = get_objective("tlm", layout="pair")
    rows = plan_of(objective, documents, vocabulary).rows(np.array([0]))
    assert rows["input_ids"].tolist() == [[2, 10, 11, 12, SEP, 20, 21, SEP]]
    assert rows["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    roberta = replace(vocabulary, middle=(SEP, SEP))
    rows = plan_of(objective, documents, roberta).rows(np.array([0]))
    assert rows["input_ids"].tolist() == [[2, 10, 11, 12, SEP, SEP, 20, 21, SEP]]
    assert rows["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    plain = get_objective("tlm", layout="pair", reset_positions=False)
    assert "position_ids" not in plan_of(plain, documents, roberta).rows(np.array([0]))


def test_order_of_a_pair_moves_its_languages(documents, vocabulary):
    turned = replace(documents, translations=documents.translations[:, ::-1])
    rows = plan_of(get_objective("tlm"), turned, vocabulary).rows(np.array([0]))
    assert rows["langs"].tolist() == [[1] * 4 + [0] * 5]
    without = replace(documents, languages=None)
    assert set(plan_of(get_objective("tlm"), without, vocabulary).rows(np.array([0]))) == {"input_ids"}
    asked = plan_of(get_objective("tlm", reset_positions=True), without, vocabulary).rows(np.array([0]))
    assert asked["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("room", "expected"), [(20, (3, 9, 9, 9)), (11, (3, 8, 6, 5)), (5, (3, 2, 3, 2)), (2, (1,) * 4)]
)
def test_the_longer_side_is_cut_first(documents, vocabulary, room, expected):
    """Pairs of 3 + 9 and 9 + 9 tokens."""
    rows = plan_of(get_objective("tlm"), documents, vocabulary, room + 4).rows(np.array([1, 2]))
    sides = []
    for row in rows["input_ids"].tolist():
        end = row.index(SEP, 1)
        sides += [end - 1, len(row) - end - 3]
    assert tuple(sides) == expected


def test_both_sides_are_masked_at_the_same_rate(documents, vocabulary):
    objective = get_objective("tlm")
    plan = plan_of(objective, documents, vocabulary)
    count = 20_000
    rows = plan.rows(np.full(count, 2))
    columns = objective.corrupt(rows, Draws.of(0, np.arange(count), 0, np.arange(count)), vocabulary)
    position = columns["label_positions"].values
    assert not np.isin(position, (0, 10, 11, 21)).any()  # separators
    for side in (position < 10, position > 11):
        assert abs(side.sum() / (9 * count) - 0.15) < 5 * (0.15 * 0.85 / (9 * count)) ** 0.5


def test_predictions_look_at_the_translation():
    """A prediction on one side has a gradient by the tokens of the other."""
    objective, model = build("tlm")
    model.eval()
    tokenizer, vocabulary, documents = text()
    ids = torch.tensor(plan_of(objective, documents, vocabulary, LENGTH).rows(np.array([0]))["input_ids"].row(0))[None]
    embedded = model.main.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model.main(inputs_embeds=embedded).logits
    logits[0, 1].square().sum().backward()
    assert (embedded.grad[0, -2] != 0).any()


@pytest.mark.parametrize(
    ("model", "languages"), [("xlm-tiny", 2), ("xlm-tiny", 1), ("bert-tiny", 1), ("xlm-roberta-tiny", 1)]
)
def test_positions_begin_anew_only_beside_language_embeddings(model, languages):
    """The logits are the stock model's, with positions and languages if it has embeddings of these."""
    tokenizer, vocabulary, documents = text()
    documents = replace(documents, languages=np.arange(len(documents), dtype=np.int16) % 2)
    objective = get_objective("tlm")
    overrides = {"n_langs": languages} if model == "xlm-tiny" else {}
    built = objective.build(backbone(model, tokenizer, max_length=LENGTH, **overrides), vocabulary).eval()
    rows = plan_of(objective, documents, vocabulary, LENGTH).rows(np.array([0]))
    columns = objective.corrupt(rows, Draws.of(0, np.array([5]), 0, 5), vocabulary)
    batch = {name: torch.tensor(column.values) for name, column in columns.items()}
    batch = {n: v if n.startswith("label") else v[None] for n, v in batch.items()}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    found = built(**batch, want=("logits",)).outputs["logits"]
    names = ["input_ids", "attention_mask"] + ["position_ids", "langs"] * (languages > 1)
    stock = built.main(**{name: batch[name] for name in names})
    assert torch.allclose(found, stock.logits[0, batch["label_positions"]], atol=1e-5)


def test_without_languages_two_texts_in_one_place_look_alike(vocabulary, documents):
    """Why positions do not begin anew there: a mask in one text and in the other are predicted alike."""
    tokenizer, trained, _ = text()
    for model in ("modernbert-tiny", "bert-tiny", "xlm-tiny"):
        parts = backbone(model, tokenizer, max_length=LENGTH)
        built = get_objective("tlm").build(parts, trained).eval()
        row = [SEP, 20, 4, 22, SEP]
        ids, positions = torch.tensor([row + [SEP, 30, 4, 32, SEP]]), torch.tensor([[*range(5), *range(5)]])
        logits = built.main(input_ids=ids, position_ids=positions).logits[0]
        assert torch.allclose(logits[2], logits[7], atol=1e-5)
        with pytest.raises(ValueError, match="no language embeddings"):
            get_objective("tlm", reset_positions=True).build(parts, trained)


def test_languages_reach_the_embeddings():
    tokenizer, vocabulary, documents = text()
    parts = backbone("xlm-tiny", tokenizer, max_length=LENGTH, n_langs=2)
    built = get_objective("tlm").build(parts, vocabulary).eval()
    ids, position = torch.arange(20, 26)[None], torch.arange(6)[None]
    one, other = (
        built(input_ids=ids, position_ids=position, langs=torch.full((1, 6), lang), **labels(), want=("logits",))
        for lang in (0, 1)
    )
    assert not torch.allclose(one.outputs["logits"], other.outputs["logits"], atol=1e-4)


def labels():
    return {"label_positions": torch.tensor([1]), "label_ids": torch.tensor([21])}


def test_collator_for_stock_models():
    tokenizer, vocabulary, _ = text()
    words = make_texts(8, seed=3)
    features = [
        {"input_ids": tokenizer(a)["input_ids"], "input_ids_pair": tokenizer(b)["input_ids"], "language": 0}
        | {"language_pair": 1}
        for a, b in zip(words[::2], words[1::2], strict=True)
    ]
    batch = DataCollatorForTLM(tokenizer, seed=0, mlm_probability=1.0)(features)
    sep, pad = vocabulary.separator, vocabulary.pad_id
    for b, feature in enumerate(features):
        first, second = feature["input_ids"][1:-1], feature["input_ids_pair"][1:-1]
        row = torch.where(batch["labels"][b] == -100, batch["input_ids"][b], batch["labels"][b])
        expected = [sep, *first, sep, sep, *second, sep]
        assert row[: len(expected)].tolist() == expected
        assert (row[len(expected) :] == pad).all()
        assert batch["langs"][b][: len(expected)].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 2)
        assert batch["position_ids"][b][: len(expected)].tolist() == [*range(len(first) + 2), *range(len(second) + 2)]
    longest = batch["input_ids"].shape[1]
    xlm = XLMWithLMHeadModel(XLMConfig(vocab_size=300, emb_dim=16, n_layers=1, n_heads=2, n_langs=2, pad_index=pad))
    assert torch.isfinite(xlm(**batch).loss)

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    roberta = RobertaForMaskedLM(
        RobertaConfig(vocab_size=300, max_position_embeddings=longest + 2, pad_token_id=1, type_vocab_size=1, **sizes)
    )
    bare = [{n: f[n] for n in ("input_ids", "input_ids_pair")} for f in features]
    batch = DataCollatorForTLM(tokenizer, layout="pair")(bare)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert torch.isfinite(roberta(**batch).loss)


def test_noise_follows_the_example():
    tokenizer = text()[0]
    features = [{"input_ids": list(range(20, 40)), "input_ids_pair": [50, 51], "example_id": i} for i in range(4)]
    collator = DataCollatorForTLM(tokenizer)
    assert torch.equal(collator(features)["labels"][2], collator(features[2:])["labels"][0])


def test_parallel_texts(tmp_path):
    tokenizer = text()[0]
    source, target = make_texts(6, seed=1), make_texts(6, seed=2)
    target[2] = "  "
    found = tokenize_translations(source, target, tokenizer, tmp_path)
    assert found.translations.tolist() == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    assert found.languages.tolist() == [0] * 5 + [1] * 5
    for document, expected in ((2, source[3]), (7, target[3])):
        tokens = found.tokens[found.offsets[document] : found.offsets[document + 1] - 1].tolist()
        assert tokens == tokenizer(expected, add_special_tokens=False)["input_ids"]
    with pytest.raises(ValueError, match="as many"):
        tokenize_translations(source, target[:-1], tokenizer, tmp_path)


def test_selected_documents_keep_their_pairs(documents):
    chosen = documents.select(np.array([5, 1, 4, 2]))
    assert chosen.translations.tolist() == [[2, 0]]
    assert chosen.languages.tolist() == [2, 1, 0, 1]


def test_refusals(documents, vocabulary):
    tokenizer, trained, _ = text()
    with pytest.raises(ValueError, match="corpus of translations"):
        plan_of(get_objective("tlm"), replace(documents, translations=None), vocabulary)
    with pytest.raises(ValueError, match="no room"):
        plan_of(get_objective("tlm"), documents, vocabulary, 5)
    with pytest.raises(ValueError, match="layout"):
        get_objective("tlm", layout="x")
    collator = DataCollatorForTLM(tokenizer)
    with pytest.raises(ValueError, match="input_ids_pair"):
        collator([{"input_ids": [5]}])
    with pytest.raises(ValueError, match="language"):
        collator([{"input_ids": [20], "input_ids_pair": [21], "language": 0}])
    with pytest.raises(ValueError, match="input_ids"):
        collator([{"input_ids": [20], "input_ids_pair": [21]}, {"input_ids": [20]}])
