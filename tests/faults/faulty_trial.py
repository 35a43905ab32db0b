"""All that a run carries over from batch to batch; each kind of state shows in a metric."""

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from trialrun import DataLoader, MetricReducer, Trial


class Waves(Trial):
    """Dropout, BatchNorm, loader workers that draw, a reducer, and windows of two batches."""

    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(
            nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
            )
        )
        self.optimizer = context.wrap_optimizer(torch.optim.Adam(self.model.parameters(), lr=0.01))
        self.spread = context.wrap_reducer(Spread(), name="spread")

    def build_training_data_loader(self):
        return DataLoader(Records(37), batch_size=2, shuffle=True, num_workers=1)

    def build_validation_data_loader(self):
        return DataLoader(Records(11), batch_size=2, num_workers=1)

    def train_batch(self, batch, epoch_idx, batch_idx):
        # So long that a fault finds it at any instruction of a batch, and not always between runs.
        time.sleep(self.context.get_hparam("pause_seconds"))
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.model(inputs + 0.1 * torch.randn(4)), targets)
        self.spread.update(loss.item())
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.model(inputs), targets)
        self.spread.update(loss.item())
        return {"loss": loss}


class Records(Dataset):
    """No two records are equal; each is disturbed where it is loaded."""

    def __init__(self, count):
        self.inputs = torch.arange(4.0 * count).reshape(count, 4) / count

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        inputs = self.inputs[index] + 0.1 * np.random.rand()
        return inputs, inputs.sin().sum(dim=0, keepdim=True)


class Spread(MetricReducer):
    """The largest loss less the smallest, over all slots and batches of a period."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.losses = []

    def update(self, loss):
        self.losses.append(loss)

    def per_slot_reduce(self):
        return self.losses

    def cross_slot_reduce(self, per_slot_metrics):
        losses = sum(per_slot_metrics, [])
        return max(losses) - min(losses)
