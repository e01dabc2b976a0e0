"""Command-line scripts; each runs as `python -m pretrain_zoo.scripts.NAME` or with `accelerate launch`."""
