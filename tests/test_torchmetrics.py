"""Metrics of torchmetrics: what they give over all slots is what they give over all records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Run, make_spec, resume, run_session, run_with_stops, write_trial
from torchmetrics import MeanMetric, Metric, MetricCollection, PearsonCorrCoef, SumMetric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC
from trials.measuring import Measuring, records

from trialrun import CheckpointError, InvalidTrialError, ReducerError
from trialrun._torchmetrics import TorchmetricsReducer
from trialrun._wrapping_reducers import make_wrapped_reducer

CPU = torch.device("cpu")


def adapted(metric: Any, num_slots: int) -> tuple[TorchmetricsReducer, list[Any]]:
    """Returns a reducer and its contents for each slot."""
    wrapped = make_wrapped_reducer(
        metric, name=None, for_training=True, for_validation=True, options=None, device=CPU
    )
    assert isinstance(wrapped.reducer, TorchmetricsReducer)
    assert wrapped.given is metric
    return wrapped.reducer, [wrapped.reducer.new_contents({}) for _ in range(num_slots)]


# Torchmetrics warns of metrics that are computed without data, or with one class alone.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def over_slots(metric: Any, updates: list[list[Any]]) -> Any:
    """Returns the metric of updates that each slot was given."""
    reducer, contents = adapted(metric, len(updates))
    results = []
    for slot, slot_updates in enumerate(updates):
        reducer.install(contents[slot])
        for update in slot_updates:
            metric.update(*update)
        results.append(reducer.per_slot_reduce())
    reducer.install(contents[0])
    return reducer.cross_slot_reduce(results)


def halves(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = records(count).tensors
    return inputs[:, 0].sigmoid(), labels


@pytest.mark.parametrize(
    "metric", [BinaryAUROC(), BinaryAccuracy(), PearsonCorrCoef(), MetricCollection([MeanMetric()])]
)
def test_slots_together_give_what_one_gives(metric: Any) -> None:
    scores, labels = halves(30)
    targets = labels if isinstance(metric, BinaryAUROC | BinaryAccuracy) else labels.float()
    expected = metric.clone()
    expected.update(scores, targets)
    updates = [
        [(scores[:4], targets[:4]), (scores[4:11], targets[4:11])],
        [],  # fewer batches than slots
        [(scores[11:29], targets[11:29])],
        [(scores[29:], targets[29:])] if not isinstance(metric, PearsonCorrCoef) else [],
    ]
    if isinstance(metric, PearsonCorrCoef):
        expected.reset()
        expected.update(scores[:29], targets[:29])
    torch.testing.assert_close(over_slots(metric, updates), expected.compute())


def test_one_slot_with_data_is_what_it_computes_itself() -> None:
    # Without reduction torchmetrics stacks the states of several, and takes one as it is.
    scores, labels = halves(20)
    expected = PearsonCorrCoef()
    expected.update(scores, labels.float())
    found = over_slots(PearsonCorrCoef(), [[], [(scores, labels.float())], []])
    assert torch.equal(found, expected.compute())


class Slots(Metric):
    """Shows the order in which states are merged."""

    def __init__(self) -> None:
        super().__init__()
        for name, reduction in (("stacked", None), ("cat", "cat"), ("own", lambda x: x[0] - x[-1])):
            self.add_state(name, torch.zeros(1), dist_reduce_fx=reduction)
        self.add_state("texts", [], dist_reduce_fx=None)

    def update(self, value: float) -> None:
        for name in ("stacked", "cat", "own"):
            setattr(self, name, torch.full((1,), value))
        self.texts.append(torch.tensor(value))

    def compute(self) -> Any:
        return {name: state for name, state in self.metric_state.items()}


def test_states_are_merged_in_slot_order_by_the_metrics_own_reductions() -> None:
    found = over_slots(Slots(), [[(5.0,)], [], [(3.0,), (1.0,)], [(2.0,)]])
    assert found["stacked"].tolist() == [[5.0], [1.0], [2.0]]
    assert found["cat"].tolist() == [5.0, 1.0, 2.0]
    assert found["own"].item() == 3.0
    assert [value.item() for value in found["texts"]] == [5.0, 3.0, 1.0, 2.0]


def test_merging_leaves_the_slots_as_they_were() -> None:
    metric = MeanMetric()
    reducer, contents = adapted(metric, 2)
    reducer.install(contents[0])
    metric.update(2.0)
    results = [reducer.per_slot_reduce()]
    reducer.install(contents[1])
    metric.update(4.0)
    results.append(reducer.per_slot_reduce())
    assert reducer.cross_slot_reduce(results).item() == 3.0
    assert metric.compute().item() == 4.0
    reducer.install(contents[0])
    assert metric.compute().item() == 2.0
    assert metric.update_count == 1


def test_metrics_that_are_equal_by_chance_are_not_taken_for_one() -> None:
    # In the first batch both thresholds find the same, and torchmetrics would group them for good.
    metric = MetricCollection({"low": BinaryAccuracy(0.5), "high": BinaryAccuracy(0.8)})
    ones = torch.ones(1, dtype=torch.long)
    updates = [(torch.tensor([0.9]), ones), (torch.tensor([0.6]), ones)]
    grouped = metric.clone()
    for update in updates:
        grouped.update(*update)
    assert {name: value.item() for name, value in grouped.compute().items()} == {
        "low": 0.5,
        "high": 0.5,
    }
    found = over_slots(metric, [updates])
    assert {name: value.item() for name, value in found.items()} == {"low": 1.0, "high": 0.5}


def test_updates_stay_on_their_device() -> None:
    # A tensor on this device has no numbers: whoever asks for them gets an exception.
    metric = SumMetric(nan_strategy="disable").to("meta")
    reducer = TorchmetricsReducer(metric)
    reducer.install(reducer.new_contents({}))
    metric.update(torch.ones(3, device="meta"))
    ((results),) = reducer.per_slot_reduce()
    assert results["state"]["sum_value"].is_meta


def test_many_tensors_of_a_state_become_one_before_they_travel() -> None:
    metric = BinaryAUROC()
    reducer, (contents,) = adapted(metric, 1)
    reducer.install(contents)
    scores, labels = halves(12)
    for start in range(0, 12, 3):
        metric.update(scores[start : start + 3], labels[start : start + 3])
    (results,) = reducer.per_slot_reduce()
    assert [len(state) for state in results["state"].values()] == [1, 1]
    assert torch.equal(results["state"]["preds"][0], scores)
    assert len(metric.preds) == 4


def test_nothing_is_asked_of_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a process of a real run, where torchmetrics would wait for the others at each report.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    with pytest.raises((ValueError, RuntimeError)):
        alone = MeanMetric()
        alone.update(1.0)
        alone.compute()
    metric = MeanMetric(dist_sync_on_step=True)
    reducer, (contents,) = adapted(metric, 1)
    reducer.install(contents)
    assert metric(torch.tensor(3.0)).item() == 3.0
    assert reducer.cross_slot_reduce([reducer.per_slot_reduce()]).item() == 3.0


# In a trial.


def spec(**config: Any) -> Any:
    return make_spec("measuring.py", **{"slots": 4, "reporting_period": "5ba", **config})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_session(spec(), tmp_path_factory.mktemp("straight"))


def test_each_metric_is_reported_where_it_was_wrapped_for(straight: Run) -> None:
    both = ["auroc", "correlation", "all_BinaryAccuracy", "all_BinaryF1Score"]
    both += ["all_BinaryPrecision"]
    classes = ["shares_no", "shares_yes"]
    for *_, metrics in straight.training:
        assert list(metrics) == ["loss", *both, "f1", "mean", "precision", *classes]
        assert metrics["f1"] == metrics["all_BinaryF1Score"]
        assert metrics["precision"] == metrics["all_BinaryPrecision"]
    for *_, metrics in straight.validation:
        assert list(metrics) == [*both, "raw", "max", "min", "largest", *classes]
        # A validation knows nothing of the one before.
        assert metrics["raw"] == metrics["max"] == metrics["min"] == metrics["all_BinaryAccuracy"]


def test_a_validation_is_that_of_all_records_at_once(tmp_path: Path, straight: Run) -> None:
    one_slot = run_session(spec(slots=1, max_length="1ba", validation_period="1ba"), tmp_path)
    weights = one_slot.checkpoints[-1].contents.models[0]
    inputs, labels = records(11).tensors
    scores = (inputs @ weights["weight"].T + weights["bias"]).squeeze(1).sigmoid()
    expected = BinaryAUROC()
    expected.update(scores, labels)
    assert one_slot.validation[0][-1]["auroc"] == pytest.approx(expected.compute().item())
    assert one_slot.validation[0][-1]["largest"] == pytest.approx(scores.max().item())


@pytest.mark.parametrize("stops", [[("progress", 3)], [("progress", b) for b in range(1, 7)]])
def test_an_unfinished_period_goes_on_after_a_stop(
    straight: Run, stops: list[Any], tmp_path: Path
) -> None:
    assert run_with_stops(spec(), tmp_path, stops).reported == straight.reported


def test_a_checkpoint_of_another_metric_is_refused(tmp_path: Path) -> None:
    source = """
        from torchmetrics import {0}
        from trials.linear import Linear

        class Measuring(Linear):
            def set_up(self):
                self.metric = self.context.wrap_reducer({0}(), "metric")
    """
    run = run_session(
        make_spec(write_trial(tmp_path, source.format("SumMetric")), max_length="1ba"),
        tmp_path / "checkpoints",
    )
    path = write_trial(tmp_path, source.format("MeanMetric"), "other.py")
    other = make_spec(path, max_length="2ba")
    with pytest.raises(CheckpointError) as caught:
        run_session(resume(other, run), tmp_path / "checkpoints")
    assert str(caught.value) == (
        "The torchmetrics are ['MeanMetric'] in the trial and ['SumMetric'] in the checkpoint. "
        "Restore the trial's code, or submit a new experiment."
    )


def test_a_metric_that_fails_without_data_is_explained(tmp_path: Path) -> None:
    source = """
        from torchmetrics.classification import BinaryAUROC
        from trials.linear import Linear

        class Measuring(Linear):
            def set_up(self):
                self.metric = self.context.wrap_reducer(BinaryAUROC(), "auroc")
    """
    with pytest.raises(ReducerError) as caught:
        run_session(make_spec(write_trial(tmp_path, source)), tmp_path / "checkpoints")
    assert str(caught.value).startswith("cross_slot_reduce of reducer 'auroc' raised ")
    assert str(caught.value).endswith(
        " It was given nothing: if train_batch does not update it, wrap it with for_training=False."
    )


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics', of the same
def test_nan_of_a_metric_without_data_is_explained_once_for_each_phase(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = """
        from torchmetrics import MeanMetric
        from trials.linear import Linear

        class Measuring(Linear):
            def set_up(self):
                self.metric = self.context.wrap_reducer(MeanMetric(), "mean")
    """
    spec = make_spec(
        write_trial(tmp_path, source),
        max_length="4ba",
        reporting_period="2ba",
        validation_period="2ba",
    )
    run_session(spec, tmp_path / "checkpoints")
    nothing = "Reducer 'mean' gave nan. It was given nothing: if "
    assert [r.message for r in caplog.records if r.message.startswith("Reducer")] == [
        nothing + "train_batch does not update it, wrap it with for_training=False.",
        nothing + "evaluate_batch does not update it, wrap it with for_validation=False.",
    ]


def test_a_collection_has_names_of_its_own() -> None:
    with pytest.raises(InvalidTrialError) as caught:
        make_wrapped_reducer(
            MetricCollection([MeanMetric()]),
            name="all",
            for_training=True,
            for_validation=True,
            options=None,
            device=CPU,
        )
    assert str(caught.value) == (
        "wrap_reducer got a MetricCollection and the name 'all'. It computes a dictionary of "
        "metrics: wrap it without a name, and give the collection a prefix."
    )


def test_a_metric_goes_to_the_trials_device() -> None:
    metric = MeanMetric()
    make_wrapped_reducer(
        metric,
        name="mean",
        for_training=True,
        for_validation=True,
        options=None,
        device=torch.device("meta"),
    )
    assert metric.device.type == "meta"


def test_trialrun_itself_does_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Measuring.__init__  # which has imported it
    monkeypatch.delitem(sys.modules, "torchmetrics")
    with pytest.raises(InvalidTrialError, match=r"^wrap_reducer got a MeanMetric\. It takes a "):
        make_wrapped_reducer(
            MeanMetric(),
            name="mean",
            for_training=True,
            for_validation=True,
            options=None,
            device=CPU,
        )
    assert "torchmetrics" not in sys.modules
