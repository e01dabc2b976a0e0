"""Students from layers of a teacher: which weights go where, families, depth, refusals."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertForPreTraining,
    DistilBertForMaskedLM,
)

from pretrain_zoo.models.initialize import config_with_layers, copy_layers, layer_stacks, uniform_layer_map

PUBLISHED = (0, 2, 4, 7, 9, 11)
SIZE = 50


def config(kind, layers=2, hidden=16, **more):
    settings = {"vocab_size": SIZE, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 2}
    settings |= {"intermediate_size": 24, "max_position_embeddings": 20, "pad_token_id": 0}
    if kind == "deberta-v2":
        settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}
    if kind == "distilbert":
        settings["hidden_dim"] = 24
    return AutoConfig.for_model(kind, **settings | more)


def model(kind, layers=2, auto=AutoModelForMaskedLM, seed=0, **more):
    """A model whose every weight is random, biases and norms included."""
    torch.manual_seed(seed)
    made = auto.from_config(config(kind, layers, **more)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def layer_of(made, number):
    return made.get_submodule(f"{layer_stacks(made)[0][0]}.{number}")


def same(one, other):
    ours, theirs = dict(one.state_dict()), dict(other.state_dict())
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# which layers


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "deberta-v2", "mpnet", "gpt2"])
def test_published_half_of_twelve_layers(kind):
    auto = AutoModelForCausalLM if kind == "gpt2" else AutoModelForMaskedLM
    teacher, student = model(kind, 12, auto), model(kind, 6, auto, seed=1)
    assert copy_layers(student, teacher, PUBLISHED) == []
    for number, layer in enumerate(PUBLISHED):
        assert same(layer_of(student, number), layer_of(teacher, layer))
        assert not same(layer_of(student, number), layer_of(teacher, layer - 1 if layer else 1))
    ours, theirs = student.state_dict(), teacher.state_dict()
    rest = [name for name in ours if not name.startswith(layer_stacks(student)[0][0])]
    assert rest and all(torch.equal(ours[name], theirs[name]) for name in rest)  # embeddings, norms, head


def test_a_student_of_all_layers_computes_what_its_teacher_does():
    ids = torch.randint(1, SIZE, (2, 7), generator=torch.Generator().manual_seed(0))
    for kind, auto in (("bert", AutoModelForMaskedLM), ("gpt2", AutoModelForCausalLM)):
        teacher, student = model(kind, 3, auto), model(kind, 3, auto, seed=1)
        copy_layers(student, teacher, (0, 1, 2))
        assert torch.equal(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_distilbert_from_bert_without_token_types():
    teacher = model("bert", 4)
    student = model("distilbert", 2, seed=1)
    assert copy_layers(student, teacher, (1, 3)) == []
    # the same computation in BERT: only these layers, and nothing added for token types
    torch.manual_seed(5)
    reference = AutoModelForMaskedLM.from_config(config_with_layers(teacher.config, (1, 3))).eval()
    copy_layers(reference, teacher, (1, 3))
    with torch.no_grad():
        reference.bert.embeddings.token_type_embeddings.weight.zero_()
    ids = torch.randint(1, SIZE, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    ours, theirs = (m(input_ids=ids, attention_mask=mask).logits for m in (student, reference))
    assert isinstance(student, DistilBertForMaskedLM)
    torch.testing.assert_close(ours[mask == 1], theirs[mask == 1], rtol=1e-4, atol=1e-5)


def test_deeper_students_are_stacks():
    teacher, student = model("bert", 2), model("bert", 6, seed=1)
    copy_layers(student, teacher, (0, 1, 0, 1, 0, 1))
    for number in range(6):
        assert same(layer_of(student, number), layer_of(teacher, number % 2))
    layer_of(student, 0).output.dense.weight.data.zero_()  # copies, not shared
    assert layer_of(student, 2).output.dense.weight.abs().sum() > 0
    assert layer_of(teacher, 0).output.dense.weight.abs().sum() > 0


def test_tied_embeddings_stay_tied():
    teacher, student = model("bert", 2), model("bert", 1, seed=1)
    copy_layers(student, teacher, (1,))
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    torch.testing.assert_close(student.get_output_embeddings().weight, teacher.get_output_embeddings().weight)


def test_bases_and_heads_of_other_kinds():
    teacher = model("bert", 2)
    bare = model("bert", 1, AutoModel, seed=1)
    assert all(name.startswith("pooler.") for name in copy_layers(bare, teacher, (1,)))
    assert same(bare.encoder.layer[0], teacher.bert.encoder.layer[1])
    torch.manual_seed(2)
    pairs = BertForPreTraining(config("bert", 1))
    left = copy_layers(pairs, teacher, (0,))
    assert set(left) == {n for n in pairs.state_dict() if "pooler" in n or "seq_relationship" in n}
    back = model("bert", 1, seed=3)
    copy_layers(back, bare, (0,))
    assert same(back.bert.encoder.layer[0], bare.encoder.layer[0])


def test_local_layers_keep_their_kind():
    deep = config("modernbert", 6, global_attn_every_n_layers=3, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    assert config_with_layers(deep, (0, 2, 3)).layer_types == [deep.layer_types[i] for i in (0, 2, 3)]


# layer maps


def test_published_layer_maps():
    assert uniform_layer_map(4, 12) == (3, 6, 9, 12)
    assert uniform_layer_map(6, 12) == (2, 4, 6, 8, 10, 12)
    assert uniform_layer_map(12, 12) == tuple(range(1, 13))


# refusals


@pytest.mark.parametrize(
    ("student", "teacher", "layers", "message"),
    [
        (lambda: model("bert", 2), lambda: model("bert", 4), (0, 1, 2), "the student has 2"),
        (lambda: model("bert", 2), lambda: model("bert", 4), (0, 4), "no layer 4"),
        (lambda: model("bert", 2), lambda: model("bert", 4), (-1, 0), "no layer -1"),
        (lambda: model("bert", 1, hidden=32), lambda: model("bert", 2), (0,), "has the teacher's sizes"),
        (lambda: model("bert", 1, vocab_size=60), lambda: model("bert", 2), (0,), "word_embeddings"),
        (lambda: model("roberta", 1), lambda: model("bert", 2), (0,), "use a bert student"),
        (
            lambda: model("albert", 2, embedding_size=8),
            lambda: model("albert", 4, embedding_size=8),
            (0, 1),
            "weights of their own",
        ),
    ],
)
def test_what_does_not_fit_is_refused(student, teacher, layers, message):
    student, teacher = student(), teacher()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        copy_layers(student, teacher, layers)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_uneven_depths_are_refused():
    for depths in ((5, 12), (8, 4)):
        with pytest.raises(ValueError, match="layer_map"):
            uniform_layer_map(*depths)
    teacher, student = model("bert", 2), model("bert", 1, seed=1)
    with pytest.raises(ValueError, match="one stack"):
        copy_layers(student, teacher, (0,), (0,))


def encoder_decoder(kind, encoder, decoder, seed=0):
    torch.manual_seed(seed)
    if kind == "t5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2}
        settings = {"num_layers": encoder, "num_decoder_layers": decoder, "decoder_start_token_id": 0, **sizes}
    else:
        sides = {"encoder": encoder, "decoder": decoder}
        settings = {f"{side}_layers": depth for side, depth in sides.items()} | {"d_model": 16}
        settings |= {f"{side}_{name}": n for side in sides for name, n in (("attention_heads", 2), ("ffn_dim", 24))}
        settings["max_position_embeddings"] = 20
    made = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, vocab_size=SIZE, **settings)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders(kind):
    """A decoder of two of four layers computes what the teacher does with the others taken out."""
    teacher, student = encoder_decoder(kind, 3, 4), encoder_decoder(kind, 3, 2, seed=1)
    assert copy_layers(student, teacher, (0, 1, 2), (0, 3)) == []
    stacks = dict(layer_stacks(teacher))
    decoder = next(name for name in stacks if "decoder" in name)
    assert stacks == {decoder: 4, next(name for name in stacks if "encoder" in name): 3}
    parent, _, last = decoder.rpartition(".")
    layers = teacher.get_submodule(decoder)
    setattr(teacher.get_submodule(parent), last, torch.nn.ModuleList([layers[0], layers[3]]))
    ids = torch.randint(3, SIZE, (2, 6), generator=torch.Generator().manual_seed(0))
    ours, theirs = (m(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits for m in (student, teacher))
    assert torch.equal(ours, theirs)
    config = config_with_layers(encoder_decoder(kind, 3, 4).config, (0, 2), (1,))
    made = AutoModelForSeq2SeqLM.from_config(config)
    assert [depth for _, depth in layer_stacks(made)] == [2, 1]


def test_positions_of_t5_stay_in_the_first_layer():
    teacher, student = encoder_decoder("t5", 3, 3), encoder_decoder("t5", 2, 2, seed=1)
    copy_layers(student, teacher, (1, 2))
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for side in ("encoder", "decoder"):
        ours, theirs = (getattr(m, side).state_dict() for m in (student, teacher))
        assert torch.equal(ours[bias], theirs[bias])
        query = "layer.0.SelfAttention.q.weight"
        assert torch.equal(ours[f"block.0.{query}"], theirs[f"block.1.{query}"])
