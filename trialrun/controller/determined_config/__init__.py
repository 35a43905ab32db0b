"""Understands the experiment configuration of Determined: ``submit FILE --config det.yaml``."""

from trialrun.controller.determined_config.entrypoint import (
    Entrypoint,
    choose_class,
    read_entrypoint,
)
from trialrun.controller.determined_config.reading import (
    Reading,
    is_determined,
    markers_in,
    own_keys_in,
    read_determined_config,
)

__all__ = [
    "Entrypoint",
    "Reading",
    "choose_class",
    "is_determined",
    "markers_in",
    "own_keys_in",
    "read_determined_config",
    "read_entrypoint",
]
