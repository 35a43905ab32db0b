"""Loader processes end with the training process, which would otherwise wait for them for ever."""

from __future__ import annotations

from multiprocessing import get_start_method
from pathlib import Path

from .workplace import TRIAL, Result, Workplace

WORKERS = "num_workers=1, persistent_workers=True)"
SOURCE = TRIAL.replace("shuffle=True)", f"shuffle=True, {WORKERS}").replace(
    "batch_size=4)", f"batch_size=4, {WORKERS}"
)

OWN_LOADER = """
import functools, multiprocessing
from torch.utils.data import DataLoader as TorchLoader
from trialrun import DataLoader, Trial

Own = functools.partial(TorchLoader, num_workers=1, multiprocessing_context=CONTEXT)
""".replace("CONTEXT", "None" if get_start_method() == "fork" else "'fork'")
DOUBLED = '''
class Doubled:
    """A dataset that cannot be pickled, and need not be where processes are forked."""

    def __init__(self, count):
        self.records = make_records(count)
        self.double = lambda value: 2 * value

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        inputs, targets = self.records[index]
        return self.double(inputs), targets


'''
ENTRANCE = f"""
        self.context = context
        assert multiprocessing.get_start_method() == {get_start_method()!r}
        context.experimental.disable_dataset_reproducibility_checks()
"""


def test_a_trial_with_loader_workers_ends_as_the_one_without(
    straight: tuple[Workplace, Result], tmp_path: Path
) -> None:
    assert SOURCE.count(WORKERS) == 2
    place = Workplace(tmp_path, SOURCE)
    assert place.run("submit", "trial.py", "--processes", "1").code == 0
    assert place.digests() == straight[0].digests()
    assert place.metrics() == straight[0].metrics()


def test_a_trial_with_loader_workers_that_fails_ends(tmp_path: Path) -> None:
    failing = SOURCE.replace("    wait_at_gate(batch_idx)", "    1 / (batch_idx - 7)")
    assert failing != SOURCE
    arguments = ("--processes", "2", "--max-restarts", "0")
    result = Workplace(tmp_path, failing).run("submit", "trial.py", *arguments)
    assert result.code == 1
    assert "ZeroDivisionError in slot " in result.err + result.out


def test_loaders_of_the_trials_own_start_their_workers_as_in_a_script(tmp_path: Path) -> None:
    source = TRIAL.replace("from trialrun import DataLoader, Trial", OWN_LOADER)
    source = source.replace("class Waves", DOUBLED + "class Waves").replace(
        "        self.context = context\n", ENTRANCE, 1
    )
    place = Workplace(tmp_path, source.replace("DataLoader(make_records(37)", "Own(Doubled(37)"))
    result = place.run("submit", "trial.py", "--max-length", "5ba", "--processes", "1")
    assert result.code == 0, result.err
