"""A linear model, plain SGD, and methods that a trial overrides to change one thing.

Hyperparameters: ``num_records``, ``batch_size``, ``num_workers``, each with a default.
"""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, Trial


class Linear(Trial):
    def __init__(self, context):
        self.context = context
        self.hparams = {"num_records": 12, "batch_size": 2, "num_workers": 0}
        self.hparams |= context.get_hparams()
        self.model = context.wrap_model(self.make_model())
        self.optimizer = context.wrap_optimizer(self.make_optimizer())
        self.set_up()

    def make_model(self):
        return nn.Linear(3, 1, dtype=torch.float64)

    def make_optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.1)

    def set_up(self):
        """Wraps whatever else there is."""

    def build_training_data_loader(self):
        return DataLoader(
            records(self.hparams["num_records"]),
            batch_size=self.hparams["batch_size"],
            shuffle=True,
            num_workers=self.hparams["num_workers"],
        )

    def build_validation_data_loader(self):
        return DataLoader(records(7), batch_size=2, num_workers=self.hparams["num_workers"])

    def loss(self, batch):
        inputs, targets = batch
        return nn.functional.mse_loss(self.model(inputs), targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": self.loss(batch)}


def records(count):
    """Returns ``count`` inputs (3,) and targets (1,), no two alike."""
    values = torch.sin(torch.arange(count * 4, dtype=torch.float64) * 2.3).view(count, 4)
    return TensorDataset(values[:, :3], values[:, 3:])
