"""Losses of distillation on tensors, each against another computation, and their gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from distillation_models import kl, log_softmax

from pretrain_zoo.objectives import distillation_losses as losses


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
