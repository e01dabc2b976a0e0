"""Evaluation: fine-tuning tasks, probes, few-shot use and metrics."""

from .. import models  # noqa: F401  (silences bitsandbytes before anything imports it)
