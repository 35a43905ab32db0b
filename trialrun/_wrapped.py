"""What a context keeps of an object that the trial wrapped."""

from __future__ import annotations

import dataclasses

from trialrun._reducers import MetricReducer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WrappedReducer:
    """A metric reducer with the name and the reports that it was wrapped for."""

    reducer: MetricReducer
    name: str | None
    for_training: bool
    for_validation: bool

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.name or type(self.reducer).__name__
