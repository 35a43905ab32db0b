"""What a trial may switch off at its own risk."""

from __future__ import annotations


class Experimental:
    """Switches that weaken a promise; ``context.experimental``."""

    allows_any_loader: bool
    """Whether the trial may return loaders that trialrun does not build."""

    moves_batches: bool
    """Whether trialrun moves batches to the device before the trial gets them."""

    def __init__(self) -> None:
        self.allows_any_loader = False
        self.moves_batches = True

    def disable_dataset_reproducibility_checks(self) -> None:
        """Lets the ``build`` methods return any loader, for data that can only be streamed.

        Each slot then has a training loader of its own: the method is called once for each, with
        ``context.slot`` set. A resumed run is equal to one that was never stopped only if the
        loader, or its dataset when it has no loader workers, has ``state_dict`` and
        ``load_state_dict`` and restores exactly. The validation loader is evaluated by slot 0.
        """
        self.allows_any_loader = True

    def disable_auto_to_device(self) -> None:
        """Hands batches to the trial as the loader made them, in training and in evaluation.

        The trial then moves what it needs itself, with ``context.to_device`` for instance.
        """
        self.moves_batches = False
