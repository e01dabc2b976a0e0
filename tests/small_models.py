"""Small checkpoints of every family, as pretraining leaves them, and batches for fine-tuning tests."""

import inspect
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, set_seed

from pretrain_zoo.models.adapters import AdapterArguments
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.settings import overrides_from
from pretrain_zoo.models.task_models import TaskModelArguments, load_task_model, load_tokenizer

SMALL = {
    "bart": "d_model=32,encoder_attention_heads=2,decoder_attention_heads=2,encoder_ffn_dim=64,decoder_ffn_dim=64",
    "distilbert": "dim=32,n_heads=2,hidden_dim=64",
    "gpt2": "n_embd=32,n_head=2",
    "llama": "hidden_size=32,num_attention_heads=2,num_key_value_heads=1,intermediate_size=64,head_dim=16",
    "mixtral": "hidden_size=32,num_attention_heads=2,num_key_value_heads=1,intermediate_size=64,head_dim=16",
    "t5": "d_model=32,num_heads=2,d_kv=16,d_ff=64,num_layers=2,num_decoder_layers=2",
    "xlm": "emb_dim=32,n_heads=2",
    "xlnet": "d_model=32,n_head=2,d_inner=64",
}
BERT_LIKE = "hidden_size=32,num_attention_heads=2,num_hidden_layers=2,intermediate_size=64"
FAMILIES = [
    "bert",
    "roberta",
    "xlm-roberta",
    "albert",
    "distilbert",
    "electra",
    "deberta-v3",
    "mpnet",
    "modernbert",
    "gpt2",
    "llama",
    "mixtral",
    "xlnet",
    "xlm",
    "bart",
    "t5",
]
LENGTH = 24
CLASSES, QUESTIONS = "sequence_classification", "question_answering"


def overrides(family: str) -> str:
    return SMALL.get(family) or BERT_LIKE + (",embedding_size=16" if family in ("albert", "electra") else "")


def make_checkpoint(family: str, tokenizer, folder: Path, wide: bool = False) -> Path:
    """A language model with random weights of unit size, so that inputs matter, without a head for any task.

    `wide`: 64 instead of 32, which 4-bit weights need.
    """
    set_seed(1)
    auto_class = AutoModelForMaskedLM
    if family in ("gpt2", "llama", "mixtral", "xlnet"):
        auto_class = AutoModelForCausalLM
    if family in ("bart", "t5"):
        auto_class = AutoModelForSeq2SeqLM
    text = overrides(family)
    if wide:
        text = text.replace("embedding_size=16", "embedding_size=64")
        text = text.replace("=64", "=128").replace("=32", "=64").replace("=16", "=32").replace("size=128", "size=64")
        text = text.replace("intermediate_size=64", "intermediate_size=128")
    settings = overrides_from(text)
    model = backbone(f"{family}-tiny", tokenizer, max_length=LENGTH + 8, **settings).load(auto_class)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name.lower():
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    target = folder / family
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def load(name, task=CLASSES, seed=0, **settings):
    """Tokenizer and model in evaluation mode; three classes."""
    args = TaskModelArguments(model_name_or_path=str(name), num_virtual_tokens=4, **settings)
    tokenizer = load_tokenizer(args)
    set_seed(seed)
    labels = {"num_labels": 3} if task == CLASSES else {}
    model = load_task_model(args, tokenizer, task, max_length=LENGTH, **labels)
    return tokenizer, model.eval()


def stock(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def batch(tokenizer, model, texts, **settings):
    """The columns that the model takes."""
    columns = tokenizer(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt", **settings)
    accepted = inspect.signature(stock(model).forward).parameters
    return {name: value for name, value in columns.items() if name in accepted}


def targets(task, rows):
    if task == CLASSES:
        return {"labels": torch.ones(rows, dtype=torch.long)}
    return {"start_positions": torch.full((rows,), 2), "end_positions": torch.full((rows,), 3)}


@torch.no_grad()
def logits(model, columns):
    """All logits of a pass in evaluation mode, in one tensor."""
    output = model.eval()(**columns)
    return torch.cat([value for name, value in sorted(output.items()) if name.endswith("logits")], -1)


def train(model, columns, labels, steps=3, rate=1e-2):
    """Losses of full-batch steps without dropout, and the names of the parameters that changed."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = model(**columns, **labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    losses.append(model(**columns, **labels).loss.item())
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    return losses, changed


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter(method, **settings):
    return AdapterArguments(peft=method, **settings)


class Size:
    """Stands for a tokenizer of `size` ids, of which only the vocabulary and special ids are asked for."""

    pad_token_id, bos_token_id, eos_token_id, cls_token_id, sep_token_id = 1, 0, 2, 0, 2

    def __init__(self, size):
        self.size = size

    def get_vocab(self):
        return {"last": self.size - 1}
