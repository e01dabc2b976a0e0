"""Fine-tuning a causal model as GPT-1 was: transformed inputs, and half the language-modelling loss beside.

Radford et al. 2018, section 3.2, L3 = L2 + λ·L1 with λ = 0.5. As in the released code, the task's loss is the mean
over examples, and the auxiliary one the mean over sequences of each one's mean over tokens. Each is a sum with a count
of its own over all micro-batches and processes of an optimizer step.
"""

from __future__ import annotations

import gc
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PrinterCallback, ProgressCallback, set_seed

from ..models.presets import backbone
from ..models.task_models import TaskModelArguments, load_task_model
from .finetune import official_metric
from .finetune_arguments import LARGE, SMALL, FinetuneArguments
from .finetune_trainer import FinetuneTrainer
from .glue_tasks import Task
from .gpt_transforms import SIMILARITY, TransformedCollator, TransformedExamples, add_marks, lm_loss
from .task_data import Examples


def load_gpt(
    model_args: TaskModelArguments, tokenizer: Any, num_labels: int, max_length: int, lm_coefficient: float = 0.5
) -> tuple[Any, Any]:
    """A causal model with a classification head, its vocabulary grown by the marks, and the ids of these.

    Where the checkpoint's output embeddings are not its input embeddings, the model holds them as `lm_head`, for the
    auxiliary loss.

    Raises `ValueError` for a backbone that is not causal, computes its logits by more than a product with the output
    embeddings, or is not trained as a whole.
    """
    for name in ("peft", "load_in_8bit", "load_in_4bit", "freeze_backbone"):
        if getattr(model_args, name, None):
            raise ValueError(f"--{name} leaves the embeddings as they are, and the new tokens need theirs trained")
    if model_args.pooling not in (None, "last"):
        raise ValueError(f"--pooling {model_args.pooling}: GPT's label is read from the last token, [extract]")
    model: Any = load_task_model(
        model_args, tokenizer, "sequence_classification", num_labels=num_labels, max_length=max_length
    )
    score = getattr(model, "score", None)
    if model.config.is_encoder_decoder or not isinstance(score, torch.nn.Linear) or score.bias is not None:
        raise ValueError(
            f"GPT's input transformations need a causal backbone (gpt2, llama), and {model.config.model_type} is none"
        )
    head = _output_embeddings(model_args, tokenizer) if lm_coefficient else None
    marks = add_marks(tokenizer)
    size = max(model.get_input_embeddings().num_embeddings, len(tokenizer))
    model.resize_token_embeddings(size, mean_resizing=False)
    if head is not None and not model.config.tie_word_embeddings:
        model.lm_head = torch.nn.Linear(head.shape[1], size, bias=False)
        model.lm_head.weight.data.normal_(std=getattr(model.config, "initializer_range", 0.02))
        model.lm_head.weight.data[: len(head)] = head
    return model, marks


def _output_embeddings(model_args: TaskModelArguments, tokenizer: Any) -> torch.Tensor:
    """Output embeddings of the checkpoint, after a look whether logits are their product with the hidden state."""
    model: Any = backbone(model_args.model_name_or_path, tokenizer).load(AutoModelForCausalLM).eval()
    weight = model.get_output_embeddings().weight.detach()
    probe = torch.arange(4).remainder(len(weight))[None]
    with torch.no_grad():
        output = model(input_ids=probe, output_hidden_states=True)
    if not torch.allclose(output.logits, output.hidden_states[-1] @ weight.T, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{model.config.model_type} computes logits by more than its output embeddings; use --lm_coefficient 0"
        )
    return weight


class GPTTrainer(FinetuneTrainer):
    """`FinetuneTrainer` on `TransformedExamples`, with the auxiliary loss.

    Args:
        lm_coefficient: weight of the language-modelling loss.
        ways: sequences of each example.
        args, kwargs: of `FinetuneTrainer`.
    """

    def __init__(self, *args: Any, lm_coefficient: float = 0.5, ways: int = 1, **kwargs: Any):
        self.lm_coefficient = lm_coefficient
        self.adding: Any = None
        super().__init__(*args, **kwargs)
        if ways > 1:

            def add_up(module: Any, inputs: Any, output: Any) -> Any:
                output["logits"] = output["logits"].unflatten(0, (-1, ways)).sum(1)
                return output

            self.adding = self.accelerator.unwrap_model(self.model).register_forward_hook(add_up)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step; examples and sequences in them, over all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        counts = torch.tensor(
            [[len(batch["labels"]), len(batch["input_ids"])] for batch in batches], dtype=torch.float64, device=device
        ).sum(0)
        if self.args.world_size > 1:
            dist.all_reduce(counts)
        return batches, {"task": counts[0], "lm": counts[1]}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Σ task / examples + coefficient · Σ LM / sequences, scaled so that the average over processes is global."""
        labels = inputs.pop("labels")
        outputs = model(**inputs, output_hidden_states=bool(self.lm_coefficient), use_cache=False)
        world = self.args.world_size
        loss = self._losses(outputs["logits"], labels).sum() * (world / num_items_in_batch["task"]).float()
        if self.lm_coefficient:
            stock: Any = self.accelerator.unwrap_model(model)
            head = stock.lm_head if hasattr(stock, "lm_head") else stock.get_input_embeddings()
            lm = lm_loss(outputs["hidden_states"][-1], head.weight, inputs["input_ids"], inputs["attention_mask"])
            loss = loss + self.lm_coefficient * lm * (world / num_items_in_batch["lm"]).float()
        return (loss, outputs) if return_outputs else loss


def finetune_gpt(
    task: Task,
    splits: dict[str, Examples],
    tokenizer: Any,
    model_args: TaskModelArguments,
    args: FinetuneArguments,
    *,
    lm_coefficient: float = 0.5,
) -> tuple[dict[str, Any], Any]:
    """Fine-tune on the split "train" and evaluate on "validation": results, and the model, for what comes next.

    Args:
        task, splits: from `load_task`; similarity tasks (MRPC, QQP, STS-B) are read in both orders.
        tokenizer: of the model; the marks are added to it.
        model_args, args: which model, and how; `args.seed` governs new weights, dropout and order.
        lm_coefficient: λ, 0.5 in the paper; 0 leaves the auxiliary loss out.

    Raises `ValueError` for what cannot work.
    """
    set_seed(args.seed)
    model, marks = load_gpt(model_args, tokenizer, task.num_labels, args.max_seq_length, lm_coefficient)
    both = task.name in SIMILARITY
    rows = {
        name: TransformedExamples(splits[name], tokenizer, marks, args.max_seq_length, both)
        for name in ("train", "validation")
    }
    if not args.learning_rate:
        args.learning_rate = SMALL if sum(p.numel() for p in model.parameters()) < 50_000_000 else LARGE
    trainer = GPTTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=TransformedCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        score=official_metric(task),
        layer_lr_decay=model_args.layer_lr_decay,
        lm_coefficient=lm_coefficient,
        ways=rows["train"].ways,
    )
    for callback in (PrinterCallback, *([ProgressCallback] if args.disable_tqdm else [])):
        trainer.remove_callback(callback)
    output = trainer.train()
    found = trainer.predict(rows["validation"]).metrics or {}
    metrics = {name: found[f"test_{name}"] for name in (*task.metrics, "score", "loss")}
    results = {
        "metrics": {"validation": metrics},
        "score": metrics["score"],
        "steps": trainer.state.global_step,
        "train_seconds": output.metrics["train_runtime"],
        "learning_rate": args.learning_rate,
    }
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.adding is not None:
        trainer.adding.remove()  # what is saved and loaded gives the logits of one order
    del trainer
    gc.collect()
    return results, model
