"""What ``init`` returns: a ``with`` block that says so where it is used without ``with``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, NoReturn, ParamSpec

from trialrun._context import TrialContext
from trialrun._errors import InvalidTrialError

P = ParamSpec("P")


class NotEnteredError(InvalidTrialError, AttributeError):
    """A script asks what ``init`` returned for something that only the context in it has."""


class ContextBlock(AbstractContextManager[TrialContext]):
    """Gives the context in a ``with`` block, and nothing outside of it.

    Args:
        block: What prepares the process and puts it back.
    """

    def __init__(self, block: AbstractContextManager[TrialContext]) -> None:
        self._block = block

    def __enter__(self) -> TrialContext:
        return self._block.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._block.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # asked by copy, by notebooks and the like, not by the script
            raise AttributeError(name)
        raise NotEnteredError(
            f"init returned a with block, which has no {name!r}; the context has it. Write: with "
            "trialrun.init(...) as context: ..."
        )


def context_block(function: Callable[P, Iterator[TrialContext]]) -> Callable[P, ContextBlock]:
    """Makes of a generator function one that returns a ``ContextBlock``."""
    manager = contextmanager(function)

    @functools.wraps(function)
    def make(*arguments: P.args, **keywords: P.kwargs) -> Any:
        return ContextBlock(manager(*arguments, **keywords))

    return make
