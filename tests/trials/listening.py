"""A linear model with callbacks that write down what they are told, in the process's order.

Hyperparameter ``heard``: a folder; each process appends to ``process-<first slot>.txt`` in it.
"""

from pathlib import Path

import torch
from trials.linear import Linear

from trialrun import Callback


class Listening(Linear):
    def build_callbacks(self):
        heard = Path(self.context.get_hparam("heard")) / f"process-{self.first_slot}.txt"
        return {"first": Everything("first", heard), "second": Counter("second", heard)}

    def set_up(self):
        self.first_slot = self.context.slot

    def build_training_data_loader(self):
        Writer("trial", Path(self.context.get_hparam("heard")) / f"process-{self.first_slot}.txt")(
            "build_training_data_loader"
        )
        return super().build_training_data_loader()


class Writer:
    def __init__(self, name, path):
        self.name = name
        self.path = path

    def __call__(self, event, *arguments):
        shown = ", ".join(map(str, arguments))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{self.name}.{event}({shown})\n")


class Counter(Callback):
    """Has a state: the batches that it has heard of."""

    def __init__(self, name, heard):
        self.heard = Writer(name, heard)
        self.batches = 0

    def on_training_batch_end(self, batch_idx):
        self.batches += 1

    def on_trial_startup(self, first_batch_idx, checkpoint_uuid):
        self.heard("on_trial_startup", first_batch_idx)

    def on_trial_shutdown(self):
        self.heard("on_trial_shutdown", self.batches)

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state_dict):
        self.batches = state_dict["batches"]


class Everything(Callback):
    def __init__(self, name, heard):
        self.heard = Writer(name, heard)

    def on_trial_startup(self, first_batch_idx, checkpoint_uuid):
        self.heard("on_trial_startup", first_batch_idx, checkpoint_uuid)

    def on_checkpoint_load_start(self, checkpoint):
        self.heard("on_checkpoint_load_start", *sorted(checkpoint))

    def load_state_dict(self, state_dict):
        self.heard("load_state_dict", *sorted(state_dict))

    def on_training_start(self):
        self.heard("on_training_start")

    def on_training_epoch_start(self, epoch_idx):
        self.heard("on_training_epoch_start", epoch_idx)

    def on_training_batch_start(self, batch_idx):
        self.heard("on_training_batch_start", batch_idx)

    def on_optimizer_step_end(self, optimizer, step_idx):
        assert not torch.is_grad_enabled()
        self.heard("on_optimizer_step_end", type(optimizer).__name__, step_idx)

    def on_training_batch_end(self, batch_idx):
        self.heard("on_training_batch_end", batch_idx)

    def on_training_epoch_end(self, epoch_idx):
        self.heard("on_training_epoch_end", epoch_idx)

    def on_training_workload_end(self, avg_metrics, batch_metrics):
        losses = [metrics["loss"] for metrics in batch_metrics]
        assert abs(sum(losses) / len(losses) - avg_metrics["loss"]) < 1e-12
        assert len(set(losses)) == len(losses)
        self.heard("on_training_workload_end", *avg_metrics, len(batch_metrics))

    def on_validation_start(self):
        assert not torch.is_grad_enabled()
        self.heard("on_validation_start")

    def on_validation_epoch_start(self):
        self.heard("on_validation_epoch_start")

    def on_validation_epoch_end(self, outputs):
        self.outputs = [output["loss"] for output in outputs]
        self.heard("on_validation_epoch_end", len(outputs))

    def on_validation_end(self, metrics):
        # Seven records in batches of two.
        mean = sum(w * loss for w, loss in zip((2, 2, 2, 1), self.outputs, strict=True)) / 7
        assert abs(mean - metrics["loss"]) < 1e-12
        self.heard("on_validation_end", *metrics)

    def on_checkpoint_save_start(self, checkpoint):
        checkpoint["note"] = {"of": "first"}
        self.heard("on_checkpoint_save_start", *sorted(checkpoint))

    def on_checkpoint_write_end(self, checkpoint_dir):
        (Path(checkpoint_dir) / "notes.txt").write_text("by a callback")
        self.heard("on_checkpoint_write_end")

    def on_checkpoint_upload_end(self, uuid):
        self.heard("on_checkpoint_upload_end", uuid)

    def on_exception(self, exception):
        self.heard("on_exception", repr(exception))

    def on_trial_shutdown(self):
        self.heard("on_trial_shutdown")

    def state_dict(self):
        return {"own": 1}
