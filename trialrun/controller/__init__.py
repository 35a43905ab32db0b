"""Runs trials: configuration, launch, the training engine, checkpoints and bookkeeping."""
