"""The pretraining model: what wrapping keeps, its outputs and columns, distributed wrappers around it."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForPreTraining
from wrapped_models import CONFIGS, Pooled, batch_for, build, wrap

# wrapping


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_wrapping_changes_neither_weights_nor_config(attn_implementation):
    main, head = build("bert", attn_implementation=attn_implementation), Pooled()
    before = copy.deepcopy([main.state_dict(), head.state_dict(), main.config.to_dict()])
    model = wrap(main, pooled=head)
    after = [main.state_dict(), head.state_dict()]
    assert all(torch.equal(new[k], old[k]) for new, old in zip(after, before, strict=False) for k in old)
    assert model.config is main.config
    assert main.config.to_dict() == before[2]
    assert main.config._attn_implementation == attn_implementation


def test_loaded_weights_survive_wrapping(tmp_path):
    build("bert").save_pretrained(tmp_path)
    main = AutoModelForMaskedLM.from_pretrained(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    wrap(main)
    assert all(torch.equal(main.state_dict()[name], value) for name, value in expected.items())


def test_it_answers_for_its_main_model():
    main = build("bert")
    model = wrap(main, pooled=Pooled())
    assert model.get_input_embeddings() is main.bert.embeddings.word_embeddings
    assert model.get_output_embeddings() is main.cls.predictions.decoder
    assert model.all_tied_weights_keys == {f"main.{k}": f"main.{v}" for k, v in main.all_tied_weights_keys.items()}
    assert {"BertLayer"} <= model._no_split_modules
    assert not model.can_generate()
    main.cls.predictions.decoder.weight = nn.Parameter(torch.zeros(40, 16))
    model.tie_weights()
    assert main.cls.predictions.decoder.weight is main.bert.embeddings.word_embeddings.weight
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
    model.resize_token_embeddings(48)
    assert model(**batch_for(), want=("logits",)).outputs["logits"].shape == (3, 48)


def test_outputs_by_name():
    model = wrap(build("bert"), pooled=Pooled())
    output = model(**batch_for(), want=("hidden", "pooled", "hidden_states", "logits"))
    assert set(output.outputs) == {"hidden", "pooled", "hidden_states", "logits"}
    assert torch.equal(output.outputs["hidden"], output.outputs["hidden_states"][-1])
    assert torch.equal(output.outputs["pooled"], model.heads["pooled"].dense(output.outputs["hidden"][:, 0]))
    total, count = output.metrics["accuracy"]
    assert not total.requires_grad and count == 3
    assert output.carry is None and model(**batch_for()).outputs is None
    with pytest.raises(ValueError, match="no output 'soul'; it has hidden, logits, pooled"):
        model(**batch_for(), want=("soul",))


def test_several_heads_in_the_main_model():
    torch.manual_seed(0)
    main = BertForPreTraining(BertConfig(**CONFIGS["bert"])).eval()
    output = wrap(main)(
        **batch_for(next_sentence_label=torch.tensor([0, 1])), want=("logits", "seq_relationship_logits")
    )
    stock = main(input_ids=batch_for()["input_ids"])
    torch.testing.assert_close(output.outputs["logits"], stock.prediction_logits.flatten(0, 1)[[1, 6, 9]])
    torch.testing.assert_close(output.outputs["seq_relationship_logits"], stock.seq_relationship_logits)


def test_only_known_columns_reach_the_model():
    model = wrap(build("gpt2"), "clm")
    batch = batch_for(weights=torch.ones(3), labels=torch.ones(2, 8, dtype=torch.long), stream=torch.arange(2))
    inputs = model.inputs(batch)
    assert inputs.keys() == {"input_ids", "attention_mask", "use_cache"} and inputs["use_cache"] is False


# distributed wrappers, in one process


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_distributed_wrappers_see_one_forward(kind, one_process):
    model = wrap(build("bert"))
    sums = model(**batch_for()).sums["mlm"]
    sums.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    if kind == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (1,))
        for layer in model.main.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    result = wrapped(**batch_for()).sums["mlm"]
    result.backward()
    torch.testing.assert_close(result, sums)
    for name, p in model.named_parameters():
        grad = p.grad.full_tensor() if kind == "fsdp" else p.grad
        torch.testing.assert_close(grad, expected[name], msg=name)
