"""A module with a buffer that its own state leaves out, and another that it makes as it runs."""

import torch
from torch import nn
from trials.linear import Linear


class Counting(Linear):
    def make_model(self):
        return CountingLayer()


class CountingLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1, dtype=torch.float64)
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("cache", None, persistent=False)

    def forward(self, inputs):
        if self.cache is None:
            self.cache = torch.ones(1, dtype=torch.float64)
        if self.training:
            self.seen += len(inputs)
        return self.linear(inputs) + self.seen.sin() * self.cache
