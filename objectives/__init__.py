"""Pretraining objectives: noise functions over ragged NumPy batches, plans of examples, collators and losses."""
