"""A suite of three cells, and scripts in place of SLURM's commands."""

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from support import suite_in

from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from cluster.slurm import collector


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm.on_path(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(collector, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(collector, "show", lambda suite, store: None)
    return made


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Three cells with two ranks each."""
    return suites.load(str(suite_in(tmp_path, seeds="[0, 1, 2]", ranks=2)))
