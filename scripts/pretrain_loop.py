"""Pretraining as a bare loop over Accelerate, to read in one sitting: nothing here depends on a Trainer.

    python -m pretrain_zoo.scripts.pretrain_loop --objective mlm --model_name_or_path bert-tiny
    accelerate launch scripts/pretrain_loop.py --objective clm --model_name_or_path gpt2-tiny --corpus texts/

The same settings give the losses of `PretrainingTrainer`. What to take from here into a loop of your own:

1. Row `n` of the dataset is the `n`-th example of the run: processes share the numbers, resuming is a first number.
2. The model returns each loss term as a sum. Sums are divided by counts over the whole optimizer step, all
   micro-batches and processes, and not by those of a micro-batch: the update does not depend on how a batch is divided.
3. A checkpoint is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device, set_seed
from torch.utils.data import DataLoader
from transformers.trainer_utils import get_last_checkpoint

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.training.checkpoints import DATA_STATE, STAGING, publish, rotate
from pretrain_zoo.training.corpora import open_corpus
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset
from pretrain_zoo.training.documents import split_documents, tokenize_corpus
from pretrain_zoo.training.tokenizer import train_tokenizer


def micro_batches(first: int, last: int, rows: int, rank: int, world: int) -> Iterator[list[int]]:
    """Numbers of the rows of this process's micro-batches `first` … `last` − 1 of the run."""
    for number in range(first, last):
        begin = (number * world + rank) * rows
        yield list(range(begin, begin + rows))


def train(
    accelerator: Accelerator,
    model: Any,
    train_dataset: PretrainingDataset,
    eval_dataset: EvaluationDataset,
    collator: DrawCollator,
    folder: Path,
    *,
    rows: int = 32,
    accumulation: int = 1,
    learning_rate: float = 1e-3,
    warmup_steps: int = 0,
    log_every: int = 50,
    save_every: int = 500,
) -> list[dict[str, float]]:
    """Train from the beginning or from the checkpoint in `folder`; returns what was logged.

    `rows` is per micro-batch and process. Raises `FloatingPointError` when a loss is NaN or infinite.
    """
    objective, max_steps, world = model.objective, train_dataset.max_steps, accelerator.num_processes
    if rows * accumulation * world != train_dataset.global_batch:
        raise ValueError(f"{rows} rows × {accumulation} × {world} processes is not {train_dataset.global_batch}")
    if train_dataset.source.order == "streams":
        raise ValueError(f"{objective.name} has a memory from step to step, which only scripts/pretrain.py keeps")
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},  # biases, LayerNorm
    ]
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(groups))

    checkpoint, first_step = get_last_checkpoint(folder) if folder.is_dir() else None, 0
    if checkpoint is not None:
        state = json.loads((Path(checkpoint) / DATA_STATE).read_text())
        train_dataset.restore(state)  # refuses a checkpoint of other data
        first_step = state["step"]
        accelerator.load_state(checkpoint)

    logs: list[dict[str, float]] = []
    share = micro_batches(first_step * accumulation, max_steps * accumulation, rows, accelerator.process_index, world)
    options: dict[str, Any] = {"collate_fn": collator, "generator": torch.Generator()}  # dropout has the global one
    loader = iter(DataLoader(train_dataset, batch_sampler=share, **options))
    logged = torch.zeros((), device=accelerator.device)
    model.train()
    for step in range(first_step, max_steps):
        batches = [send_to_device(next(loader), accelerator.device) for _ in range(accumulation)]
        counts = total_counts(accelerator, objective, batches)
        loss_of_step = torch.zeros((), device=accelerator.device)
        for i, batch in enumerate(batches):
            with nullcontext() if i == accumulation - 1 else accelerator.no_sync(model):
                sums, loss = model(**batch).sums, torch.zeros((), device=accelerator.device)
                for name, term in accelerator.unwrap_model(model).terms.items():  # gradients are averaged: `world`
                    value = sums[name] * world / counts[name] if term.additive else sums[name] / accumulation
                    loss = loss + term.weight_at(step / max_steps) * value
                accelerator.backward(loss)
            loss_of_step += loss.detach() / world
        loss_of_step = accelerator.reduce(loss_of_step)
        if not loss_of_step.isfinite():
            raise FloatingPointError(f"the loss became {loss_of_step.item()} at step {step + 1}; lower learning_rate")
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:  # linear warmup and decay, as a function of the step: nothing to save
            warm, left = step / max(warmup_steps, 1), (max_steps - step) / (max_steps - warmup_steps)
            group["lr"] = learning_rate * (warm if step < warmup_steps else left)
        optimizer.step()
        optimizer.zero_grad()

        logged += loss_of_step
        if (step + 1) % log_every == 0:
            logs.append({"step": step + 1, "loss": logged.item() / log_every})
            logged.zero_()
            accelerator.print(logs[-1])
        if (step + 1) % save_every == 0 or step + 1 == max_steps:
            save(accelerator, folder, {**train_dataset.state(step + 1), "step": step + 1})
            logs.append({"step": step + 1, **evaluate(accelerator, model, eval_dataset, collator, rows)})
            accelerator.print(logs[-1])
    return logs


def total_counts(accelerator: Accelerator, objective: Any, batches: list[dict]) -> dict[str, torch.Tensor]:
    """Each additive term's count over these batches and all processes, at least 1."""
    counts = [objective.counts(batch) for batch in batches]
    names = [name for name, term in objective.terms.items() if term.additive]
    totals = torch.stack([sum(c[name] for c in counts) for name in names])
    return dict(zip(names, accelerator.reduce(totals).clamp(min=1)))


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: Any, dataset: EvaluationDataset, collator: Any, rows: int) -> dict:
    """Mean of each additive term over the held-out rows, each of which one process reads once."""
    plain = accelerator.unwrap_model(model)  # processes may have unlike numbers of batches
    objective = plain.objective
    names = [name for name, term in objective.terms.items() if term.additive]
    totals = torch.zeros(2, len(names), device=accelerator.device)
    batches = [batch for group in dataset.batches(rows) for batch in group]
    share = batches[accelerator.process_index :: accelerator.num_processes]
    plain.eval()
    for batch in DataLoader(dataset, batch_sampler=share, collate_fn=collator, generator=torch.Generator()):
        batch = send_to_device(batch, accelerator.device)
        sums, counts = plain(**batch).sums, objective.counts(batch)
        totals += torch.stack([torch.stack([sums[n], counts[n].to(sums[n])]) for n in names], 1)
    plain.train()
    loss, count = accelerator.reduce(totals)
    return {f"eval_{name}": value for name, value in zip(names, (loss / count).tolist())}


def save(accelerator: Accelerator, folder: Path, state: dict[str, Any]) -> None:
    """Weights, optimizer and random states, and where the run is; takes the place of the one before."""
    unfinished = folder / STAGING / "checkpoint"
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()  # every process writes its random states
    if accelerator.is_main_process:
        (unfinished / DATA_STATE).write_text(json.dumps(state))
        publish(unfinished, folder / f"checkpoint-{state['step']}")
        rotate(folder, limit=1, best=None)
    accelerator.wait_for_everyone()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    defaults: dict[str, Any] = {"objective": "mlm", "model_name_or_path": "bert-tiny", "corpus": "embedded"}
    defaults |= {"output_dir": "runs/loop", "max_seq_length": 128, "max_steps": 2000, "global_batch": 32}
    for name, default in (defaults | {"accumulation": 1, "learning_rate": 1e-3, "seed": 42}).items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    args = parser.parse_args()
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    set_seed(args.seed)
    cache = os.path.expanduser("~/.cache/pretrain_zoo")
    with accelerator.main_process_first():
        corpus = open_corpus(args.corpus)
        tokenizer = train_tokenizer(corpus, vocab_size=8192)
        documents, held_out = split_documents(tokenize_corpus(corpus, tokenizer, cache), 0.02, args.seed, cache)
    objective, vocabulary = get_objective(args.objective), Vocabulary.from_tokenizer(tokenizer)
    model = objective.build(backbone(args.model_name_or_path, tokenizer, max_length=args.max_seq_length), vocabulary)
    sizes: dict[str, Any] = {"length": args.max_seq_length, "global_batch": args.global_batch, "seed": args.seed}
    train(
        accelerator,
        model,
        PretrainingDataset(objective, documents, vocabulary, max_steps=args.max_steps, **sizes),
        EvaluationDataset(objective, held_out, vocabulary, **sizes),
        DrawCollator(objective, vocabulary),
        Path(args.output_dir),
        rows=args.global_batch // accelerator.num_processes // args.accumulation,
        accumulation=args.accumulation,
        learning_rate=args.learning_rate,
        warmup_steps=args.max_steps // 10,
    )
    if accelerator.is_main_process:
        model.save_pretrained(args.output_dir)  # loads with its Auto class and no code of ours
        tokenizer.save_pretrained(args.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
