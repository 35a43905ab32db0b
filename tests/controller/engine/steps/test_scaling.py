"""Gradient scalers over slots: unscaled after the sum, skipped on all slots, updated once."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_trials import linear_spec, refusal, run_linear
from support import make_spec, new_session, resume, run_session
from torch import nn
from trials.linear import records

from trialrun import CheckpointError, samplers
from trialrun.controller.checkpoints.contents import write_contents

SCALED = """
class Scaled(Linear):
    seen = []

    def make_model(self):
        return nn.Linear(3, 1, dtype=torch.float32)

    def make_scaler(self):
        return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)

    def set_up(self):
        self.scaler = self.context.wrap_scaler(self.make_scaler())

    def loss(self, batch):
        inputs, targets = (tensor.float() for tensor in batch)
        return nn.functional.mse_loss(self.model(inputs), targets)

    def poison(self, loss, batch_idx):
        return loss

    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.backward(self.scaler.scale(self.poison(loss, batch_idx)))
        self.step()
        return {"loss": loss, "scale": self.scaler.get_scale()}

    def step(self):
        self.context.step_optimizer(self.optimizer, scaler=self.scaler)
        self.scaler.update()
"""


def with_method(source: str, method: str, body: str) -> str:
    """Returns the source with another body for one of its methods."""
    head, rest = re.split(rf"(?m)^    def {method}\(", source, maxsplit=1)
    signature, rest = rest.split("\n", maxsplit=1)
    following = re.search(r"(?m)^    def ", rest)
    tail = rest[following.start() :] if following else ""
    indented = "".join(f"        {line}\n" for line in body.strip("\n").split("\n"))
    return f"{head}    def {method}({signature}\n{indented}\n{tail}"


@pytest.mark.parametrize("aggregation", [1, 2])
def test_one_slot_is_the_plain_loop_with_a_scaler_to_the_last_bit(
    tmp_path: Path, aggregation: int
) -> None:
    poison = 'return loss * float("inf") if batch_idx == 5 else loss'
    source = with_method(SCALED, "poison", poison)
    run, _ = run_linear(tmp_path, source, slots=1, aggregation_frequency=aggregation)
    (tmp_path / "still").mkdir()
    still = source + (
        "    def make_optimizer(self):\n"
        "        return torch.optim.SGD(self.model.parameters(), lr=0.0)\n"
    )
    model = nn.Linear(3, 1)
    initial, _ = run_linear(tmp_path / "still", still, slots=1, max_length="2ba")
    model.load_state_dict(initial.checkpoints[-1].contents.models[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    shuffled = samplers.ReproducibleShuffleSampler(samplers.SequentialSampler(12), 7)
    for batch in range(8):
        indices = samplers.RepeatSampler(shuffled).take(batch * 2, batch * 2 + 2)
        inputs, targets = (t[torch.from_numpy(indices)].float() for t in records(12).tensors)
        loss = nn.functional.mse_loss(model(inputs), targets)
        scaler.scale(loss * float("inf") if batch == 5 else loss).backward()
        if (batch + 1) % aggregation == 0:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(aggregation)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert torch.equal(run.checkpoints[-1].contents.models[0]["weight"], model.weight.data)
    state = run.checkpoints[-1].contents.state
    assert state["scalers"] == [scaler.state_dict()]
    assert state["optimizer_steps"][0] == {
        "num_steps": 8 // aggregation - 1,
        "num_skipped": 1,
    }


@pytest.mark.parametrize("slots, aggregation", [(1, 1), (4, 1), (3, 2)])
def test_a_scale_changes_neither_what_is_clipped_nor_the_weights(
    tmp_path: Path, slots: int, aggregation: int
) -> None:
    clipping = """
self.context.step_optimizer(self.optimizer, scaler=self.scaler, clip_grads=self.clip)
self.scaler.update()
"""
    source = (
        with_method(SCALED, "step", clipping)
        + """
    def clip(self, parameters):
        parameters = list(parameters)
        self.seen.append(parameters[0].grad.clone())
        nn.utils.clip_grad_norm_(parameters, 1e-3)
"""
    )
    found = []
    # A power of two changes no digit; a disabled scaler does nothing at all.
    for name, argument in (("scaled", "init_scale=2.0**12"), ("plain", "enabled=False")):
        folder = tmp_path / name
        folder.mkdir()
        changed = source.replace("init_scale=2.0**12", argument)
        run, trial = run_linear(folder, changed, slots=slots, aggregation_frequency=aggregation)
        assert len(trial.seen) == 8 // aggregation
        found.append((run, trial.seen))
    (scaled, scaled_seen), (plain, plain_seen) = found
    assert all(map(torch.equal, scaled_seen, plain_seen))
    assert scaled.digest == plain.digest
    assert {name for *_, row in scaled.training for name in row} == {
        *("loss", "scale", "amp_scale", "amp_skipped_steps")
    }
    assert {name for *_, row in plain.training for name in row} == {"loss", "scale"}


@pytest.mark.parametrize(
    "poison",
    [
        'loss * float("inf") if overflows and slot == 1 else loss',
        'loss * float("nan") if overflows and slot == 2 else loss',
        # Their sum is no infinity, but NaN.
        'loss * (float("inf") * (1 - 2 * slot)) if overflows and slot < 2 else loss',
    ],
)
def test_what_overflows_on_one_slot_skips_the_step_of_all(tmp_path: Path, poison: str) -> None:
    body = f"slot, overflows = self.context.slot, batch_idx == 2\nreturn {poison}"
    source = with_method(SCALED, "poison", body)
    source = with_method(
        source,
        "set_up",
        """
self.scaler = self.context.wrap_scaler(self.make_scaler())
self.rate = self.context.wrap_lr_scheduler(
    torch.optim.lr_scheduler.StepLR(self.optimizer, 100), StepMode.STEP_EVERY_OPTIMIZER_STEP
)
""",
    ).replace('"scale": self', '"schedule": self.rate.last_epoch, "scale": self')
    run, _ = run_linear(tmp_path, source, slots=4, max_length="7ba", validation_period="1ba")
    metrics = [row for *_, row in run.training]
    scales = [4096.0, 4096.0, 2048.0, 2048.0, 2048.0, 4096.0, 4096.0]
    assert [row["amp_scale"] for row in metrics] == scales
    # Every slot finds the new scale after its own update.
    assert [row["scale"] for row in metrics] == scales
    assert [row["amp_skipped_steps"] for row in metrics] == [0, 0, 1, 1, 1, 1, 1]
    assert [row["schedule"] for row in metrics] == [1, 2, 2, 3, 4, 5, 6]
    losses = [row["loss"] for *_, row in run.validation]
    assert losses[1] == losses[2]
    assert len(set(losses)) == 6
    assert all(loss == loss for loss in losses)


def test_a_fused_optimizer_that_skips_by_itself_is_counted_right(tmp_path: Path) -> None:
    source = with_method(
        SCALED, "poison", 'return loss * float("inf") if batch_idx == 1 else loss'
    ) + (
        "    def make_optimizer(self):\n"
        "        return torch.optim.Adam(self.model.parameters(), fused=True)\n"
    )
    run, _ = run_linear(tmp_path, source, max_length="4ba", validation_period="1ba")
    assert [row["amp_skipped_steps"] for *_, row in run.training] == [0, 1, 1, 1]
    assert run.checkpoints[-1].contents.state["optimizer_steps"][0]["num_steps"] == 3
    losses = [row["loss"] for *_, row in run.validation]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_several_scalers_and_optimizers_go_together_as_the_trial_says(tmp_path: Path) -> None:
    source = """
class Two(Linear):
    def make_model(self):
        return nn.ModuleList([nn.Linear(3, 1).double() for _ in range(2)])

    def make_optimizer(self):
        return torch.optim.SGD(self.model[0].parameters(), lr=0.1)

    def set_up(self):
        scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**n) for n in (4, 9)]
        self.scalers = [self.context.wrap_scaler(scaler) for scaler in scalers]
        self.other = self.context.wrap_optimizer(
            torch.optim.Adam(self.model[1].parameters(), lr=0.1)
        )

    def loss(self, batch):
        inputs, targets = batch
        return nn.functional.mse_loss(self.model[0](inputs) * self.model[1](inputs), targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        optimizers = (self.optimizer, self.other)
        for index, (scaler, optimizer) in enumerate(zip(self.scalers, optimizers)):
            loss = self.loss(batch)
            if batch_idx == 1 and index == 1 and self.context.slot == 1:
                loss = loss * float("inf")
            self.context.backward(scaler.scale(loss))
            self.context.step_optimizer(optimizer, scaler=scaler)
            scaler.update()
            for parameter in self.model.parameters():
                parameter.grad = None
        return {"amp_scale_0": -1.0}
"""
    run, _ = run_linear(tmp_path, source, slots=3, max_length="3ba")
    # A metric of the trial's own goes before one of the same name.
    assert [row["amp_scale_0"] for *_, row in run.training] == [-1.0] * 3
    assert [row["amp_scale_1"] for *_, row in run.training] == [512.0, 256.0, 256.0]
    assert [row["amp_skipped_steps"] for *_, row in run.training] == [0, 1, 1]
    steps = run.checkpoints[-1].contents.state["optimizer_steps"]
    assert [counts["num_steps"] for counts in steps] == [3, 2]


def test_a_step_without_gradients_leaves_the_scale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = with_method(
        SCALED,
        "step",
        """
if self.context.current_train_batch() == 1:
    self.optimizer.zero_grad()
self.context.step_optimizer(self.optimizer, scaler=self.scaler)
self.scaler.update()
""",
    )
    run, _ = run_linear(tmp_path, source, max_length="4ba")
    assert [row["amp_scale"] for *_, row in run.training] == [4096.0] * 3 + [8192.0]
    messages = [record.message for record in caplog.records]
    assert messages == [
        "Optimizer 0 (SGD) was stepped, but none of its parameters has a gradient. Call "
        "context.backward(loss) before context.step_optimizer."
    ]


# With one slot the trial may use the scaler itself.


@pytest.mark.parametrize("aggregation", [1, 2])
def test_gradients_that_the_trial_unscaled_are_not_unscaled_again(
    tmp_path: Path, aggregation: int
) -> None:
    unscaling = f"""
if (self.context.current_train_batch() + 1) % {aggregation} == 0:
    self.scaler.unscale_(self.optimizer)
self.context.step_optimizer(self.optimizer, scaler=self.scaler)
self.scaler.update()
"""
    digests = []
    for name, source in (("plain", SCALED), ("own", with_method(SCALED, "step", unscaling))):
        (tmp_path / name).mkdir()
        run, _ = run_linear(tmp_path / name, source, slots=1, aggregation_frequency=aggregation)
        digests.append(run.digest)
    assert digests[0] == digests[1]


def test_one_slot_may_step_by_the_scaler_and_is_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stepping = """
self.scaler.step(self.optimizer)
self.scaler.update()
self.optimizer.zero_grad()
"""
    direct, _ = run_linear(tmp_path, with_method(SCALED, "step", stepping), slots=1)
    messages = [record.message for record in caplog.records]
    assert messages == [
        "SGD.step() was called directly. It is not counted, and schedulers in "
        "STEP_EVERY_OPTIMIZER_STEP do not follow it; with more slots it is refused. Call "
        "context.step_optimizer(optimizer).",
        "Optimizer 0 (SGD) was wrapped, but took no step in the first batches. Call "
        "context.step_optimizer in train_batch.",
    ]
    (tmp_path / "wrapped").mkdir()
    assert run_linear(tmp_path / "wrapped", SCALED, slots=1)[0].digest == direct.digest


# Checkpoints.


def test_a_scaler_that_is_not_the_checkpoints_is_refused(tmp_path: Path) -> None:
    source = with_method(
        SCALED,
        "make_scaler",
        'return torch.amp.GradScaler("cpu", enabled=self.hparams.get("enabled", True))',
    )
    spec = linear_spec(tmp_path, source)
    run = run_session(spec, tmp_path / "checkpoints", stop_upon=("progress", 2))
    config = spec.config.model_copy(update={"hyperparameters": {"enabled": False}})
    with pytest.raises(
        CheckpointError, match=r"^Gradient scaler 0 was enabled and is now disabled\. Restore"
    ):
        new_session(dataclasses.replace(resume(spec, run), config=config))


def test_a_scaler_that_the_checkpoint_does_not_have_is_refused(tmp_path: Path) -> None:
    source = with_method(
        SCALED,
        "set_up",
        """
self.scaler = self.make_scaler()
if self.hparams.get("wraps", False):
    self.context.wrap_scaler(self.scaler)
""",
    )
    source = with_method(source, "step", "self.context.step_optimizer(self.optimizer)")
    spec = linear_spec(tmp_path, source)
    run = run_session(spec, tmp_path / "checkpoints", stop_upon=("progress", 2))
    config = spec.config.model_copy(update={"hyperparameters": {"wraps": True}})
    with pytest.raises(
        CheckpointError,
        match=r"^The trial has 1 gradient scaler, but the checkpoint has 0\. Restore",
    ):
        new_session(dataclasses.replace(resume(spec, run), config=config))


def test_a_checkpoint_from_before_there_were_scalers_can_be_read(tmp_path: Path) -> None:
    spec = make_spec("linear.py")
    straight = run_session(spec, tmp_path / "straight")
    first = run_session(spec, tmp_path / "first", stop_upon=("progress", 2))
    contents = first.checkpoints[-1].contents
    del contents.state["scalers"]
    del contents.state["optimizer_steps"][0]["num_skipped"]
    (tmp_path / "old").mkdir()
    write_contents(contents, tmp_path / "old")
    old = dataclasses.replace(spec, resume_from=tmp_path / "old")
    second = run_session(old, tmp_path / "second")
    assert first.then(second).reported == straight.reported


# Bad input.


def stepping(body: str) -> str:
    return with_method(SCALED, "step", body)


STEP = "self.context.step_optimizer(self.optimizer, scaler=self.scaler)"


@pytest.mark.parametrize(
    "slots, body, message",
    [
        (
            2,
            f"self.scaler.unscale_(self.optimizer)\n{STEP}",
            "scaler.unscale_ was called on SGD. With several slots it would see one slot's "
            "gradients alone. Leave it out: context.step_optimizer(optimizer, clip_grads=..., "
            "scaler=scaler) unscales the sum before it clips.",
        ),
        (
            2,
            "self.scaler.step(self.optimizer)",
            "scaler.step was called directly on SGD. With several slots it would step with one "
            "slot's gradients alone. Call context.step_optimizer(optimizer, scaler=scaler).",
        ),
        (
            2,
            "self.scaler.update()",
            "scaler.update() was called, but the scaler took part in no step since the last "
            "update. Call context.step_optimizer(optimizer, scaler=scaler) first.",
        ),
        (
            1,
            "self.context.step_optimizer(self.optimizer)\nself.scaler.update()",
            "scaler.update() was called, but the scaler took part in no step since the last "
            "update. Call context.step_optimizer(optimizer, scaler=scaler) first.",
        ),
        (
            2,
            STEP,
            "SGD steps again with a scaler that was not updated since its last step. Call "
            "scaler.update() in train_batch, after the last step_optimizer that it takes part in.",
        ),
        (
            2,
            f"{STEP}\nif self.context.slot == 0:\n    self.scaler.update()",
            "The slots of one batch took different steps: slot 0 called scaler.update on scaler 0; "
            "slot 1 finished the batch. Every slot must call scaler.update equally often and in "
            "the same order; do not make it depend on a slot's own records.",
        ),
        (
            2,
            "self.context.step_optimizer(self.optimizer, scaler=self.make_scaler())",
            "step_optimizer got a GradScaler that was not wrapped, so no checkpoint would hold its "
            "scale. Call context.wrap_scaler on it in the trial's __init__.",
        ),
    ],
)
def test_a_scaler_that_is_used_wrongly_is_refused(
    tmp_path: Path, slots: int, body: str, message: str
) -> None:
    found = refusal(tmp_path, stepping(body), slots=slots)
    assert found.startswith(message) if message.endswith(" ") else found == message


def test_a_scaler_is_used_at_the_end_of_a_window(tmp_path: Path) -> None:
    windows: dict[str, Any] = {"slots": 1, "aggregation_frequency": 2}
    body = f"self.scaler.unscale_(self.optimizer)\n{STEP}\nself.scaler.update()"
    assert refusal(tmp_path, stepping(body), **windows) == (
        "scaler.unscale_ was called on SGD within an aggregation window, to whose gradients scaled "
        "ones are still to be added. Leave it out: context.step_optimizer(optimizer, "
        "clip_grads=..., scaler=scaler) unscales before it clips."
    )
    (tmp_path / "update").mkdir()
    body = f"{STEP}\nself.scaler.update(2.0)"
    assert refusal(tmp_path / "update", stepping(body), **windows) == (
        "scaler.update was called with a new scale within an aggregation window, whose gradients "
        "must have one scale. Call it at the window's last batch."
    )


def test_a_new_scale_is_set_for_all_slots(tmp_path: Path) -> None:
    body = f"{STEP}\nself.scaler.update(float(2 ** self.context.current_train_batch()))"
    run, _ = run_linear(tmp_path, stepping(body), slots=3, max_length="4ba")
    assert [row["amp_scale"] for *_, row in run.training] == [1.0, 2.0, 4.0, 8.0]


def test_a_scaler_that_scaled_nothing_is_refused(tmp_path: Path) -> None:
    source = SCALED.replace("self.scaler.scale(self.poison(loss, batch_idx))", "loss")
    assert refusal(tmp_path, source) == (
        "A scaler takes part in the step of SGD, but has scaled no loss yet. Call "
        "context.backward(scaler.scale(loss)); after use_amp, context.backward(loss)."
    )


def test_a_scaler_that_is_not_passed_to_a_step_is_named_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run_linear(
            tmp_path,
            stepping("self.context.step_optimizer(self.optimizer)"),
            max_length="3ba",
        )
    (message,) = {r.message for r in caplog.records if "scaler" in r.message}
    assert message == (
        "Gradient scaler 0 has scaled a loss, but took part in no step, so that scaled gradients "
        "were used. Call context.step_optimizer(optimizer, scaler=scaler)."
    )
