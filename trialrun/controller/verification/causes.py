"""What may be behind runs that part from the straight one, from what is known of all of them."""

from __future__ import annotations

from collections.abc import Sequence

from trialrun.controller.verification.comparing import Parting
from trialrun.controller.verification.scenarios import Scenario
from trialrun.controller.verification.suspects import Suspect

NOTHING_FOUND = (
    "Nothing suspicious was found in the trial's file. Look for iterators and generators that are "
    "kept from batch to batch, for sets whose order decides something, and for files or services "
    "that the trial reads."
)


def likely_causes(
    partings: Sequence[tuple[Scenario, Parting]],
    *,
    changed: Sequence[str],
    suspects: Sequence[Suspect],
    nondeterministic: str | None,
) -> list[str]:
    """Returns sentences for people, the likeliest cause first.

    Args:
        partings: Every run that parted, with where.
        changed: Attributes of the trial that training changes, and no checkpoint holds.
        suspects: Calls in the user's files whose result no seed decides.
        nondeterministic: What strict mode said about an operation, if it refused one.
    """
    is_repeatable = not any(scenario.is_repeat for scenario, _ in partings)
    causes = []
    unsaved = [
        f"self.{name} is changed while it trains, and no checkpoint holds it: return it from "
        "state_dict() of the trial and take it back in load_state_dict()."
        for name in changed
    ]
    outside = [f"{suspect}, so no seed decides it." for suspect in suspects]
    if nondeterministic is not None:
        causes.append(f"A nondeterministic operation: {nondeterministic}")
    # What changes from one straight run to the next is no matter of what a checkpoint holds.
    causes += unsaved + outside if is_repeatable else outside + unsaved
    if not causes:
        causes.append(NOTHING_FOUND)
    if any(parting.records for _, parting in partings):
        causes.append(
            "The records differ before anything is computed from them: look at the dataset, its "
            "collate_fn and its transforms first."
        )
    return causes
