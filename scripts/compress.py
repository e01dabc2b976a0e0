"""Make a trained checkpoint smaller or faster, and see what it costs.

    python -m pretrain_zoo.scripts.compress runs/bert-mini-mlm --quantize dynamic_int8
    python -m pretrain_zoo.scripts.compress runs/bert-mini-mlm --prune_neurons 0.5 --prune_heads 0.25 \\
        --importance gradient --recover_steps 200 --output_dir runs/bert-mini-half
    python -m pretrain_zoo.scripts.compress runs/glue-bert-mini/sst2/model --task_name sst2 --data_dir glue \\
        --prune_weights 0.6 --recover_steps 500

Steps come in this order, each if asked for: whole layers go, attention heads and neurons go, small weights become zero;
training goes on; what is left is quantised. Without a task the metric is held-out perplexity, and all arguments of
`pretrain` (--objective, --corpus, --max_seq_length, --learning_rate …) say on what; with `--task_name`, GLUE's metric,
and those of fine-tuning. It ends in one table, of the checkpoint before, between and after; results.json has it, too.

The result loads with `Auto…` classes unless heads were taken out or layers are dynamic int8, which no config can say;
`pretrain_zoo.models.compressed.load_compressed` loads either. Nothing is pickled.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from rich.console import Console
from transformers import HfArgumentParser, PreTrainedModel

from pretrain_zoo.evaluation.compression import Measured, as_json, as_table, latency, parameters
from pretrain_zoo.evaluation.compression import size_on_disk as megabytes
from pretrain_zoo.evaluation.purpose import KeepZeros, Purpose, fine_tuning, pretraining
from pretrain_zoo.models import pruning
from pretrain_zoo.models.compressed import load_compressed, save_compressed
from pretrain_zoo.models.grow import with_layers
from pretrain_zoo.models.int8_linear import quantize_dynamic
from pretrain_zoo.models.quantised import TASK_HEADS, bitsandbytes_config, check_widths
from pretrain_zoo.models.settings import check_checkpoint
from pretrain_zoo.training.command_line import run_command
from pretrain_zoo.training.run_folder import RESULTS, write_json


@dataclass
class CompressionArguments:
    """What is done to the checkpoint."""

    checkpoint: str = field(metadata={"help": "Folder of a trained model, or a model of the Hub (owner/name)."})
    output_dir: str | None = field(default=None, metadata={"help": "Default: the checkpoint's name and -compressed."})
    keep_layers: str | None = field(default=None, metadata={"help": "Layers that stay, counted from 0: 0,2,4."})
    prune_heads: float = field(default=0.0, metadata={"help": "Share of attention heads to take out of each layer."})
    prune_neurons: float = field(default=0.0, metadata={"help": "Share of feed-forward neurons to take out."})
    prune_weights: float = field(default=0.0, metadata={"help": "Share of linear layers' weights to set to zero."})
    prune_scope: Literal["global", "layer"] = field(
        default="global", metadata={"help": "The smallest weights of all layers together, or of each layer."}
    )
    importance: Literal["magnitude", "gradient"] = field(
        default="magnitude", metadata={"help": "What tells which heads and neurons go."}
    )
    importance_batches: int = field(default=16, metadata={"help": "Batches that gradients are taken from."})
    recover_steps: int = field(default=0, metadata={"help": "Steps of training after pruning."})
    quantize: Literal["none", "bfloat16", "dynamic_int8", "int8", "nf4", "fp4"] = field(
        default="none", metadata={"help": "dynamic_int8 for CPUs; int8, nf4 and fp4 by bitsandbytes."}
    )
    task_name: str | None = field(default=None, metadata={"help": "GLUE task that the checkpoint was fine-tuned on."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the task's files. Default: the Hub."})
    latency_rows: int = field(default=8, metadata={"help": "Rows of the batch that is timed."})
    latency_length: int = field(default=128, metadata={"help": "Tokens of its rows."})


def importance(
    model: PreTrainedModel, groups: list[pruning.Group], purpose: Purpose, batches: int
) -> list[torch.Tensor]:
    """First-order importance of the units of each group, summed over batches."""
    total = [torch.zeros(group.count) for group in groups]
    model.eval()
    for _ in purpose.backward(model, batches):
        total = [old + pruning.first_order(group).cpu() for old, group in zip(total, groups)]
    return total


def quantized(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    """A copy in fewer bits. Raises `ValueError` for what bitsandbytes cannot load."""
    if kind == "bfloat16":
        return copy.deepcopy(model).to(torch.bfloat16)  # type: ignore[arg-type]
    if kind == "dynamic_int8":
        made = copy.deepcopy(model).cpu()
        quantize_dynamic(made)
        return made
    with tempfile.TemporaryDirectory() as folder:
        if not save_compressed(model, folder):
            raise ValueError(f"--quantize {kind} needs a plain checkpoint, and one that lost heads is none")
        skip = TASK_HEADS if model.get_output_embeddings() is None else None
        check_widths(model, kind, skip)
        config = bitsandbytes_config(kind, skip)
        return type(model).from_pretrained(folder, quantization_config=config, dtype=torch.float32)


def compress(options: CompressionArguments, argv: list[str], console: Console, scratch: str) -> list[Measured]:
    """Do what the options ask, save it, and return the rows of the table; `scratch` is a folder for what is not kept.

    Raises `ValueError` or `OSError` for whatever cannot work.
    """
    if not any((options.keep_layers, options.prune_heads, options.prune_neurons, options.prune_weights)) and (
        options.quantize == "none"
    ):
        raise ValueError("nothing is to be done; give --quantize, --prune_neurons, --prune_heads, … (see --help)")
    folder = Path(options.output_dir or f"{options.checkpoint.rstrip('/')}-compressed")
    model = _load(options.checkpoint)
    common: Any = {"argv": argv, "steps": options.recover_steps, "scratch": scratch}
    if options.task_name is None:
        purpose = pretraining(options.checkpoint, model, **common)
    else:
        purpose = fine_tuning(options.checkpoint, options.task_name, options.data_dir, **common)
    model.to("cuda" if torch.cuda.is_available() and options.quantize != "dynamic_int8" else "cpu")  # type: ignore[arg-type]
    stages: dict[str, PreTrainedModel] = {"before": copy.deepcopy(model)}
    if options.keep_layers:
        model = with_layers(model, [int(part) for part in options.keep_layers.split(",")])
    for share, groups, prune in (
        (options.prune_heads, pruning.head_groups, pruning.prune_heads),
        (options.prune_neurons, pruning.neuron_groups, pruning.prune_neurons),
    ):
        if share:
            by_gradient = options.importance == "gradient"
            scores = importance(model, groups(model), purpose, options.importance_batches) if by_gradient else None
            prune(model, share, scores)
    if options.prune_weights:
        pruning.prune_weights(model, options.prune_weights, options.prune_scope)
    if options.keep_layers or options.prune_heads or options.prune_neurons or options.prune_weights:
        stages["pruned"] = copy.deepcopy(model)
        if options.recover_steps:
            purpose.train(model, [KeepZeros()])
            stages["trained on"] = copy.deepcopy(model)
    if options.quantize != "none":
        model = quantized(model, options.quantize)
        stages[options.quantize] = model
    plain = save_compressed(model, folder)
    purpose.tokenizer.save_pretrained(folder)
    times = latency(stages, options.latency_rows, options.latency_length)
    rows = [Measured(n, megabytes(m), *parameters(m), times[n], purpose.metrics(m)) for n, m in stages.items()]
    write_json(folder / RESULTS, {"compression": as_json(rows), "options": vars(options)})
    console.print(as_table(rows))
    batch = f"a batch is {options.latency_rows} × {options.latency_length} tokens, {torch.get_num_threads()} thread(s)"
    loads = "Auto… classes" if plain else "pretrain_zoo.models.compressed.load_compressed"
    console.print(f"{batch}, {model.device.type}\n{folder} loads with {loads}")
    return rows


def _load(checkpoint: str) -> PreTrainedModel:
    if Path(checkpoint).is_dir():
        return load_compressed(checkpoint).float()
    check_checkpoint(checkpoint, "checkpoint")
    config = transformers.AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    architecture = getattr(transformers, (config.architectures or [""])[0], None)
    if architecture is None:
        raise ValueError(f"{checkpoint} does not say which model of transformers it is")
    return architecture.from_pretrained(checkpoint, use_safetensors=True, dtype=torch.float32).eval()


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = HfArgumentParser(CompressionArguments, description=__doc__.split("\n\n")[0], allow_abbrev=False)  # type: ignore[arg-type]
    given = sys.argv[1:] if argv is None else argv
    if given and not given[0].startswith("-"):
        given = ["--checkpoint", *given]

    def work(console: Console) -> None:
        options, rest = parser.parse_args_into_dataclasses(given, return_remaining_strings=True)
        with tempfile.TemporaryDirectory() as scratch:
            compress(options, rest, console, scratch)

    return run_command(work, resumes=None)


if __name__ == "__main__":
    sys.exit(main())
