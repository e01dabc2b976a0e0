"""Command-line scripts; each runs as `python -m pretrain_zoo.scripts.NAME` or with `accelerate launch`."""

from .. import models  # noqa: F401  (silences bitsandbytes before anything imports it)
