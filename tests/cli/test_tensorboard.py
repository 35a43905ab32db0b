"""A run that was killed and resumed shows each of its reports once in TensorBoard."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from event_files import num_events, rounded, scalars

from .workplace import TRIAL, Workplace, wait_for

# The trial says where its events go, and which run it belongs to.
SOURCE = TRIAL.replace(
    "        self.context = context\n",
    """        self.context = context
        ids = (context.get_experiment_id(), context.get_trial_id())
        print(f"ids {ids}, events in {context.get_tensorboard_path()}")
        assert context.get_experiment_config()["slots"] == 4
""",
)


def test_a_killed_and_resumed_run_shows_each_report_once(tmp_path: Path) -> None:
    place = Workplace(tmp_path, SOURCE)
    folder = place.home / "experiments" / "1" / "tensorboard" / "trial_1"
    place.hold(11)
    attempt = place.start("submit", "trial.py", "--max-length", "14ba", "--processes", "1")
    # Reports at 3, 6 and 9, checkpoints at 4 and 8.
    place.wait_until_held(11, attempt)
    wait_for(lambda: [row.batches for row in place.checkpoints()] == [8, 4])
    attempt.signal_all(signal.SIGKILL)
    attempt.finish()
    place.release(11)
    assert place.run("resume", "1").code == 0
    shown = scalars(folder)
    recorded = place.metrics()
    assert shown.keys() == {"loss", "val_loss"}
    for kind, name in (("training", "loss"), ("validation", "val_loss")):
        assert shown[name] == rounded(
            [(batches, metrics["loss"]) for of, batches, metrics in recorded if of == kind]
        )
    assert [step for step, _ in shown["loss"]] == [3, 6, 9, 12, 14]
    # The first attempt's report at 9 is there too when it came to the disk before the kill.
    assert num_events(folder, "loss") in (5, 6)
    logs = place.invoke("logs", "1").out
    assert set(re.findall(r"ids .*", logs)) == {f"ids (1, 1), events in {folder}"}
