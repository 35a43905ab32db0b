"""What may be behind runs that part from the straight one, from what is known of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trialrun.controller.verification.comparing import Parting
from trialrun.controller.verification.kept_state import Change, Keeper
from trialrun.controller.verification.scenarios import STRAIGHT, Scenario
from trialrun.controller.verification.suspects import Suspect

NOTHING_FOUND = (
    "Nothing suspicious was found in the trial's files. Look for what libraries keep from batch to "
    "batch, for sets of objects, whose order is that of their addresses in memory, for threads, "
    "and for files or services that the trial reads."
)


def likely_causes(
    partings: Sequence[tuple[Scenario, Parting]],
    *,
    changed: Sequence[Change],
    suspects: Sequence[Suspect],
    nondeterministic: str | None,
) -> list[str]:
    """Returns sentences for people, the likeliest cause first.

    Args:
        partings: Every scenario that parted, with where.
        changed: What training changes of what the user's code keeps from batch to batch.
        suspects: Calls in the user's files whose result no seed decides.
        nondeterministic: What strict mode said about an operation, if it refused one.
    """
    scenarios = [scenario for scenario, _ in partings]
    is_repeatable = not any(scenario.is_repeat for scenario in scenarios)
    causes = []
    unsaved = [
        f"{change.name} is changed while it trains, and no checkpoint holds it: "
        f"{Keeper[change.keeper].value}."
        for change in changed
        if not change.is_saved
    ]
    outside = [suspect.cause for suspect in suspects]
    if nondeterministic is not None:
        causes.append(f"A nondeterministic operation: {nondeterministic}")
    # What changes from one straight run to the next is no matter of what a checkpoint holds.
    causes += unsaved + outside if is_repeatable else outside + unsaved
    if changed and is_repeatable and any(_is_about_processes(s) for s in scenarios):
        causes.append(_SHARED.format(names=", ".join(change.name for change in changed)))
    if not causes:
        causes.append(NOTHING_FOUND)
    causes += _about_settings(scenarios)
    if any(parting.records for _, parting in partings):
        causes.append(
            "The records differ before anything is computed from them: look at the dataset, its "
            "collate_fn and its transforms first."
        )
    return causes


_SHARED = (
    "On another number of processes it differs without any stop. Slots that share a process share "
    "{names}: where train_batch changes that, each slot finds what the slot before it has left. "
    "Make it a function of batch_idx, or change it in a callback's on_training_batch_end, which is "
    "called once for all slots."
)


def _is_about_processes(scenario: Scenario) -> bool:
    """Returns whether nothing but P differs from the straight run."""
    is_straight = dataclasses.replace(scenario, legs=STRAIGHT.legs).is_repeat
    return is_straight and not scenario.is_stopped and scenario.processes != STRAIGHT.processes


def _about_settings(scenarios: Sequence[Scenario]) -> list[str]:
    """Returns what to say where a setting changes the result, though nothing else does."""
    if any(s.num_workers is None and s.validation_period is None for s in scenarios):
        return []
    causes = []
    if any(scenario.num_workers is not None for scenario in scenarios):
        causes.append(
            "Only the number of loader workers changes the result: the dataset or its collate_fn "
            "keeps something from record to record, of which each worker has its own."
        )
    if any(scenario.validation_period is not None for scenario in scenarios):
        causes.append(
            "Only how often it validates changes the result. Where it learns by what validations "
            "find, as ReduceLROnPlateau does, that is a matter of course; else evaluate_batch or a "
            "callback changes what training goes on with."
        )
    return causes
