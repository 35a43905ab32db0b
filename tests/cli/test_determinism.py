"""``deterministic`` and the recorded environment, in real processes."""

from __future__ import annotations

from .workplace import CONFIG, TRIAL, Workplace

PUT = "        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))\n"
MARK = '        print(f"training batch {batch_idx}")\n'


def test_strict_stops_at_the_operation_and_a_resume_elsewhere_says_what_may_change_bits(
    workplace: Workplace,
) -> None:
    source = TRIAL.replace(MARK, MARK + "        if batch_idx == 5:\n    " + PUT)
    workplace.trial_file.write_text(source)
    (workplace.folder / "trial.yaml").write_text(
        CONFIG.replace("max_length: 12ep", "max_length: 8ba") + "deterministic: strict\n"
    )
    line = source.splitlines().index("    " + PUT.rstrip("\n")) + 1
    result = workplace.run("submit", "trial.py", "--processes", "2")
    assert result.code == 1
    assert (
        f"Experiment 1 failed: The operation put_ ({workplace.trial_file}:{line}) has no "
        "deterministic implementation: its bits may differ from one run to the next. The "
        "configuration says 'deterministic: strict', which refuses that. Use another operation "
        "there, or set deterministic to warn. (At batch 5.)\n"
    ) in result.err
    assert list(workplace.digests()) == [4]
    shown = workplace.invoke("checkpoint", "show", workplace.checkpoints()[0].uuid).lines
    assert [text.split()[1] for text in shown if "deterministic:" in text] == ["strict"]

    workplace.trial_file.write_text(TRIAL)
    workplace.environment["MKL_CBWR"] = "COMPATIBLE"
    resumed = workplace.run_anew("resume", "1", "--processes", "1")
    assert resumed.code == 0, resumed.err
    assert [text for text in resumed.lines if "last digits" in text] == [
        "WARNING: what environment variables choose kernels was {} and is now {'MKL_CBWR': "
        "'COMPATIBLE'}: the last digits may differ from a run without this change."
    ]
    recorded = [attempt.plan["environment"] for attempt in workplace.attempts() if attempt.plan]
    assert [each["variables"] for each in recorded] == [{}, {"MKL_CBWR": "COMPATIBLE"}]


def test_warn_is_said_once_for_two_processes_of_two_slots(workplace: Workplace) -> None:
    workplace.trial_file.write_text(TRIAL.replace(MARK, MARK + PUT))
    (workplace.folder / "trial.yaml").write_text(CONFIG.replace("12ep", "4ba"))
    result = workplace.run("submit", "trial.py", "--processes", "2")
    assert result.code == 0, result.err
    (said,) = [text for text in result.lines if "has no deterministic implementation" in text]
    assert said.startswith("[process 0] WARNING: The operation put_ (")
