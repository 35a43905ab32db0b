"""Steps over all slots, by trials of their own that change one thing about a linear model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from linear_trials import refusal, run_linear
from torch import nn
from trials.linear import records

from trialrun import InvalidTrialError, LRScheduler, StepMode, samplers
from trialrun.controller.engine.parallel.slots import SlotError
from trialrun.controller.engine.steps.lr_schedules import step_batch_schedulers


def final_model(result: Any) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = result.checkpoints[-1].contents.models[0]
    return model


def global_batch(batch: int, size: int, num_records: int = 12) -> list[torch.Tensor]:
    """The records of all slots together, whose order over slots matters to no mean."""
    shuffled = samplers.ReproducibleShuffleSampler(samplers.SequentialSampler(num_records), 7)
    indices = samplers.RepeatSampler(shuffled).take(batch * size, (batch + 1) * size)
    return [tensor[torch.from_numpy(indices)] for tensor in records(num_records).tensors]


def initial_model(folder: Path) -> nn.Linear:
    """The model with which every run of seed 7 begins: training at rate 0 shows it."""
    source = "class Still(Linear):\n    def make_optimizer(self):\n"
    source += "        return torch.optim.SGD(self.model.parameters(), lr=0.0)\n"
    (folder / "still").mkdir()
    result, _ = run_linear(folder / "still", source, max_length="1ba")
    model = nn.Linear(3, 1, dtype=torch.float64)
    model.load_state_dict(final_model(result))
    return model


def plain_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int, size: int
) -> list[torch.Tensor]:
    """What anybody would write for one big batch; returns the gradients of the weight."""
    gradients = []
    for step in range(num_steps):
        inputs, targets = global_batch(step, size)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        gradients.append(model.weight.grad.clone())
        optimizer.step()
    return gradients


def assert_close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-13)


PLAIN = "class Plain(Linear):\n    pass\n"


@pytest.mark.parametrize(("slots", "aggregation"), [(1, 1), (2, 1), (4, 1), (3, 2), (1, 3)])
def test_slots_and_windows_together_are_one_big_batch(
    tmp_path: Path, slots: int, aggregation: int
) -> None:
    result, _ = run_linear(
        tmp_path,
        PLAIN,
        slots=slots,
        aggregation_frequency=aggregation,
        max_length=f"{4 * aggregation}ba",
    )
    model = initial_model(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain_loop(model, optimizer, num_steps=4, size=2 * slots * aggregation)
    assert_close(final_model(result)["weight"], model.weight.data)
    assert_close(final_model(result)["bias"], model.bias.data)


def test_one_slot_is_the_plain_loop_to_the_last_bit(tmp_path: Path) -> None:
    result, _ = run_linear(tmp_path, PLAIN, slots=1, max_length="9ba")
    model = initial_model(tmp_path)
    plain_loop(model, torch.optim.SGD(model.parameters(), lr=0.1), num_steps=9, size=2)
    assert torch.equal(final_model(result)["weight"], model.weight.data)


CLIPPING = """
class Clipping(Linear):
    seen = []

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.backward(self.loss(batch))
        self.context.step_optimizer(self.optimizer, clip_grads=self.clip)
        return {"loss": 0.0}

    def clip(self, parameters):
        parameters = list(parameters)
        self.seen.append(parameters[0].grad.clone())
        nn.utils.clip_grad_norm_(parameters, 1e-3)
"""


@pytest.mark.parametrize(("slots", "aggregation"), [(1, 1), (3, 1), (2, 2)])
def test_clipping_sees_the_averaged_gradients_once(
    tmp_path: Path, slots: int, aggregation: int
) -> None:
    result, trial = run_linear(
        tmp_path,
        CLIPPING,
        slots=slots,
        aggregation_frequency=aggregation,
        max_length=f"{aggregation}ba",
    )
    model = initial_model(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (gradient,) = plain_loop(model, optimizer, num_steps=1, size=2 * slots * aggregation)
    (seen,) = trial.seen
    assert_close(seen, gradient)
    moved = final_model(result)["weight"] - initial_weight(model, gradient)
    assert 0 < moved.norm() <= 0.1 * 1e-3


def initial_weight(model: nn.Linear, gradient: torch.Tensor) -> torch.Tensor:
    return model.weight.data + 0.1 * gradient


@pytest.mark.parametrize("slots", [1, 2])
def test_an_optimizer_zeroes_in_its_own_way(tmp_path: Path, slots: int) -> None:
    _, trial = run_linear(
        tmp_path,
        """
class CountingSgd(torch.optim.SGD):
    zeroed = 0

    def zero_grad(self, set_to_none=True):
        type(self).zeroed += 1
        super().zero_grad(set_to_none)


class Own(Linear):
    Sgd = CountingSgd

    def __init__(self, context):
        super().__init__(context)
        self.own = context.wrap_optimizer(
            CountingSgd(self.model.parameters(), lr=0.1), allow_shared_parameters=True
        )

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.backward(self.loss(batch))
        self.context.step_optimizer(self.own)
        assert all(parameter.grad is None for parameter in self.model.parameters())
        return {"loss": 0.0}
""",
        slots=slots,
        max_length="3ba",
    )
    assert trial.Sgd.zeroed == 3


def test_gradients_that_are_not_zeroed_are_the_averaged_ones_on_every_slot(tmp_path: Path) -> None:
    _, trial = run_linear(
        tmp_path,
        """
class Keeping(Linear):
    seen = []

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.optimizer.zero_grad()
        self.context.backward(self.loss(batch))
        own = self.model.weight.grad.clone()
        self.context.step_optimizer(self.optimizer, auto_zero_grads=False)
        self.seen.append((own, self.model.weight.grad.clone()))
        self.model.weight.grad += self.context.slot  # one's own, not everybody's
        return {"loss": 0.0}
""",
        slots=3,
        max_length="2ba",
    )
    for batch in (trial.seen[:3], trial.seen[3:]):
        average = sum(own for own, _ in batch) / 3
        assert len({tuple(own.flatten().tolist()) for own, _ in batch}) == 3
        for _, kept in batch:
            assert_close(kept, average)


def test_gradients_cannot_stay_within_aggregation_windows(tmp_path: Path) -> None:
    source = """
class Keeping(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.backward(self.loss(batch))
        self.context.step_optimizer(self.optimizer, auto_zero_grads=False)
"""
    with pytest.raises(InvalidTrialError) as caught:
        run_linear(tmp_path, source, aggregation_frequency=4)
    assert str(caught.value) == (
        "auto_zero_grads=False within aggregation windows of 4 batches would add gradients twice. "
        "Leave it at True, or set aggregation_frequency to 1."
    )


UNUSED = """
class Unused(Linear):
    seen = []

    def make_model(self):
        return nn.ModuleDict({name: nn.Linear(3, 1).double() for name in ("used", "unused")})

    def make_optimizer(self):
        return torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.5)

    def set_up(self):
        self.seen.append(self.model["unused"].weight.detach().clone())

    def loss(self, batch):
        inputs, targets = batch
        outputs = self.model["used"](inputs)
        if self.context.slot == ON_SLOT:
            outputs = outputs + self.model["unused"](inputs)
        return nn.functional.mse_loss(outputs, targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.backward(self.loss(batch))
        own = self.model["unused"].weight.grad
        self.seen.append(None if own is None else own.clone())
        self.context.step_optimizer(self.optimizer, clip_grads=self.clip)
        return {"loss": 0.0}

    def evaluate_batch(self, batch, batch_idx):
        return {"loss": 0.0}

    def clip(self, parameters):
        gradient = self.model["unused"].weight.grad
        self.seen.append(None if gradient is None else gradient.clone())
"""


@pytest.mark.parametrize("slots", [1, 3])
def test_a_parameter_that_no_slot_uses_has_no_gradient_and_stays(
    tmp_path: Path, slots: int
) -> None:
    result, trial = run_linear(
        tmp_path, UNUSED.replace("ON_SLOT", "None"), slots=slots, max_length="2ba"
    )
    first, *gradients = trial.seen
    assert gradients == [None] * (2 * (slots + 1))
    # A zero gradient would have let the weight decay act.
    assert torch.equal(final_model(result)["unused.weight"], first)


def test_a_parameter_that_some_slots_use_gets_their_share(tmp_path: Path) -> None:
    result, trial = run_linear(tmp_path, UNUSED.replace("ON_SLOT", "1"), slots=3, max_length="1ba")
    first, *own, averaged = trial.seen
    assert own[0] is None
    assert own[2] is None
    assert own[1].norm() > 0
    assert_close(averaged, own[1] / 3)
    assert not torch.equal(final_model(result)["unused.weight"], first)


def test_parameters_of_several_types_keep_them(tmp_path: Path) -> None:
    _, trial = run_linear(
        tmp_path,
        """
class Mixed(Linear):
    seen = []

    def make_model(self):
        return nn.ModuleList([nn.Linear(3, 1, dtype=d) for d in self.types])

    types = [torch.float32, torch.float64, torch.bfloat16, torch.float32]

    def loss(self, batch):
        inputs, targets = batch
        outputs = sum(m(inputs.to(d)).double() for m, d in zip(self.model, self.types))
        return nn.functional.mse_loss(outputs, targets)

    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.backward(self.loss(batch))
        self.seen.append([m.weight.grad.clone() for m in self.model])
        self.context.step_optimizer(self.optimizer, clip_grads=self.clip)
        return {"loss": 0.0}

    def clip(self, parameters):
        self.seen.append([m.weight.grad.clone() for m in self.model])
""",
        slots=2,
        max_length="1ba",
    )
    first, second, averaged = trial.seen
    for one, other, average in zip(first, second, averaged, strict=True):
        assert average.dtype == one.dtype
        assert torch.equal(average, (one + other) / 2)


def test_parameters_may_be_frozen_in_turn(tmp_path: Path) -> None:
    source = """
class Alternating(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        weight_turn = batch_idx % 2 == 0
        self.model.weight.requires_grad_(weight_turn)
        self.model.bias.requires_grad_(not weight_turn)
        self.context.backward(self.loss(batch))
        self.context.step_optimizer(self.optimizer)
        return {"loss": 0.0}
"""
    result, _ = run_linear(tmp_path, source, slots=3, max_length="4ba")
    model = initial_model(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        inputs, targets = global_batch(step, 6)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        (model.bias if step % 2 == 0 else model.weight).grad = None
        optimizer.step()
    assert_close(final_model(result)["weight"], model.weight.data)
    assert_close(final_model(result)["bias"], model.bias.data)


def test_several_backward_passes_add_up(tmp_path: Path) -> None:
    source = """
class Twice(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        loss = self.loss(batch)
        self.context.backward(loss, retain_graph=True)
        self.context.backward(loss, gradient=torch.tensor(2.0, dtype=torch.float64))
        self.context.step_optimizer(self.optimizer)
        return {"loss": loss}

    def make_optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.1 / 3)
"""
    result, _ = run_linear(tmp_path, source, slots=2, max_length="3ba")
    model = initial_model(tmp_path)
    plain_loop(model, torch.optim.SGD(model.parameters(), lr=0.1), num_steps=3, size=4)
    assert_close(final_model(result)["weight"], model.weight.data)


# Errors.


def test_an_optimizer_that_was_not_wrapped_is_refused(tmp_path: Path) -> None:
    source = """
class Unwrapped(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.step_optimizer(torch.optim.Adam(self.model.parameters()))
"""
    assert refusal(tmp_path, source) == (
        "step_optimizer got an Adam that was not wrapped. Call context.wrap_optimizer on it in the "
        "trial's __init__."
    )


def test_no_step_is_taken_before_training(tmp_path: Path) -> None:
    source = """
class Early(Linear):
    def set_up(self):
        self.context.step_optimizer(self.optimizer)
"""
    assert refusal(tmp_path, source) == (
        "step_optimizer was called before training began. Call it in train_batch."
    )


def test_what_clips_can_be_called(tmp_path: Path) -> None:
    source = """
class Wrong(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.step_optimizer(self.optimizer, clip_grads=1.0)
"""
    assert refusal(tmp_path, source, aggregation_frequency=2) == (
        "clip_grads=1.0 cannot be called. It is a function that gets the parameters, such as "
        "lambda ps: torch.nn.utils.clip_grad_norm_(ps, 1.0)."
    )


@pytest.mark.parametrize("slots, aggregation", [(1, 3), (2, 1), (2, 3)])
def test_aggregated_gradients_may_be_averaged_over_slots_alone(
    tmp_path: Path, slots: int, aggregation: int
) -> None:
    source = """
class Summing(Linear):
    def make_optimizer(self):
        self.averages = False
        return torch.optim.SGD(self.model.parameters(), lr=RATE)

    def __init__(self, context):
        wrap = context.wrap_optimizer
        context.wrap_optimizer = lambda o: wrap(o, 2, average_aggregated_gradients=AVERAGES)
        super().__init__(context)
"""
    digests = []
    for name, averages, rate in (("sum", "False", 0.125), ("mean", "None", 0.125 * aggregation)):
        (tmp_path / name).mkdir()
        result, _ = run_linear(
            tmp_path / name,
            source.replace("AVERAGES", averages).replace("RATE", str(rate)),
            slots=slots,
            aggregation_frequency=aggregation,
            max_length="6ba",
        )
        digests.append(final_model(result)["weight"])
    assert_close(*digests)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_step_before_backward_is_warned_of_once(
    tmp_path: Path, slots: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
class Early(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        self.context.step_optimizer(self.optimizer)
        return {"loss": self.loss(batch)}
"""
    run_linear(tmp_path, source, slots=slots, max_length="3ba")
    assert [record.message for record in caplog.records] == [
        "Optimizer 0 (SGD) was stepped, but none of its parameters has a gradient. Call "
        "context.backward(loss) before context.step_optimizer."
    ]


def test_one_slot_that_steps_directly_is_warned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
class Direct(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        metrics = super().train_batch(batch, epoch_idx, batch_idx)
        self.optimizer.step()
        return metrics
"""
    run_linear(tmp_path, source, slots=1, max_length="3ba")
    assert [record.message for record in caplog.records] == [
        "SGD.step() was called directly. It is not counted, and schedulers in "
        "STEP_EVERY_OPTIMIZER_STEP do not follow it; with more slots it is refused. Call "
        "context.step_optimizer(optimizer)."
    ]


@pytest.mark.parametrize("aggregation", [1, 3])
def test_an_optimizer_without_a_step_in_a_whole_window_is_named_once(
    tmp_path: Path, aggregation: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
class Idle(Linear):
    def set_up(self):
        self.idle = self.context.wrap_model(nn.Linear(1, 1))
        self.context.wrap_optimizer(torch.optim.Adam(self.idle.parameters()))
"""
    run_linear(
        tmp_path, source, aggregation_frequency=aggregation, max_length=f"{2 * aggregation}ba"
    )
    assert [record.message for record in caplog.records] == [
        "Optimizer 1 (Adam) was wrapped, but took no step in the first batches. Call "
        "context.step_optimizer in train_batch."
    ]


def test_compression_is_not_done_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = """
class Compressing(Linear):
    def __init__(self, context):
        wrap = context.wrap_optimizer
        context.wrap_optimizer = lambda optimizer: wrap(optimizer, fp16_compression=True)
        super().__init__(context)
"""
    run_linear(tmp_path, source, max_length="1ba")
    assert [record.message for record in caplog.records] == [
        "fp16_compression is not used for optimizer 0 (SGD): its gradients travel in their own "
        "type, or the number of processes would change the result. Leave it out."
    ]


def test_a_scheduler_that_ends_before_the_training_is_the_users_error(tmp_path: Path) -> None:
    source = """
class Ending(Linear):
    def set_up(self):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=3)
        self.context.wrap_lr_scheduler(scheduler, StepMode.STEP_EVERY_OPTIMIZER_STEP)
"""
    with pytest.raises(SlotError) as caught:
        run_linear(tmp_path, source)
    assert "total steps" in str(caught.value.__cause__)


# Schedulers.

SCHEDULERS = """
class Counter:
    def __init__(self):
        self.count = 0

    def step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


class Scheduled(Linear):
    def set_up(self):
        self.counters = {}
        for name, mode, frequency in (
            ("epoch", StepMode.STEP_EVERY_EPOCH, 1),
            ("second_epoch", StepMode.STEP_EVERY_EPOCH, 2),
            ("batch", StepMode.STEP_EVERY_BATCH, 1),
            ("third_batch", StepMode.STEP_EVERY_BATCH, 3),
            ("manual", StepMode.MANUAL_STEP, 1),
        ):
            self.counters[name] = self.context.wrap_lr_scheduler(Counter(), mode, frequency)
        for name, frequency in (("step", 1), ("second_step", 2)):
            scheduler = Counter()
            scheduler.optimizer = self.optimizer
            self.counters[name] = self.context.wrap_lr_scheduler(
                scheduler, StepMode.STEP_EVERY_OPTIMIZER_STEP, frequency
            )

    def train_batch(self, batch, epoch_idx, batch_idx):
        super().train_batch(batch, epoch_idx, batch_idx)
        return {name: counter.count for name, counter in self.counters.items()}

    def evaluate_batch(self, batch, batch_idx):
        return {name: counter.count for name, counter in self.counters.items()}
"""


@pytest.mark.parametrize("slots", [1, 2])
def test_each_scheduler_follows_its_event(tmp_path: Path, slots: int) -> None:
    # 12 records, 2 a slot: epochs of 6 batches, or of 3 on 2 slots.
    result, _ = run_linear(
        tmp_path, SCHEDULERS, slots=slots, max_length=f"{14 // slots}ba", validation_period="1ba"
    )
    epoch_length = 6 // slots
    for batches, _, _, counts in result.validation:
        assert counts == {
            "epoch": batches // epoch_length,
            "second_epoch": batches // epoch_length // 2,
            "batch": batches,
            "third_batch": batches // 3,
            "manual": 0,
            "step": batches,
            "second_step": batches // 2,
        }
    assert len(result.validation) == 14 // slots


def test_schedulers_step_at_the_end_of_an_aggregation_window(tmp_path: Path) -> None:
    # Epochs of 3 batches, windows of 4: the events within a window are taken after it.
    result, _ = run_linear(
        tmp_path,
        SCHEDULERS,
        slots=2,
        aggregation_frequency=4,
        max_length="12ba",
        validation_period="1ba",
    )
    during = [metrics for _, _, metrics in result.training]
    for name, after_window in (
        ("epoch", [1, 2, 4]),
        ("second_epoch", [0, 1, 2]),
        ("batch", [4, 8, 12]),
        ("third_batch", [1, 2, 4]),
        ("step", [1, 2, 3]),
        ("second_step", [0, 1, 1]),
    ):
        assert [metrics[name] for *_, metrics in result.validation] == after_window, name
        # The window's last batch is left out: it returns after its step.
        assert [row[name] for row in during[:3]] == [0, 0, 0], name
        assert [row[name] for row in during[4:7]] == [after_window[0]] * 3, name


class Recording:
    def __init__(self) -> None:
        self.count = 0

    def step(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("epoch_length", [1, 3, 7])
@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_a_schedule_does_not_depend_on_how_batches_are_grouped(
    window: int, epoch_length: int, frequency: int
) -> None:
    modes = [StepMode.STEP_EVERY_EPOCH, StepMode.STEP_EVERY_BATCH, StepMode.MANUAL_STEP]
    schedulers = [LRScheduler(Recording(), mode, frequency) for mode in modes]
    total = 30
    for start in range(0, total, window):
        step_batch_schedulers(
            schedulers, range(start, start + window), epoch_length, lambda s: s.scheduler.step()
        )
    counts = [wrapped.scheduler.count for wrapped in schedulers]  # type: ignore[attr-defined]
    assert counts == [total // epoch_length // frequency, total // frequency, 0]
