"""The place of ``determined.tensorboard``: ``metric_writers.pytorch.TorchWriter`` is in it."""
