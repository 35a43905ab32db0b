"""Half precision with loss scaling, by hand or automatically, that overflows now and then.

Hyperparameters: ``way`` ("hand", "float16", "bfloat16").
"""

import torch
from torch import nn
from trials.linear import Linear

from trialrun import StepMode


class Scaled(Linear):
    def make_model(self):
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    def make_optimizer(self):
        return torch.optim.Adam(self.model.parameters(), lr=0.02)

    def set_up(self):
        self.way = self.hparams.get("way", "hand")
        # Too large for float16, so that the first steps are skipped; then it grows soon.
        settings = {"init_scale": 2.0**18, "growth_interval": 2}
        if self.way == "hand":
            self.scaler = self.context.wrap_scaler(torch.amp.GradScaler("cpu", **settings))
        elif self.way == "float16":
            scaler = torch.amp.GradScaler("cpu", **settings)
            self.context.experimental.use_amp(torch.float16, scaler=scaler)
        else:
            self.context.experimental.use_amp()
        schedulers = torch.optim.lr_scheduler
        self.followed = self.context.wrap_lr_scheduler(
            schedulers.ExponentialLR(self.optimizer, 0.9), StepMode.STEP_EVERY_OPTIMIZER_STEP
        )
        self.plateau = self.context.wrap_lr_scheduler(
            schedulers.ReduceLROnPlateau(self.optimizer, patience=0), StepMode.MANUAL_STEP
        )

    def loss(self, batch):
        inputs, targets = (tensor.float() for tensor in batch)
        return nn.functional.mse_loss(self.model(inputs).float(), targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        if self.way == "hand":
            with torch.autocast("cpu", dtype=torch.float16):
                loss = self.loss(batch)
        else:
            loss = self.loss(batch)
        # One slot of one batch overflows, whatever the scale; without a scaler nothing helps.
        overflows = (batch_idx, self.context.slot) == (5, 1) and self.way != "bfloat16"
        overflowing = loss * float("inf") if overflows else loss
        if self.way == "hand":
            self.context.backward(self.scaler.scale(overflowing))
            self.context.step_optimizer(self.optimizer, clip_grads=clip, scaler=self.scaler)
            self.scaler.update()
        else:
            self.context.backward(overflowing)
            self.context.step_optimizer(self.optimizer, clip_grads=clip)
        self.plateau.step(loss.detach())
        return {"loss": loss, "steps": self.followed.last_epoch}


def clip(parameters):
    torch.nn.utils.clip_grad_norm_(parameters, 0.5)
