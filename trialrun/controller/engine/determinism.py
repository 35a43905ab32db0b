"""Lets torch compute by operations that give the same bits again, and names those that cannot.

torch knows of each operation whether it has an implementation that repeats to the bit, and takes
that one where there are several. For one that has none it raises an error, or warns; here both are
said in the same words, with the line of the user's code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

import torch

import trialrun
from trialrun._errors import TrialrunError
from trialrun.controller.config import Deterministic

logger = logging.getLogger(__name__)

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
# Eight buffers of 4 MiB: with it cuBLAS chooses the same algorithm again.
_FIXED_WORKSPACE = ":4096:8"

# A module whose attribute is a property, of which type checkers know nothing.
_FILLING: Any = torch.utils.deterministic

_UNREPEATABLE = re.compile(
    r"(\S+) does not have a deterministic implementation|Deterministic behavior was enabled .* uses"
    r" (CuBLAS)",
    re.DOTALL,
)


_FILTERED = ".* does not have a deterministic implementation"

_DYNAMIC_SHAPES = "automatic_dynamic_shapes"
_LIMIT_FAILS = ("fail_on_recompile_limit_hit", "fail_on_cache_limit_hit")
"""Of the compiler, since torch 2.7 and before."""


class NondeterministicOperationError(TrialrunError):
    """An operation gives other bits each time, and ``deterministic: strict`` forbids it."""


def make_deterministic(mode: Deterministic, warns: bool = True) -> None:
    """Sets this process as the configuration says; before its first use of CUDA.

    Args:
        mode: What the configuration says. ``off`` leaves everything as it is.
        warns: Whether this process speaks for all, so that a warning comes once.
    """
    if mode is Deterministic.OFF:
        return
    # cuBLAS reads it when it is first used.
    os.environ.setdefault(CUBLAS_WORKSPACE, _FIXED_WORKSPACE)
    # Algorithms that are chosen by timing them would differ from one attempt to the next.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    is_strict = mode is Deterministic.STRICT
    torch.use_deterministic_algorithms(True, warn_only=not is_strict)
    # Filling costs a pass over the memory, so it is for those who want to be certain.
    _FILLING.fill_uninitialized_memory = is_strict
    compiler = _compiler_config()
    # Else the second shape of a batch, such as that of a validation, brings a kernel for all
    # shapes, which rounds otherwise: after a resume other shapes may come first.
    setattr(compiler, _DYNAMIC_SHAPES, False)
    # Else what is compiled after a number of shapes is not compiled at all.
    setattr(compiler, _limit_fails(compiler), is_strict)
    if not is_strict:
        shown = warnings.showwarning
        if not isinstance(shown, _OperationWarnings):
            warnings.filterwarnings("default", message=_FILTERED)
            warnings.showwarning = _OperationWarnings(shown, warns)


@contextlib.contextmanager
def kept_determinism() -> Iterator[None]:
    """Puts back all that ``make_deterministic`` sets when the block ends."""
    cudnn = torch.backends.cudnn
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    debug_mode, is_filling = (
        torch.get_deterministic_debug_mode(),
        _FILLING.fill_uninitialized_memory,
    )
    workspace = os.environ.get(CUBLAS_WORKSPACE)
    compiler = _compiler_config()
    names = (_DYNAMIC_SHAPES, _limit_fails(compiler))
    compiled = {name: getattr(compiler, name) for name in names}
    shown = warnings.showwarning
    try:
        yield
    finally:
        for name, value in compiled.items():
            setattr(compiler, name, value)
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        if torch.get_deterministic_debug_mode() != debug_mode:
            torch.use_deterministic_algorithms(debug_mode > 0, warn_only=debug_mode == 1)
        _FILLING.fill_uninitialized_memory = is_filling
        if workspace is None:
            os.environ.pop(CUBLAS_WORKSPACE, None)
        else:
            os.environ[CUBLAS_WORKSPACE] = workspace
        if isinstance(warnings.showwarning, _OperationWarnings) and warnings.showwarning != shown:
            warnings.showwarning = shown
            # What others have put there meanwhile, as libraries that were imported, stays.
            filters: Any = warnings.filters
            filters[:] = [entry for entry in filters if not _is_ours(entry)]


def named_operation(error: BaseException) -> BaseException:
    """Returns what to raise in place of an error: for one of torch's about an operation, ours.

    Args:
        error: What was raised; anything.
    """
    operation = _operation(str(error)) if isinstance(error, RuntimeError) else None
    if operation is None:
        return error
    advice = (
        f"Set {CUBLAS_WORKSPACE}={_FIXED_WORKSPACE} before the process first uses CUDA"
        if operation == "CuBLAS"
        else "Use another operation there"
    )
    named = NondeterministicOperationError(
        f"{_sentence(operation, _line_of(error.__traceback__))} The configuration says "
        f"'deterministic: strict', which refuses that. {advice}, or set deterministic to warn."
    )
    named.__cause__ = error
    return named


class _OperationWarnings:
    """Takes the place of ``warnings.showwarning``: torch's about operations are said once each."""

    def __init__(self, show: Any, warns: bool) -> None:
        self._show = show
        self._warns = warns
        self._told: set[str] = set()

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        operation = _operation(str(message))
        if operation is None:
            self._show(message, category, filename, lineno, file, line)
        elif operation not in self._told:
            self._told.add(operation)
            if self._warns:
                logger.warning(
                    "%s 'deterministic: strict' in the configuration makes it an error, 'off' "
                    "silences this.",
                    _sentence(operation, _line_above(sys._getframe(1))),
                )


def _compiler_config() -> Any:
    # Loaded late, as it takes long; torch loads it itself where an optimizer is made.
    import torch._dynamo.config

    return torch._dynamo.config


def _limit_fails(compiler: Any) -> str:
    """Returns what torch calls the setting that makes an error of too many shapes."""
    return next(name for name in _LIMIT_FAILS if hasattr(compiler, name))


def _is_ours(entry: tuple[Any, ...]) -> bool:
    return getattr(entry[1], "pattern", None) == _FILTERED


def _sentence(operation: str, line: str | None) -> str:
    place = "" if line is None else f" ({line})"
    return (
        f"The operation {operation}{place} has no deterministic implementation: its bits may "
        "differ from one run to the next."
    )


def _operation(text: str) -> str | None:
    found = _UNREPEATABLE.search(text)
    return None if found is None else found[1] or found[2]


def _line_above(frame: FrameType | None) -> str | None:
    """Returns the innermost line of the user's code that is being executed."""
    while frame is not None:
        if _is_of_user(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def _line_of(traceback: TracebackType | None) -> str | None:
    """Returns the innermost line of the user's code in a traceback."""
    line = None
    while traceback is not None:
        if _is_of_user(traceback.tb_frame.f_code.co_filename):
            line = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line


def _library_folders() -> tuple[str, ...]:
    folders = [Path(trialrun.__file__).parent, Path(torch.__file__).parent]
    # site-packages lies within one of them; what is installed there is not the user's.
    folders += [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    return tuple(f"{folder}{os.sep}" for folder in folders)


_LIBRARIES = _library_folders()


def _is_of_user(filename: str) -> bool:
    return not filename.startswith((*_LIBRARIES, "<frozen "))
