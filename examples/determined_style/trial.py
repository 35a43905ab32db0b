"""Wine, scikit-learn's 178 chemical analyses: a trial file of Determined's, one import changed."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import TensorDataset

# The one line that is not as it was: `from determined import pytorch`.
from trialrun.compat.determined import pytorch

NUM_KINDS = 3


class WineTrial(pytorch.PyTorchTrial):
    """A small network that tells three kinds of wine by 13 measurements."""

    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        self.context = context
        data_config = self.context.get_data_config()
        self.training_data, self.validation_data = load_data(
            data_config["validation_share"], data_config["split_seed"]
        )
        hidden_size = self.context.get_hparam("hidden_size")
        self.model = self.context.wrap_model(
            nn.Sequential(
                nn.Linear(13, hidden_size),
                nn.ReLU(),
                nn.Dropout(self.context.get_hparam("dropout")),
                nn.Linear(hidden_size, NUM_KINDS),
            )
        )
        self.optimizer = self.context.wrap_optimizer(
            torch.optim.SGD(self.model.parameters(), lr=self.context.get_hparam("lr"), momentum=0.9)
        )
        num_epochs = self.context.get_experiment_config()["searcher"]["max_length"]["epochs"]
        self.lr_scheduler = self.context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, num_epochs),
            step_mode=pytorch.LRScheduler.StepMode.STEP_EVERY_EPOCH,
        )
        # No name, because it returns a dictionary of metrics.
        self.recall = self.context.wrap_reducer(RecallOfEachKind(), for_training=False)

    def build_callbacks(self) -> dict[str, pytorch.PyTorchCallback]:
        return {"early_stopping": EarlyStopping(self.context)}

    def build_training_data_loader(self) -> pytorch.DataLoader:
        return pytorch.DataLoader(
            self.training_data, batch_size=self.context.get_per_slot_batch_size(), shuffle=True
        )

    def build_validation_data_loader(self) -> pytorch.DataLoader:
        return pytorch.DataLoader(
            self.validation_data, batch_size=self.context.get_per_slot_batch_size()
        )

    def train_batch(
        self, batch: pytorch.TorchData, epoch_idx: int, batch_idx: int
    ) -> dict[str, Any]:
        measurements, kinds = cast(tuple[torch.Tensor, torch.Tensor], batch)
        loss = nn.functional.cross_entropy(self.model(measurements), kinds)
        self.context.backward(loss)
        self.context.step_optimizer(
            self.optimizer,
            clip_grads=lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0),
        )
        return {"loss": loss, "lr": self.lr_scheduler.get_last_lr()}

    def evaluate_batch(self, batch: pytorch.TorchData) -> dict[str, Any]:
        measurements, kinds = cast(tuple[torch.Tensor, torch.Tensor], batch)
        logits = self.model(measurements)
        predicted = logits.argmax(dim=1)
        self.recall.update(predicted, kinds)
        return {
            "validation_loss": nn.functional.cross_entropy(logits, kinds),
            "accuracy": (predicted == kinds).float().mean(),
        }


class RecallOfEachKind(pytorch.MetricReducer):
    """The share of each kind that was found, which no mean over batches gives."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.found = torch.zeros(NUM_KINDS)
        self.total = torch.zeros(NUM_KINDS)

    def update(self, predicted: torch.Tensor, kinds: torch.Tensor) -> None:
        for kind in range(NUM_KINDS):
            self.found[kind] += torch.sum((predicted == kind) & (kinds == kind)).cpu()
            self.total[kind] += torch.sum(kinds == kind).cpu()

    def per_slot_reduce(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.found, self.total

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> dict[str, float]:
        found, total = (sum(counts) for counts in zip(*per_slot_metrics, strict=True))
        return {f"recall_{kind}": float(found[kind] / total[kind]) for kind in range(NUM_KINDS)}


class EarlyStopping(pytorch.PyTorchCallback):
    """Ends the training when the validation loss has not fallen for some validations."""

    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        self.context = context
        self.best, self.waited = float("inf"), 0

    def on_validation_end(self, metrics: dict[str, Any]) -> None:
        improved = metrics["validation_loss"] < self.best
        self.best = min(self.best, metrics["validation_loss"])
        self.waited = 0 if improved else self.waited + 1
        if self.waited >= self.context.get_hparam("patience"):
            self.context.set_stop_requested(True)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited = state_dict["best"], state_dict["waited"]


def load_data(validation_share: float, split_seed: int) -> Sequence[TensorDataset]:
    """Returns training and validation data, scaled by what the training data say."""
    wines = load_wine()
    measurements = torch.tensor(wines.data, dtype=torch.float32)
    kinds = torch.tensor(wines.target)
    order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(split_seed))
    num_validation = round(len(kinds) * validation_share)
    validation, training = order[:num_validation], order[num_validation:]
    deviation, mean = torch.std_mean(measurements[training], dim=0)
    measurements = (measurements - mean) / deviation
    return [TensorDataset(measurements[part], kinds[part]) for part in (training, validation)]
