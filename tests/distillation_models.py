"""Small teachers, students and batches for the tests of distillation."""

import tempfile
from functools import cache

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.objectives import Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors

SIZE, PAD, CLS, SEP, MASK = 61, 0, 2, 3, 4
ALL = {"hidden_weight": 1.0, "attention_weight": 1.0, "relation_weight": 1.0, "relation_heads": 4}
TAUGHT = ("soft", "cosine", "hidden", "attention", "relations")
NONE = {"soft_weight": 0.0, "student_weight": 0.0, "cosine_weight": 0.0}
AUTO = {"gpt2": AutoModelForCausalLM, "llama": AutoModelForCausalLM}
AUTO |= {"t5": AutoModelForSeq2SeqLM, "bart": AutoModelForSeq2SeqLM}


def make_vocabulary():
    maskable = (np.arange(SIZE) >= 5) & (np.arange(SIZE) < 40)
    ids = {"pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "mask_id": MASK, "eos_id": SEP}
    ids |= {"pair_prefix": (CLS,), "middle": (SEP,), "pair_suffix": (SEP,)}
    special = {f"<extra_id_{i}>": 40 + i for i in range(20)}
    return Vocabulary(size=SIZE, maskable=maskable, random_pool=np.flatnonzero(maskable), special=special, **ids)


VOCABULARY = make_vocabulary()


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


FOLDER = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


@cache
def teacher_folder(kind="bert", layers=2, **more):
    """Folder of a trained-looking model, made once; all go when the tests end."""
    folder = tempfile.mkdtemp(dir=FOLDER.name)
    torch.manual_seed(0)
    model = AUTO.get(kind, AutoModelForMaskedLM).from_config(config(kind, layers, **more))
    randomized(model, 1).save_pretrained(folder)
    return folder


def texts(count=5, seed=0, low=6, high=20):
    random = np.random.default_rng(seed)
    return [np.r_[CLS, random.integers(5, 40, random.integers(low, high)), SEP] for _ in range(count)]


def batch_of(objective, rows, first=0, side="right", multiple=None):
    numbers = np.arange(first, first + len(rows))
    columns = objective.corrupt({"input_ids": Ragged.from_rows(rows)}, Draws.of(7, numbers, 0, numbers), VOCABULARY)
    padded = pad_columns(columns, objective.columns, VOCABULARY, padding_side=side, pad_to_multiple_of=multiple)
    return to_tensors(padded)


def build(teacher, name="distillation(mlm)", kind="bert", layers=2, seed=3, model=None, **settings):
    """Objective and model in eval mode, the student a random one unless it is to be the teacher."""
    objective = get_objective(name, teacher=teacher, **settings)
    torch.manual_seed(seed)
    made = objective.build(Backbone(config(kind, layers, **(model or {}))), VOCABULARY)
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
