"""Scalers and automatic mixed precision, as a trial sets them up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_context import FakeEngine, message, new_context

from trialrun import TrialContext
from trialrun._amp import new_automatic_amp


@pytest.fixture
def context() -> TrialContext:
    return new_context(FakeEngine())


def new_scaler(**settings: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", **settings)


def test_a_scaler_is_returned_itself_and_wrapped_once(context: TrialContext) -> None:
    first, second = new_scaler(), new_scaler(enabled=False)
    assert context.wrap_scaler(first) is first
    assert context.wrap_scaler(second) is second
    assert context.scalers == [first, second]
    assert context.amp is None
    assert message(lambda: context.wrap_scaler(first)) == (
        "wrap_scaler got the same GradScaler twice. Wrap each object once."
    )


def test_half_precision_has_a_scaler_and_bfloat16_needs_none(context: TrialContext) -> None:
    context.experimental.use_amp(torch.float16)
    assert context.amp is not None
    (scaler,) = context.scalers
    assert context.amp.scaler is scaler
    assert scaler.is_enabled()
    without = new_context(FakeEngine())
    without.experimental.use_amp()
    assert without.amp is not None
    assert (without.amp.dtype, without.amp.scaler, without.scalers) == (torch.bfloat16, None, [])


def test_a_scaler_of_ones_own_is_taken(context: TrialContext) -> None:
    scaler = new_scaler(init_scale=8.0)
    context.experimental.use_amp(torch.bfloat16, scaler=scaler)
    assert context.scalers == [scaler]


def test_the_type_is_the_devices_where_none_is_asked_for() -> None:
    on_cpu = new_automatic_amp(torch.device("cpu"), None, None)
    assert (on_cpu.dtype, on_cpu.scaler) == (torch.bfloat16, None)
    scaler = new_scaler()
    on_cuda = new_automatic_amp(torch.device("cuda", 1), None, scaler)
    assert (on_cuda.dtype, on_cuda.scaler) == (torch.float16, scaler)


ONE_OF_THE_TWO = (
    " a scaler of its own where its type needs one. Use one of the two; use_amp(dtype, scaler=...) "
    "takes yours."
)


@pytest.mark.parametrize(
    "calls, text",
    [
        (
            [lambda c: c.experimental.use_amp(torch.float32)],
            "use_amp got dtype=torch.float32. Mixed precision computes in torch.float16 or "
            "torch.bfloat16.",
        ),
        (
            [lambda c: c.experimental.use_amp(), lambda c: c.experimental.use_amp()],
            "use_amp was called twice. Call it once in __init__.",
        ),
        (
            [lambda c: c.wrap_scaler(new_scaler()), lambda c: c.experimental.use_amp()],
            "use_amp was called after wrap_scaler, but has" + ONE_OF_THE_TWO,
        ),
        (
            [lambda c: c.experimental.use_amp(), lambda c: c.wrap_scaler(new_scaler())],
            "wrap_scaler was called after use_amp, which has" + ONE_OF_THE_TWO,
        ),
        (
            [lambda c: c.experimental.use_amp(scaler="none")],
            "wrap_scaler got a str; it takes a torch.amp.GradScaler.",
        ),
    ],
)
def test_two_ways_at_once_are_refused(
    context: TrialContext, calls: list[Callable[[TrialContext], Any]], text: str
) -> None:
    for call in calls[:-1]:
        call(context)
    assert message(lambda: calls[-1](context)) == text


def test_mixed_precision_is_set_up_in_the_constructor() -> None:
    engine = FakeEngine()
    engine.is_built = True
    context = new_context(engine)
    assert message(context.experimental.use_amp) == (
        "use_amp was called after the trial's __init__ had ended. Wrap everything in __init__."
    )
