"""Routers' losses: against figures worked out by hand, against transformers, and as terms of every objective."""

import math

import pytest
import torch
from training_runs import LENGTH, ROWS, make_trainer, text
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers import modeling_switch_transformers as switch

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.router_losses import Routers, load_balancing_loss, router_z_loss
from pretrain_zoo.objectives import get_objective
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset

SETTINGS = {"span_corruption": {"noise_density": 0.3}, "fim": {"fim_rate": 1.0}, "clm": {"packing": "documents"}}
PAIRS = [(name, "switch-tiny") for name in ("span_corruption", "ul2", "denoising", "mass", "gsg", "seq2seq_prefix_lm")]
PAIRS += [(name, "mixtral-tiny") for name in ("clm", "fim", "prefix_lm")]
NAMES = {"switch-tiny": {"load_balancing", "router_z"}, "mixtral-tiny": {"load_balancing"}}


def built(name: str, model: str, **overrides):
    tokenizer, vocabulary, _ = text()
    objective = get_objective(name, **SETTINGS.get(name, {}))
    torch.manual_seed(3)
    parts = backbone(model, tokenizer, max_length=4 * LENGTH, **overrides)
    return objective, objective.build(parts, vocabulary).eval()


def first_batch(objective, length: int = LENGTH, rows: int = ROWS) -> dict[str, torch.Tensor]:
    _, vocabulary, documents = text()
    dataset = PretrainingDataset(
        objective, documents, vocabulary, length=length, global_batch=rows, max_steps=1, seed=5
    )
    return DrawCollator(objective, vocabulary)(dataset.__getitems__(list(range(rows))))


def test_load_balancing_by_hand():
    """Three tokens and one of padding, two experts: two tokens go to the first, with probabilities ¾, ¾ and ¼."""
    three = math.log(3)
    logits = torch.tensor([[three, 0.0], [three, 0.0], [0.0, three], [9.0, 0.0]])
    keep = torch.tensor([1, 1, 1, 0])
    expected = 2 * (2 / 3 * (0.75 + 0.75 + 0.25) / 3 + 1 / 3 * (0.25 + 0.25 + 0.75) / 3)
    assert load_balancing_loss(logits, keep, 1).item() == pytest.approx(expected, rel=1e-6)
    assert load_balancing_loss(logits, keep, 2).item() == pytest.approx(2.0, rel=1e-6)  # both experts for each token
    z = (math.log(4) ** 2) * 3 / 3
    assert router_z_loss(logits, keep).item() == pytest.approx(z, rel=1e-6)


@pytest.mark.parametrize("top_k", [1, 2])
def test_balanced_routers_cost_top_k(top_k):
    """Each expert first for one token, the next one second: the least that load balancing can be."""
    logits = torch.eye(4) * 2 + torch.eye(4).roll(1, 1)
    assert load_balancing_loss(logits, torch.ones(4), top_k).item() == pytest.approx(top_k, rel=1e-6)
    collapsed = load_balancing_loss(logits[:1].repeat(4, 1), torch.ones(4), top_k).item()
    assert collapsed > top_k + 0.5


def test_gradient_moves_the_router_towards_balance():
    logits = torch.tensor([[2.0, 0.0, 0.0]] * 5 + [[0.0, 1.0, 0.0]]).requires_grad_()
    before = load_balancing_loss(logits, torch.ones(6), 1)
    before.backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 2] < 0).all()  # away from the crowded, to the empty one


def test_one_layer_without_padding_agrees_with_transformers():
    torch.manual_seed(0)
    logits = torch.randn(2 * 7, 4)
    ours, theirs = load_balancing_loss(logits, torch.ones(14), 2), load_balancing_loss_func((logits,), 4, 2)
    torch.testing.assert_close(ours, theirs)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    theirs = load_balancing_loss_func((logits,), 4, 2, mask)
    torch.testing.assert_close(load_balancing_loss(logits, mask.flatten(), 2), theirs)
    theirs = switch.load_balancing_loss_func(logits.softmax(-1)[None], logits.argmax(-1)[None])
    torch.testing.assert_close(load_balancing_loss(logits, torch.ones(14), 1), theirs)
    torch.testing.assert_close(router_z_loss(logits, torch.ones(14)), switch.router_z_loss_func(logits[None]))


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_every_objective_reports_them(name, model):
    objective, trained = built(name, model)
    batch = first_batch(objective, length=4 * LENGTH, rows=8)
    assert set(trained.terms) == set(objective.terms) | NAMES[model]
    assert not any(trained.terms[n].additive for n in NAMES[model])
    sums = trained(**batch).sums
    assert set(sums) == set(trained.terms)
    top_k = trained.routers.top_k
    assert top_k == {"switch-tiny": 1, "mixtral-tiny": 2}[model]
    assert 0.9 * top_k < sums["load_balancing"].item() < 4  # near balance, below collapse on one of four experts
    sums["load_balancing"].backward()
    moved = {n for n, p in trained.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    routers = {n for n, _ in trained.named_parameters() if "router" in n or ".gate.weight" in n}
    assert routers and routers <= moved


def test_switch_weighs_each_layer_and_decoders_their_mean():
    """Switch-tiny has a router in the encoder and one in the decoder; mixtral-tiny has two."""
    _, trained = built("span_corruption", "switch-tiny")
    assert {n: t.weight for n, t in trained.routers.terms.items()} == pytest.approx(
        {"load_balancing": 2 * 0.01, "router_z": 2 * 0.001}
    )
    _, trained = built("span_corruption", "switch-tiny", router_z_loss_coef=0.0, router_aux_loss_coef=0.5)
    assert {n: t.weight for n, t in trained.routers.terms.items()} == {"load_balancing": 1.0}
    _, trained = built("clm", "mixtral-tiny", router_aux_loss_coef=0.125)
    assert {n: t.weight for n, t in trained.routers.terms.items()} == {"load_balancing": 0.125}
    _, trained = built("clm", "mixtral-tiny", router_aux_loss_coef=0.0)
    assert set(trained.terms) == {"clm"} and set(trained(**first_batch(get_objective("clm"))).sums) == {"clm"}
    _, trained = built("clm", "llama-tiny")
    assert set(trained.terms) == {"clm"}


def test_mixtral_is_the_mean_of_its_layers():
    """Against transformers' loss of each layer apart, from the logits that the stock model returns."""
    objective, trained = built("clm", "mixtral-tiny")
    batch = first_batch(objective)
    assert not batch["attention_mask"].all()  # rows of unlike length
    found = trained(**batch).sums["load_balancing"]
    stock = trained.main(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_router_logits=True
    )
    layers = [load_balancing_loss_func((x,), 4, 2, batch["attention_mask"]) for x in stock.router_logits]
    assert len(layers) == 2
    torch.testing.assert_close(found, sum(layers) / 2, rtol=1e-5, atol=1e-6)


def test_switch_is_the_mean_of_encoder_and_decoder_without_padding():
    """Row by row without padding the stock model gives the logits; they are laid together here by hand."""
    objective, trained = built("span_corruption", "switch-tiny", expert_capacity=1000)
    batch = first_batch(objective, length=4 * LENGTH, rows=4)
    batch["attention_mask"][1, 40:] = 0  # as if the row were shorter
    ids, mask = batch["input_ids"], batch["attention_mask"]
    targets = torch.zeros(batch["decoder_input_ids"].shape, dtype=torch.bool)
    targets.view(-1)[batch["label_positions"]] = True
    found = trained(**batch).sums
    logits = {"encoder": [], "decoder": []}
    for row in range(len(ids)):
        one = trained.main(
            input_ids=ids[row, mask[row].bool()][None],
            decoder_input_ids=batch["decoder_input_ids"][row, targets[row]][None],
            output_router_logits=True,
        )
        logits["encoder"].append(one.encoder_router_logits[0][0])
        logits["decoder"].append(one.decoder_router_logits[0][0])
    for name, loss in (("load_balancing", load_balancing), ("router_z", z)):
        expected = (loss(torch.cat(logits["encoder"])) + loss(torch.cat(logits["decoder"]))) / 2
        assert found[name].item() == pytest.approx(expected, rel=1e-4)


def load_balancing(logits: torch.Tensor) -> float:
    """One token at a time."""
    experts, tokens = logits.shape[1], len(logits)
    sent, mass = [0] * experts, [0.0] * experts
    for row in logits.tolist():
        total = sum(math.exp(x) for x in row)
        sent[row.index(max(row))] += 1
        mass = [m + math.exp(x) / total for m, x in zip(mass, row, strict=True)]
    return experts * sum(s / tokens * m / tokens for s, m in zip(sent, mass, strict=True))


def z(logits: torch.Tensor) -> float:
    """One token at a time."""
    return sum(math.log(sum(math.exp(x) for x in row)) ** 2 for row in logits.tolist()) / len(logits)


@pytest.mark.parametrize(("name", "model"), [("span_corruption", "switch-tiny"), ("clm", "mixtral-tiny")])
def test_padding_does_not_count(name, model):
    """The same rows with more padding behind; capacity is kept out of it, which padding never takes from a token."""
    overrides = {"expert_capacity": 1000} if model == "switch-tiny" else {}
    objective, trained = built(name, model, **overrides)
    rows = first_batch(objective)
    _, vocabulary, documents = text()
    dataset = PretrainingDataset(
        objective, documents, vocabulary, length=LENGTH, global_batch=ROWS, max_steps=1, seed=5
    )
    wide = DrawCollator(objective, vocabulary, pad_to_multiple_of=64)(dataset.__getitems__(list(range(ROWS))))
    assert wide["input_ids"].shape[1] > rows["input_ids"].shape[1]
    for term in NAMES[model]:
        torch.testing.assert_close(trained(**wide).sums[term], trained(**rows).sums[term], rtol=1e-5, atol=1e-6)


def test_checkpointed_layers_count_once_and_have_a_gradient():
    objective, trained = built("clm", "mixtral-tiny")
    batch = first_batch(objective)
    gradients = []
    for checkpointing in (False, True):
        trained.train()
        if checkpointing:
            trained.gradient_checkpointing_enable({"use_reentrant": False})
        trained.zero_grad()
        value = trained(**batch).sums["load_balancing"]
        value.backward()
        gradients.append((value.item(), trained.main.model.layers[0].mlp.gate.weight.grad.clone()))
        assert not trained.routers.caught
    assert gradients[0][0] == gradients[1][0]
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_a_pass_outside_is_not_caught():
    _, trained = built("clm", "mixtral-tiny")
    trained.main(input_ids=torch.tensor([[5, 6, 7]]))
    assert not trained.routers.caught
    with pytest.raises(RuntimeError, match="no router"):
        trained.routers.losses({})
    plain = Routers(AutoModelForCausalLM.from_config(backbone("gpt2-tiny", text()[0]).config))
    assert plain.terms == {} and plain.losses({}) == {}


@pytest.mark.parametrize(("name", "model"), [("span_corruption", "switch-tiny"), ("clm", "mixtral-tiny")])
def test_logged_weighted_and_evaluated_by_name(name, model, tmp_path):
    """Two micro-batches: what is logged is the mean of theirs, and the loss the weighted sum of what is logged."""
    quiet = {"dropout_rate": 0.0, "router_jitter_noise": 0.0} if model == "switch-tiny" else {}
    objective, trained = built(name, model, **quiet)
    _, vocabulary, documents = text()
    held_out = EvaluationDataset(objective, documents, vocabulary, length=LENGTH, seed=1, max_rows=8)
    trainer = make_trainer(name, tmp_path, model=trained, micro=ROWS // 2, accumulate=2, steps=1, learning_rate=0.0)
    batches = [first_batch_part(objective, part) for part in range(2)]
    expected = {n: sum(trained(**b).sums[n].item() for b in batches) / 2 for n in NAMES[model]}
    trainer.train()
    log = trainer.state.log_history[0]
    for term in NAMES[model]:
        assert log[f"{term}_loss"] == pytest.approx(expected[term], rel=1e-4)
    total = sum(term.weight * log[f"{n}_loss"] for n, term in trained.terms.items())
    assert log["loss"] == pytest.approx(total, rel=1e-4)
    metrics = trainer.evaluate(held_out)
    assert {f"eval_{n}_loss" for n in trained.terms} <= set(metrics)
    own = metrics[f"eval_{name}_loss"]
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(own)) and metrics["eval_loss"] > own


def first_batch_part(objective, part: int) -> dict[str, torch.Tensor]:
    _, vocabulary, documents = text()
    dataset = PretrainingDataset(
        objective, documents, vocabulary, length=LENGTH, global_batch=ROWS, max_steps=1, seed=5
    )
    rows = list(range(part * ROWS // 2, (part + 1) * ROWS // 2))
    return DrawCollator(objective, vocabulary)(dataset.__getitems__(rows))


@pytest.mark.parametrize(("name", "model"), [("span_corruption", "switch-tiny"), ("clm", "mixtral-tiny")])
def test_exported_checkpoints_generate(name, model, tmp_path):
    tokenizer, _, _ = text()
    objective, trained = built(name, model)
    trained.save_pretrained(tmp_path)
    kind = AutoModelForSeq2SeqLM if model == "switch-tiny" else AutoModelForCausalLM
    loaded, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model == "switch-tiny" or isinstance(loaded, MixtralForCausalLM)
    prompt = tokenizer("the miller", return_tensors="pt").input_ids
    out = loaded.eval().generate(prompt, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > 1
    if model == "switch-tiny":
        assert len(loaded.decoder.block) == len(loaded.encoder.block) == 2
