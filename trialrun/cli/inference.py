"""Commands that use a trained trial: ``evaluate`` and ``predict``; both load torch when called."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from trialrun._wording import count
from trialrun.cli._options import home_options, json_option, open_database
from trialrun.cli._output import format_metrics, print_json
from trialrun.controller.home import Home

_checkpoint_option = click.option(
    "--checkpoint",
    "which",
    default="best",
    metavar="best|latest|UUID",
    help="Default: best, by the searched metric.",
)
_processes_option = click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    metavar="P",
    help="Physical workers; any divisor of the slots. The result is the same. Default: 1.",
)


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@_checkpoint_option
@click.option(
    "--data",
    "split",
    type=click.Choice(["validation", "test"]),
    default="validation",
    help="Default: validation.",
)
@_processes_option
@json_option
@home_options
def evaluate(
    experiment: int, which: str, split: str, processes: int, as_json: bool, home: Home
) -> None:
    """Evaluate a checkpoint on the validation or test data; nothing is recorded.

    \b
    Example:
      trialrun evaluate 1 --checkpoint best --data test

    On the validation data the metrics are those that training recorded at this checkpoint, bit for
    bit, on the same kind of device.
    """
    database = open_database(home)
    with _user_errors():
        from trialrun.controller.engine.building import Split
        from trialrun.controller.inference.processes import Evaluate, carry_out

        done = carry_out(database, experiment, which, Evaluate(Split(split)), processes)
    click.echo(done.printed, nl=False, err=True)
    row, found = done.checkpoint, done.found
    if as_json:
        print_json(
            {
                "experiment": experiment,
                "checkpoint": row.uuid,
                "batches": row.batches,
                "digest": row.digest,
                "data": split,
                **found,
            }
        )
        return
    click.echo(f"Checkpoint {row.uuid} of experiment {experiment}, at batch {row.batches}")
    records = count(found["num_records"], "record")
    click.echo(f"{split}, {records}: {format_metrics(found['metrics'])}")


@click.command()
@click.argument("experiment", type=int, metavar="EXP")
@click.option("--output", "folder", required=True, metavar="DIR", help="A new or empty folder.")
@_checkpoint_option
@click.option(
    "--data",
    "split",
    type=click.Choice(["test", "validation", "training"]),
    default="validation",
    help="Default: validation.",
)
@click.option(
    "--format",
    "table_format",
    type=click.Choice(["parquet", "safetensors"]),
    default="parquet",
    help="Default: parquet, which needs pyarrow.",
)
@_processes_option
@json_option
@home_options
def predict(
    experiment: int,
    folder: str,
    which: str,
    split: str,
    table_format: str,
    processes: int,
    as_json: bool,
    home: Home,
) -> None:
    """Write what predict_batch says of every record, in the order of the dataset.

    \b
    Example:
      trialrun predict 1 --data test --output predictions

    The folder gets a table with the column 'record', the record's index, beside the predictions,
    and manifest.json. It is whole or absent.
    """
    from trialrun.controller.whole_folder import require_free

    output = Path(folder).expanduser().absolute()
    require_free(output)
    database = open_database(home)
    with _user_errors():
        from trialrun.controller.engine.building import Split
        from trialrun.controller.inference.processes import Predict, carry_out
        from trialrun.controller.inference.tables import TableFormat

        task = Predict(Split(split), output, TableFormat(table_format))
        done = carry_out(database, experiment, which, task, processes)
    click.echo(done.printed, nl=False, err=True)
    row, found = done.checkpoint, done.found
    if as_json:
        summary: dict[str, Any] = {
            "experiment": experiment,
            "checkpoint": row.uuid,
            "batches": row.batches,
            "data": split,
            "output": str(output),
            **found,
        }
        print_json(summary)
        return
    described = ", ".join(f"{name} ({kind})" for name, kind in found["columns"].items())
    click.echo(
        f"Predicted {count(found['num_records'], 'record')} of the {split} data with checkpoint "
        f"{row.uuid}, at batch {row.batches}."
    )
    click.echo(f"{output}: {described}")


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Shows warnings, and lets an error of the trial's own code be seen as it was raised."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    from trialrun.controller.engine.determinism import kept_determinism, named_operation
    from trialrun.controller.engine.parallel.slots import SlotError
    from trialrun.controller.inference.processes import ProcessFailure

    try:
        with kept_determinism():
            yield
    except SlotError as error:
        assert error.__cause__ is not None
        raise named_operation(error.__cause__) from None
    except ProcessFailure as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except RuntimeError as error:
        raise named_operation(error) from None
