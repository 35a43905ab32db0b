"""A trial whose parts the hyperparameter ``variant`` changes, so that checkpoints do not fit."""

import torch
from torch import nn
from trials.linear import Linear

from trialrun import MetricReducer, StepMode


class Variants(Linear):
    def make_model(self):
        self.variant = self.context.get_hparams().get("variant", "original")
        width = 5 if self.variant == "wider" else 4
        dtype = torch.float32 if self.variant == "single" else torch.float64
        layers = {"first": nn.Linear(3, width, dtype=dtype), "last": nn.Linear(width, 1).to(dtype)}
        if self.variant == "renamed":
            layers["final"] = layers.pop("last")
        if self.variant == "many renamed":
            layers = {f"new_{name}": layer for name, layer in layers.items()}
        return nn.ModuleDict(layers)

    def make_optimizer(self):
        if self.variant == "adam":
            return torch.optim.Adam(self.model.parameters())
        parameters = list(self.model.parameters())
        groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
        return torch.optim.SGD(groups if self.variant == "groups" else parameters, lr=0.1)

    def set_up(self):
        if self.variant != "no scheduler":
            self.context.wrap_lr_scheduler(
                torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9),
                StepMode.STEP_EVERY_EPOCH,
            )
        self.context.wrap_reducer(Nothing(), "other" if self.variant == "reducer" else "nothing")
        if self.variant in ("two models", "two optimizers"):
            other = self.context.wrap_model(nn.Linear(1, 1))
            if self.variant == "two optimizers":
                self.context.wrap_optimizer(torch.optim.SGD(other.parameters(), lr=1.0))

    def loss(self, batch):
        inputs, targets = batch
        outputs = inputs.to(next(self.model.parameters()).dtype)
        for layer in self.model.values():
            outputs = layer(outputs)
        return nn.functional.mse_loss(outputs.double(), targets)


class Nothing(MetricReducer):
    def reset(self):
        pass

    def per_slot_reduce(self):
        return None

    def cross_slot_reduce(self, per_slot_metrics):
        return 0.0
