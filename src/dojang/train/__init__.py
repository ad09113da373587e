"""Data sets, the training loop, the record of a run."""
