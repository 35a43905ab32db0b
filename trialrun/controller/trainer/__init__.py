"""Trains in the user's own process: ``trialrun.init`` and ``trialrun.Trainer``.

Begin with ``fitting.py``. What is shared with ``trialrun submit`` is in ``engine`` and ``launch``.
"""

from __future__ import annotations

from trialrun.controller.trainer.fitting import Trainer
from trialrun.controller.trainer.initialization import init

__all__ = ["Trainer", "init"]
