"""The command ``diff``: where two checkpoints differ, to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trialrun.cli._options import home_options, json_option, open_database
from trialrun.cli._output import print_json, print_table
from trialrun.controller.checkpoint_names import NamedCheckpoint, named_checkpoint
from trialrun.controller.checkpoints.digest_text import short
from trialrun.controller.home import Home

if TYPE_CHECKING:
    from trialrun.controller.checkpoints.comparison import Comparison, FactDifference

_MAX_TENSORS_SHOWN = 20
_MAX_FACTS_SHOWN = 20


@click.command()
@click.argument("first", metavar="CKPT_A")
@click.argument("second", metavar="CKPT_B")
@json_option
@home_options
def diff(first: str, second: str, as_json: bool, home: Home) -> None:
    """Compare two checkpoints: the first tensor that differs, where, and by how much.

    \b
    Example:
      trialrun diff 3f2a 81bc
      trialrun diff 1:400 2:latest

    A checkpoint is the beginning of a UUID, a folder, or EXP:latest, EXP:best, EXP:BATCH. Tensors
    are named in the order of the digest: models, then optimizers. Floating-point numbers differ by
    units in the last place. Exit code 0: all parameters, buffers and optimizer states are equal,
    bit for bit; 1: they differ. What else differs, such as versions, is told and does not count.
    """
    named = [named_checkpoint(lambda: open_database(home), name) for name in (first, second)]
    from trialrun.controller.checkpoints.comparison import compare_checkpoints  # imports torch

    found = compare_checkpoints(named[0].folder, named[1].folder)
    if as_json:
        print_json({"checkpoints": [_described(each) for each in named], **found.to_json()})
    else:
        for ordinal, each in zip(("first", "second"), named, strict=True):
            click.echo(f"The {ordinal}: {_headline(each)}")
        print_comparison(found)
    raise SystemExit(0 if found.is_equal else 1)


def print_comparison(found: Comparison) -> None:
    """Prints what two checkpoints do not have in common, for people."""
    if found.first is None:
        click.echo(f"Equal: {found.num_values} tensors and numbers, bit for bit.")
    else:
        click.echo(f"The first tensor that differs is {found.first.describe()}.")
        click.echo(f"{len(found.values)} of {found.num_values} tensors and numbers differ:")
        print_table(
            ("Tensor", "Type", "Differing", "Of", "At most"),
            [_row(difference) for difference in found.values[:_MAX_TENSORS_SHOWN]],
        )
        _print_rest(len(found.values) - _MAX_TENSORS_SHOWN)
    _print_facts("The runs differ in", found.facts)
    _print_facts("What else goes on after a resume differs in", found.state)


def _row(difference: Any) -> tuple[Any, ...]:
    distance = difference.distance
    if distance is None:
        return difference.name, f"{difference.first} / {difference.second}", None, None, None
    largest, unit = distance.largest_distance, " ulp" if distance.unit == "ulp" else ""
    most = None if largest is None else f"{largest}{unit}"
    return (
        difference.name,
        difference.first,
        distance.num_differing,
        distance.num_elements,
        most,
    )


def _print_facts(title: str, differences: list[FactDifference]) -> None:
    if not differences:
        return
    click.echo(f"{title}:")
    for each in differences[:_MAX_FACTS_SHOWN]:
        click.echo(f"  {each.name}: {each.first} and {each.second}")
    _print_rest(len(differences) - _MAX_FACTS_SHOWN)


def _print_rest(number: int) -> None:
    if number > 0:
        click.echo(f"  and {number} more; --json lists them all")


def _headline(named: NamedCheckpoint) -> str:
    if named.row is None:
        return str(named.folder)
    row = named.row
    return f"checkpoint {row.uuid}, trial {row.trial_id}, batch {row.batches}, {short(row.digest)}"


def _described(named: NamedCheckpoint) -> dict[str, Any]:
    row = named.row
    if row is None:
        return {"path": str(named.folder)}
    return {
        "path": str(named.folder),
        "uuid": row.uuid,
        "trial": row.trial_id,
        "batches": row.batches,
        "digest": row.digest,
    }
