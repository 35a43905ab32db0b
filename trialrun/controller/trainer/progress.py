"""The lines that a script or a notebook prints while it trains: one for each report."""

from __future__ import annotations

from collections.abc import Mapping

from trialrun._wording import count
from trialrun.controller.engine.reports.reporting import Journal
from trialrun.controller.engine.schedule import ENDLESS_EPOCH, Plan

_MOST_METRICS = 6  # on a line; ``trialrun metrics`` prints all


class ProgressLines(Journal):
    """Prints what the chief writes down, and hands it on.

    Args:
        journal: Where it goes on to.
        plan: Says how long the trial is.
    """

    plan: Plan | None
    """How long the trial is; None before that is known, when nothing is reported yet."""

    def __init__(self, journal: Journal) -> None:
        self.plan = None
        self._journal = journal

    def progress(self, batches_completed: int) -> None:
        """Hands the clock on; a line for each batch would be too many."""
        self._journal.progress(batches_completed)

    def training_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: dict[str, float],
        records_per_second: float | None,
    ) -> None:
        """Prints the metrics of a reporting period."""
        self._journal.training_metrics(
            batches=batches, epoch=epoch, metrics=metrics, records_per_second=records_per_second
        )
        speed = f", {records_per_second:.0f} records/s" if records_per_second else ""
        say(f"{self._position(batches)}: {_listed(metrics)}{speed}")

    def validation_metrics(
        self,
        *,
        batches: int,
        epoch: int,
        metrics: dict[str, float],
        num_records: int,
        duration_seconds: float,
    ) -> None:
        """Prints the metrics of a validation."""
        self._journal.validation_metrics(
            batches=batches,
            epoch=epoch,
            metrics=metrics,
            num_records=num_records,
            duration_seconds=duration_seconds,
        )
        validated = f"validated {count(num_records, 'record')}"
        say(f"{self._position(batches)}: {validated}: {_listed(metrics)}")

    def _position(self, batches: int) -> str:
        assert self.plan is not None  # nothing is reported before there is one
        total, length = self.plan.total_batches, self.plan.epoch_length
        epoch = "" if length == ENDLESS_EPOCH else f" (epoch {batches / length:.2f})"
        return f"batch {batches}{f'/{total}' if total else ''}{epoch}"


def say(text: str) -> None:
    """Prints a line at once, wherever standard output goes: a terminal, a file, a cell."""
    print(text, flush=True)


def _listed(metrics: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.6g}" for name, value in list(metrics.items())[:_MOST_METRICS]]
    hidden = len(metrics) - len(shown)
    return ", ".join([*shown, f"and {hidden} more"] if hidden else shown)
