"""``deterministic``: which operations are refused or warned of, where, how often, in what words."""

from __future__ import annotations

import logging
import os
import re
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from support import make_spec, run_session, write_trial

from trialrun.controller.config import Deterministic, read_config
from trialrun.controller.engine import determinism
from trialrun.controller.engine.determinism import (
    CUBLAS_WORKSPACE,
    NondeterministicOperationError,
    kept_determinism,
    make_deterministic,
    named_operation,
)
from trialrun.controller.launch.explaining import explain
from trialrun.controller.launch.failures import FailureKind

# put_ without accumulate: of several values for one place any may win. torch says so on the CPU
# too, and of max_unpool2d, which is called within torch's own Python code.
TRIAL = """
import torch
from trials.linear import Linear

class Putting(Linear):
    def train_batch(self, batch, epoch_idx, batch_idx):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))  # line 7
        pooled, at = torch.nn.functional.max_pool2d(torch.ones(1, 4, 4), 2, return_indices=True)
        torch.nn.functional.max_unpool2d(pooled, at, 2)  # line 9
        return super().train_batch(batch, epoch_idx, batch_idx)

    def evaluate_batch(self, batch, batch_idx):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
        return super().evaluate_batch(batch, batch_idx)
"""


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.endswith("determinism")]


def test_strict_names_the_operation_and_the_line_of_the_user(tmp_path: Path) -> None:
    file = write_trial(tmp_path, TRIAL)
    make_deterministic(Deterministic.STRICT)
    with pytest.raises(Exception) as caught:
        run_session(make_spec(file), tmp_path)
    failure = explain(caught.value, batches=0, process=0, user_folder=tmp_path)
    assert failure.kind is FailureKind.RULE
    assert failure.message == (
        f"The operation put_ ({file}:7) has no deterministic implementation: its bits may differ "
        "from one run to the next. The configuration says 'deterministic: strict', which refuses "
        "that. Use another operation there, or set deterministic to warn. (At batch 0.)"
    )


def test_warn_says_each_operation_once_whatever_slots_and_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_trial(tmp_path, TRIAL)
    make_deterministic(Deterministic.WARN)
    run_session(make_spec(file), tmp_path)
    first, second = warned(caplog)
    assert first == (
        f"The operation put_ ({file}:7) has no deterministic implementation: its bits may differ "
        "from one run to the next. 'deterministic: strict' in the configuration makes it an error, "
        "'off' silences this."
    )
    # The line of the trial, not the one in torch's Python code.
    assert second.startswith(f"The operation max_unpooling2d_forward_out ({file}:9) has no ")


def test_a_process_that_speaks_for_nobody_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_deterministic(Deterministic.WARN, warns=False)
    run_session(make_spec(write_trial(tmp_path, TRIAL)), tmp_path)
    assert warned(caplog) == []


def test_off_leaves_torch_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (torch.get_deterministic_debug_mode(), os.environ.get(CUBLAS_WORKSPACE))
    make_deterministic(Deterministic.OFF)
    run_session(make_spec(write_trial(tmp_path, TRIAL)), tmp_path)
    assert warned(caplog) == []
    assert before == (0, os.environ.get(CUBLAS_WORKSPACE))


def test_strict_and_warn_change_no_bit_of_a_trial_that_is_deterministic(tmp_path: Path) -> None:
    digests = set()
    for mode in Deterministic:
        with kept_determinism():
            make_deterministic(mode)
            digests.add(run_session(make_spec("conv.py"), tmp_path / mode.value).digest)
    assert len(digests) == 1


def test_other_warnings_go_where_they_went(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(UserWarning, match="something else"):
        make_deterministic(Deterministic.WARN)
        warnings.warn("something else", stacklevel=1)
    assert warned(caplog) == []


def test_strict_fills_memory_that_nobody_wrote() -> None:
    make_deterministic(Deterministic.STRICT)
    assert torch.empty(1000).isnan().all()


def compiled_shapes(*lengths: int) -> list[Any]:
    """Returns for which shapes torch compiles a function that gets inputs of these lengths."""
    shapes: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        shapes.append([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
        shapes.extend(str(value) for value in inputs if not isinstance(value, torch.Tensor))
        return graph.forward

    torch._dynamo.reset()
    double = torch.compile(lambda values: values * 2, backend=backend)
    for length in lengths:
        double(torch.ones(length))
    return shapes


@pytest.mark.parametrize("mode", [Deterministic.WARN, Deterministic.STRICT])
def test_what_is_compiled_for_a_shape_does_not_depend_on_those_before_it(
    mode: Deterministic,
) -> None:
    make_deterministic(mode)
    assert compiled_shapes(3, 7, 3, 2) == [[(3,)], [(7,)], [(2,)]]
    assert compiled_shapes(7, 2) == [[(7,)], [(2,)]]


def test_off_lets_torch_compile_for_all_shapes_at_once() -> None:
    make_deterministic(Deterministic.OFF)
    assert len(compiled_shapes(3, 7, 2, 5)) == 3  # for 3; for all others: a tensor and its length


def test_strict_refuses_to_leave_a_shape_uncompiled() -> None:
    make_deterministic(Deterministic.STRICT)
    with torch._dynamo.config.patch(recompile_limit=2):
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit, match="recompile_limit"):
            compiled_shapes(3, 7, 2)
        with kept_determinism():
            make_deterministic(Deterministic.WARN)
            assert len(compiled_shapes(3, 7, 2)) == 2


def test_the_compiler_s_settings_are_put_back() -> None:
    config = torch._dynamo.config
    before = (config.automatic_dynamic_shapes, config.fail_on_recompile_limit_hit)
    with kept_determinism():
        make_deterministic(Deterministic.STRICT)
        assert before != (config.automatic_dynamic_shapes, config.fail_on_recompile_limit_hit)
    assert before == (config.automatic_dynamic_shapes, config.fail_on_recompile_limit_hit)


def test_the_user_s_workspace_of_cublas_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    make_deterministic(Deterministic.STRICT)
    assert os.environ[CUBLAS_WORKSPACE] == ":16:8"


def test_what_cublas_asks_for_is_said() -> None:
    error = RuntimeError(
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` "
        "or `at::Context::setDeterministicAlgorithms(true)`, but this operation is not "
        "deterministic because it uses CuBLAS and you have CUDA >= 10.2. To enable deterministic "
        "behavior in this case, you must set an environment variable"
    )
    named = named_operation(error)
    assert isinstance(named, NondeterministicOperationError)
    assert str(named).startswith("The operation CuBLAS has no deterministic implementation: ")
    assert "Set CUBLAS_WORKSPACE_CONFIG=:4096:8 before the process first uses CUDA" in str(named)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("put_ does not have")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert named_operation(error) is error


@pytest.mark.parametrize(
    ("written", "mode"),
    [("strict", Deterministic.STRICT), ("off", Deterministic.OFF), (False, Deterministic.OFF)],
)
def test_the_configuration_takes_off_as_yaml_reads_it(written: Any, mode: Deterministic) -> None:
    config = read_config({"max_length": "1ba", "deterministic": written})
    assert config.deterministic is mode
    assert read_config(config.to_json()).deterministic is mode


@pytest.mark.parametrize("written", [True, "on", "Strict", 1])
def test_another_word_is_refused_with_those_that_there_are(written: Any) -> None:
    message = f"Configuration key 'deterministic' is {written!r}: Input should be 'strict', 'warn'"
    with pytest.raises(Exception, match=re.escape(message)):
        read_config({"max_length": "1ba", "deterministic": written})


def test_a_warning_in_another_thread_finds_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Four slots in one process: each has a thread of its own.
    caplog.set_level(logging.WARNING)
    make_deterministic(Deterministic.WARN)
    file = write_trial(
        tmp_path,
        TRIAL.replace("        torch.zeros(3)", 3 * "        pass\n" + "        torch.zeros(3)", 1),
    )
    run_session(make_spec(file, slots=4, hyperparameters={"batch_size": 1}), tmp_path)
    assert f"({file}:10)" in warned(caplog)[0]


def test_before_torch_2_7_the_compilers_limit_has_its_older_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = types.SimpleNamespace(automatic_dynamic_shapes=True, fail_on_cache_limit_hit=False)
    monkeypatch.setattr(determinism, "_compiler_config", lambda: old)
    with kept_determinism():
        make_deterministic(Deterministic.STRICT)
        assert vars(old) == {"automatic_dynamic_shapes": False, "fail_on_cache_limit_hit": True}
    assert vars(old) == {"automatic_dynamic_shapes": True, "fail_on_cache_limit_hit": False}
