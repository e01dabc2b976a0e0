"""Pretrain a model with any registered objective.

    python -m pretrain_zoo.scripts.pretrain
    python -m pretrain_zoo.scripts.pretrain --objective whole_word_mlm --mlm_probability 0.2 --corpus texts/
    accelerate launch scripts/pretrain.py --config roberta-base --corpus my-corpus.jsonl

The first command trains a tiny BERT on the embedded corpus. `--help` lists all arguments, `--objective NAME --help`
those of the objective too; `--config` reads them from a recipe. The same command again resumes a run that was cut
off. Bad input ends with one line and exit code 2; PRETRAIN_ZOO_TRACEBACK=1 shows where it came from.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console

from pretrain_zoo.models.bidirectional import is_lifted
from pretrain_zoo.models.build_model import check_backbone
from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.pretraining_adapters import FOLDER, merge_adapters, put_adapters, trained_backbone
from pretrain_zoo.models.settings import check_checkpoint
from pretrain_zoo.objectives import Vocabulary
from pretrain_zoo.training.arguments import RunArguments, parse_arguments
from pretrain_zoo.training.baselines import component_baselines, pair_label_loss, unigram_baseline
from pretrain_zoo.training.command_line import check_processes, run_command
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset
from pretrain_zoo.training.examples import examples
from pretrain_zoo.training.languages import codes_of, number_languages
from pretrain_zoo.training.learning_rates import learning_rates
from pretrain_zoo.training.mixed_evaluation import MixedEvaluationDataset
from pretrain_zoo.training.prepare import (
    Data,
    all_texts,
    check_known,
    check_model_name,
    corpus_summary,
    get_all_data,
    get_datasets,
    get_phased_datasets,
    get_tokenizer,
)
from pretrain_zoo.training.report import BIDIRECTIONAL, LOADERS, model_card, plot_losses, report_by_lines, results_table
from pretrain_zoo.training.run_folder import RESULTS, claim_folder, find_run, read_json, run_identity, write_json
from pretrain_zoo.training.trainer import BadLossError, PretrainingTrainer


def pretrain(run: RunArguments, console: Console) -> dict[str, Any]:
    """Train, evaluate and export as the arguments say; returns the content of results.json.

    Raises `ValueError` or `OSError` for whatever cannot work, as far as possible before training, and `BadLossError`.
    """
    started = time.perf_counter()
    args, objective, folder = run.training, run.objective, Path(str(run.training.output_dir))
    cache_dir = os.path.expanduser(run.corpus.cache_dir)
    check_processes(args)
    check_model_name(str(run.model.model_name_or_path))
    if teacher := getattr(objective, "teacher", None):
        check_checkpoint(teacher, "--teacher")
    if run.model.tokenizer_name:
        check_checkpoint(run.model.tokenizer_name, "--tokenizer_name")
    identity = run_identity(run)
    checkpoint = find_run(folder, identity, args.overwrite_output_dir)
    finished = read_json(folder / RESULTS)
    if finished is not None and not args.overwrite_output_dir:
        console.print(f"{folder} holds this run, finished; --overwrite_output_dir trains it anew")
        console.print(results_table(finished))
        return finished

    with args.main_process_first(local=False):
        codes = codes_of(run)
        tokenizer = get_tokenizer(run.model, all_texts(run), cache_dir, objective, codes)
        vocabulary = Vocabulary.from_tokenizer(tokenizer)
        objective.check(vocabulary)
        parts = backbone(
            str(run.model.model_name_or_path),
            tokenizer,
            max_length=run.model.max_seq_length,
            attn_implementation=run.model.attn_implementation,
            dtype=run.model.dtype,
            **run.model.overrides,
        )
        languages = number_languages(codes, parts, run.model.overrides)
        objective.check(vocabulary, parts.config)
        check_backbone(objective, parts)
        if run.model.peft:
            parts = trained_backbone(parts, run.model)
        corpora = get_all_data(run, tokenizer, cache_dir)
    for data in corpora.values():
        check_known(data.train, vocabulary)
    train_dataset: PretrainingDataset
    eval_dataset: EvaluationDataset
    if run.phases:
        train_dataset, eval_dataset = get_phased_datasets(run, corpora, vocabulary, languages)
    else:
        train_dataset, eval_dataset = get_datasets(run, objective, corpora[""], vocabulary, languages)
    corpus = corpus_summary(run, corpora)
    for text in dict.fromkeys(part.summary for part in corpora.values()):
        console.print(text, markup=False)
    transformers.set_seed(args.seed)
    model = objective.build(parts, vocabulary)
    if run.model.peft:
        console.print(put_adapters(model, run.model))
    parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"{run.model.model_name_or_path}, {parameters / 1e6:.2f} M parameters\n"
        f"{run.objective_name}: {objective.summary}\n"
        f"{corpus['name']}: {corpus['documents']:,} documents, {corpus['tokens']:,} tokens; "
        f"held out: {corpus['held_out_documents']:,} documents, {len(eval_dataset):,} examples\n"
        f"{args.max_steps:,} steps of "
        f"{train_dataset.global_batch} × {train_dataset.length} tokens on {args.world_size} × {args.device.type}"
    )
    if args.resume_from_checkpoint or checkpoint:
        console.print(f"[bold]resuming from {args.resume_from_checkpoint or checkpoint}[/bold]")

    trainer = PretrainingTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=DrawCollator(
            objective,
            vocabulary,
            pad_to_multiple_of=8 if args.bf16 or args.fp16 else None,
            fixed_length=train_dataset.length if args.torch_compile and not run.phases else None,
        ),
        learning_rates=learning_rates(run.phases, args),
        processing_class=tokenizer,
    )
    report_by_lines(trainer)
    if args.process_index == 0:
        claim_folder(folder, identity, args.overwrite_output_dir)
    output = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or checkpoint)
    history = trainer.state.log_history
    metrics = next((log for log in history if "eval_loss" in log and log["step"] == trainer.state.global_step), None)
    metrics = metrics or trainer.evaluate()
    if run.model.peft:
        merge_adapters(model, folder / FOLDER if args.process_index == 0 else None)
    trainer.save_model(str(folder))
    for name, part in objective.export(trainer.accelerator.unwrap_model(trainer.model)).items():
        if args.process_index == 0 and part is not model.main:
            part.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    results: dict[str, Any] = {
        "objective": run.objective_name,
        "architecture": BIDIRECTIONAL if is_lifted(model.config) else objective.architecture,
        "model": str(run.model.model_name_or_path),
        "held_out": {k[5:]: v for k, v in metrics.items() if k.startswith("eval_") and k != "eval_runtime"},
        "steps": trainer.state.global_step,
        "batch": train_dataset.global_batch,
        "length": train_dataset.length,
        "parameters": parameters,
        "train_seconds": output.metrics["train_runtime"],
        "tokens_per_second": statistics.median(
            [log["tokens_per_second"] for log in history if "tokens_per_second" in log] or [0.0]
        ),
        "checkpoint_bytes": trainer.checkpoint_bytes,
        "seconds_per_save": trainer.save_seconds / max(trainer.saves, 1),
        "device": f"{args.world_size} × {args.device.type}",
        "corpus": corpus,
        "settings": identity,
        "versions": {name: version(name) for name in ("pretrain-zoo", "torch", "transformers", "tokenizers")},
    }
    if args.process_index == 0:
        data = list(corpora.values())[-1]  # of several, what the run ends with
        report(results, run, data, eval_dataset, tokenizer, history, started, console)
    return results


def report(
    results: dict[str, Any],
    run: RunArguments,
    data: Data,
    eval_dataset: EvaluationDataset,
    tokenizer: Any,
    history: list[dict[str, float]],
    started: float,
    console: Console,
) -> None:
    """Complete the results, write plot, model card and results.json, and print what the run ends with."""
    folder = Path(str(run.training.output_dir))
    baseline = None if run.phases else unigram_baseline(data.train, eval_dataset)
    if baseline is None:
        results["held_out"].pop("perplexity", None)  # exp(loss) of a classification is no perplexity
    else:
        baseline["token_loss"] = baseline["loss"]
        baseline["word"] = tokenizer.decode([baseline.pop("token")]).strip()
        if run.objective.perplexity_term is None or any(name.endswith("_loss") for name in results["held_out"]):
            baseline.pop("loss")  # the sum of several terms does not compare with it
    if isinstance(eval_dataset, MixedEvaluationDataset):
        baseline = component_baselines(eval_dataset)
    results["baseline"] = baseline
    results["pair_label_loss"] = None if run.phases else pair_label_loss(eval_dataset)
    architecture = results["architecture"]
    samples, fills = [], architecture in ("masked_lm", BIDIRECTIONAL)
    if (fills or architecture == "causal_lm") and getattr(run.objective, "predicted", 1.0):  # its head was trained
        plain = getattr(transformers, LOADERS[architecture]).from_pretrained(folder)
        samples = examples(plain, tokenizer, data.held_out, fills, seed=run.training.seed)
    results["seconds"] = time.perf_counter() - started
    results["history"] = history
    plot_losses(history, folder / "loss.png", (baseline or {}).get("loss"))
    (folder / "README.md").write_text(model_card(results, architecture, run.corpus.language, samples))
    write_json(folder / RESULTS, results)
    if samples:
        console.print("\n[bold]held-out text[/bold]" + ", what stood there in brackets" * fills)
    for sample in samples:
        console.print(sample)
    console.print(results_table(results))
    console.print(f"checkpoint, model card and loss.png: {folder}")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    return run_command(lambda console: pretrain(parse_arguments(given), console), errors=(BadLossError,))


if __name__ == "__main__":
    sys.exit(main())
