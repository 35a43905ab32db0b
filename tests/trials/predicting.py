"""A classifier with BatchNorm and dropout that also predicts, and has test data.

What ``predict_batch`` returns is chosen by the hyperparameter ``predicts``.
"""

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, MetricReducer, Trial


class Predicting(Trial):
    def __init__(self, context):
        self.context = context
        self.model = context.wrap_model(
            nn.Sequential(
                nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)
            )
        )
        self.optimizer = context.wrap_optimizer(torch.optim.Adam(self.model.parameters(), lr=0.01))
        self.largest = context.wrap_reducer(Largest(), "largest", for_training=False)

    def build_training_data_loader(self):
        self.offset = 0.25  # which the validation data needs
        return DataLoader(records(20), batch_size=3, shuffle=True)

    def build_validation_data_loader(self):
        inputs, targets = records(11).tensors
        return DataLoader(TensorDataset(inputs + self.offset, targets), batch_size=4)

    def build_test_data_loader(self):
        return DataLoader(records(7, shift=1.0), batch_size=3)

    def train_batch(self, batch, epoch_idx, batch_idx):
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.model(inputs), targets)
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        inputs, targets = batch
        scores = self.model(inputs)
        self.largest.update(scores)
        return {
            "loss": nn.functional.cross_entropy(scores, targets),
            "noise": torch.rand(()) + np.random.rand(),
        }

    def predict_batch(self, batch, batch_idx):
        inputs, _ = batch
        scores = self.model(inputs)
        self.largest.update(scores)  # allowed, though nobody reports it
        assert self.context.current_train_batch() in (4, 8)
        return PREDICTIONS[self.context.get_hparams().get("predicts", "scores")](scores, batch_idx)


class Largest(MetricReducer):
    def reset(self):
        self.value = -1e9

    def update(self, scores):
        self.value = max(self.value, scores.max().item())

    def per_slot_reduce(self):
        return self.value

    def cross_slot_reduce(self, per_slot_metrics):
        return max(per_slot_metrics)


PREDICTIONS = {
    "scores": lambda scores, _: scores,
    "columns": lambda scores, _: {
        "label": scores.argmax(1).numpy(),
        "pairs": scores.double().view(-1, 2, 2),
        "sure": scores.max(1).values > 1,
        "half": scores.half(),
        "brain": scores.bfloat16()[:, 0],
    },
    "other names": lambda scores, i: {"a": scores} if i < 2 else {"b": scores},
    "other shape": lambda scores, i: {"a": scores[:, : 4 - i]},
    "other type": lambda scores, i: scores if i == 0 else scores.double(),
    "too few": lambda scores, i: scores[: len(scores) - (i == 1)],
    "one number": lambda scores, _: scores.mean(),
    "text": lambda scores, _: {"text": ["no tensor"] * len(scores)},
    "texts": lambda scores, _: np.array(["no number"] * len(scores)),
    "sparse": lambda scores, _: scores.to_sparse(),
    "record": lambda scores, _: {"record": scores},
    "nothing": lambda scores, _: {},
    "complex": lambda scores, _: {"wave": torch.complex(scores, scores)},
    "long complex": lambda scores, _: {"wave": torch.complex(scores, scores).to(torch.complex128)},
    "no elements": lambda scores, _: {"empty": scores[:, :0]},
    "error": lambda scores, _: scores.no_such_attribute,
}


def records(count, shift=0.0):
    """Returns ``count`` inputs (3,) and one of 4 classes, no two inputs alike."""
    inputs = torch.sin(torch.arange(count * 3, dtype=torch.float32) * 2.3 + shift).view(count, 3)
    return TensorDataset(inputs, torch.arange(count) * 7 % 4)
