"""Two optimizers and two steps in a batch, random draws between them, one graph across a step."""

import random

import numpy as np
import torch
from torch import nn

from trialrun import DataLoader, StepMode, Trial


class Gan(Trial):
    def __init__(self, context):
        self.context = context
        self.generator = context.wrap_model(
            nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
        )
        self.critic = context.wrap_model(
            nn.Sequential(nn.Linear(2, 6), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(6, 1))
        )
        adam = torch.optim.Adam
        self.critic_optimizer = context.wrap_optimizer(adam(self.critic.parameters(), lr=0.01))
        self.optimizer = context.wrap_optimizer(adam(self.generator.parameters(), lr=0.02))
        context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9),
            StepMode.STEP_EVERY_OPTIMIZER_STEP,
            frequency=2,
        )

    def build_training_data_loader(self):
        return DataLoader(Points(19), batch_size=2, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(Points(7), batch_size=3)

    def train_batch(self, batch, epoch_idx, batch_idx):
        fake = self.generator(torch.randn(len(batch), 3) + random.random())
        loss = (self.critic(fake.detach()) - self.critic(batch)).mean()
        self.context.backward(loss)
        self.context.step_optimizer(self.critic_optimizer)
        # Drawn while other slots have drawn in between; ``fake`` was made before the step, and
        # the gradients that this leaves in the critic stay for the next batch.
        weights = torch.rand(len(batch), 1) + float(np.random.rand())
        generator_loss = -(self.critic(fake) * weights).mean()
        self.context.backward(generator_loss)
        self.context.step_optimizer(self.optimizer)
        return {"critic": loss, "generator": generator_loss, "draw": np.random.rand()}

    def evaluate_batch(self, batch, batch_idx):
        fake = self.generator(torch.randn(len(batch), 3))
        return {"loss": (self.critic(fake) - self.critic(batch)).mean()}


class Points:
    """Points on a curve; each load adds noise."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = 0.1 * torch.randn(2) + 0.1 * np.random.rand() + 0.1 * random.random()
        return torch.tensor([np.sin(index), np.cos(3 * index)], dtype=torch.float32) + noise
