"""``submit --config`` with a Determined configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trialrun.controller.config import read_config, read_config_file

from .workplace import TRIAL, Workplace

# 37 records in global batches of 8: 5 batches an epoch.
DETERMINED = """
name: waves
labels: [sines]
workspace: Lab
data: {folder: /data/waves}
hyperparameters:
  global_batch_size: 8
  hidden: {type: const, val: 6}
searcher:
  name: single
  metric: loss
  max_length: {epochs: 2}
min_validation_period: {records: 40}
min_checkpoint_period: {batches: 4}
scheduling_unit: 3
resources: {slots_per_trial: 4, resource_pool: gpus}
reproducibility: {experiment_seed: 11}
max_restarts: 3
bind_mounts:
  - {host_path: /data, container_path: /data}
entrypoint: trial:Waves
"""
SAME = """
name: waves
labels: [sines]
data: {folder: /data/waves}
hyperparameters: {global_batch_size: 8, hidden: 6}
max_length: 2ep
validation_period: 5ba
checkpoint_period: 4ba
reporting_period: 3ba
slots: 4
seed: 11
max_restarts: 3
"""
OPEN = DETERMINED.replace("{type: const, val: 6}", "{type: int, minval: 4, maxval: 12}").replace(
    "name: single", "name: random\n  max_trials: 3"
)


def place_with(folder: Path, configuration: str, source: str = TRIAL) -> Workplace:
    place = Workplace(folder, source)
    (folder / "det.yaml").write_text(configuration, encoding="utf-8")
    return place


def config_of(place: Workplace, experiment: int = 1) -> dict[str, Any]:
    config = place.invoke("show", str(experiment), "--json").json["config"]
    assert isinstance(config, dict)
    return config


def test_a_determined_configuration_is_trained_as_trialruns_own_would_be(tmp_path: Path) -> None:
    place = place_with(tmp_path, DETERMINED)
    result = place.run("submit", "trial.py", "--config", "det.yaml", "--processes", "1")
    assert result.code == 0, result.err
    assert result.lines[0].startswith("Experiment 1 (waves): seed 11, 4 slots on 1 process, ")
    assert result.lines[-3].startswith("Completed experiment 1 after 10 batches.")
    assert result.err == (
        "det.yaml is a Determined configuration. These keys mean something else here, or nothing:\n"
        "  workspace: Experiments are not grouped. Use labels, or a home for each group, with "
        "--home.\n"
        "  resources.resource_pool: There is no cluster to schedule on: trialrun starts at once, "
        "on this machine.\n"
        "  bind_mounts: No container is started: the trial runs on this machine, in the Python "
        "environment that trialrun runs in. Install there what the trial imports, and give it "
        "paths that exist here.\n"
    )
    config = config_of(place)
    kept = config.pop("determined")
    (place.folder / "trial.yaml").write_text(SAME, encoding="utf-8")
    own = read_config_file(place.folder / "trial.yaml")
    expected = read_config({**own, "processes": 1}).to_json()
    del expected["determined"], expected["intra_op_threads"], config["intra_op_threads"]
    assert config == expected
    assert list(place.digests()) == [4, 5, 8, 10]
    reports = [(kind, batches) for kind, batches, _ in place.metrics()]
    assert [batches for kind, batches in reports if kind == "training"] == [3, 6, 9, 10]
    assert [batches for kind, batches in reports if kind == "validation"] == [5, 10]
    assert kept["searcher"]["max_length"] == {"epochs": 2}
    assert kept["data"] == config["data"] == {"folder": "/data/waves"}
    assert re.search(r"^labels: +sines$", place.invoke("show", "1").out, re.MULTILINE)


def test_a_search_is_refused_with_the_flags_that_train_one_point(tmp_path: Path) -> None:
    place = place_with(tmp_path, OPEN)
    arguments = ["submit", str(place.trial_file), "--config", str(place.folder / "det.yaml")]
    result = place.invoke(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "Error: searcher.name is 'random', and values are open for hidden (int). trialrun has no "
        "search yet: it trains one trial. To train one point of the space, give each of them a "
        "value, such as: --hp hidden=8 (or write values into the file, and searcher.name: "
        "single).\n"
    )
    assert not place.home.exists()
    result = place.run(*arguments, "--hp", "hidden=8", "--slots", "2", "--max-length", "3ba")
    assert result.code == 0, result.err
    assert (
        "  searcher.name, searcher.max_trials: One trial is trained, with the hyperparameters as "
        "given: there is no search yet.\n" in result.err
    )
    config = config_of(place)
    assert config["hyperparameters"] == {"global_batch_size": 8, "hidden": 8}
    assert (config["slots"], config["max_length"]) == (2, "3ba")
    assert config["determined"]["hyperparameters"] == config["hyperparameters"]
    assert config["determined"]["searcher"]["max_length"] == {"batches": 3}
    assert json.dumps(config["determined"]["resources"]).startswith('{"slots_per_trial": 2')


def test_beside_a_file_of_several_trials_the_class_of_the_entrypoint_is_trained(
    tmp_path: Path,
) -> None:
    others = "".join(f"\n\nclass {name}(Waves):\n    pass\n" for name in ("Other", "Ripples"))
    place = Workplace(
        tmp_path, TRIAL + others, DETERMINED.replace("trial:Waves", "model_def:Ripples")
    )
    result = place.run("submit", "trial.py", "--processes", "1", "--test-mode")
    assert result.code == 0, result.err
    assert result.err.startswith("trial.yaml is a Determined configuration.")
    assert (
        "  entrypoint: It names Ripples in model_def.py, but trial.py:Ripples is trained, as the "
        "command says.\n" in result.err
    )
    assert result.err.count("entrypoint") == 1


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (
            DETERMINED.replace("max_restarts", "max_restart"),
            "Unknown key 'max_restart' in a Determined configuration. Did you mean "
            "'max_restarts'?\n",
        ),
        (
            DETERMINED.replace("slots_per_trial: 4", "slots_per_trial: many"),
            "Configuration key 'resources.slots_per_trial' is 'many': Input should be a valid "
            "integer, unable to parse string as an integer\n",
        ),
        (
            SAME + "resources: {slots_per_trial: 4}\n",
            "Unknown configuration key 'resources'. Known: ",
        ),
        (
            SAME + "min_validation_period: 3ba\n",
            "Unknown configuration key 'min_validation_period'. Did you mean 'validation_period'?\n"
            "'min_validation_period' is a key of Determined. det.yaml is read as trialrun's own, "
            "because it has 'max_length': write it in one of the two ways.\n",
        ),
        (
            SAME.replace("reporting_period", "report_period"),
            "Unknown configuration key 'report_period'. Did you mean 'reporting_period'?\n",
        ),
    ],
)
def test_wrong_keys_are_named_in_either_kind_of_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: str, message: str
) -> None:
    place = place_with(tmp_path, configuration)
    monkeypatch.chdir(place.folder)
    result = place.invoke("submit", "trial.py", "--config", "det.yaml")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Error: {message}")
    assert not place.home.exists()
