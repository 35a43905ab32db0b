"""Commands about the training data: ``data show`` and ``data find``."""

from __future__ import annotations

from typing import Any

import click

from trialrun.cli._options import home_options, json_option, open_database
from trialrun.cli._output import print_json, print_table
from trialrun.controller.bookkeeping import CheckpointRow
from trialrun.controller.home import Home
from trialrun.controller.record_history import RecordHistory


@click.group()
def data() -> None:
    """Show which records a batch holds, and which batches hold a record."""


@data.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("--batch", type=click.IntRange(min=0), required=True, help="Batch, counted from 0.")
@click.option("--slot", type=click.IntRange(min=0), help="One slot; default: all.")
@json_option
@home_options
def show(experiment: int, batch: int, slot: int | None, as_json: bool, home: Home) -> None:
    """Show the records of a batch, past or to come.

    \b
    Example:
      trialrun data show 1 --batch 1200 --slot 0

    Batches are counted from 0, as batch_idx in train_batch. The epoch is the pass over the data to
    which a record belongs: a batch may hold the end of one and the beginning of the next. In a
    mixture each dataset counts its own.
    """
    history = RecordHistory.of_experiment(open_database(home), experiment)
    by_slot = history.batch(batch, slot)
    if as_json:
        print_json(
            {
                "batch": batch,
                "slots": [
                    {
                        "slot": number,
                        "records": shares.records.tolist(),
                        "epochs": shares.epochs.tolist(),
                    }
                    for number, shares in by_slot.items()
                ],
            }
        )
        return
    rows = []
    for number, shares in by_slot.items():
        by_epoch: dict[int, list[str]] = {}
        for record, epoch in zip(shares.records.tolist(), shares.epochs.tolist(), strict=True):
            by_epoch.setdefault(epoch, []).append(str(record))
        rows += [(number, epoch, " ".join(records)) for epoch, records in by_epoch.items()]
    print_table(("Slot", "Epoch", "Records"), rows)


@data.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("--record", type=click.IntRange(min=0), required=True, help="Index in the dataset.")
@json_option
@home_options
def find(experiment: int, record: int, as_json: bool, home: Home) -> None:
    """Find every use of a record, and the newest checkpoint from before the first.

    \b
    Example:
      trialrun data find 1 --record 12345

    To train without the record, go on from that checkpoint with a dataset that lacks it. Draws by
    weight have no way back: all of the trial's are gone through, about 50 million in a second.
    """
    history = RecordHistory.of_experiment(open_database(home), experiment)
    uses = history.uses(record)
    before = history.checkpoint_before(uses[0]) if uses else None
    if as_json:
        print_json(
            {
                "record": record,
                "uses": [
                    {
                        "epoch": use.epoch,
                        "batch": use.batch,
                        "slot": use.slot,
                        "place": use.place,
                        "is_past": history.is_past(use),
                    }
                    for use in uses
                ],
                "checkpoint_before": None if before is None else _checkpoint(before),
            }
        )
        return
    print_table(
        ("Epoch", "Batch", "Slot", "State"),
        [
            (use.epoch, use.batch, use.slot, "used" if history.is_past(use) else "to come")
            for use in uses
        ],
    )
    click.echo(_sentence(record, bool(uses), before))


def _sentence(record: int, is_used: bool, before: CheckpointRow | None) -> str:
    if not is_used:
        return (
            f"Record {record} is in no batch of the trial: its samplers leave it out, or the trial "
            "ends before its turn."
        )
    if before is None:
        return "No whole checkpoint is from before its first use."
    return (
        f"The newest checkpoint from before its first use is {before.uuid}, at batch "
        f"{before.batches}."
    )


def _checkpoint(row: CheckpointRow) -> dict[str, Any]:
    return {"uuid": row.uuid, "batches": row.batches, "path": row.path}
