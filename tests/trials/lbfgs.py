"""LBFGS with a line search, dropout within the closure, beside an optimizer without a closure."""

import torch
from torch import nn
from trials.linear import Linear


class Lbfgs(Linear):
    def make_model(self):
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 1)).double()

    def make_optimizer(self):
        return torch.optim.LBFGS(
            self.model.parameters(), lr=0.5, max_iter=3, line_search_fn="strong_wolfe"
        )

    def set_up(self):
        self.scale = self.context.wrap_model(nn.Linear(1, 1).double())
        self.other = self.context.wrap_optimizer(torch.optim.SGD(self.scale.parameters(), lr=0.1))

    def train_batch(self, batch, epoch_idx, batch_idx):
        evaluations = 0

        def closure():
            nonlocal evaluations
            evaluations += 1
            loss = self.loss(batch)
            self.context.backward(loss)
            return loss

        mean = self.context.step_optimizer(self.optimizer, closure=closure)
        draw = torch.rand(())
        self.context.backward(self.scale(mean.detach().view(1) + draw).square().sum())
        self.context.step_optimizer(self.other)
        return {"mean": mean, "own": self.loss(batch), "evaluations": evaluations, "draw": draw}
