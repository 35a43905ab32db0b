"""Loss scaling over slots: unscale after the sum, skip on all slots alike, update once for all.

What overflowed on one slot is infinite or NaN in the sum, so every process finds the same and no
process must ask another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trialrun._errors import CheckpointError, InvalidTrialError
from trialrun._wording import type_of
from trialrun.controller.engine.parallel.interception import Original, intercept, original, release
from trialrun.controller.engine.parallel.slots import Slots


def scaler_label(index: int) -> str:
    """Returns what an update of this scaler is called in an error."""
    return f"scaler.update on scaler {index}"


class Scaling:
    """One enabled gradient scaler in the steps of all slots.

    Args:
        scaler: The user's scaler.
        is_automatic: Whether ``use_amp`` made it, so that it is updated without being asked.
        is_alone: Whether there is one slot in all, which may use the scaler itself.
    """

    def __init__(
        self,
        scaler: torch.amp.GradScaler,
        *,
        is_automatic: bool,
        is_alone: bool,
    ) -> None:
        self.scaler = scaler
        self.is_automatic = is_automatic
        self._is_alone = is_alone
        # Since the last update, by the optimizer's id: a scaler knows them so too.
        self._asked: set[int] = set()
        self._unscaled: set[int] = set()
        self._stepped: set[int] = set()
        self._took_part = False

    @property
    def scale(self) -> float:
        """The present scale."""
        return self.scaler.get_scale()

    @property
    def is_forgotten(self) -> bool:
        """Whether it has scaled a loss, but took part in no step of this attempt."""
        # The state is made by the first loss: there is no public way to ask.
        return self.scaler._scale is not None and not self._took_part

    # In the step that is taken for all slots.

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the summed gradients by the scale, and looks for infinities and NaN.

        Raises:
            InvalidTrialError: The scaler has scaled nothing, or is the trial's to update and was
                not since the optimizer's last step.
        """
        if id(optimizer) in self._stepped:
            self._begin_another_step(optimizer)
        if id(optimizer) in self._unscaled:
            return
        try:
            original(self.scaler, "unscale_")(optimizer)
        except AssertionError as error:
            raise InvalidTrialError(
                f"A scaler takes part in the step of {type(optimizer).__name__}, but has scaled no "
                "loss yet. Call context.backward(scaler.scale(loss)); after use_amp, "
                "context.backward(loss)."
            ) from error

    def take_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets the scaler take the step, or skip it."""
        self._stepped.add(id(optimizer))
        original(self.scaler, "step")(optimizer)

    def take_part(self, optimizer: torch.optim.Optimizer) -> None:
        """Notes that the scaler was passed to a step, though there may be nothing to unscale."""
        self._asked.add(id(optimizer))
        self._took_part = True

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Updates the scale, once for all slots.

        Raises:
            InvalidTrialError: The scaler took part in no step since the last update.
        """
        asked, stepped = self._asked, self._stepped
        self._asked, self._unscaled, self._stepped = set(), set(), set()
        has_new_scale = bool(args or kwargs)
        if not stepped and not has_new_scale:
            if not asked and not self.is_automatic:
                raise InvalidTrialError(
                    "scaler.update() was called, but the scaler took part in no step since the "
                    "last update. Call context.step_optimizer(optimizer, scaler=scaler) first."
                )
            return  # A step without any gradients, in which there was nothing to look at.
        original(self.scaler, "update")(*args, **kwargs)

    # What the trial calls itself.

    def step_directly(self, step: Original, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``scaler.step(optimizer)`` in the trial."""
        if not self._is_alone:
            raise InvalidTrialError(
                f"scaler.step was called directly on {type(optimizer).__name__}. With several "
                "slots it would step with one slot's gradients alone. Call "
                "context.step_optimizer(optimizer, scaler=scaler)."
            )
        self._took_part = True
        self._stepped.add(id(optimizer))
        return step(optimizer, *args, **kwargs)

    def unscale_directly(
        self, unscale: Original, optimizer: torch.optim.Optimizer, window_is_complete: bool
    ) -> None:
        """``scaler.unscale_(optimizer)`` in the trial."""
        if not self._is_alone:
            raise InvalidTrialError(
                f"scaler.unscale_ was called on {type(optimizer).__name__}. With several slots it "
                "would see one slot's gradients alone. Leave it out: context.step_optimizer("
                "optimizer, clip_grads=..., scaler=scaler) unscales the sum before it clips."
            )
        if not window_is_complete:
            raise InvalidTrialError(
                f"scaler.unscale_ was called on {type(optimizer).__name__} within an aggregation "
                "window, to whose gradients scaled ones are still to be added. Leave it out: "
                "context.step_optimizer(optimizer, clip_grads=..., scaler=scaler) unscales before "
                "it clips."
            )
        unscale(optimizer)
        self._unscaled.add(id(optimizer))

    def _begin_another_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets an optimizer step again under the scale of its last step.

        Other losses of the batch were scaled by it too, so ``use_amp`` updates it at the end: what
        each step found is kept until then.
        """
        if not self.is_automatic:
            raise InvalidTrialError(
                f"{type(optimizer).__name__} steps again with a scaler that was not updated since "
                "its last step. Call scaler.update() in train_batch, after the last step_optimizer "
                "that it takes part in."
            )
        # torch keeps one finding for each optimizer, by its id, and adds up all of them at an
        # update. An id is never negative. There is no public way.
        findings = self.scaler._per_optimizer_states
        earlier = findings.pop(id(optimizer))
        findings[min([0, *findings]) - 1] = earlier
        self._stepped.discard(id(optimizer))


class Scalers:
    """All wrapped scalers of a trial.

    Args:
        scalers: All of them; a disabled one does nothing, as in torch.
        amp_scaler: The one of ``use_amp``.
        num_slots: S.
        slots: The slots of this process.
        window_is_complete: Whether this batch ends an aggregation window.
        is_training_batch: Whether slots are executing ``train_batch``.
        announce: Tells the other processes of the scaler, by its number, that is to be updated.
    """

    def __init__(
        self,
        scalers: Sequence[torch.amp.GradScaler],
        amp_scaler: torch.amp.GradScaler | None,
        *,
        num_slots: int,
        slots: Slots,
        window_is_complete: Callable[[], bool],
        is_training_batch: Callable[[], bool],
        announce: Callable[[int], None],
    ) -> None:
        self._scalers = scalers
        self._num_slots = num_slots
        self._slots = slots
        self._window_is_complete = window_is_complete
        self._is_training_batch = is_training_batch
        self._announce = announce
        self._enabled = {
            index: Scaling(scaler, is_automatic=scaler is amp_scaler, is_alone=num_slots == 1)
            for index, scaler in enumerate(scalers)
            if scaler.is_enabled()
        }
        self._automatic = next((s for s in self._enabled.values() if s.is_automatic), None)
        for index, scaling in self._enabled.items():
            intercept(
                scaling.scaler,
                step=scaling.step_directly,
                unscale_=functools.partial(self._unscale_directly, scaling),
                update=functools.partial(self._update_together, index),
            )

    def __bool__(self) -> bool:
        """Whether a scaler may take part in a step."""
        return bool(self._enabled)

    def taking_part(self, scaler: torch.amp.GradScaler | None) -> Scaling | None:
        """Returns the enabled scaler of a step: the one that the trial passed, or use_amp's.

        Raises:
            InvalidTrialError: It was not wrapped, or is another than use_amp's.
        """
        if scaler is None:
            return self._automatic
        for index, wrapped in enumerate(self._scalers):
            if wrapped is scaler:
                return self._enabled.get(index)
        if self._automatic is not None:
            raise InvalidTrialError(
                f"step_optimizer got {type_of(scaler)}, but use_amp has its own. Leave "
                "scaler= out, or leave use_amp out and wrap the scaler."
            )
        raise InvalidTrialError(
            f"step_optimizer got {type_of(scaler)} that was not wrapped, so no checkpoint "
            "would hold its scale. Call context.wrap_scaler on it in the trial's __init__."
        )

    def end_window(self) -> None:
        """Updates the scaler of ``use_amp``."""
        if self._automatic is not None:
            self._automatic.update()

    def close(self) -> None:
        """Leaves the scalers to the trial."""
        for scaling in self._enabled.values():
            release(scaling.scaler)

    def unused(self) -> list[int]:
        """Returns the scalers, by number, that have scaled a loss but took part in no step."""
        return [index for index, scaling in self._enabled.items() if scaling.is_forgotten]

    def metrics(self) -> dict[str, float]:
        """Returns the present scales, as they are reported beside the training metrics."""
        return {
            "amp_scale" if len(self._enabled) == 1 else f"amp_scale_{index}": scaling.scale
            for index, scaling in self._enabled.items()
        }

    def state_dicts(self) -> list[dict[str, Any]]:
        """Returns the state of every scaler; that of a disabled one is empty."""
        return [scaler.state_dict() for scaler in self._scalers]

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """Takes up what ``state_dicts`` returned.

        Raises:
            CheckpointError: A scaler was enabled and is not, or the other way round.
        """
        for index, (scaler, state) in enumerate(zip(self._scalers, states, strict=True)):
            if scaler.is_enabled() != bool(state):
                words = {True: "enabled", False: "disabled"}
                raise CheckpointError(
                    f"Gradient scaler {index} was {words[bool(state)]} and is now "
                    f"{words[scaler.is_enabled()]}. Restore the trial's code and its type of "
                    "device, or submit a new experiment."
                )
            scaler.load_state_dict(state)

    def _update_together(self, index: int, _: Original, *args: Any, **kwargs: Any) -> None:
        """``scaler.update()`` in the trial: every slot calls it, and it happens once."""
        scaling = self._enabled[index]
        if scaling.is_automatic:
            raise InvalidTrialError(
                "scaler.update() was called on the scaler of use_amp, which is updated by itself. "
                "Leave the call out."
            )
        if not self._window_is_complete():
            if args or kwargs:
                raise InvalidTrialError(
                    "scaler.update was called with a new scale within an aggregation window, whose "
                    "gradients must have one scale. Call it at the window's last batch."
                )
            return
        if self._num_slots == 1 or not self._is_training_batch():
            scaling.update(*args, **kwargs)
            return
        if self._slots.current == self._slots.numbers.start:
            self._announce(index)
        self._slots.meet(scaler_label(index), lambda: scaling.update(*args, **kwargs))

    def _unscale_directly(
        self, scaling: Scaling, unscale: Original, optimizer: torch.optim.Optimizer
    ) -> None:
        scaling.unscale_directly(unscale, optimizer, self._window_is_complete())
