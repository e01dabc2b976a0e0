"""`generate()` on what is exported: stock `Auto…` classes, begun as trained, agree with a loop over full passes."""

import pytest
import torch
from training_runs import text
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import get_objective

SEQ2SEQ = [(name, "t5-tiny") for name in ("span_corruption", "ul2", "gsg", "seq2seq_prefix_lm")]
SEQ2SEQ += [(name, "bart-tiny") for name in ("denoising", "mass", "gsg", "span_corruption")]
CAUSAL = [("clm", "gpt2-tiny"), ("clm", "llama-tiny"), ("clm", "mixtral-tiny")]
CAUSAL += [("fim", "gpt2-tiny"), ("fim", "llama-tiny"), ("prefix_lm", "gpt2-tiny"), ("prefix_lm", "llama-tiny")]
NEW = 6


def exported(name, preset, folder, auto_class):
    tokenizer, vocabulary, _ = text()
    torch.manual_seed(1)
    objective = get_objective(name)
    model = objective.build(backbone(preset, tokenizer, max_length=64), vocabulary)
    for parameter in model.parameters():  # small random weights give the same token again and again
        parameter.data.mul_(3.0)
    plain = objective.export(model)[""]
    plain.eval().save_pretrained(folder)
    loaded, report = auto_class.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return objective, tokenizer, vocabulary, loaded.eval()


@pytest.mark.parametrize(("name", "preset"), SEQ2SEQ)
def test_encoder_decoders(name, preset, tmp_path):
    objective, tokenizer, vocabulary, model = exported(name, preset, tmp_path, AutoModelForSeq2SeqLM)
    inputs = tokenizer(["the miller mends", "a letter"], return_tensors="pt", padding=True)
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    found = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, num_beams=1)
    start = objective.start_id(vocabulary)
    assert (found[:, 0] == start).all()
    ids = torch.full((2, 1), start)
    with torch.no_grad():
        for _ in range(NEW - 1):  # BART's last token is forced
            logits = model(**inputs, decoder_input_ids=ids).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    ends = set(torch.atleast_1d(torch.tensor(model.generation_config.eos_token_id)).tolist())
    for ours, row in zip(ids.tolist(), found.tolist(), strict=True):
        stop = next((i for i, token in enumerate(ours) if i and token in ends), NEW - 1)
        assert row[: stop + 1] == ours[: stop + 1]


@pytest.mark.parametrize(("name", "preset"), CAUSAL)
def test_decoders(name, preset, tmp_path):
    _, tokenizer, _, model = exported(name, preset, tmp_path, AutoModelForCausalLM)
    prompt = "the miller mends"
    if name == "fim":
        prompt = "<fim_prefix>the miller<fim_suffix>a letter<fim_middle>"
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)[0].tolist()
    with torch.no_grad():
        for _ in range(NEW):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert len(found) > len(ids[0]) - NEW and ids[0].tolist()[: len(found)] == found
