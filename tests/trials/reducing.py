"""Draws from every generator, a reducer in training and validation, and two schedulers."""

import random
from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, MetricReducer, Reducer, StepMode, Trial


class Reducing(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(nn.Linear(3, 2))
        self.optimizer = context.wrap_optimizer(
            torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        )
        schedulers = torch.optim.lr_scheduler
        context.wrap_lr_scheduler(
            schedulers.OneCycleLR(self.optimizer, max_lr=0.2, total_steps=40),
            StepMode.STEP_EVERY_OPTIMIZER_STEP,
        )
        self.other_model = context.wrap_model(nn.Linear(3, 2))
        self.other_optimizer = context.wrap_optimizer(
            torch.optim.RMSprop(self.other_model.parameters(), lr=0.01)
        )
        context.wrap_lr_scheduler(
            schedulers.MultiStepLR(self.other_optimizer, milestones=[2, 2, 5], gamma=0.5),
            StepMode.STEP_EVERY_BATCH,
        )
        self.seen = context.wrap_reducer(Seen(), name="seen")
        self.extremes = context.wrap_reducer(Extremes(), for_validation=False)

    def build_training_data_loader(self):
        return DataLoader(records(14), batch_size=2, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(records(9), batch_size=2, shuffle=True)

    def train_batch(self, batch, epoch_idx, batch_idx):
        inputs, targets = batch
        noise = torch.randn(inputs.shape) * np.random.rand() + random.random()
        outputs = self.model(inputs + noise) * self.other_model(inputs)
        loss = nn.functional.mse_loss(outputs, targets)
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        self.context.step_optimizer(self.other_optimizer)
        self.seen.update(inputs)
        self.extremes.update(loss.item())
        return {"loss": loss, "rate": self.optimizer.param_groups[0]["lr"]}

    def evaluate_batch(self, batch, batch_idx):
        inputs, targets = batch
        self.seen.update(inputs)
        outputs = self.model(inputs) * self.other_model(inputs)
        error = nn.functional.mse_loss(outputs, targets)
        return {"loss": error, "largest": error, "draw": torch.rand(())}

    def evaluation_reducer(self):
        return {"loss": Reducer.AVG, "largest": Reducer.MAX, "draw": Reducer.SUM}


class Seen(MetricReducer):
    """A weighted count of the records, in numpy data and under numpy keys."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.counts = Counter()
        self.total = np.float64(0.0)

    def update(self, inputs):
        for value in inputs[:, 0].numpy():
            self.counts[np.float32(value)] += 1
            self.total += 0.1 * value

    def per_slot_reduce(self):
        return self.total, self.counts

    def cross_slot_reduce(self, per_slot_metrics):
        return sum(total + len(counts) for total, counts in per_slot_metrics)


class Extremes(MetricReducer):
    """The first and the last loss of each slot's period."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.losses = []

    def update(self, loss):
        self.losses.append(loss)

    def per_slot_reduce(self):
        return self.losses

    def cross_slot_reduce(self, per_slot_metrics):
        return {
            f"{name}_of_{slot}": losses[position]
            for slot, losses in enumerate(per_slot_metrics)
            for name, position in (("first", 0), ("last", -1))
        }


def records(count):
    """Returns ``count`` inputs (3,) and targets (2,)."""
    values = torch.cos(torch.arange(count * 5, dtype=torch.float32) * 0.9).view(count, 5)
    return TensorDataset(values[:, :3], values[:, 3:])
