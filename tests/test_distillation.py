"""Distillation: each term against another computation, padding and splits, the teacher's isolation, whole models."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from pretrain_zoo.models.flops import flops_per_token
from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.models.projections import PROJECTIONS
from pretrain_zoo.models.teacher_student import TeacherStudent, layer_map, places
from pretrain_zoo.objectives import Draws, ObjectiveCollator, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives import distillation_losses as losses
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training.arguments import default_model, parse_arguments

SIZE, PAD, CLS, SEP, MASK = 61, 0, 2, 3, 4
ALL = {"hidden_weight": 1.0, "attention_weight": 1.0, "relation_weight": 1.0, "relation_heads": 4}
TAUGHT = ("soft", "cosine", "hidden", "attention", "relations")
NONE = {"soft_weight": 0.0, "student_weight": 0.0, "cosine_weight": 0.0}
AUTO = {"gpt2": AutoModelForCausalLM, "llama": AutoModelForCausalLM}
AUTO |= {"t5": AutoModelForSeq2SeqLM, "bart": AutoModelForSeq2SeqLM}


@pytest.fixture(scope="module")
def vocabulary():
    maskable = (np.arange(SIZE) >= 5) & (np.arange(SIZE) < 40)
    ids = {"pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "mask_id": MASK, "eos_id": SEP}
    ids |= {"pair_prefix": (CLS,), "middle": (SEP,), "pair_suffix": (SEP,)}
    special = {f"<extra_id_{i}>": 40 + i for i in range(20)}
    return Vocabulary(size=SIZE, maskable=maskable, random_pool=np.flatnonzero(maskable), special=special, **ids)


def config(kind="bert", layers=2, hidden=32, heads=2, **more):
    if kind == "t5":
        return AutoConfig.for_model(
            "t5", vocab_size=SIZE, d_model=hidden, d_kv=8, d_ff=32, num_layers=layers, num_heads=heads, pad_token_id=PAD
        )
    if kind == "bart":
        stack = {"layers": layers, "attention_heads": heads, "ffn_dim": 48}
        both = {f"{side}_{n}": value for side in ("encoder", "decoder") for n, value in stack.items()}
        both |= {"vocab_size": SIZE, "d_model": hidden, "max_position_embeddings": 80, "forced_eos_token_id": SEP}
        ids = {"pad_token_id": PAD, "bos_token_id": CLS, "eos_token_id": SEP, "decoder_start_token_id": CLS}
        return AutoConfig.for_model("bart", **both | ids)
    settings = {"vocab_size": SIZE, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    settings |= {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": PAD}
    if kind == "deberta-v2":
        settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
        settings |= {"share_att_key": True}
    result = AutoConfig.for_model(kind, **settings | more)
    if kind == "distilbert":
        result.hidden_dim = 48
    return result


def randomized(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folders of trained-looking models by kind and depth, made once each."""
    made = {}

    def get(kind="bert", layers=2, **more):
        key = (kind, layers, *sorted(more.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("teacher")
            torch.manual_seed(0)
            model = AUTO.get(kind, AutoModelForMaskedLM).from_config(config(kind, layers, **more))
            randomized(model, 1).save_pretrained(made[key])
        return str(made[key])

    return get


def texts(count=5, seed=0, low=6, high=20):
    random = np.random.default_rng(seed)
    return [np.r_[CLS, random.integers(5, 40, random.integers(low, high)), SEP] for _ in range(count)]


def batch_of(objective, vocabulary, rows, first=0, side="right", multiple=None):
    numbers = np.arange(first, first + len(rows))
    columns = objective.corrupt({"input_ids": Ragged.from_rows(rows)}, Draws.of(7, numbers, 0, numbers), vocabulary)
    padded = pad_columns(columns, objective.columns, vocabulary, padding_side=side, pad_to_multiple_of=multiple)
    return to_tensors(padded)


def build(vocabulary, teacher, name="distillation(mlm)", kind="bert", layers=2, seed=3, model=None, **settings):
    """Objective and model in eval mode, the student a random one unless it is to be the teacher."""
    objective = get_objective(name, teacher=teacher, **settings)
    torch.manual_seed(seed)
    made = objective.build(Backbone(config(kind, layers, **(model or {}))), vocabulary)
    return objective, randomized(made, seed).eval()


def losses_of(objective, model, batch):
    counts, sums = objective.counts(batch), model(**batch).sums
    assert set(counts) == set(sums) == set(objective.terms)
    return {name: sums[name] / counts[name] for name in sums}


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


# divergences


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergences_in_double_precision(kind, temperature):
    random = np.random.default_rng(0)
    student, teacher = random.normal(0, 4, (2, 7, 30))
    q, p = (log_softmax(x / temperature) for x in (student, teacher))
    mean = np.log((np.exp(p) + np.exp(q)) / 2)
    expected = {"forward": kl(p, q), "reverse": kl(q, p), "jensen_shannon": (kl(p, mean) + kl(q, mean)) / 2}[kind]
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        ours = losses.divergence(*(torch.tensor(x, dtype=dtype) for x in (student, teacher)), temperature, kind)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_divergences_of_equal_and_of_disjoint_distributions(kind):
    logits = torch.randn(20, 500, generator=torch.Generator().manual_seed(0)) * 5
    student = logits.clone().requires_grad_()
    apart = losses.divergence(student, logits, 2.0, kind)
    assert (apart == 0).all()
    apart.sum().backward()
    assert student.grad.abs().max() < 1e-6  # the least value
    far = torch.tensor([[300.0, 0.0], [0.0, 300.0]], requires_grad=True)
    apart = losses.divergence(far, far.detach().flip(0), 1.0, kind)
    apart.sum().backward()
    assert torch.isfinite(apart).all() and torch.isfinite(far.grad).all()
    torch.testing.assert_close(apart.detach(), torch.full((2,), np.log(2) if kind == "jensen_shannon" else 300.0))
    with pytest.raises(ValueError, match="'forward', 'reverse' or 'jensen_shannon'"):
        losses.divergence(logits, logits, kind="backward")


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_gradient_of_a_divergence(kind):
    random = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 6, dtype=torch.float64, generator=random) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: losses.divergence(x, teacher, 2.0, kind), student.requires_grad_())


def test_squared_temperature_keeps_the_size_of_the_gradient(vocabulary, teachers):
    norms = {}
    for temperature in (10.0, 40.0):
        objective, model = build(vocabulary, teachers(), temperature=temperature, **{**NONE, "soft_weight": 1.0})
        model(**batch_of(objective, vocabulary, texts())).sums["soft"].backward()
        norms[temperature] = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norms[10.0] / norms[40.0] == pytest.approx(1, abs=0.1)  # 16 without the factor


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_small_gradients_survive_float16(kind):
    """(q − p) is near 1e-5 here, (q − p) / T² far below what float16 holds; a scaled loss brings it back."""
    student, teacher = torch.randn(2, 1, 50_000, generator=torch.Generator().manual_seed(0)) / 8
    gradients = []
    for dtype in (torch.float16, torch.float64):
        leaf = student.half().to(dtype).requires_grad_()
        (2**12 * losses.divergence(leaf, teacher.half().to(dtype), 8.0, kind).sum()).backward()
        gradients.append(leaf.grad.double())
    close = F.cosine_similarity(*(g.flatten() for g in gradients), dim=0)
    assert close > 0.999


@pytest.mark.parametrize("rows", [1, 40, 1000])
def test_divergences_by_parts_are_those_of_the_whole(rows):
    """Many rows of a long axis, which are taken some at a time."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, 3000, dtype=torch.float64, generator=random) for _ in range(2))
    found = losses.divergence(student.requires_grad_(), teacher, 2.0)
    expected = F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, rows + 1, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), student)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_two_losses_on_the_same_logits_against_plain_formulas(kind):
    """The divergence of all rows and the cross-entropy of some of them, by autograd through operators one by one."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(50, 700, dtype=torch.float64, generator=random) for _ in range(2))
    rows, labels = torch.tensor([3, 40, 7, 49]), torch.tensor([5, 699, 0, 12])
    q, p = ((x / 3).softmax(1) for x in (student.requires_grad_(), teacher))
    mean = (p + q) / 2
    each = {"forward": p * (p / q).log(), "reverse": q * (q / p).log()}
    each["jensen_shannon"] = (p * (p / mean).log() + q * (q / mean).log()) / 2
    expected = (each[kind].sum(1), student[rows])
    found = losses.divergence_and_rows(student, teacher, rows, 3.0, kind)
    weights = torch.linspace(-1, 2, 50, dtype=torch.float64)
    gradients = []
    for apart, picked in (found, expected):
        loss = (apart * weights).sum() + F.cross_entropy(picked, labels, reduction="sum")
        gradients.append(torch.autograd.grad(loss, student, retain_graph=True)[0])
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    again = torch.autograd.grad((found[0] * weights).sum() + found[1].square().sum(), student)[0]
    other = torch.autograd.grad((expected[0] * weights).sum() + expected[1].square().sum(), student)[0]
    torch.testing.assert_close(again, other, rtol=1e-9, atol=1e-12)


def test_same_choice():
    random = torch.Generator().manual_seed(0)
    student = torch.randn(300, 90, generator=random)
    teacher = student + torch.randn(300, 90, generator=random)
    expected = student.argmax(1) == teacher.argmax(1)
    assert 0 < expected.sum() < 300 and torch.equal(losses.same_choice(student, teacher), expected)
    assert losses.same_choice(student[:0], teacher[:0]).shape == (0,)


@pytest.mark.parametrize("kind", ["cosine", "squared"])
def test_gradient_of_distances_of_states(kind):
    """Against plain operators in double precision, on some rows in any order."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(300, 70, dtype=torch.float64, generator=random) for _ in range(2))
    for rows in (None, torch.randperm(300, generator=random)[:290]):
        leaf = student.clone().requires_grad_()
        ours, theirs = (leaf, teacher) if rows is None else (leaf[rows], teacher[rows])
        expected = (1 - F.cosine_similarity(ours, theirs)).sum()
        if kind == "squared":
            expected = F.mse_loss(ours, theirs, reduction="none").mean(1).sum()
        found = {"cosine": losses.cosine_distance, "squared": losses.squared_distance}[kind](leaf, teacher, rows)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        ours, theirs = (torch.autograd.grad(1.7 * x, leaf)[0] for x in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", ["scores", "probabilities", "relations"])
def test_gradient_of_what_is_said_of_scores(target):
    """Against loops over rows and heads in double precision; heads of the two differ in size."""
    random = torch.Generator().manual_seed(0)
    ours, theirs = (
        [torch.randn(2, 5, 3, size, dtype=torch.float64, generator=random).transpose(1, 2) for _ in range(2)]
        for size in (4, 6)
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()

    def plain(queries, keys):
        total = 0.0
        for b, length in enumerate((5, 3)):
            for head in range(3):
                one, other = (
                    q[b, head, :length] @ k[b, head, :length].T / np.sqrt(q.shape[-1])
                    for q, k in ((queries, keys), theirs)
                )
                if target == "relations":
                    one, other = one.log_softmax(-1), other.log_softmax(-1)
                    total = total + (other.exp() * (other - one)).sum() / 3
                    continue
                if target == "probabilities":
                    one, other = one.softmax(-1), other.softmax(-1)
                total = total + (one - other).square().sum() / 3
        return total

    def ours_of(student, teacher):
        if target == "relations":
            return losses.relation_divergence(tuple(student), tuple(teacher), mask)
        return losses.attention_distance(tuple(student), tuple(teacher), mask, target == "probabilities")

    leaves = [x.clone().requires_grad_() for x in ours]
    found = ours_of(leaves, theirs)
    expected = plain(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(*(torch.autograd.grad(x * 1.7, leaves) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    distance = ours_of(leaves, [x.detach() for x in leaves])
    assert distance.item() == 0.0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(distance, leaves))


def test_half_precision_is_widened():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float16):
        ours = losses.divergence(logits.to(dtype), logits.flip(0).to(dtype))
        assert ours.dtype == torch.float32
        expected = losses.divergence(logits.to(dtype).double(), logits.flip(0).to(dtype).double())
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)


# the terms, computed anew from plain models


def plain(model, teacher, batch, auto=AutoModelForMaskedLM):
    """Outputs of the student and of the teacher's checkpoint, every position, by stock code with eager attention."""
    student = copy.deepcopy(model.main).double().eval()
    student.set_attn_implementation("eager")
    trained = auto.from_pretrained(teacher, attn_implementation="eager").double().eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    # hooks of ours are idle: no positions are set
    with torch.no_grad():
        return [m(**inputs, output_hidden_states=True, output_attentions=True) for m in (student, trained)]


@pytest.mark.parametrize("soft_on", ["all", "labels"])
@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_soft_targets_and_own_loss(vocabulary, teachers, soft_on, kind):
    objective, model = build(vocabulary, teachers(layers=3), soft_on=soft_on, divergence=kind, temperature=3.0)
    batch = batch_of(objective, vocabulary, texts())
    student, teacher = plain(model, teachers(layers=3), batch)
    where = batch["attention_mask"].flatten().nonzero().flatten() if soft_on == "all" else batch["label_positions"]
    q, p = (log_softmax(o.logits.flatten(0, 1)[where] / 3) for o in (student, teacher))
    p, q = (q, p) if kind == "reverse" else (p, q)
    found = losses_of(objective, model, batch)
    assert found["soft"].item() == pytest.approx(9 * kl(p, q).mean(), rel=1e-4)
    own = F.cross_entropy(student.logits.flatten(0, 1)[batch["label_positions"]], batch["label_ids"])
    assert found["mlm"].item() == pytest.approx(own.item(), rel=1e-4)
    assert objective.counts(batch)["soft"] == len(where)
    same = (student.logits.argmax(-1) == teacher.logits.argmax(-1)).flatten()[where]
    total, count = model(**batch).metrics["agreement"]
    assert (total.item(), count.item()) == (same.sum().item(), len(where))


def test_cosine_of_last_hidden_states(vocabulary, teachers):
    objective, model = build(vocabulary, teachers(), cosine_weight=1.0)
    batch = batch_of(objective, vocabulary, texts())
    ours, theirs = (o.hidden_states[-1][batch["attention_mask"] == 1].numpy() for o in plain(model, teachers(), batch))
    expected = np.mean([1 - a @ b / np.sqrt(a @ a * (b @ b)) for a, b in zip(ours, theirs, strict=True)])
    assert losses_of(objective, model, batch)["cosine"].item() == pytest.approx(expected, rel=1e-4)


def test_hidden_states_through_the_projection(vocabulary, teachers):
    settings = {**NONE, "hidden_weight": 1.0, "layer_map": (1, 4)}
    teacher = teachers(layers=4)
    objective, model = build(vocabulary, teacher, model={"hidden": 16}, **settings)
    batch = batch_of(objective, vocabulary, texts())
    student, trained = plain(model, teacher, batch)
    weight, bias = (x.detach().double() for x in model.heads["hidden_projection"].parameters())
    real = batch["attention_mask"] == 1
    expected = 0.0
    for mine, other in ((0, 0), (1, 1), (2, 4)):
        projected = student.hidden_states[mine][real] @ weight.T + bias
        expected += F.mse_loss(projected, trained.hidden_states[other][real]).item()
    assert losses_of(objective, model, batch)["hidden"].item() == pytest.approx(expected, rel=1e-4)
    equal = build(vocabulary, teachers(layers=2), **{**settings, "layer_map": None})[1]
    assert "hidden_projection" not in equal.heads


def test_attention_after_the_softmax(vocabulary, teachers):
    settings = {**NONE, "attention_weight": 1.0, "attention_target": "probabilities"}
    teacher = teachers(layers=4)
    objective, model = build(vocabulary, teacher, model={"hidden": 16}, **settings)
    batch = batch_of(objective, vocabulary, texts())
    student, trained = plain(model, teacher, batch)
    mask = batch["attention_mask"].bool()
    inside = (mask[:, None] & mask[:, :, None])[:, None].expand_as(student.attentions[0])
    expected = sum(
        F.mse_loss(student.attentions[mine][inside], trained.attentions[other - 1][inside]).item()
        for mine, other in ((0, 2), (1, 4))  # evenly spaced
    )
    assert losses_of(objective, model, batch)["attention"].item() == pytest.approx(expected, rel=1e-4)


def test_attention_before_the_softmax(vocabulary, teachers):
    objective, model = build(vocabulary, teachers(), **{**NONE, "attention_weight": 1.0})
    batch = batch_of(objective, vocabulary, texts())
    student, trained = plain(model, teachers(), batch)
    found = losses_of(objective, model, batch)["attention"].item()
    # scores are known from probabilities but for a constant per row, so compare differences of columns per row
    expected, pairs = 0.0, 0
    for layer in range(2):
        for b, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            ours, theirs = (o.attentions[layer][b, :, :length, :length].log() for o in (student, trained))
            apart = ours - theirs
            expected += (apart - apart.mean(-1, keepdim=True)).square().mean(0).sum().item()
            pairs += length**2 * (layer == 0)
    assert pairs == objective.counts(batch)["attention"]
    assert found >= expected / pairs * (1 - 1e-4)  # the constants only add
    shifted = scores_without_row_means(model, batch)
    assert shifted == pytest.approx(expected, rel=1e-3)


def scores_without_row_means(model, batch):
    outputs = model(**batch, want=("attention_pairs",)).outputs["attention_pairs"]
    total = 0.0
    for ours, theirs in outputs:
        apart = losses.scores(ours) - losses.scores(theirs)
        for b, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            part = apart[b, :, :length, :length]
            total += (part - part.mean(-1, keepdim=True)).square().mean(0).sum().item()
    return total


@pytest.mark.parametrize("version", [1, 2])
def test_self_attention_relations(vocabulary, teachers, version):
    """MiniLM by loops over rows, heads and tokens, from projections computed anew by the layers' weights."""
    relations, heads = (("qk", "vv"), None) if version == 1 else (("qq", "kk", "vv"), 4)
    teacher = teachers(layers=3)
    settings = {**NONE, "relation_weight": 1.0, "relations": relations, "relation_heads": heads, "relation_layer": 2}
    objective, model = build(vocabulary, teacher, model={"hidden": 16}, **settings)
    batch = batch_of(objective, vocabulary, texts(3))
    trained = AutoModelForMaskedLM.from_pretrained(teacher)
    states = plain(model, teacher, batch)
    projected = []
    for network, output, layer in ((model.main, states[0], 1), (trained, states[1], 1)):
        attention = copy.deepcopy(network.bert.encoder.layer[layer].attention.self).double()
        inputs = output.hidden_states[layer]
        projected.append({n[0]: getattr(attention, n)(inputs).detach().numpy() for n in ("query", "key", "value")})
    total, tokens = 0.0, 0
    for b, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        tokens += length
        for one, other in relations:
            count = heads or 2
            for head in range(count):
                rows = []
                for p in projected:
                    size = p["q"].shape[-1] // count
                    part = slice(head * size, (head + 1) * size)
                    x, y = p[one][b, :length, part], p[other][b, :length, part]
                    rows.append(log_softmax(x @ y.T / np.sqrt(size)))
                total += kl(rows[1], rows[0]).sum() / count
    found = losses_of(objective, model, batch)["relations"].item()
    assert tokens == objective.counts(batch)["relations"]
    assert found == pytest.approx(total / tokens, rel=1e-4)


@pytest.mark.parametrize("kind", list(PROJECTIONS))
def test_projections_are_those_of_the_layers(vocabulary, teachers, kind):
    """v1's attention relation equals the divergence of stock attention probabilities where those are dot products."""
    relations = ("qq", "kk", "vv") if kind == "deberta-v2" else ("qk",)
    settings = {**NONE, "relation_weight": 1.0, "relations": relations}
    objective, model = build(vocabulary, teachers(kind), kind=kind, **settings)
    batch = batch_of(objective, vocabulary, texts(3))
    found = losses_of(objective, model, batch)["relations"].item()
    assert found > 0
    if kind == "deberta-v2":
        return
    student, trained = plain(model, teachers(kind), batch)
    q, p = (o.attentions[-1] for o in (student, trained))
    apart = torch.special.xlogy(p, p) - torch.special.xlogy(p, q.clamp(min=1e-300))
    apart = apart.sum(-1).mean(1)[batch["attention_mask"] == 1].mean().item()
    assert found == pytest.approx(apart, rel=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("distillation(mlm)", "bert"), ("distillation(mass)", "bart")])
@pytest.mark.parametrize(
    ("settings", "student", "teacher"),
    [
        ({}, "tokens", "tokens"),
        ({"soft_on": "labels"}, "labels", "labels"),
        ({"soft_weight": 0.0}, "labels", "none"),
        ({"soft_weight": 0.0, "student_weight": 0.0}, "none", "none"),
    ],
)
def test_logits_only_where_a_loss_looks(vocabulary, teachers, name, kind, settings, student, teacher):
    objective, model = build(vocabulary, teachers(kind), name, kind, **settings)
    batch = batch_of(objective, vocabulary, texts(low=12))
    rows = {"tokens": len(batch.get("token_positions", batch["label_positions"])), "labels": len(batch["label_ids"])}
    rows["none"] = 0
    seen = {}
    for who, network in (("student", model.main), ("teacher", model.teacher.main)):
        head = network.get_output_embeddings()
        head.register_forward_hook(lambda m, args, out, who=who: seen.update({who: args[0].flatten(0, -2).shape[0]}))
    model(**batch)
    assert batch["input_ids"].numel() > rows["labels"] > 0
    assert seen == {"student": rows[student], "teacher": rows[teacher]}


# zero, padding, splits


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "deberta-v2"])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
def test_a_student_that_is_its_teacher_learns_nothing(vocabulary, teachers, kind, divergence):
    more = dict(ALL)
    if kind == "deberta-v2":
        more["attention_weight"] = 0.0
    objective = get_objective("distillation(mlm)", teacher=teachers(kind), divergence=divergence, **more)
    model = objective.build(Backbone(config(kind), teachers(kind)), vocabulary).eval()
    batch = batch_of(objective, vocabulary, texts())
    output = model(**batch)
    for name in set(TAUGHT) & set(objective.terms):
        assert output.sums[name].item() == 0.0, name
    assert output.sums["mlm"] > 0
    total, count = output.metrics["agreement"]
    assert total == count


OTHERS = [
    ("distillation(clm)", "gpt2", {"hidden_weight": 1.0}),
    ("distillation(clm)", "llama", {"hidden_weight": 1.0, "soft_on": "labels"}),
    ("distillation(span_corruption)", "t5", {}),
    ("distillation(mass)", "bart", {}),
]
"""Decoders and encoder-decoders with all the terms that they have."""


@pytest.mark.parametrize(("name", "kind", "settings"), OTHERS)
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
def test_decoders_that_are_their_teachers_learn_nothing(vocabulary, teachers, name, kind, settings, divergence):
    objective = get_objective(name, teacher=teachers(kind), divergence=divergence, **settings)
    # T5's positions are learned, and sdpa takes another kernel where they need gradients: last bits differ
    attention = "eager" if kind == "t5" else None
    model = objective.build(Backbone(config(kind), teachers(kind), attention), vocabulary).eval()
    batch = batch_of(objective, vocabulary, texts(low=12))
    sums = model(**batch).sums
    taught = set(TAUGHT) & set(objective.terms)
    assert taught >= {"soft", "cosine"} and all(sums[term].item() == 0.0 for term in taught)
    assert all(sums[term] > 0 for term in set(objective.terms) - taught)


@pytest.mark.parametrize(("name", "kind", "settings"), OTHERS)
def test_padding_and_splits_of_decoders_do_not_matter(vocabulary, teachers, name, kind, settings):
    objective, model = build(vocabulary, teachers(kind), name, kind, **settings)
    model, rows = model.double(), texts(4, low=12)
    whole = batch_of(objective, vocabulary, rows)
    wide = batch_of(objective, vocabulary, rows, multiple=40)
    assert wide["input_ids"].shape[1] > whole["input_ids"].shape[1]
    halves = [batch_of(objective, vocabulary, rows[i : i + 2], first=i) for i in (0, 2)]
    once = model(**whole).sums
    wider, parts = model(**wide).sums, [model(**half).sums for half in halves]
    assert {"soft", "cosine"} < set(once)
    for term, value in once.items():
        assert value > 0
        torch.testing.assert_close(wider[term], value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sum(part[term] for part in parts), value, rtol=1e-9, atol=1e-9)
        counts = [objective.counts(batch)[term] for batch in (whole, wide, *halves)]
        assert counts[0] == counts[1] == counts[2] + counts[3]


@pytest.mark.parametrize(("kind", "name"), [("gpt2", "distillation(clm)"), ("bart", "distillation(mass)")])
def test_soft_targets_of_decoders(vocabulary, teachers, kind, name):
    """Against plain models, every position."""
    objective, model = build(vocabulary, teachers(kind), name, kind, temperature=3.0)
    batch = batch_of(objective, vocabulary, texts(low=12))
    inputs = model.student.inputs(batch)
    trained = AUTO[kind].from_pretrained(teachers(kind)).eval()
    with torch.no_grad():
        ours, theirs = (m(**inputs).logits.flatten(0, 1) for m in (model.main, trained))
    where = batch["label_positions"] if kind == "bart" else batch["attention_mask"].flatten().nonzero().flatten()
    q, p = (log_softmax(x[where] / 3) for x in (ours, theirs))
    assert losses_of(objective, model, batch)["soft"].item() == pytest.approx(9 * kl(p, q).mean(), rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_and_splits_do_not_matter(vocabulary, teachers, side):
    objective, model = build(vocabulary, teachers(), **ALL)
    model = model.double()
    rows = texts(6)
    whole = batch_of(objective, vocabulary, rows, side=side)
    once = model(**whole).sums
    counts = objective.counts(whole)
    if side == "left":  # absolute positions move with the padding on that side, so only the parts are compared
        wide = whole
    else:
        wide = batch_of(objective, vocabulary, rows, side=side, multiple=32)
        assert wide["input_ids"].shape[1] > whole["input_ids"].shape[1]
    for name, value in model(**wide).sums.items():
        torch.testing.assert_close(value, once[name], rtol=1e-9, atol=1e-9)
        assert objective.counts(wide)[name] == counts[name]
    if side == "left":
        return
    halves = [batch_of(objective, vocabulary, rows[i : i + 2], first=i) for i in (0, 2, 4)]
    for name in objective.terms:
        torch.testing.assert_close(sum(model(**half).sums[name] for half in halves), once[name], rtol=1e-9, atol=1e-9)
        assert sum(objective.counts(half)[name] for half in halves) == counts[name]


def test_no_gradient_reaches_padding(vocabulary, teachers):
    objective, model = build(vocabulary, teachers(), **ALL)
    batch = batch_of(objective, vocabulary, texts())
    caught = {}
    embeddings = model.main.bert.embeddings
    handle = embeddings.register_forward_hook(lambda m, a, out: caught.update(x=out.requires_grad_()) or out)
    sums = model(**batch).sums
    handle.remove()
    (gradient,) = torch.autograd.grad(sum(sums.values()), caught["x"])
    padding = batch["attention_mask"] == 0
    assert padding.any() and (gradient[padding] == 0).all() and (gradient[~padding] != 0).any(-1).all()


def test_places():
    assert places(torch.tensor([7, 2]), torch.tensor([1, 2, 5, 7]), 9).tolist() == [3, 1]


# what is delegated


def test_positions_of_tokens_and_labels_of_the_wrapped_objective(vocabulary):
    objective, own = get_objective("distillation(mlm)"), get_objective("mlm")
    rows = texts()
    batch, alone = batch_of(objective, vocabulary, rows), batch_of(own, vocabulary, rows)
    assert set(batch) == {*alone, "token_positions"}
    assert all(torch.equal(batch[name], alone[name]) for name in alone)
    flat = batch["attention_mask"].flatten().nonzero().flatten()
    assert torch.equal(batch["token_positions"], flat)
    numbers = np.arange(len(rows))
    mask = Ragged.from_rows([np.r_[np.ones(len(row) - 3, int), 0, 0, 0] for row in rows])
    given = {"input_ids": Ragged.from_rows(rows), "attention_mask": mask}
    positions = objective.corrupt(given, Draws.of(7, numbers, 0, numbers), vocabulary)["token_positions"]
    assert positions.lengths.tolist() == [len(row) - 3 for row in rows]
    assert positions.values.tolist() == [i for row in rows for i in range(len(row) - 3)]


def test_collator_alone_gives_what_stock_models_take(wordpiece_tokenizer):
    features = [wordpiece_tokenizer(text) for text in ("the old clock", "a letter by the river")]
    batch = ObjectiveCollator("distillation(mlm)", wordpiece_tokenizer, seed=0)(features)
    alone = ObjectiveCollator("mlm", wordpiece_tokenizer, seed=0)(features)
    assert set(batch) == set(alone) and all(torch.equal(batch[name], alone[name]) for name in alone)


def test_names_settings_and_terms():
    objective = get_objective("distillation(mlm)", teacher="x", temperature=4.0, mlm_probability=0.3)
    assert objective.temperature == 4.0 and objective.wrapped.mlm_probability == 0.3
    assert {name: term.weight for name, term in objective.terms.items()} == {"mlm": 2.0, "soft": 5.0, "cosine": 1.0}
    both = get_objective("distillation(mlm+nsp)", **{"mlm.mlm_probability": 0.2, "distillation.soft_weight": 1.0})
    assert list(both.terms) == ["mlm", "nsp", "soft", "cosine"] and both.replans and both.soft_weight == 1.0
    assert get_objective("distillation(clm)").architecture == "causal_lm"
    sbo = get_objective("distillation(span_mlm)", student_weight=0.5)
    assert {sbo.terms[name].weight for name in sbo.wrapped.terms} == {0.5}


# the teacher


def test_the_teacher_stays_outside(vocabulary, teachers, tmp_path):
    objective, model = build(vocabulary, teachers(layers=4), model={"hidden": 16}, cosine_weight=0.0, hidden_weight=1.0)
    teacher = model.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    own = {id(p) for p in teacher.parameters()}
    assert not own & {id(p) for p in model.parameters()}
    assert not any("teacher" in name or name.startswith("student") for name in model.state_dict())
    assert not any(module is teacher or module is teacher.main for module in model.modules())
    model.train()
    assert model.main.training and not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(model(**batch_of(objective, vocabulary, texts())).sums.values()).backward()
    optimizer.step()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert model.heads["hidden_projection"].weight.grad.abs().sum() > 0
    model.double()
    model(**batch_of(objective, vocabulary, texts()))
    assert teacher.dtype == torch.float64 and not any(m.training for m in teacher.modules())
    model.save_pretrained(tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.glob("*.safetensors")) < 1.2 * 8 * sum(
        p.numel() for p in model.parameters()
    )


def test_dropout_is_the_students_alone(vocabulary, teachers):
    objective, model = build(vocabulary, teachers(), **{**NONE, "soft_weight": 1.0})
    model.train()
    batch = batch_of(objective, vocabulary, texts())
    first, second = (model(**batch, want=("soft_logits", "teacher_logits")).outputs for _ in range(2))
    assert torch.equal(first["teacher_logits"], second["teacher_logits"])
    assert not torch.equal(first["soft_logits"], second["soft_logits"])
    assert first["soft_logits"].requires_grad and not first["teacher_logits"].requires_grad


def test_teacher_in_half_precision(vocabulary, teachers):
    objective, model = build(vocabulary, teachers(), teacher_dtype="bfloat16", **ALL)
    batch = batch_of(objective, vocabulary, texts())
    model(**batch)
    assert model.teacher.dtype == torch.bfloat16 and model.dtype == torch.float32
    full = build(vocabulary, teachers(), **ALL)
    for name, value in losses_of(objective, model, batch).items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(losses_of(*full, batch)[name].item(), rel=0.1)


@pytest.mark.parametrize("dtype", ["int8", "nf4", "fp4"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # bitsandbytes says how it computes on CPUs
def test_quantised_teacher(vocabulary, teachers, tmp_path, dtype):
    pytest.importorskip("bitsandbytes")
    wide = {"hidden": 64, "intermediate_size": 64}  # 4-bit kernels of CPUs want multiples of 32
    teacher = teachers(layers=4, **wide)
    settings = {"teacher_dtype": dtype, "student_layers": (0, 2), "hidden_weight": 1.0, "layer_map": (1, 3)}
    objective, model = build(vocabulary, teacher, model=wide, **settings)
    kinds = {type(module).__name__ for module in model.teacher.modules()}
    assert ("Linear8bitLt" if dtype == "int8" else "Linear4bit") in kinds
    source = AutoModelForMaskedLM.from_pretrained(teacher)
    untouched = objective.build(Backbone(config(layers=2, **wide)), vocabulary)
    ours, theirs = untouched.main.bert.encoder.layer[1], source.bert.encoder.layer[2]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    batch = batch_of(objective, vocabulary, texts())
    output = model(**batch, want=("teacher_logits",))
    exact = build(vocabulary, teacher, model=wide, **{**settings, "teacher_dtype": None})[1]
    expected = exact(**batch, want=("teacher_logits",)).outputs["teacher_logits"]
    close = F.cosine_similarity(output.outputs["teacher_logits"].float(), expected).mean()
    assert (0.8 if dtype == "fp4" else 0.9) < close < 0.9999999
    sum(output.sums.values()).backward()
    assert all(p.dtype == torch.float32 and p.grad is not None for p in model.parameters())
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_perplexity_is_that_of_the_own_loss():
    assert get_objective("distillation(mlm)").perplexity_term == "mlm"
    relations = {"soft_weight": 0, "student_weight": 0, "cosine_weight": 0, "relation_weight": 1}
    assert get_objective("distillation(mlm)", **relations).perplexity_term is None
    assert get_objective("distillation(mlm+nsp)").perplexity_term is None
    assert get_objective("clm").perplexity_term == "clm" and get_objective("mlm+nsp").perplexity_term is None


def test_flops_of_the_teacher_are_counted(vocabulary, teachers):
    """By hand: a third of the teacher's training, on the positions that a loss reads."""
    for settings, share in (({}, 1.0), ({"soft_on": "labels"}, 0.15), ({"soft_weight": 0.0}, 0.0)):
        model = build(vocabulary, teachers(layers=4), **settings)[1]
        student = flops_per_token(model.main, 10, share if settings.get("soft_weight", 1) else 0.15)
        taught = flops_per_token(AutoModelForMaskedLM.from_pretrained(teachers(layers=4)), 10, share) / 3
        assert flops_per_token(model, 10) == pytest.approx(student + taught)


def test_gradient_checkpointing_gives_the_same_gradients(vocabulary, teachers):
    objective, model = build(vocabulary, teachers(), **ALL)
    batch = batch_of(objective, vocabulary, texts())
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        sum(model(**batch).sums.values()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-5)


# whole models


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("distillation(mlm)", "bert", ALL),
        ("distillation(mlm)", "distilbert", {}),
        ("distillation(mlm)", "bert", {**NONE, "relation_weight": 1.0, "relations": ("qk", "vv")}),
        ("distillation(mlm+nsp)", "bert", {}),
        ("distillation(clm)", "gpt2", {"hidden_weight": 0.1, "soft_on": "labels"}),
        ("distillation(span_corruption)", "t5", {"cosine_weight": 1.0}),
    ],
)
def test_a_step_lowers_the_loss_and_the_student_stands_alone(vocabulary, teachers, tmp_path, name, kind, settings):
    teacher = teachers("bert" if kind == "distilbert" else kind, layers=4)
    objective, model = build(vocabulary, teacher, name, kind, **settings)
    rows = texts(4, low=12)
    batch = with_pairs(batch_of(objective, vocabulary, rows), name)

    def loss():
        found = losses_of(objective, model, batch)
        return sum(objective.terms[n].weight * value for n, value in found.items())

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before
    model.save_pretrained(tmp_path)
    auto = AUTO.get(kind, AutoModelForMaskedLM)
    alone, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    exported = objective.export(model)[""].state_dict()
    assert all(torch.equal(value, exported[n]) for n, value in alone.state_dict().items() if n in exported)
    again = build(vocabulary, teacher, name, kind, seed=9, **settings)[1]
    again.load_checkpoint(tmp_path)
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def with_pairs(batch, name):
    if "nsp" in name:
        batch["pair_labels"] = torch.arange(len(batch["input_ids"])) % 2
    return batch


def test_student_layers(vocabulary, teachers):
    teacher = teachers(layers=4)
    source = AutoModelForMaskedLM.from_pretrained(teacher).bert
    settings = {"teacher": teacher, "student_layers": (1, 3)}
    objective = get_objective("distillation(mlm)", **settings)
    from_preset = objective.build(Backbone(config(layers=2)), vocabulary)
    own = objective.build(Backbone(AutoConfig.from_pretrained(teacher), teacher), vocabulary)
    for model in (from_preset, own):
        assert model.config.num_hidden_layers == 2
        for mine, other in ((0, 1), (1, 3)):
            ours, theirs = model.main.bert.encoder.layer[mine], source.encoder.layer[other]
            assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight)
    half = get_objective("distillation(mlm)", teacher_dtype="bfloat16", **settings)
    exact = half.build(Backbone(config(layers=2)), vocabulary)  # the student begins from the weights as they were saved
    assert torch.equal(exact.get_input_embeddings().weight, source.get_input_embeddings().weight)
    with pytest.raises(ValueError, match="leave one"):
        objective.build(Backbone(config(layers=2), teachers(layers=2)), vocabulary)
    with pytest.raises(ValueError, match="the student has 3"):
        objective.build(Backbone(config(layers=3)), vocabulary)


def test_student_layers_of_an_encoder_decoder(vocabulary, teachers):
    settings = {"teacher": teachers("t5", layers=4), "student_layers": (0, 3), "student_decoder_layers": (2,)}
    objective = get_objective("distillation(span_corruption)", **settings)
    model = objective.build(Backbone(AutoConfig.from_pretrained(settings["teacher"]), settings["teacher"]), vocabulary)
    source = AutoModelForSeq2SeqLM.from_pretrained(settings["teacher"])
    assert (model.config.num_layers, model.config.num_decoder_layers) == (2, 1)
    pairs = [(model.main.encoder.block[1], source.encoder.block[3])]
    pairs.append((model.main.decoder.block[0].layer[2], source.decoder.block[2].layer[2]))
    for ours, theirs in pairs:
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    for wrong in ({"student_decoder_layers": (0,)}, {"student_layers": (0,), "student_decoder_layers": (0,)}):
        with pytest.raises(ValueError, match="student_decoder_layers"):
            get_objective("distillation(mlm)", **wrong)


def test_layer_map():
    assert layer_map(get_objective("distillation(mlm)"), 4, 12) == (3, 6, 9, 12)
    assert layer_map(get_objective("distillation(mlm)", layer_map=(1, 12)), 2, 12) == (1, 12)
    for wrong in ((1, 13), (0, 1), (1,)):
        with pytest.raises(ValueError, match="from 1 to 12"):
            layer_map(get_objective("distillation(mlm)", layer_map=wrong), 2, 12)


# refusals


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("distillation(rtd)", {}, "cannot wrap rtd"),
        ("distillation(plm)", {}, "cannot wrap plm"),
        ("distillation(nsp)", {}, r"wrap mlm\+nsp"),
        ("distillation(distillation)", {}, "cannot wrap distillation"),
        ("distillation(clm)", {"attention_weight": 1.0}, "needs encoders"),
        ("distillation(clm)", {"relation_weight": 1.0}, "needs encoders"),
        ("distillation(span_corruption)", {"hidden_weight": 1.0}, "single stack"),
        ("distillation(mlm)", {"temperature": 0.0}, "above 0"),
        ("distillation(mlm)", {"divergence": "kl"}, "'forward' or 'reverse' or 'jensen_shannon'"),
        ("distillation(mlm)", {"soft_weight": -1.0}, "must not be negative"),
        ("distillation(mlm)", {"soft_weight": 0.0, "cosine_weight": 0.0}, "nothing is learnt"),
        ("distillation(mlm)", {"relations": ("qv",)}, "relations must be"),
        ("distillation(mlm)", {"temprature": 2.0}, "did you mean 'temperature'"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective(name, **settings)


@pytest.mark.parametrize(
    ("settings", "student", "message"),
    [
        ({}, {"hidden": 16}, "cosine_weight=0"),
        ({}, {"vocab_size": 80}, "vocab_size to 61"),
        ({**NONE, "attention_weight": 1.0}, {"heads": 4}, "attention heads"),
        ({**NONE, "relation_weight": 1.0}, {"heads": 4}, "relation_heads"),
        ({**NONE, "relation_weight": 1.0, "relation_heads": 5}, {}, "do not divide"),
        ({**NONE, "relation_weight": 1.0, "relation_layer": 3}, {}, "none of the teacher's layers"),
        ({**NONE, "hidden_weight": 1.0}, {"layers": 3}, "spread evenly"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(vocabulary, teachers, settings, student, message):
    layers = student.pop("layers", 2)
    with pytest.raises(ValueError, match=message):
        build(vocabulary, teachers(), layers=layers, model=student, **settings)


def test_architectures_that_hide_their_attention_are_refused(vocabulary, teachers):
    for kind, message in (("mpnet", "cannot be told apart"), ("deberta-v2", "relative to each other")):
        with pytest.raises(ValueError, match=message):
            build(vocabulary, teachers(kind), kind=kind, attention_weight=1.0)


def test_missing_and_unfit_teachers_are_refused(vocabulary, teachers, wordpiece_tokenizer, tmp_path):
    parts = Backbone(config())
    with pytest.raises(ValueError, match="needs a teacher"):
        get_objective("distillation(mlm)").build(parts, vocabulary)
    with pytest.raises(ValueError, match="there is no folder 'nowhere'"):
        get_objective("distillation(mlm)", teacher="nowhere").build(parts, vocabulary)
    objective = get_objective("distillation(mlm)", teacher=teachers())
    with pytest.raises(ValueError, match="embeddings for 61 tokens"):
        objective.check(Vocabulary.from_tokenizer(wordpiece_tokenizer), config())
    # a teacher that was trained with other tokens of the same number
    teacher = AutoModelForMaskedLM.from_config(config(vocab_size=len(wordpiece_tokenizer)))
    teacher.save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    objective = get_objective("distillation(mlm)", teacher=str(tmp_path))
    objective.check(Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path)), config())
    with pytest.raises(ValueError, match="not that of the teacher"):
        objective.check(vocabulary, config())


def test_rows_longer_than_the_teacher_takes(vocabulary, teachers):
    objective, model = build(vocabulary, teachers(), model={"max_position_embeddings": 80})
    assert isinstance(model, TeacherStudent)
    with pytest.raises(ValueError, match="positions for 40 tokens, and rows have 52"):
        model(**batch_of(objective, vocabulary, texts(2, low=50, high=51)))


# the command line


def test_arguments():
    common = ["--teacher", "a/b", "--use_cpu", "--objective"]
    run = parse_arguments([*common, "distillation(mlm)", "--student_layers", "0,2", "--mlm.mlm_probability", "0.3"])
    assert run.objective.student_layers == (0, 2) and run.objective.wrapped.mlm_probability == 0.3
    assert run.model.model_name_or_path == "a/b" and run.model.tokenizer_name is None  # a checkpoint brings its own
    run = parse_arguments([*common, "distillation(clm)", "--model_name_or_path", "gpt2-mini"])
    assert run.model.tokenizer_name == "a/b"
    assert default_model("distillation(clm)") == default_model("clm") == "gpt2-tiny"


def test_from_the_command_line(tmp_path, capsys):
    lines = "".join(
        f"The {a} sat on the {b}. It saw the {b}, and the {a} left.\n\n" for a in ["cat", "dog"] for b in "abcdef"
    )
    (tmp_path / "corpus.txt").write_text(lines * 5)
    common = f"--corpus {tmp_path / 'corpus.txt'} --cache_dir {tmp_path / 'cache'} --vocab_size 120 --max_seq_length 16"
    common += " --use_cpu --per_device_train_batch_size 4 --max_steps 3 --eval_steps 3 --save_steps 2 --logging_steps 1"
    teach = f"{common} --objective mlm --model_name_or_path bert-mini --output_dir {tmp_path / 'teacher'}"
    assert (
        main(teach.split() + ["--config_overrides", "hidden_size=16,num_attention_heads=2,intermediate_size=16"]) == 0
    )
    learn = f"{common} --objective distillation(mlm) --teacher {tmp_path / 'teacher'} --student_layers 0,3"
    assert main(f"{learn} --output_dir {tmp_path / 'student'}".split()) == 0
    student, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert student.config.num_hidden_layers == 2 and not report["missing_keys"] and not report["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "student").get_vocab() == (
        AutoTokenizer.from_pretrained(tmp_path / "teacher").get_vocab()
    )
    shape = "--config_overrides dim=16,n_heads=2,hidden_dim=16 --model_name_or_path distilbert-mini"
    assert main(f"{learn} {shape} --output_dir {tmp_path / 'distilbert'}".split()) == 0
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "distilbert").config.model_type == "distilbert"
    capsys.readouterr()
    assert main(f"{learn} --temperature 0 --output_dir {tmp_path / 'never'}".split()) == 2
    assert "temperature must be above 0" in capsys.readouterr().err
