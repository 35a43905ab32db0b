"""The one class that a user writes."""

from __future__ import annotations

import abc
import difflib
import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self

from trialrun._construction import Construction, TrialOwner
from trialrun._errors import InvalidTrialError
from trialrun._reducers import Reducer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

    from trialrun._callback import Callback
    from trialrun._context import TrialContext
    from trialrun._data_loader import DataLoader


class Trial(abc.ABC):
    """What is trained, on which records, and how one batch is learned and evaluated.

    trialrun makes one object for each process, calls the two ``build`` methods once, and then
    ``train_batch`` for every batch and slot. All of a trial's random draws from torch, numpy and
    ``random`` come from addressed streams, so a trial never seeds a generator itself.

    Args:
        context: The trial's handle on the run: hyperparameters, devices, ``wrap_model``,
            ``wrap_optimizer``, ``backward``, ``step_optimizer`` and so on. Keep it as
            ``self.context``.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Tells the context, which sets the random generators to the address of constructors."""
        trial = super().__new__(cls)
        for value in (*args, *kwargs.values()):
            if isinstance(value, TrialOwner):
                construction = Construction(
                    trial=trial,
                    context=value,  # type: ignore[arg-type]  # the one owner there is
                    arguments=args,
                    keywords=kwargs,
                )
                value.trial_begins(construction)
                break
        return trial

    @abc.abstractmethod
    def __init__(self, context: TrialContext) -> None: ...

    @abc.abstractmethod
    def build_training_data_loader(self) -> DataLoader:
        """Returns the description of the training data, with the batch size of one slot."""

    @abc.abstractmethod
    def build_validation_data_loader(self) -> DataLoader:
        """Returns the description of the validation data, with any batch size."""

    @abc.abstractmethod
    def train_batch(
        self, batch: Any, epoch_idx: int, batch_idx: int
    ) -> dict[str, Any] | torch.Tensor:
        """Learns from one slot's share of one batch.

        Args:
            batch: What the collate function made of the slot's records, on the slot's device.
            epoch_idx: Epochs completed, counted from 0.
            batch_idx: Batches completed since the start of the trial; it goes on after a resume.

        Returns:
            A dictionary of metric names and scalars (numbers or tensors of one element), or one
            scalar tensor, which is then called ``loss``.
        """

    # One of the next two is required.

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any] | torch.Tensor:
        """Evaluates one batch of the validation data; gradients are off, models in eval mode.

        The batches are shared out among the slots. A method without ``batch_idx`` is called
        without it.

        Args:
            batch: What the collate function made of the records, on the slot's device.
            batch_idx: The batch's place in the validation data, counted from 0.

        Returns:
            A dictionary of metric names and scalars, with the same names for every batch; or one
            scalar tensor, which is then called ``loss``.
        """
        raise NotImplementedError

    def evaluate_full_dataset(self, data_loader: Any) -> dict[str, Any] | torch.Tensor:
        """Evaluates all of the validation data at once, in the chief process, as slot 0.

        For metrics that no reducer can make of batches; gradients are off, models in eval mode.

        Args:
            data_loader: What ``build_validation_data_loader`` returned: iterate over it for the
                batches of the whole data. They are not on the device yet: ``context.to_device``.

        Returns:
            A dictionary of metric names and scalars, or one scalar tensor, the ``loss``.
        """
        raise NotImplementedError

    # The rest is optional.

    def build_callbacks(self) -> dict[str, Callback]:
        """Returns callbacks by the names that they have in checkpoints.

        Called once, before the data loaders are built.
        """
        return {}

    @classmethod  # noqa: B027 - by default there is nothing to prepare
    def prepare_data(cls, hparams: Mapping[str, Any]) -> None:
        """Downloads or unpacks what the data loaders read.

        Called once on each machine, before any process makes a trial; the others wait. No two runs
        of the same file are in it at the same time. Find out first whether there is anything to do.

        Args:
            hparams: The trial's hyperparameters.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of the trial's own attributes: plain data.

        Called in the chief process, where slot 0 is.
        """
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # noqa: B027 - no state
        """Takes up what ``state_dict`` returned; called in every process."""

    def build_test_data_loader(self) -> DataLoader:
        """Returns the description of the test data, which training never asks for; optional.

        ``trialrun evaluate --data test`` and ``trialrun predict --data test`` need it.
        """
        raise NotImplementedError("Override build_test_data_loader to have test data.")

    def predict_batch(self, batch: Any, batch_idx: int) -> Any:
        """Predicts for one batch; gradients are off, models in eval mode; optional.

        ``trialrun predict`` needs it.

        Args:
            batch: What the collate function made of the records, on the device.
            batch_idx: The batch's place in the data, counted from 0.

        Returns:
            A tensor or numeric array whose first dimension is the records of the batch, or a
            dictionary of names and such tensors or arrays: the same names, types and further
            dimensions for every batch.
        """
        raise NotImplementedError("Override predict_batch to predict.")

    def evaluation_reducer(self) -> Reducer | dict[str, Reducer]:
        """Returns how validation metrics are reduced over batches: all alike, or name by name."""
        return Reducer.AVG

    def get_batch_length(self, batch: Any) -> int:
        """Returns the number of records in a batch; override it for batches of your own type."""
        from trialrun._batch_contents import data_length

        return data_length(batch)

    def _as_metrics(self, returned: Any, source: str) -> Any:
        """Returns the metrics in what a method returned, before they are checked.

        Args:
            returned: What the trial's method returned.
            source: The method: ``train_batch``, ``evaluate_batch`` or ``evaluate_full_dataset``.
        """
        return returned


def require_complete(cls: type[Trial], where: str) -> None:
    """Checks that a class has all that every trial must have.

    Args:
        cls: The user's class.
        where: The file that it is in, for the error.

    Raises:
        InvalidTrialError: Methods are missing or take other arguments than they get, with the
            signatures to write.
    """
    missing = [signature_of(name) for name in sorted(cls.__abstractmethods__)]
    evaluates = [name for name in _EVALUATIONS if getattr(cls, name) is not getattr(Trial, name)]
    if not evaluates:
        missing.append(signature_of("evaluate_batch"))
    if missing:
        signatures = "\n".join(f"    {signature}: ..." for signature in sorted(missing))
        wanted = [*sorted(cls.__abstractmethods__), *(() if evaluates else _EVALUATIONS)]
        renames = "".join(
            f"\nIf {name} is meant to be {meant}, rename it." for name, meant in _meant(cls, wanted)
        )
        raise InvalidTrialError(
            f"{cls.__name__} in {where} lacks what every Trial must have. Write:\n{signatures}"
            f"{renames}"
        )
    if len(evaluates) > 1:
        raise InvalidTrialError(
            f"{cls.__name__} in {where} has both evaluate_batch and evaluate_full_dataset. Write "
            "evaluate_batch, which all slots share, or evaluate_full_dataset, which slot 0 "
            "executes alone."
        )
    require_signatures(cls)


def require_signatures(cls: type[Trial]) -> None:
    """Checks that the two methods for batches take the arguments with which they are called.

    Raises:
        InvalidTrialError: One does not; the message has the line to write.
    """
    _require_taken(cls, "train_batch", (), ("batch", "epoch_idx", "batch_idx"))
    if cls.evaluate_batch is Trial.evaluate_batch:
        return
    parameters = list(inspect.signature(cls.evaluate_batch).parameters.values())
    if _takes_self(cls, "evaluate_batch"):
        parameters = parameters[1:]
    if is_called_by_name(parameters):
        _require_taken(cls, "evaluate_batch", (), ("batch", "batch_idx"))
    else:
        _require_taken(cls, "evaluate_batch", ("batch", "batch_idx")[: max(len(parameters), 1)], ())


def is_called_by_name(parameters: Iterable[inspect.Parameter]) -> bool:
    """Returns whether ``evaluate_batch`` with these parameters gets its arguments by name."""
    return any(
        parameter.name == "batch_idx" or parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in parameters
    )


def _require_taken(
    cls: type[Trial], name: str, positional: tuple[str, ...], named: tuple[str, ...]
) -> None:
    itself = ("self",) if _takes_self(cls, name) else ()
    try:
        inspect.signature(getattr(cls, name)).bind(*itself, *positional, **dict.fromkeys(named))
    except TypeError as error:
        by_name = " by name" if named else ""
        raise InvalidTrialError(
            f"{cls.__name__}.{name} does not take the arguments "
            f"({', '.join([*positional, *named])}){by_name}: {error}. Write: "
            f"{signature_of(name)}: ..."
        ) from error


def _takes_self(cls: type[Trial], name: str) -> bool:
    return not isinstance(inspect.getattr_static(cls, name), staticmethod | classmethod)


def near_misses(cls: type[Trial]) -> list[str]:
    """Returns a sentence for each method that looks like a misspelt optional method of a Trial."""
    known = [
        name
        for name, value in vars(Trial).items()
        if not name.startswith("_") and isinstance(value, FunctionType | classmethod)
    ]
    optional = [name for name in known if _function(cls, name) is _function(Trial, name)]
    return [
        f"{cls.__name__}.{name} is not a method that trialrun calls. If it is meant to be "
        f"{meant}, rename it."
        for name, meant in _meant(cls, optional)
    ]


def _meant(cls: type[Trial], wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Iterates over the class's own methods that look like a wanted one, with that one's name."""
    for name in dir(cls):
        if name.startswith("_") or hasattr(Trial, name) or not callable(getattr(cls, name)):
            continue
        shortened = [known for known in wanted if _is_shortened(name, known)]
        # Close enough to leave helpers such as build_data_loader alone.
        near = shortened or difflib.get_close_matches(name, wanted, n=1, cutoff=0.9)
        if near:
            yield name, near[0]


def _is_shortened(name: str, known: str) -> bool:
    """Returns whether its words begin the known one's: ``eval_batch``, ``evaluate_batch``."""
    words, full = name.split("_"), known.split("_")
    return len(words) == len(full) and all(
        word.startswith(start) and len(start) > 2 for start, word in zip(words, full, strict=True)
    )


def _function(cls: type, name: str) -> object:
    method = getattr(cls, name)
    return getattr(method, "__func__", method)  # a class method is bound to its class


_EVALUATIONS = ("evaluate_batch", "evaluate_full_dataset")


def signature_of(name: str) -> str:
    """Returns a Trial's method as a user writes its first line, without the colon."""
    parameters = inspect.signature(getattr(Trial, name)).parameters
    return f"def {name}({', '.join(parameters)})"
