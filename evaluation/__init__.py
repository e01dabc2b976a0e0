"""Evaluation: fine-tuning tasks, probes, few-shot use and metrics."""
