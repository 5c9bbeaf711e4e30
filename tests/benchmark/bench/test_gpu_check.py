"""Verdicts of `make gpu-check`, and steps that a CPU can take."""

from dataclasses import replace

import pytest

from benchmark.bench.gpu_check import row
from benchmark.bench.gpu_steps import STEPS


@pytest.mark.parametrize(
    ("change", "verdict", "seen"),
    [
        ({}, "passed", "torch "),
        ({"name": "no such step"}, "failed", "KeyError: 'no such step'"),
        ({"limit_s": 0.1}, "failed", "no end after 0.1 s"),
        ({"needs_gpu": True}, "not run: no GPU", ""),
    ],
)
def test_verdicts(change: dict[str, object], verdict: str, seen: str) -> None:
    result = row(replace(STEPS["versions"], **change))
    assert result["verdict"] == verdict
    assert result["seen"].startswith(seen)


def test_a_training_goes_on_after_a_stop() -> None:
    assert STEPS["stop and go on"].run().startswith("equal here")
