"""Column types whose values come back from every database as they went in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect
from sqlalchemy.types import TypeDecorator

from trialrun.controller.finite import with_words


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: timezone-aware in, timezone-aware UTC out, whatever the database keeps."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turns an aware moment into UTC.

        Raises:
            ValueError: The moment is naive (SQLAlchemy wraps it in a ``StatementError``).
        """
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(
                f"{value!r} has no time zone, so it names no moment. "
                "Use datetime.now(UTC), or give it a tzinfo."
            )
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Gives the moment in UTC; SQLite keeps the digits only, which are UTC by the above."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class MetricsJson(TypeDecorator[dict[str, float]]):
    """Metrics by name, as JSON that every database accepts.

    JSON has no word for non-finite floats. As every value is a float, a string is free to stand for
    one: ``{"loss": nan, "accuracy": 0.5}`` is stored as ``{"loss": "NaN", "accuracy": 0.5}``.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(
        self, value: dict[str, float] | None, dialect: Dialect
    ) -> dict[str, Any] | None:
        """Replaces each non-finite float by its name."""
        return None if value is None else with_words(value)

    def process_result_value(
        self, value: dict[str, Any] | None, dialect: Dialect
    ) -> dict[str, float] | None:
        """Gives floats again; ``float`` reads the three names."""
        if value is None:
            return None
        return {name: float(number) for name, number in value.items()}
