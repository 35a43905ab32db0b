"""Handwritten digits: scikit-learn's 1,797 real images of 8 x 8 pixels, and a small network."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, MetricReducer, StepMode, Trial, TrialContext

NUM_CLASSES = 10
SPLIT_SEED = 20
VALIDATION_SHARE = 0.2


class DigitsTrial(Trial):
    """A convolutional network with dropout and BatchNorm, trained by SGD with momentum."""

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self.model = context.wrap_model(build_model(context.get_hparam("dropout")))
        self.optimizer = context.wrap_optimizer(
            torch.optim.SGD(
                self.model.parameters(),
                lr=context.get_hparam("lr"),
                momentum=0.9,
                weight_decay=5e-4,
            )
        )
        context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=8, gamma=0.3),
            StepMode.STEP_EVERY_EPOCH,
        )
        self.confusion = context.wrap_reducer(ConfusionMatrix(), for_training=False)
        self.training_data, self.validation_data = load_data()

    def build_training_data_loader(self) -> DataLoader:
        batch_size = self.context.get_per_slot_batch_size()
        return DataLoader(self.training_data, batch_size=batch_size, shuffle=True)

    def build_validation_data_loader(self) -> DataLoader:
        return DataLoader(self.validation_data, batch_size=90)

    def train_batch(self, batch, epoch_idx, batch_idx):
        images, labels = batch
        logits = self.model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        self.context.backward(loss)
        self.context.step_optimizer(
            self.optimizer,
            clip_grads=lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0),
        )
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    def evaluate_batch(self, batch, batch_idx):
        images, labels = batch
        logits = self.model(images)
        predicted = logits.argmax(dim=1)
        self.confusion.update(predicted, labels)
        return {
            "loss": nn.functional.cross_entropy(logits, labels),
            "accuracy": (predicted == labels).float().mean(),
        }

    def predict_batch(self, batch, batch_idx):
        images, _ = batch
        return self.model(images).softmax(dim=1)


class ConfusionMatrix(MetricReducer):
    """Counts (true class, predicted class) pairs over all slots; reports each class's accuracy."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.counts = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)

    def update(self, predicted, labels):
        np.add.at(self.counts, (labels.cpu().numpy(), predicted.cpu().numpy()), 1)

    def per_slot_reduce(self):
        return self.counts

    def cross_slot_reduce(self, per_slot_metrics):
        counts = sum(per_slot_metrics)
        shares = counts.diagonal() / counts.sum(axis=1).clip(min=1)
        return {f"accuracy_of_{digit}": share for digit, share in enumerate(shares)}


def build_model(dropout: float) -> nn.Module:
    """Two convolutions and a linear layer: images (B, 1, 8, 8) to logits (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32 * 4 * 4, NUM_CLASSES),
    )


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Returns training and validation data, split by a fixed seed whatever the trial's seed is."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_validation = round(len(images) * VALIDATION_SHARE)
    validation, training = order[:num_validation], order[num_validation:]
    return (
        TensorDataset(images[training], labels[training]),
        TensorDataset(images[validation], labels[validation]),
    )
