"""Metrics of torchmetrics: single ones, collections with and without groups, and wrappers."""

import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics import MaxMetric, MeanMetric, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryF1Score,
    BinaryPrecision,
)
from torchmetrics.wrappers import ClasswiseWrapper, MinMaxMetric

from trialrun import DataLoader, Trial


class Measuring(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(nn.Linear(3, 1))
        self.optimizer = context.wrap_optimizer(torch.optim.SGD(self.model.parameters(), lr=0.3))
        wrap = context.wrap_reducer
        # Curves keep every record; correlations keep moments that no sum merges.
        self.auroc = wrap(BinaryAUROC(), "auroc")
        self.correlation = wrap(PearsonCorrCoef(), "correlation")
        self.collection = wrap(
            MetricCollection([BinaryAccuracy(), BinaryF1Score(), BinaryPrecision()], prefix="all_")
        )
        self.grouped = wrap(
            MetricCollection(
                {"f1": BinaryF1Score(), "precision": BinaryPrecision(), "mean": MeanMetric()},
                compute_groups=[["f1", "precision"], ["mean"]],
            ),
            for_validation=False,
        )
        self.extremes = wrap(MinMaxMetric(BinaryAccuracy()), for_training=False)
        self.largest = wrap(MaxMetric(), "largest", for_training=False)
        self.by_class = wrap(ClasswiseWrapper(Shares(), labels=["no", "yes"]))

    def build_training_data_loader(self):
        return DataLoader(records(26), batch_size=2, shuffle=True)

    def build_validation_data_loader(self):
        # 3 batches: on 4 slots one slot has none.
        return DataLoader(records(11), batch_size=4)

    def train_batch(self, batch, epoch_idx, batch_idx):
        inputs, labels = batch
        scores = self.model(inputs).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels.float())
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        scores = scores.detach().sigmoid()
        for metric in (self.auroc, self.collection, self.by_class):
            metric.update(scores, labels)
        self.correlation.update(scores, labels.float())
        for name in ("f1", "precision"):
            self.grouped[name](scores, labels)  # forward updates as well
        self.grouped["mean"].update(scores)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        inputs, labels = batch
        scores = self.model(inputs).squeeze(1).sigmoid()
        for metric in (self.auroc, self.collection, self.extremes, self.by_class):
            metric.update(scores, labels)
        self.correlation.update(scores, labels.float())
        self.largest.update(scores)
        return {}


class Shares(BinaryAccuracy):
    """The share of each class that is found: two numbers, which a wrapper names."""

    def compute(self):
        return torch.stack(
            [self.tn / (self.tn + self.fp).clamp(min=1), self.tp / (self.tp + self.fn).clamp(min=1)]
        )


def records(count):
    """Returns ``count`` inputs (3,) and labels, about half of them 1."""
    values = torch.cos(torch.arange(count * 3, dtype=torch.float32) * 0.7).view(count, 3)
    return TensorDataset(values, (values.sum(dim=1) > 0.1).long())
