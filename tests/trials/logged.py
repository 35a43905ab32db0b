"""A linear model whose slots all write to one TensorBoard writer, made in the constructor.

Hyperparameter ``logs_metrics``: what the trial says of the reported metrics; None: nothing.
"""

from trials.linear import Linear


class Logging(Linear):
    def set_up(self):
        hparams = self.context.get_hparams()
        if hparams.get("logs_metrics") is not None:
            self.context.set_enable_tensorboard_logging(hparams["logs_metrics"])
        self.writer = self.context.get_tensorboard_writer() if hparams.get("writes") else None

    def train_batch(self, batch, epoch_idx, batch_idx):
        if self.writer is not None:
            self.writer.add_scalar("own", 10 * batch_idx + self.context.slot, batch_idx + 1)
        return super().train_batch(batch, epoch_idx, batch_idx)
