"""Scripts in place of SLURM's commands."""

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm.on_path(tmp_path / "bin", monkeypatch)
