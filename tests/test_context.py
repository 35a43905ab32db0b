from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trialrun import ConfigurationError, InvalidTrialError, MetricReducer, StepMode, TrialContext
from trialrun._engine import Engine
from trialrun._run_record import RunRecord


class FakeEngine(Engine):
    """Writes down what the context asks for."""

    is_built = False
    is_training = False
    slot = 1
    initial_batch = 5
    batches_completed = 0
    epoch_length = 3
    aggregation_frequency = 4  # of 24 batches: 6 steps
    total_batches = 24

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.stop_requested = False

    def backward(self, *arguments: Any) -> None:
        self.calls.append(("backward", *arguments))

    def step_optimizer(self, *arguments: Any) -> None:
        self.calls.append(("step_optimizer", *arguments))

    def exchange(self, value: Any, call: str, *, to_all: bool) -> list[Any] | None:
        self.calls.append(("exchange", value, call, to_all))
        return [value, "another"] if to_all or self.slot == 0 else None

    def set_stop_requested(self, stop_requested: bool) -> None:
        self.stop_requested = stop_requested

    def get_stop_requested(self) -> bool:
        return self.stop_requested


class NoMetric(MetricReducer):
    def reset(self) -> None:
        pass

    def per_slot_reduce(self) -> None:
        pass

    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> float:
        return 0.0


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def context(engine: FakeEngine) -> TrialContext:
    return new_context(engine, lr=0.1, global_batch_size=12)


def new_context(engine: Engine, **hyperparameters: Any) -> TrialContext:
    return TrialContext(
        hyperparameters=hyperparameters,
        num_slots=4,
        seed=9,
        device=torch.device("cpu"),
        engine=engine,
    )


def message(call: Any) -> str:
    with pytest.raises((ConfigurationError, InvalidTrialError)) as caught:
        call()
    return str(caught.value)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


# What the trial is given.


def test_a_trial_is_given_its_hyperparameters_and_place(context: TrialContext) -> None:
    assert context.get_hparams() == {"lr": 0.1, "global_batch_size": 12}
    assert context.get_hparam("lr") == 0.1
    assert (context.get_global_batch_size(), context.get_per_slot_batch_size()) == (12, 3)
    assert (context.get_trial_seed(), context.get_initial_batch(), context.slot) == (9, 5, 1)
    context.get_hparams()["lr"] = 1.0
    assert context.get_hparam("lr") == 0.1


def test_an_unknown_hyperparameter_names_the_nearest(context: TrialContext) -> None:
    assert message(lambda: context.get_hparam("l_r")) == (
        "There is no hyperparameter 'l_r'. Did you mean 'lr'? Known: global_batch_size, lr. Add it "
        "under 'hyperparameters' in the configuration, or give --hp l_r=VALUE."
    )
    # As Determined's users catch it.
    with pytest.raises(ValueError, match=r"^There is no hyperparameter 'seed'\. Known: global_"):
        context.get_hparam("seed")


def test_a_missing_global_batch_size_is_a_missing_hyperparameter(engine: FakeEngine) -> None:
    assert message(new_context(engine).get_per_slot_batch_size) == (
        "There is no hyperparameter 'global_batch_size'. Add it under 'hyperparameters' in the "
        "configuration, or give --hp global_batch_size=VALUE."
    )


@pytest.mark.parametrize("size", [0, -4, 4.0, "12", True, None])
def test_a_global_batch_size_is_whole_and_positive(engine: FakeEngine, size: Any) -> None:
    context = new_context(engine, global_batch_size=size)
    assert message(context.get_global_batch_size) == (
        f"global_batch_size={size!r} is not a whole number of at least 1."
    )


def test_the_slots_divide_the_global_batch_size(engine: FakeEngine) -> None:
    assert message(new_context(engine, global_batch_size=10).get_global_batch_size) == (
        "global_batch_size=10 is not divisible by 4 slots. Choose a multiple of 4, such as 12."
    )


# What it wraps.


def test_wrapping_returns_the_same_objects(context: TrialContext) -> None:
    model = nn.Linear(2, 1)
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    reducer = NoMetric()
    assert context.wrap_model(model) is model
    assert context.wrap_optimizer(optimizer) is optimizer
    assert context.wrap_lr_scheduler(scheduler, StepMode.STEP_EVERY_EPOCH, 2) is scheduler
    assert context.wrap_reducer(reducer, "name", for_training=False) is reducer
    assert (context.models, context.optimizers) == ([model], [optimizer])
    assert [(s.scheduler, s.frequency) for s in context.lr_schedulers] == [(scheduler, 2)]
    (wrapped,) = context.reducers
    assert (wrapped.label, wrapped.for_training, wrapped.for_validation) == ("name", False, True)


@pytest.mark.parametrize(
    ("method", "takes"),
    [
        ("wrap_model", "torch.nn.Module"),
        ("wrap_optimizer", "torch.optim.Optimizer"),
        ("wrap_scaler", "torch.amp.GradScaler"),
    ],
)
def test_wrapping_something_else_is_refused(context: TrialContext, method: str, takes: str) -> None:
    wrap = getattr(context, method)
    assert message(lambda: wrap("text")) == f"{method} got a str; it takes a {takes}."


def test_each_object_is_wrapped_once(context: TrialContext) -> None:
    model = context.wrap_model(nn.Linear(2, 1))
    optimizer = context.wrap_optimizer(sgd(model))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    context.wrap_lr_scheduler(scheduler, StepMode.MANUAL_STEP)
    reducer = context.wrap_reducer(NoMetric())
    twice = "got the same {} twice. Wrap each object once."
    assert message(lambda: context.wrap_model(model)) == "wrap_model " + twice.format("Linear")
    assert message(lambda: context.wrap_optimizer(optimizer)) == (
        "wrap_optimizer " + twice.format("SGD")
    )
    assert message(lambda: context.wrap_lr_scheduler(scheduler, StepMode.MANUAL_STEP)) == (
        "wrap_lr_scheduler " + twice.format("ExponentialLR")
    )
    assert message(lambda: context.wrap_reducer(reducer, "other")) == (
        "wrap_reducer got the same NoMetric twice, as 'NoMetric' and as 'other'. Wrap each object "
        "once."
    )


@pytest.mark.parametrize("passes", [0, 1.0, True, "2"])
def test_backward_passes_are_counted_in_whole_numbers(context: TrialContext, passes: Any) -> None:
    optimizer = sgd(nn.Linear(2, 1))
    assert message(lambda: context.wrap_optimizer(optimizer, passes)) == (
        f"backward_passes_per_step={passes!r} is not a whole number of at least 1. Leave it out: "
        "the gradients of any number of backward passes are added up."
    )


def test_a_scheduler_comes_after_its_optimizer(context: TrialContext) -> None:
    scheduler = torch.optim.lr_scheduler.ExponentialLR(sgd(nn.Linear(2, 1)), 0.5)
    assert message(lambda: context.wrap_lr_scheduler(scheduler, StepMode.STEP_EVERY_EPOCH)) == (
        "The optimizer of this ExponentialLR was not wrapped. Call wrap_optimizer on it before "
        "wrap_lr_scheduler."
    )


class OwnScheduler:
    """Follows no optimizer."""

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def test_a_scheduler_of_ones_own_needs_an_optimizer_only_to_follow_one(
    context: TrialContext,
) -> None:
    context.wrap_lr_scheduler(OwnScheduler(), StepMode.STEP_EVERY_BATCH)
    wrap = context.wrap_lr_scheduler
    assert message(lambda: wrap(OwnScheduler(), StepMode.STEP_EVERY_OPTIMIZER_STEP)) == (
        "The optimizer of this OwnScheduler was not wrapped. Call wrap_optimizer on it before "
        "wrap_lr_scheduler."
    )


@pytest.mark.parametrize(
    "method", ["wrap_model", "wrap_optimizer", "wrap_lr_scheduler", "wrap_scaler"]
)
def test_nothing_is_wrapped_after_the_constructor(
    context: TrialContext, engine: FakeEngine, method: str
) -> None:
    engine.is_built = True
    arguments = (None, StepMode.MANUAL_STEP) if method == "wrap_lr_scheduler" else (None,)
    assert message(lambda: getattr(context, method)(*arguments)) == (
        f"{method} was called after the trial's __init__ had ended. Wrap everything in __init__."
    )


def test_reducers_are_wrapped_until_training_begins(
    context: TrialContext, engine: FakeEngine
) -> None:
    engine.is_built = True
    context.wrap_reducer(NoMetric(), "one")
    engine.is_training = True
    assert message(lambda: context.wrap_reducer(NoMetric(), "other")) == (
        "wrap_reducer was called after training began. Wrap everything in the trial's __init__."
    )


# How it trains, and where it is.


def test_training_calls_go_to_the_engine(context: TrialContext, engine: FakeEngine) -> None:
    loss, optimizer = torch.zeros(1), sgd(nn.Linear(1, 1))
    context.backward(loss, retain_graph=True)
    context.backward(loss, loss, create_graph=True, inputs=[loss])
    context.step_optimizer(optimizer, clip_grads=sum, auto_zero_grads=False)
    scaler = torch.amp.GradScaler("cpu")
    context.step_optimizer(optimizer, scaler=scaler, closure=print)
    assert engine.calls == [
        ("backward", loss, None, True, False, None),
        ("backward", loss, loss, False, True, [loss]),
        ("step_optimizer", optimizer, sum, False, None, None),
        ("step_optimizer", optimizer, None, True, scaler, print),
    ]
    context.set_stop_requested(True)
    assert context.get_stop_requested()
    assert torch.equal(context.to_device({"x": loss})["x"], loss)


def test_epochs_are_counted_by_the_clock(context: TrialContext, engine: FakeEngine) -> None:
    engine.is_training = True
    seen = []
    for engine.batches_completed in range(7):
        assert context.current_train_batch() == engine.batches_completed
        seen.append(
            (context.current_train_epoch(), context.is_epoch_start(), context.is_epoch_end())
        )
    first, inner, last = (True, False), (False, False), (False, True)
    expected = [(e, *place) for e in range(2) for place in (first, inner, last)]
    assert seen == [*expected, (2, *first)]


@pytest.mark.parametrize(
    "method", ["current_train_batch", "current_train_epoch", "is_epoch_start", "is_epoch_end"]
)
def test_before_training_there_is_no_current_batch(context: TrialContext, method: str) -> None:
    assert message(getattr(context, method)) == (
        f"{method} was called, but training has not begun, so there is no current batch. Call it "
        "in train_batch; get_initial_batch() says where this attempt begins."
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(1, "1, an int"), ("yes", "'yes', a str"), (None, "None")]
)
def test_a_switch_is_true_or_false(context: TrialContext, value: Any, shown: str) -> None:
    for method in ("set_stop_requested", "set_enable_tensorboard_logging"):
        assert message(lambda method=method: getattr(context, method)(value)) == (
            f"{method} got {shown}; it takes True or False."
        )
    assert not context.get_stop_requested()


# What is on record, and what is not.


def recorded(config: dict[str, Any] | None) -> TrialContext:
    return TrialContext(
        hyperparameters={},
        num_slots=4,
        seed=9,
        device=torch.device("cpu"),
        engine=FakeEngine(),
        record=RunRecord(experiment_config=config, experiment_id=3, trial_id=5),
    )


def test_a_trial_knows_its_experiment() -> None:
    config = {"slots": 4, "data": {"folder": "corpus", "splits": [1, 2]}}
    context = recorded(config)
    assert (context.get_experiment_id(), context.get_trial_id()) == (3, 5)
    assert context.get_experiment_config() == config
    assert context.get_data_config() == {"folder": "corpus", "splits": [1, 2]}
    # They are copies.
    context.get_data_config()["splits"].append(3)
    context.get_experiment_config()["slots"] = 8
    assert context.get_experiment_config() == config


def test_a_configuration_has_the_keys_that_were_submitted() -> None:
    determined = {"resources": {"slots_per_trial": 4}, "data": {"folder": "corpus"}}
    context = recorded({"slots": 4, "data": {"folder": "corpus"}, "determined": determined})
    assert context.get_experiment_config() == determined
    context.get_experiment_config()["data"]["folder"] = "other"
    assert context.get_data_config() == {"folder": "corpus"}
    # One of trialrun's own.
    own = {"slots": 4, "data": {}, "determined": {}}
    assert recorded(own).get_experiment_config() == own


@pytest.mark.parametrize("config", [{}, {"data": None}, {"data": {}}])
def test_a_configuration_may_say_nothing_of_data(config: dict[str, Any]) -> None:
    assert recorded(config).get_data_config() == {}


def test_without_records_ids_are_0_and_a_configuration_is_missed(context: TrialContext) -> None:
    assert (context.get_experiment_id(), context.get_trial_id()) == (0, 0)
    for method in (context.get_experiment_config, context.get_data_config):
        assert message(method) == (
            "This context was made without an experiment's configuration. Submit the trial, or "
            "read what you need with get_hparam."
        )


def test_without_records_there_is_no_folder_for_tensorboard(context: TrialContext) -> None:
    assert context.get_enable_tensorboard_logging()
    context.set_enable_tensorboard_logging(False)
    assert not context.get_enable_tensorboard_logging()
    for method in (
        context.get_tensorboard_path,
        context.get_tensorboard_writer,
        context.set_profiler,
    ):
        assert message(method).startswith("This context has no folder for TensorBoard, because ")


def test_what_cannot_be_moved_is_warned_of_once_for_each_type(
    context: TrialContext, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        data = {"texts": ["a", "b"], "numbers": (torch.ones(1), np.ones(1)), "count": 3}
        assert context.to_device(data)["texts"] == ["a", "b"]
    warned = "to_device was not able to move data of type {} to cpu: it stays where it is."
    assert caplog.messages == [warned.format("int"), warned.format("str")]
