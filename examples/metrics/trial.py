"""Breast cancer, scikit-learn's 569 real cases: metrics that no mean over batches could give."""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score, BinaryPrecision, BinaryRecall

from trialrun import DataLoader, MetricReducer, Trial, TrialContext

SPLIT_SEED = 30
VALIDATION_SHARE = 0.3


class BreastCancerTrial(Trial):
    """A small network that tells malignant from benign tumours by 30 measurements."""

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self.training_data, self.validation_data = load_data()
        self.model = context.wrap_model(
            nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        )
        self.optimizer = context.wrap_optimizer(
            torch.optim.SGD(
                self.model.parameters(),
                lr=context.get_hparam("lr"),
                momentum=0.9,
                weight_decay=1e-3,
            )
        )
        # A metric of torchmetrics is updated and computed as ever; trialrun merges the slots.
        self.scores = context.wrap_reducer(
            MetricCollection(
                {"precision": BinaryPrecision(), "recall": BinaryRecall(), "f1": BinaryF1Score()}
            )
        )
        # A reducer of one's own, for validation alone.
        self.auc = context.wrap_reducer(RocAuc(), name="auc", for_training=False)
        # A function of all values, in the order of batches and slots.
        self.hardest = context.wrap_reducer(max, name="hardest_case", for_training=False)

    def build_training_data_loader(self) -> DataLoader:
        batch_size = self.context.get_per_slot_batch_size()
        return DataLoader(self.training_data, batch_size=batch_size, shuffle=True)

    def build_validation_data_loader(self) -> DataLoader:
        return DataLoader(self.validation_data, batch_size=32)

    def train_batch(self, batch, epoch_idx, batch_idx):
        measurements, is_malignant = batch
        logits = self.model(measurements).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, is_malignant.float())
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        self.scores.update(logits.detach().sigmoid(), is_malignant)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        measurements, is_malignant = batch
        logits = self.model(measurements).squeeze(1)
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits, is_malignant.float(), reduction="none"
        )
        self.scores.update(logits.sigmoid(), is_malignant)
        self.auc.update(logits, is_malignant)
        self.hardest.update(losses.max())
        return {"loss": losses.mean()}


class RocAuc(MetricReducer):
    """The share of (malignant, benign) pairs that the scores put in the right order."""

    def reset(self):
        self.scores, self.labels = [], []

    def update(self, scores, labels):
        # They stay on their device until the report.
        self.scores.append(scores.detach())
        self.labels.append(labels)

    def per_slot_reduce(self):
        return self.scores, self.labels

    def cross_slot_reduce(self, per_slot_metrics):
        parts = zip(*per_slot_metrics, strict=True)
        scores, labels = (torch.cat(sum(lists, [])).numpy() for lists in parts)
        _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
        # Ranks from 1 on; equal scores share the mean of theirs.
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
        num_positive = np.count_nonzero(labels)
        num_pairs = num_positive * (len(labels) - num_positive)
        return (ranks[labels == 1].sum() - num_positive * (num_positive + 1) / 2) / num_pairs


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Returns training and validation data, split by a fixed seed whatever the trial's seed is."""
    cases = load_breast_cancer()
    measurements = torch.tensor(cases.data, dtype=torch.float32)
    is_malignant = torch.tensor(cases.target == 0, dtype=torch.int64)
    order = torch.randperm(len(measurements), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_validation = round(len(measurements) * VALIDATION_SHARE)
    validation, training = order[:num_validation], order[num_validation:]
    # Scaled by what the training data say, as for data that are not there yet.
    deviation, mean = torch.std_mean(measurements[training], dim=0)
    measurements = (measurements - mean) / deviation
    return (
        TensorDataset(measurements[training], is_malignant[training]),
        TensorDataset(measurements[validation], is_malignant[validation]),
    )
