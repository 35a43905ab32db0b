"""Mixed precision on scikit-learn's real digits: the same trial in bfloat16, float16 or float32.

Hyperparameter ``precision``: ``bfloat16`` needs nothing but autocast; ``float16`` has so small a
range (6e-8 to 65,504) that a scaler multiplies the loss, and the optimizer skips a step whose
gradients overflow, on all slots alike; ``float32`` is the comparison.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from trialrun import DataLoader, InvalidTrialError, StepMode, Trial, TrialContext

NUM_CLASSES = 10
PIXELS = 64
WIDTH = 256
VALIDATION_EVERY = 5  # every fifth image is held out
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Digits(Trial):
    """A residual network of linear layers; LayerNorm and the loss stay in float32 by autocast."""

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self.set_precision(context.get_hparam("precision"))
        self.model = context.wrap_model(
            nn.Sequential(nn.Linear(PIXELS, WIDTH), Block(), Block(), nn.Linear(WIDTH, NUM_CLASSES))
        )
        self.optimizer = context.wrap_optimizer(
            torch.optim.AdamW(self.model.parameters(), lr=context.get_hparam("lr"))
        )
        context.wrap_lr_scheduler(
            torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.8),
            StepMode.STEP_EVERY_EPOCH,
        )

    def set_precision(self, precision: str) -> None:
        """Says in which type ``train_batch`` and ``evaluate_batch`` compute."""
        if precision == "float32":
            return
        if precision not in PRECISIONS:
            known = ", ".join([*PRECISIONS, "float32"])
            raise InvalidTrialError(f"precision is {precision!r}. Choose one of {known}.")
        scaler = None
        if precision == "float16":
            # It begins high on purpose: the first steps overflow, are skipped, and halve the scale.
            scaler = torch.amp.GradScaler(
                self.context.device.type, init_scale=2.0**20, growth_interval=50
            )
        self.context.experimental.use_amp(PRECISIONS[precision], scaler)

    def build_training_data_loader(self) -> DataLoader:
        batch_size = self.context.get_per_slot_batch_size()
        return DataLoader(digits(training=True), batch_size=batch_size, shuffle=True)

    def build_validation_data_loader(self) -> DataLoader:
        return DataLoader(digits(training=False), batch_size=90)

    def train_batch(self, batch, epoch_idx, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.context.backward(loss)  # scales the loss where there is a scaler
        self.context.step_optimizer(  # unscales the summed gradients before it clips them
            self.optimizer,
            clip_grads=lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0),
        )
        return {"loss": loss}

    def evaluate_batch(self, batch, batch_idx):
        images, labels = batch
        logits = self.model(images)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, labels), "accuracy": accuracy}


class Block(nn.Module):
    """x + f(x), with f of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps (records, WIDTH) to (records, WIDTH)."""
        return hidden + self.layers(hidden)


def digits(training: bool) -> TensorDataset:
    """Returns images of 64 pixels from 0 to 1, and their labels."""
    images, labels = load_digits(return_X_y=True)
    chosen = (torch.arange(len(images)) % VALIDATION_EVERY != 0) == training
    return TensorDataset(
        torch.tensor(images / 16, dtype=torch.float32)[chosen], torch.tensor(labels)[chosen]
    )
