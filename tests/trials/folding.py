"""Reducers whose results depend on the order of values, and on what is drawn at random."""

import numpy as np
import torch
from trials.linear import Linear

from trialrun import MetricReducer


def folded(values):
    # Not commutative, so that any other order is another result.
    result = 0.0
    for value in values:
        result = 0.5 * result + float(value)
    return result


class Bootstrapped(MetricReducer):
    def reset(self):
        self.values = []

    def update(self, value):
        self.values.append(value.detach())

    def per_slot_reduce(self):
        noise = torch.rand(())
        return torch.stack(self.values) + noise if self.values else torch.zeros(0)

    def cross_slot_reduce(self, per_slot_metrics):
        values = torch.cat(per_slot_metrics)
        return values[np.random.randint(len(values), size=20)].mean()


class Reducing(Linear):
    def set_up(self):
        wrap = self.context.wrap_reducer
        self.folded = wrap(folded, "folded")
        self.count = wrap(lambda values: {"updates": len(values)}, for_validation=False)
        self.bootstrapped = wrap(Bootstrapped(), "bootstrapped")

    def train_batch(self, batch, epoch_idx, batch_idx):
        metrics = super().train_batch(batch, epoch_idx, batch_idx)
        for value in batch[1].flatten()[: 1 + (batch_idx + self.context.slot) % 2]:
            self.folded.update(value)
            self.count.update(value)
            self.bootstrapped.update(value)
        return metrics

    def evaluate_batch(self, batch, batch_idx):
        self.folded.update(batch[1].mean())
        self.bootstrapped.update(batch[1].sum())
        return {}
