from __future__ import annotations

import pytest

from trialrun import BookkeepingError
from trialrun.controller.record_history import RecordHistory
from trialrun.samplers.record_order import RecordOrder

# A trial whose length is a time: 10 records, 3 batches an epoch, 4 batches so far.
TIMED = RecordHistory(
    order=RecordOrder(num_records=10, seed=1, num_slots=2, batch_size=2, is_shuffled=True),
    epoch_length=3,
    batches_completed=4,
    total_batches=None,
    checkpoints=[],
)


def test_a_trial_without_a_known_end_knows_one_epoch_more() -> None:
    uses = TIMED.uses(6)
    assert [use.epoch for use in uses] == list(range(len(uses)))
    assert 2 <= len(uses) <= 3
    assert max(use.batch for use in uses) < 4 + 3
    assert {TIMED.is_past(use) for use in uses} == {True, False}
    assert TIMED.checkpoint_before(uses[0]) is None


def test_any_batch_that_can_be_counted_is_known() -> None:
    assert set(TIMED.batch(10**12)) == {0, 1}
    with pytest.raises(BookkeepingError) as caught:
        TIMED.batch(10**30)
    assert str(caught.value).startswith(f"There is no batch {10**30}: ")
