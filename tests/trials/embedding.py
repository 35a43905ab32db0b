"""Two embedding tables with sparse gradients beside a dense layer, and noise on every step.

The words of a record decide which rows its slot uses; one table is used by some batches alone.
"""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, Trial

NUM_WORDS = 11


class Embedding(Trial):
    def __init__(self, context):
        self.context = context
        self.words = context.wrap_model(nn.Embedding(NUM_WORDS, 3, sparse=True))
        self.bags = context.wrap_model(nn.EmbeddingBag(NUM_WORDS, 3, mode="sum", sparse=True))
        self.last = context.wrap_model(nn.Linear(3, 1))
        tables = [*self.words.parameters(), *self.bags.parameters()]
        self.sparse_optimizer = context.wrap_optimizer(torch.optim.SparseAdam(tables, lr=0.05))
        self.optimizer = context.wrap_optimizer(
            torch.optim.SGD(self.last.parameters(), lr=0.1, momentum=0.9)
        )

    def build_training_data_loader(self):
        return DataLoader(sentences(23), batch_size=2, shuffle=True)

    def build_validation_data_loader(self):
        return DataLoader(sentences(9), batch_size=4)

    def loss(self, words, targets, uses_bags):
        found = self.words(words).mean(1)
        if uses_bags:
            found = found + self.bags(words)
        return nn.functional.mse_loss(self.last(found), targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        words, targets = batch
        # On some slots alone, and in every third batch on none.
        uses_bags = batch_idx % 3 > 0 and bool(words[0, 0] % 2)
        loss = self.loss(words, targets, uses_bags)
        self.context.backward(loss)
        self.context.step_optimizer(self.sparse_optimizer)
        self.context.step_optimizer(self.optimizer, clip_grads=add_noise)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": self.loss(*batch, uses_bags=True)}


def add_noise(parameters):
    for parameter in parameters:
        parameter.grad += 0.01 * torch.randn_like(parameter.grad)


def sentences(count):
    """Returns ``count`` sentences of 4 words, some twice in one, and a target for each."""
    places = torch.arange(count * 4).view(count, 4)
    words = (places * places + places // 3) % NUM_WORDS
    return TensorDataset(words, torch.sin(places[:, :1] * 1.3))
