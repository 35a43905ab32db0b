"""Tables for people, plain lines for pipes, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from trialrun.controller.finite import with_words


def print_json(data: Any) -> None:
    """Prints JSON that every parser reads: numbers that are not finite become strings."""
    click.echo(json.dumps(with_words(data), indent=2, default=_json_default, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table on a terminal, else one line for each row with tabs between columns."""
    texts = [[format_value(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [[column.lower() for column in columns], *texts]:
            click.echo("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in texts:
        table.add_row(*row)
    Console().print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints names and values, one in each line."""
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name + ':':<{width + 1}} {format_value(value)}")


def format_value(value: Any) -> str:
    """Returns a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, Mapping):
        return format_metrics(value)
    return str(value)


def format_metrics(metrics: Mapping[str, Any], most: int | None = None) -> str:
    """Returns metrics on one line: ``loss 0.031, accuracy 0.991``.

    Args:
        metrics: Names and numbers.
        most: How many are shown; the others are counted.
    """
    texts = [f"{name} {format_value(value)}" for name, value in metrics.items()]
    if most is not None and len(texts) > most:
        texts[most:] = [f"and {len(texts) - most} more"]
    return ", ".join(texts) or "-"


def format_size(size_bytes: int) -> str:
    """Returns a size with its unit: ``1.4 MB``."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def format_duration(seconds: float) -> str:
    """Returns a duration as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _json_default(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
