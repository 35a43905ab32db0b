"""Processes leave each other once, whoever made the group and whoever ends it."""

from __future__ import annotations

import torch.distributed as dist
from process_launch import Launcher

from trialrun.controller.engine.parallel.collectives import Collectives
from trialrun.controller.launch.joining import leave


class ScriptThatEndsItsGroup:
    """Ends the group that it has made itself, before the block of ``trialrun.init`` ends."""

    def __call__(self, collectives: Collectives) -> bool:
        dist.destroy_process_group()
        collectives.close()
        leave(collectives, has_joined=False)
        is_over = not dist.is_initialized()
        # The launcher ends one.
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return is_over


def test_a_script_may_have_ended_its_own_group(launcher: Launcher) -> None:
    assert launcher.launch(1, [ScriptThatEndsItsGroup()]) == [[True]]
