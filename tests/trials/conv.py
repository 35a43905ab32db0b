"""Convolution, BatchNorm and dropout, AdamW, clipping: 23 records that differ from one another."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, StepMode, Trial


class Conv(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(
            nn.Sequential(
                nn.Conv2d(1, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Flatten(),
                nn.Linear(16, 3),
            )
        )
        self.optimizer = context.wrap_optimizer(torch.optim.AdamW(self.model.parameters(), lr=0.02))
        context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=1, gamma=0.7),
            StepMode.STEP_EVERY_EPOCH,
        )

    def build_training_data_loader(self):
        return DataLoader(records(23), batch_size=3, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(records(11), batch_size=2)

    def train_batch(self, batch, epoch_idx, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.context.backward(loss)
        self.context.step_optimizer(
            self.optimizer, clip_grads=lambda ps: nn.utils.clip_grad_norm_(ps, 0.5)
        )
        return {"loss": loss, "batch": batch_idx, "epoch": epoch_idx}

    def evaluate_batch(self, batch, batch_idx):
        images, labels = batch
        return {"loss": nn.functional.cross_entropy(self.model(images), labels)}


def records(count):
    """Returns ``count`` images (1, 4, 4) and labels."""
    images = torch.sin(torch.arange(count * 16, dtype=torch.float32) * 1.7).view(count, 1, 4, 4)
    return TensorDataset(images, torch.arange(count) % 3)
