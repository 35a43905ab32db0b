"""The rule for the global batch size, which the configuration and the context both apply."""

from __future__ import annotations

from trialrun._errors import ConfigurationError


def check_global_batch_size(size: object, num_slots: int) -> int:
    """Returns the global batch size when the slots can share it.

    Args:
        size: Records of one batch over all slots, as configured.
        num_slots: S.

    Raises:
        ConfigurationError: It is no whole number of at least 1, or the slots do not divide it.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigurationError(f"global_batch_size={size!r} is not a whole number of at least 1.")
    if size % num_slots:
        raise ConfigurationError(
            f"global_batch_size={size} is not divisible by {num_slots} slots. Choose a "
            f"multiple of {num_slots}, such as {-(-size // num_slots) * num_slots}."
        )
    return size
