"""Small models of several families with weights of some size, wrapped for pretraining, and a batch for them."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from pretrain_zoo.models.pretraining import PretrainingModel
from pretrain_zoo.objectives import get_objective

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32, "max_position_embeddings": 32}
CONFIGS = {
    "bert": SMALL | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "modernbert": SMALL | {"local_attention": 4, "pad_token_id": 0, "global_attn_every_n_layers": 2},
    "gpt2": {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    | dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
    "llama": SMALL | {"num_key_value_heads": 1},
    "mistral": SMALL | {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 3},
    "roberta": SMALL | {"is_decoder": True, "pad_token_id": 1},
    "mobilebert": SMALL | {"embedding_size": 8, "intra_bottleneck_size": 8},
    "t5": {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
    "mamba": {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1},
    "convbert": SMALL | {"embedding_size": 16},
    "deberta-v2": SMALL,
    "fnet": SMALL,
}
AUTO = dict.fromkeys(CONFIGS, AutoModelForMaskedLM) | {"t5": AutoModelForSeq2SeqLM}
AUTO |= dict.fromkeys(("gpt2", "llama", "mistral", "roberta", "mamba"), AutoModelForCausalLM)


def build(model_type, seed=0, attn_implementation=None, auto_class=None, **more):
    torch.manual_seed(seed)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type] | more)
    model = (auto_class or AUTO[model_type]).from_config(config, **options).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def wrap(main, objective="mlm", **heads):
    return PretrainingModel(get_objective(objective), main, heads)


def batch_for(**columns):
    ids = torch.randint(5, 40, (2, 8), generator=torch.Generator().manual_seed(3))
    positions, labels = torch.tensor([1, 6, 9]), torch.tensor([5, 6, 7])
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "label_positions": positions, "label_ids": labels, **columns}


class Pooled(nn.Module):
    """A head on the first position."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(16, 3)

    def forward(self, outputs, batch):
        return self.dense(outputs["hidden"][:, 0])
