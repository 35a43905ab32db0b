"""The place of ``determined.tensorboard.metric_writers``."""
