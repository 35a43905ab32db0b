"""What the user's code keeps from batch to batch where no checkpoint looks, and what becomes of it.

That are attributes of the trial, of its callbacks, its training dataset and ``collate_fn``, of its
models' modules, of its classes, and globals of its files.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trialrun._context import TrialContext
from trialrun._data_loader import DataLoader
from trialrun._trial import Trial
from trialrun.controller.verification.fingerprints import plain_attributes, sampled_fingerprint

_PACKAGES = {"site-packages", "dist-packages"}
_INSTALLED = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib")}
_MOST_DEPTH = 4  # of dictionaries in a state, in which attributes are looked for


class Keeper(enum.Enum):
    """What something is kept by, with what is to be done about it."""

    TRIAL = "return it from state_dict() of the trial and take it back in load_state_dict()"
    CALLBACK = "return it from state_dict() of the callback and take it back in load_state_dict()"
    MODEL = "make it a buffer of its module, by register_buffer, which checkpoints hold"
    DATA = "derive it from the record, or draw it from torch's, numpy's or random's own generator"
    CODE = "keep it on self, and return it from state_dict() of the trial"


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Change:
    """Something that training has changed.

    Args:
        name: As a person finds it, such as ``self.scale``.
        keeper: The name of what keeps it, among ``Keeper``.
        is_saved: Whether checkpoints hold it all the same, by the owner's ``state_dict``.
    """

    name: str
    keeper: str
    is_saved: bool


class KeptState:
    """Compares what is kept with what was kept before.

    Args:
        trial: The user's trial.
        context: Its context: what was wrapped is held by checkpoints.
        callbacks: What ``build_callbacks`` returned.
        loaders: What ``build_training_data_loader`` returned, for each call.
    """

    def __init__(
        self,
        trial: Trial,
        context: TrialContext,
        callbacks: Mapping[str, Any],
        loaders: list[Any],
    ) -> None:
        self._trial = trial
        self._context = context
        self._callbacks = callbacks
        self._loaders = loaders
        self._before = self._fingerprints()

    def changes(self) -> list[Change]:
        """Returns what differs from when this object was made."""
        now = self._fingerprints()
        names = {name for name, _ in now}
        saved = _saved(self._trial.state_dict(), names, "self.{}", "self._{}")
        for owner, callback in self._callbacks.items():
            of_owner = f"of the callback {owner!r}"
            saved |= _saved(callback.state_dict(), names, f"{{}} {of_owner}", f"_{{}} {of_owner}")
        return sorted(
            Change(name=name, keeper=keeper.name, is_saved=bool({name, found} & saved))
            for (name, keeper), found in now.items()
            if self._before.get((name, keeper)) != found
        )

    def _fingerprints(self) -> dict[tuple[str, Keeper], str]:
        held = _held(self._context) | {id(self._trial)}
        return {
            (name, keeper): _fingerprint(value, held)
            for name, keeper, value in self._kept()
            if id(value) not in held and not isinstance(value, DataLoader)
        }

    def _kept(self) -> Iterator[tuple[str, Keeper, Any]]:
        for name, value in vars(self._trial).items():
            if not callable(getattr(type(self._trial), name, None)):  # a method that is observed
                yield f"self.{name}", Keeper.TRIAL, value
        for owner, callback in self._callbacks.items():
            for name, value in _attributes(callback):
                yield f"{name} of the callback {owner!r}", Keeper.CALLBACK, value
        for loader in self._loaders[:1]:
            for part in ("dataset", "collate_fn", "sampler", "batch_sampler"):
                yield from _of_data(part, getattr(loader, part, None))
        for index, model in enumerate(self._context.models):
            for owner, module in model.named_modules():
                for name, value in plain_attributes(module).items():
                    path = ".".join(filter(None, (str(index), owner, name)))
                    yield f"model.{path}", Keeper.MODEL, value
        for module in _own_modules(type(self._trial)):
            yield from _of_code(module)


def _of_data(part: str, value: Any) -> Iterator[tuple[str, Keeper, Any]]:
    where = "the training data's" if part == "dataset" else f"the training data's {part}:"
    if hasattr(value, "__dict__") and not isinstance(value, types.FunctionType | type):
        for name, attribute in _attributes(value):
            yield f"{name} of {where} {type(value).__name__}", Keeper.DATA, attribute
    elif value is not None:
        yield f"the training data's {part}", Keeper.DATA, value


def _of_code(module: types.ModuleType) -> Iterator[tuple[str, Keeper, Any]]:
    file = Path(module.__file__ or "").name
    for name, value in list(vars(module).items()):
        if name.startswith("__") or isinstance(value, types.ModuleType):
            continue
        if not isinstance(value, type):
            yield f"{name} in {file}", Keeper.CODE, value
        elif value.__module__ == module.__name__:
            for attribute, kept in list(vars(value).items()):
                if not attribute.startswith("__") and not callable(kept):
                    yield f"{name}.{attribute} in {file}", Keeper.CODE, kept


def _own_modules(trial_class: type[Trial]) -> list[types.ModuleType]:
    """Returns the loaded modules that lie beside the trial's file, or below the current folder."""
    folders = {Path(inspect.getfile(trial_class)).parent.resolve(), Path.cwd()}
    found = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(module, types.ModuleType) or not isinstance(file, str):
            continue
        path = Path(file)
        is_own = any(folder in path.parents for folder in folders)
        is_installed = _PACKAGES & set(path.parts) or _INSTALLED & set(path.parents)
        if is_own and not is_installed and module.__name__.partition(".")[0] != "trialrun":
            found.append(module)
    return found


def _attributes(owner: Any) -> list[tuple[str, Any]]:
    return list(vars(owner).items()) if hasattr(owner, "__dict__") else []


def _held(context: TrialContext) -> set[int]:
    """Returns the ``id`` of all that checkpoints hold by themselves."""
    held: list[Any] = [context, *context.models, *context.optimizers, *context.scalers]
    for scheduler in context.lr_schedulers:  # the trial may have either
        held += [scheduler, scheduler.scheduler]
    held += [wrapped.given for wrapped in context.reducers]
    for model in context.models:
        held += [*model.modules(), *model.parameters(), *model.buffers()]
    return {id(value) for value in held}


def _fingerprint(value: Any, held: set[int]) -> str:
    try:
        return sampled_fingerprint(value, held)
    except Exception as error:
        # Such as of a property that raises: what cannot be looked at is not blamed.
        return f"unreadable: {type(error).__name__}"


def _saved(state: Any, names: set[str], *patterns: str) -> set[str]:
    """Returns the names of attributes that keys of a state name, and fingerprints of the rest."""
    found: set[str] = set()

    def add(value: Any, depth: int) -> None:
        found.add(_fingerprint(value, set()))
        if not isinstance(value, Mapping) or depth == _MOST_DEPTH:
            return
        for key, item in value.items():
            named = names & {pattern.format(key) for pattern in patterns}
            if named:
                found.update(named)
            else:
                add(item, depth + 1)

    if state:
        add(state, 0)
    return found
