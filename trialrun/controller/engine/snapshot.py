"""Takes a trial's state at a batch boundary into memory, and puts it back, strictly."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from trialrun._context import TrialContext
from trialrun._errors import CheckpointError
from trialrun._trial import Trial
from trialrun.controller import plain
from trialrun.controller.checkpoints.contents import CheckpointContents
from trialrun.controller.engine.callbacks import Callbacks
from trialrun.controller.engine.data.sources import TrainingSource
from trialrun.controller.engine.execution import Execution
from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.engine.reports.metrics import TrainingWindow
from trialrun.controller.engine.weights import (
    load_model,
    non_persistent_buffers,
    require_same_count,
)


@dataclasses.dataclass(kw_only=True)
class Progress:
    """What the loop knows besides the clock, equal on every process.

    Args:
        best_metric: The best value of the searched metric so far, if any.
        best_batches: At which batch it was found.
        validated_batches: The batch of the last whole validation.
        validation_metrics: What it found.
        training_metrics: What the last report found.
        ended_at: The batch at which the trial itself asked to end, if it did.
    """

    best_metric: float | None = None
    best_batches: int | None = None
    validated_batches: int | None = None
    validation_metrics: dict[str, float] | None = None
    training_metrics: dict[str, float] | None = None
    ended_at: int | None = None


_MODELS, _OPTIMIZERS = "models_state_dict", "optimizers_state_dict"
_LR_SCHEDULERS, _CALLBACKS = "lr_schedulers_state_dict", "callbacks"
# What callbacks know of a checkpoint, by the key in its state; models have files of their own.
_PARTS = {
    _MODELS: None,
    _OPTIMIZERS: "optimizers",
    _LR_SCHEDULERS: "lr_schedulers",
    _CALLBACKS: "callbacks",
}


class Snapshots:
    """Captures and restores one trial.

    Args:
        context: What the trial wrapped.
        execution: Who executes it.
        window: The unfinished reporting period.
        data: The training data, whose loaders may have a state.
        trial: The user's trial, which may have a state of its own.
        callbacks: Its callbacks.
        collectives: The processes: each has the unfinished period of its own slots.
    """

    def __init__(
        self,
        context: TrialContext,
        execution: Execution,
        window: TrainingWindow,
        data: TrainingSource,
        trial: Trial,
        callbacks: Callbacks,
        collectives: Collectives,
    ) -> None:
        self._context = context
        self._execution = execution
        self._window = window
        self._data = data
        self._trial = trial
        self._callbacks = callbacks
        self._collectives = collectives

    def capture(
        self, progress: Progress, stopwatch: dict[str, Any], metadata: dict[str, Any]
    ) -> CheckpointContents | None:
        """Copies the state; every process calls it, since each has its own slots.

        Returns:
            The contents on the chief, None elsewhere.

        Raises:
            TrialrunError: Some state is not plain data, or is that of a scheduler that was not
                wrapped; the message names where.
        """
        self._execution.stepping.unwrapped_schedulers.require_no_later_one()
        slot_states = self._collectives.gather(self._own_slot_states(), "slot states")
        if slot_states is None:
            return None
        context = self._context
        schedulers = [wrapped.scheduler for wrapped in context.lr_schedulers]
        checkpoint = {
            _MODELS: [
                {
                    key: plain.snapshot(value, f"model {index}[{key!r}]")
                    for key, value in model.state_dict().items()
                }
                for index, model in enumerate(context.models)
            ],
            _OPTIMIZERS: _state_dicts(context.optimizers, "optimizer"),
            _LR_SCHEDULERS: _state_dicts(schedulers, "lr_scheduler"),
            _CALLBACKS: plain.snapshot(self._callbacks.state_dict(), "states of the callbacks"),
        }
        self._callbacks.call("on_checkpoint_save_start", checkpoint)
        added = {name: value for name, value in checkpoint.items() if name not in _PARTS}
        return CheckpointContents(
            models=checkpoint[_MODELS],
            state={
                "batches": self._execution.batches_completed,
                "stopwatch": stopwatch,
                "progress": dataclasses.asdict(progress),
                "non_persistent_buffers": [
                    plain.snapshot(non_persistent_buffers(model), f"buffers of model {index}")
                    for index, model in enumerate(context.models)
                ],
                "optimizers": checkpoint[_OPTIMIZERS],
                "optimizer_types": [type(optimizer).__name__ for optimizer in context.optimizers],
                "optimizer_parameters": [self._parameter_names(o) for o in context.optimizers],
                "modes": [_modes(model) for model in context.models],
                "optimizer_steps": [steps.state_dict() for steps in self._execution.stepping.steps],
                "lr_schedulers": checkpoint[_LR_SCHEDULERS],
                "scalers": self._execution.stepping.scalers.state_dicts(),
                "slots": plain.snapshot(
                    [state for states in slot_states for state in states], "slot states"
                ),
                "callbacks": checkpoint[_CALLBACKS],
                "added": plain.snapshot(added, "what on_checkpoint_save_start added"),
                "trial": plain.snapshot(self._trial.state_dict(), "state_dict() of the trial"),
            },
            metadata=metadata,
        )

    def restore(self, contents: CheckpointContents) -> Progress:
        """Puts a captured state back.

        Returns:
            What the loop knew.

        Raises:
            CheckpointError: Names, counts, shapes or types differ; the message says which.
        """
        context = self._context
        contents, callback_states = as_callbacks_want_it(contents, self._callbacks)
        state = contents.state
        require_same_count("model", context.models, contents.models)
        require_same_count("optimizer", context.optimizers, state["optimizers"])
        require_same_count("LR scheduler", context.lr_schedulers, state["lr_schedulers"])
        # Checkpoints of earlier versions know of no scalers.
        scalers = state.get("scalers", [])
        require_same_count("gradient scaler", context.scalers, scalers)
        for index, (model, saved) in enumerate(zip(context.models, contents.models, strict=True)):
            load_model(index, model, saved, state["non_persistent_buffers"][index])
            _restore_modes(model, state["modes"][index])
        self._require_same_optimizers(state["optimizer_types"], state["optimizer_parameters"])
        for index, optimizer in enumerate(context.optimizers):
            self._add_later_groups(
                optimizer, state["optimizers"][index], state["optimizer_parameters"][index]
            )
            try:
                optimizer.load_state_dict(plain.restore(state["optimizers"][index]))
                _restore_types(optimizer, state["optimizers"][index])
            except ValueError as error:
                raise CheckpointError(
                    f"The checkpoint does not fit optimizer {index} "
                    f"({type(optimizer).__name__}): {error}. The trial's code has changed since; "
                    "restore it, or submit a new experiment."
                ) from error
        for wrapped, saved in zip(context.lr_schedulers, state["lr_schedulers"], strict=True):
            wrapped.scheduler.load_state_dict(plain.restore(saved))
        for steps, saved in zip(
            self._execution.stepping.steps, state["optimizer_steps"], strict=True
        ):
            steps.load_state_dict(saved)
        self._execution.stepping.scalers.load_state_dicts(scalers)
        self._restore_slots(state["slots"])
        self._trial.load_state_dict(plain.restore(state["trial"]))
        self._callbacks.load_state_dict(callback_states)
        return Progress(**plain.restore(state["progress"]))

    def _own_slot_states(self) -> list[dict[str, Any]]:
        states = []
        for slot in self._execution.slot_numbers:
            states.append(
                {
                    "metrics": self._window.slot_state(slot),
                    "gradients": self._execution.slot_state.gradients(slot),
                    "loader": self._data.slot_state(slot),
                    "reducers": self._execution.reducers.slot_state(slot),
                    "asks_for_stop": self._execution.slot_asks_for_stop(slot),
                }
            )
        return states

    def _restore_slots(self, states: list[dict[str, Any]]) -> None:
        for slot in self._execution.slot_numbers:
            self._execution.reducers.load_slot_state(slot, states[slot]["reducers"])
            self._window.load_slot_state(slot, plain.restore(states[slot]["metrics"]))
            self._execution.slot_state.load_gradients(slot, states[slot]["gradients"])
            self._data.load_slot_state(slot, states[slot]["loader"])
            # Checkpoints of earlier versions know nothing of it.
            asks_for_stop = states[slot].get("asks_for_stop", False)
            self._execution.load_stop_request(slot, asks_for_stop)

    def _add_later_groups(
        self, optimizer: torch.optim.Optimizer, saved: dict[str, Any], names: list[str]
    ) -> None:
        """Adds the groups that the trial added as it trained, such as layers that it unfroze."""
        by_name = self._parameters_by_name()
        known = {p for group in optimizer.param_groups for p in group["params"]}
        for group in saved["param_groups"][len(optimizer.param_groups) :]:
            parameters: list[Any] = [by_name.get(names[place]) for place in group["params"]]
            if any(parameter is None or parameter in known for parameter in parameters):
                return  # the code has changed, as loading is about to say
            if "param_names" in group:
                parameters = list(zip(group["param_names"], parameters, strict=True))
            # All else that the group says is loaded with the others'.
            optimizer.add_param_group({"params": parameters})

    def _parameters_by_name(self) -> dict[str, torch.nn.Parameter]:
        return {
            f"model {index} {name}": parameter
            for index, model in enumerate(self._context.models)
            for name, parameter in model.named_parameters()
        }

    def _parameter_names(self, optimizer: torch.optim.Optimizer) -> list[str]:
        names = {parameter: name for name, parameter in self._parameters_by_name().items()}
        return [names[p] for group in optimizer.param_groups for p in group["params"]]

    def _require_same_optimizers(self, recorded: list[str], parameters: list[list[str]]) -> None:
        for index, (optimizer, name, names) in enumerate(
            zip(self._context.optimizers, recorded, parameters, strict=True)
        ):
            if type(optimizer).__name__ != name:
                raise CheckpointError(
                    f"Optimizer {index} was {name} and is now {type(optimizer).__name__}. Restore "
                    "the trial's code, or submit a new experiment."
                )
            # Its state knows parameters by their place alone.
            for place, (now, before) in enumerate(
                zip(self._parameter_names(optimizer), names, strict=False)
            ):
                if now != before:
                    raise CheckpointError(
                        f"Parameter {place} of optimizer {index} was {before} and is now {now}. "
                        "Restore the trial's code, or submit a new experiment."
                    )


def as_callbacks_want_it(
    contents: CheckpointContents, callbacks: Callbacks
) -> tuple[CheckpointContents, dict[str, Any]]:
    """Shows a checkpoint to the callbacks; returns it, and the callbacks' states."""
    if not callbacks.listen_to("on_checkpoint_load_start"):
        return contents, plain.restore(contents.state["callbacks"])
    state = contents.state
    checkpoint = {
        _MODELS: contents.models,
        **{name: state[key] for name, key in _PARTS.items() if key is not None},
        **plain.restore(state["added"]),
    }
    checkpoint = {name: plain.restore(value) for name, value in checkpoint.items()}
    callbacks.call("on_checkpoint_load_start", checkpoint)
    changed = {
        key: plain.snapshot(checkpoint[name], name)
        for name, key in _PARTS.items()
        if key is not None
    }
    models = [
        {key: plain.snapshot(value, f"{_MODELS}[{index}][{key!r}]") for key, value in m.items()}
        for index, m in enumerate(checkpoint[_MODELS])
    ]
    contents = dataclasses.replace(contents, models=models, state={**state, **changed})
    return contents, checkpoint[_CALLBACKS]


def _modes(model: torch.nn.Module) -> dict[str, list[str]]:
    """Returns what the trial may have frozen, or put into eval mode, as it trained."""
    return {
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "evaluating": [name for name, module in model.named_modules() if not module.training],
    }


def _restore_modes(model: torch.nn.Module, saved: dict[str, list[str]]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in saved["frozen"])
    for name, module in model.named_modules():
        module.training = name not in saved["evaluating"]


def _restore_types(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Gives state tensors the types that they had: torch casts them to the parameter's."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, entries in saved["state"].items():
        state = optimizer.state[parameters[place]]
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and state[name].dtype != value.dtype:
                state[name] = value.to(state[name].device, copy=True)


def _state_dicts(items: list[Any], name: str) -> list[Any]:
    return [plain.snapshot(item.state_dict(), f"{name} {i}") for i, item in enumerate(items)]
