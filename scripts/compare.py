"""Train every objective on one corpus, and put the held-out losses into one table.

    python -m pretrain_zoo.scripts.compare --corpus reuters.txt
    python -m pretrain_zoo.scripts.compare --objectives mlm,rtd,mlm+nsp --corpus wikitext.txt --max_steps 400

Each objective trains a tiny model, for as many steps as it needs to leave token frequencies behind (`SETTINGS`). The
table holds, for each loss term, the loss before training, that of the trivial answer (token frequencies; the share of
each label), and the loss after training. Further arguments are those of `pretrain`, hold for all and win. Results,
plots and checkpoints are in a folder per objective under `--output_dir`; the same command again goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.table import Table

from pretrain_zoo.objectives import list_objectives
from pretrain_zoo.scripts.pretrain import pretrain
from pretrain_zoo.training.arguments import parse_arguments
from pretrain_zoo.training.objective_arguments import settings_of
from pretrain_zoo.training.run_folder import RESULTS

PAIR_TERMS = ("nsp", "sop")
"""Terms that answer yes or no for a pair; the others predict tokens, or (discriminator) replaced ones."""
COMBINED = ("mlm+nsp", "ngram_mlm+sop")
LEFT_OUT = ("distillation", "nsp", "sop", "tlm")  # need a teacher; trained within the combinations; needs translations
COMMON = {"max_steps": 600, "vocab_size": 4096, "max_eval_samples": 500}
MODERNBERT: dict[str, Any] = {"model_name_or_path": "modernbert-tiny"}
XLNET: dict[str, Any] = {"learning_rate": 2e-3, "config_overrides": "initializer_range=0.08,dropout=0"}
T5: dict[str, Any] = {"config_overrides": "dropout_rate=0"}
BART: dict[str, Any] = {"model_name_or_path": "bart-tiny", "config_overrides": "dropout=0"}
SETTINGS: dict[str, dict[str, Any]] = {
    "clm": {"max_steps": 400},
    "recurrent_clm": XLNET | {"max_steps": 600},
    "plm": XLNET | {"max_steps": 1000},
    "span_mlm": {"max_steps": 1500},
    "mpnet": {"max_steps": 1500, "config_overrides": "hidden_dropout_prob=0,attention_probs_dropout_prob=0"},
    "emd_mlm": {"max_steps": 400},
    "mlm+nsp": MODERNBERT | {"max_steps": 3000},
    "ngram_mlm+sop": MODERNBERT | {"max_steps": 800},
    "rtd": MODERNBERT | {"max_steps": 1500, "learning_rate": 1e-3},
    "replace_mlm": MODERNBERT | {"max_steps": 800, "learning_rate": 1e-3},
    "all_tokens_mlm": MODERNBERT | {"max_steps": 2000, "learning_rate": 1e-3},
    "diffusion": MODERNBERT | {"max_steps": 500, "config_overrides": "initializer_range=0.06"},
    "unilm": MODERNBERT
    | {
        "max_steps": 400,
        "config_overrides": '{"initializer_range": 0.06, "layer_types": ["full_attention", "full_attention"]}',
    },
    "fim": {"max_steps": 300},
    "prefix_lm": {"max_steps": 300},
    "denoising": BART | {"max_steps": 300},
    "gsg": BART | {"max_steps": 300},
    "mass": BART | {"max_steps": 500},
    "span_corruption": T5 | {"max_steps": 600},
    "seq2seq_prefix_lm": T5 | {"max_steps": 300},
    "ul2": T5 | {"max_steps": 400},
}
"""What an objective's run has beside `COMMON`, which it overrides."""
COLUMNS = ("objective", "model", "steps", "loss term", "untrained", "trivial", "trained")


def term_losses(metrics: dict[str, float], terms: list[str]) -> dict[str, float]:
    """Loss of each term from an evaluation's metrics (named without prefix)."""
    if len(terms) == 1 and f"{terms[0]}_loss" not in metrics:
        return {terms[0]: metrics["loss"]}
    return {term: metrics[f"{term}_loss"] for term in terms}


def entropy(share: float) -> float:
    """Nats per answer of yes with probability `share`, to questions of which that share is answered by yes."""
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


def trivial_loss(term: str, results: dict[str, Any], metrics: dict[str, float]) -> float | None:
    """What an answer that ignores the input costs, in nats; `None` where it is not known."""
    if term == "discriminator":
        return entropy(metrics["replaced_rate"])
    if term == "mlm" and results["objective"] == "all_tokens_mlm":  # copy as often as is right, else token frequencies
        return entropy(metrics["replaced_rate"]) + metrics["replaced_rate"] * results["baseline"]["token_loss"]
    if term in PAIR_TERMS:
        return results["pair_label_loss"]
    return (results["baseline"] or {}).get("token_loss")


def compare(names: list[str], shared: list[str], folder: Path, console: Console) -> list[dict[str, Any]]:
    """Train each objective and return a row per loss term. An objective that fails gives a row that says why."""
    rows: list[dict[str, Any]] = []
    for name in names:
        console.rule(name)
        target = folder / name.replace("+", "-")
        try:
            own = [f"--{key}={value}" for key, value in (COMMON | SETTINGS.get(name, {})).items()]
            run = parse_arguments(["--objective", name, "--output_dir", str(target), "--eval_on_start", *own, *shared])
            results = pretrain(run, console)
            history = json.loads((target / RESULTS).read_text())["history"]
        except (ValueError, OSError) as error:
            rows.append({"objective": name, "term": "", "error": str(error)})
            continue
        terms = list(run.objective.terms)
        before = {k.removeprefix("eval_"): v for k, v in next(log for log in history if "eval_loss" in log).items()}
        after = results["held_out"]
        for term in terms:
            rows.append(
                {
                    "objective": name,
                    "model": results["model"],
                    "steps": results["steps"],
                    "term": term,
                    "untrained": term_losses(before, terms)[term],
                    "trivial": trivial_loss(term, results, after),
                    "trained": term_losses(after, terms)[term],
                    "seconds": results["train_seconds"],
                }
            )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for a README."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| `{row['objective']}` | | | {row['error']} | | | |")
            continue
        trivial = "–" if row["trivial"] is None else f"{row['trivial']:.3f}"
        lines.append(
            f"| `{row['objective']}` | {row['model']} | {row['steps']:,} | {row['term']} | {row['untrained']:.3f} "
            f"| {trivial} | **{row['trained']:.3f}** |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [*(n for n in list_objectives() if n not in LEFT_OUT), *COMBINED]
    parser.add_argument("--objectives", default=",".join(default), help="names, separated by commas")
    parser.add_argument("--output_dir", default="runs/compare", help="folder of the runs and of compare.md")
    options, shared = parser.parse_known_args(argv)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    names = options.objectives.split(",")
    try:
        for name in names:
            settings_of(name)
    except ValueError as error:
        parser.error(str(error))
    console, folder = Console(highlight=False), Path(options.output_dir)
    rows = compare(names, shared, folder, console)
    table = Table(*COLUMNS)
    for line in markdown(rows).splitlines()[2:]:
        table.add_row(*(cell.strip(" `*") for cell in line.strip("|").split("|")))
    console.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.md").write_text(markdown(rows) + "\n")
    console.print(f"table and runs: {folder}")
    return 0 if not any("error" in row for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
