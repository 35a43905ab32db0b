"""A linear model whose slot 1 steps otherwise than slot 0, as the hyperparameter ``way`` says."""

import torch
from torch import nn
from trials.linear import Linear

from trialrun import StepMode


class Uneven(Linear):
    def make_model(self):
        self.way = self.context.get_hparam("way")
        layers = [nn.Linear(3, 1)]
        if self.context.get_hparam("has_buffers"):
            layers.insert(0, nn.BatchNorm1d(3))
        return nn.Sequential(*layers).double()

    def set_up(self):
        self.last = self.context.wrap_optimizer(
            torch.optim.Adam(self.model[-1:].parameters()), allow_shared_parameters=True
        )
        self.scheduler = self.context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.StepLR(self.optimizer, 2), StepMode.MANUAL_STEP
        )

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.backward(loss)
        for optimizer in self.steps(batch_idx):
            self.context.step_optimizer(optimizer, auto_zero_grads=False)
        self.optimizer.zero_grad()
        if self.way == "schedules" and (self.context.slot == 0 or batch_idx != 3):
            self.scheduler.step()
        return {"loss": loss}

    def steps(self, batch_idx):
        steps = [self.optimizer, self.last]
        if self.context.slot == 0 or (self.way != "never" and batch_idx != 3):
            return steps
        ways = {
            "schedules": steps,
            "skips": steps[:1],
            "never": [],
            "once more": [*steps, self.last],
        }
        return {**ways, "swaps": steps[::-1]}[self.way]
