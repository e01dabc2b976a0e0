"""Command-line scripts; each runs as `python -m pretrain_zoo.scripts.NAME` or with `accelerate launch`."""

import logging

# On import, bitsandbytes warns that an optional kernel for CPUs is not installed; nothing here needs it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
