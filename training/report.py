"""What a run shows: a line per log, the final table, the plot of its losses and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

BIDIRECTIONAL = "bidirectional causal_lm"
"""Instead of the architecture, for a causal model that was made bidirectional."""
PIPELINES = {"masked_lm": "fill-mask", "causal_lm": "text-generation"}
LOADERS = {"masked_lm": "AutoModelForMaskedLM", "causal_lm": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}
LOADERS |= {BIDIRECTIONAL: "AutoModelForCausalLM"}
"""Pipeline tag and class of plain checkpoints by the objective's architecture."""


class ProgressReport(ProgressCallback):
    """Trainer's progress bar, with one readable line for each log instead of a dictionary."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write the line, above the bar."""
        line = log_line(logs or {}, state.global_step, state.max_steps)
        if line and self.training_bar is not None:  # the bar is there on the first process only
            self.training_bar.write(line)


class PlainReport(TrainerCallback):
    """The lines without a bar, for logs in files."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print the line."""
        line = log_line(logs or {}, state.global_step, state.max_steps)
        if line and state.is_world_process_zero:
            print(line, flush=True)


def report_by_lines(trainer: Trainer) -> None:
    """Replace the callbacks that print dictionaries."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(PlainReport() if trainer.args.disable_tqdm else ProgressReport())


def log_line(logs: Mapping[str, float], step: int, max_steps: int) -> str:
    """One line for the figures of a log; empty for the summary at the end of training.

    >>> log_line({"loss": 5.25, "accuracy": 0.125, "tokens_per_second": 41000.0, "learning_rate": 1e-3}, 50, 400)
    'step  50/400  loss 5.250  accuracy 12.5 %  41,000 tokens/s'
    """
    if "train_runtime" in logs:
        return ""
    held_out = any(name.startswith("eval_") for name in logs)
    parts = [f"step {step:{len(str(max_steps))}d}/{max_steps}"] + ["held out:"] * held_out
    for name, value in logs.items():
        name = name.removeprefix("eval_")
        if name == "tokens_per_second":
            parts.append(f"{value:,.0f} tokens/s")
        elif name == "mfu":
            parts.append(f"{value:.0%} MFU")
        elif name not in ("learning_rate", "epoch", "runtime", "grad_norm"):
            parts.append(f"{name.replace('_', ' ')} {figure(name, value)}")
    return "  ".join(parts)


def figure(name: str, value: float) -> str:
    """A metric as text: per cent for accuracies, few digits for perplexities."""
    if name.endswith("accuracy"):
        return f"{100 * value:.1f} %"
    return f"{value:,.1f}" if name.endswith("perplexity") else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(187.6)
    '3 min 8 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours} h " if hours else "") + (f"{minutes} min " if minutes or hours else "") + f"{rest} s"


def result_rows(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, this model, token frequencies alone) for the table and the model card."""
    baseline = results.get("baseline") or {}
    rows = []
    for name, value in results["held_out"].items():
        if name == "runtime":
            continue
        beside = figure(name, baseline[name]) if name in baseline else ""
        if name == "accuracy" and beside:
            beside += f" (always “{baseline['word']}”)"
        rows.append((f"held-out {name.replace('_', ' ')}", figure(name, value), beside))
    return rows


def results_table(results: Mapping[str, Any]) -> Table:
    """The table that a run ends with."""
    table = Table(title=f"{results['model']}, {results['objective']}", title_justify="left")
    for heading, justify in (("", "left"), ("this model", "right"), ("token frequencies alone", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for what, ours, theirs in result_rows(results):
        table.add_row(what, Text(ours, "bold green"), theirs)
    table.add_section()
    table.add_row("parameters", f"{results['parameters'] / 1e6:.2f} M")
    table.add_row("steps × rows × tokens", f"{results['steps']:,} × {results['batch']} × {results['length']}")
    if results["tokens_per_second"]:  # a run shorter than --logging_steps has none
        table.add_row("tokens per second", f"{results['tokens_per_second']:,.0f}")
    if results.get("checkpoint_bytes"):
        size, seconds = results["checkpoint_bytes"] / 1e6, results["seconds_per_save"]
        table.add_row("checkpoint on disk", f"{size:,.1f} MB, {seconds:.2f} s to save")
    table.add_row("time to train", duration(results["train_seconds"]))
    table.add_row("time in all", duration(results["seconds"]))
    return table


def plot_losses(history: Iterable[Mapping[str, float]], path: Path, baseline: float | None = None) -> None:
    """Write a PNG of training and held-out loss over steps from Trainer's `log_history`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second to import
    from matplotlib.figure import Figure

    history = list(history)
    canvas = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    for name, label, style in (("loss", "training", "-"), ("eval_loss", "held out", "o-")):
        points = [(log["step"], log[name]) for log in history if name in log]
        if points:
            axes.plot(*zip(*points), style, label=label, markersize=4)
    if baseline is not None:
        axes.axhline(baseline, color="gray", linestyle="--", label="token frequencies alone")
    axes.set(xlabel="step", ylabel="loss (nats per predicted token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    canvas.savefig(path, dpi=150)


def model_card(results: Mapping[str, Any], architecture: str, language: str, samples: Iterable[Text] = ()) -> str:
    """README.md of a checkpoint: front matter of the Hub, settings, corpus, figures, how to load it."""
    front: dict[str, Any] = {"language": language.split(",") if "," in language else language}
    front["library_name"] = "transformers"
    if architecture in PIPELINES:
        front["pipeline_tag"] = PIPELINES[architecture]
    front["tags"] = ["pretrain-zoo", results["objective"]]
    loader = LOADERS.get(architecture, "AutoModel")
    rows = "\n".join(f"| {what} | {ours} | {theirs} |" for what, ours, theirs in result_rows(results))
    given = {name: value for name, value in results["settings"].items() if value is not None}
    settings = yaml.safe_dump(given, allow_unicode=True).strip()
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    shown = "".join(f"    {line}\n" for sample in samples for line in sample.plain.splitlines())
    corpus = results["corpus"]
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# {results["model"]}, pretrained with {results["objective"]}

{results["parameters"] / 1e6:.2f} M parameters, trained for {results["steps"]:,} steps of {results["batch"]} × \
{results["length"]} tokens in {duration(results["train_seconds"])} on {results["device"]}.

| | this model | token frequencies alone |
|---|---|---|
{rows}

![losses](loss.png)

## How to load it

```python
from transformers import {loader}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this folder")
model = {loader}.from_pretrained("this folder")
```
{f"{chr(10)}## What it says of held-out text{chr(10) * 2}{shown}" if shown else ""}
## Data

{corpus["name"]}: {corpus["documents"]:,} documents, {corpus["tokens"]:,} tokens to train on, \
{corpus["held_out_documents"]:,} documents held out; fingerprint `{corpus["fingerprint"]}`.

## Settings

```yaml
{settings}
```

Versions: {versions}.
"""
