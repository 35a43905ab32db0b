"""Callbacks after each step: averages of weights and statistics, constraints, draws, exchanges.

Two optimizers that step in every batch, the second one twice; each slot has statistics of its own.
"""

import random

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from trials.linear import Linear

from trialrun import Callback, StepMode


class Averaging(Linear):
    def make_model(self):
        return nn.Sequential(
            nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)
        ).double()

    def set_up(self):
        self.averaged = self.context.wrap_model(
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        )
        self.head = self.context.wrap_model(nn.Linear(1, 1).double())
        self.second = self.context.wrap_optimizer(torch.optim.Adam(self.head.parameters(), lr=0.05))
        self.scheduler = self.context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.ExponentialLR(self.second, 0.9), StepMode.MANUAL_STEP
        )

    def build_callbacks(self):
        return {
            "average": Average(self),
            "follower": Follower(self),
            "constraint": Constraint(self),
        }

    def loss(self, batch):
        inputs, targets = batch
        model = self.model if self.model.training else self.averaged
        return nn.functional.mse_loss(self.head(model(inputs)), targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        for optimizer in (self.second, self.optimizer, self.second):
            noise = 0.01 * (torch.rand(()) + random.random() + np.random.rand())
            loss = self.loss((batch[0] + noise, batch[1]))
            self.context.backward(loss)
            self.context.step_optimizer(optimizer)
        # Drawn after steps: the slots go on where they were.
        return {"loss": loss, "draws": torch.rand(()) + random.random() + np.random.rand()}


class Average(Callback):
    """Its state is in a wrapped model: weights, and statistics and a count, which are buffers."""

    def __init__(self, trial):
        self.trial = trial

    def on_optimizer_step_end(self, optimizer, step_idx):
        if optimizer is self.trial.optimizer:
            self.trial.averaged.update_parameters(self.trial.model)


class Follower(Callback):
    """Its state is its own: weights and statistics that follow slowly, with noise."""

    def __init__(self, trial):
        self.trial = trial
        self.weights = {k: v.clone() for k, v in trial.model.state_dict().items()}
        self.steps = []

    def on_optimizer_step_end(self, optimizer, step_idx):
        context = self.trial.context
        share = 0.1 + 0.01 * (torch.rand(()).item() + random.random() + np.random.rand())
        for name, value in self.trial.model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
        self.steps.append((context.optimizers.index(optimizer), step_idx))
        # One process speaks for all its slots, each of which brings the same.
        values = context.distributed.allgather(share)
        assert values == [share] * context.num_slots
        if optimizer is self.trial.second and step_idx % 3 == 2:
            self.trial.scheduler.step()

    def state_dict(self):
        return {"weights": self.weights, "steps": self.steps}

    def load_state_dict(self, state_dict):
        self.weights = state_dict["weights"]
        self.steps = state_dict["steps"]


class Constraint(Callback):
    def __init__(self, trial):
        self.trial = trial

    def on_optimizer_step_end(self, optimizer, step_idx):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert parameter.grad is not None
                parameter.clamp_(-0.4, 0.4)
