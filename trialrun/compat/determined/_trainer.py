"""``init`` and ``Trainer`` with the arguments and defaults that Determined's scripts rely on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trialrun._context import TrialContext
from trialrun._errors import ConfigurationError
from trialrun._units import Batch, Unit
from trialrun.controller.config import CheckpointPolicy
from trialrun.controller.determined_config.keys import value_at
from trialrun.controller.determined_config.reading import is_determined, read_determined_config
from trialrun.controller.trainer import fitting, initialization
from trialrun.controller.trainer.arguments import AS_CONFIGURED, AsConfigured
from trialrun.controller.trainer.fitting import TrainingResult
from trialrun.controller.trainer.starting import CheckpointName
from trialrun.controller.trainer.with_block import context_block

__all__ = ["Trainer", "init"]

logger = logging.getLogger(__name__)

_NO_PROFILER = (
    "There is no profiler of machines here. Call context.set_profiler in the trial, which takes "
    "the arguments of torch.profiler.profile."
)


@context_block
def init(
    *,
    hparams: Mapping[str, Any] | None = None,
    exp_conf: Mapping[str, Any] | str | Path | None = None,
    distributed: None = None,
    aggregation_frequency: int = 1,
    enable_tensorboard_logging: bool = True,
    **more: Any,
) -> Iterator[TrialContext]:
    """Prepares this process for training a trial in it; ``trialrun.init`` under another name.

    Args:
        hparams: The trial's hyperparameters.
        exp_conf: The experiment's configuration, with Determined's keys or trialrun's.
        distributed: None: processes that a launcher has started are joined without it.
        aggregation_frequency: Batches whose gradients make one optimizer step.
        enable_tensorboard_logging: Whether reported metrics are written as TensorBoard events,
            where tensorboard is installed.
        more: Further arguments of ``trialrun.init``, such as ``slots``, ``seed`` and ``home``.

    Yields:
        The context, with which the trial is built.

    Raises:
        ConfigurationError: The configuration or an argument is wrong.
        RunConflictError: Another ``init`` is open in this process.
    """
    if distributed is not None:
        raise ConfigurationError(
            f"distributed={distributed!r} was given. Leave it out: processes that torchrun or srun "
            "has started are joined without it."
        )
    remarks: tuple[tuple[str, str], ...] = ()
    if isinstance(exp_conf, Mapping) and is_determined(exp_conf):
        exp_conf, remarks = _translated(exp_conf, hparams)
    with initialization.init(
        hparams=hparams,
        exp_conf=exp_conf,
        # 1 and True are the defaults, which leave the word to exp_conf.
        aggregation_frequency=None if aggregation_frequency == 1 else aggregation_frequency,
        enable_tensorboard_logging=None if enable_tensorboard_logging else False,
        **more,
    ) as context:
        if context.distributed.rank == 0:
            for keys, sentence in remarks:
                logger.warning("exp_conf: %s: %s", keys, sentence)
        yield context


def _translated(
    exp_conf: Mapping[str, Any], hparams: Mapping[str, Any] | None
) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
    """Returns a Determined configuration in the keys of trialrun, and what is to be said of it."""
    # Values in the place of a search space, which the script has got from somewhere.
    data = exp_conf if hparams is None else {**exp_conf, "hyperparameters": dict(hparams)}
    reading = read_determined_config(data, {}, needs_length=False)
    config = reading.config.to_json()
    if all(value_at(data, f"searcher.max_{what}") is None for what in ("length", "time")):
        del config["max_length"]
    return config, reading.remarks


class Trainer(fitting.Trainer):
    """A ``trialrun.Trainer`` whose ``fit`` has the defaults of Determined's."""

    def fit(
        self,
        checkpoint_period: Unit | str | None | AsConfigured = None,
        validation_period: Unit | str | None | AsConfigured = None,
        max_length: Unit | str | None = None,
        reporting_period: Unit | str | AsConfigured = Batch(100),  # noqa: B008 - it is frozen
        checkpoint_policy: CheckpointPolicy | str | AsConfigured = "best",
        latest_checkpoint: CheckpointName = None,
        step_zero_validation: bool | AsConfigured = False,
        test_mode: bool = False,
        profiling_enabled: bool = False,
    ) -> TrainingResult:
        """Trains until the trial has its length, or somebody stops it.

        Args:
            checkpoint_period: How often a checkpoint is taken. None: as ``exp_conf`` says, or every
                epoch, so that a killed script loses an epoch and not all.
            validation_period: How often the validation data is evaluated. None: only at the end.
            max_length: When the trial is complete. None: as ``exp_conf`` says.
            reporting_period: How often training metrics are reported.
            checkpoint_policy: Which validations are followed by a checkpoint. ``best`` is ``all``
                where no ``exp_conf`` names the metric to judge by.
            latest_checkpoint: Where to go on, as for ``trialrun.Trainer.fit``.
            step_zero_validation: Whether to validate before the first batch.
            test_mode: Whether to rehearse only.
            profiling_enabled: Answered with a warning, as there is no profiler of machines.

        Returns:
            How it ended.

        Raises:
            ConfigurationError: An argument is wrong, or there is no length.
            TrialrunError: The trial breaks a rule, or the checkpoint does not fit it.
        """
        if profiling_enabled:
            logger.warning("profiling_enabled=True: %s", _NO_PROFILER)
        return super().fit(
            checkpoint_period=AS_CONFIGURED if checkpoint_period is None else checkpoint_period,
            validation_period=validation_period,
            max_length=max_length,
            reporting_period=reporting_period,
            checkpoint_policy=self._policy(checkpoint_policy),
            latest_checkpoint=latest_checkpoint,
            step_zero_validation=step_zero_validation,
            test_mode=test_mode,
        )

    def _policy(
        self, policy: CheckpointPolicy | str | AsConfigured
    ) -> CheckpointPolicy | str | AsConfigured:
        names_metric = "searcher" in self._surroundings.config_data
        return "all" if policy == "best" and not names_metric else policy

    def configure_profiler(self, *args: Any, **kwargs: Any) -> None:
        """Is answered with a warning, as there is no profiler of machines."""
        logger.warning("configure_profiler was called. %s", _NO_PROFILER)
