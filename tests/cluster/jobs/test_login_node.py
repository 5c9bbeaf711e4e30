"""Heavy commands on a login node: sbatch is there, and no job."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from support import symbench

from cluster.jobs import login_node
from cluster.jobs.login_node import few_cores
from results.store.store import Store

WARNING = "this may be a login node"


@pytest.mark.usefixtures("fake")
def test_a_block_uses_few_cores(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(login_node, "CORES", 1)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with few_cores(None, "--parallel N"):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    assert f"{WARNING}, as sbatch is here and this is no job: at most 1 cores" in capsys.readouterr().err
    with few_cores(3, "--parallel N"):
        assert os.sched_getaffinity(0) == before
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with few_cores(None, "--parallel N"):
        assert os.sched_getaffinity(0) == before
    assert capsys.readouterr().err == ""


def test_commands_warn(fake: FakeSlurm, store: Store, make_suite: Callable[..., Path]) -> None:
    suite = make_suite("[persistence]")
    for command in (("data", "prepare", suite), ("run", suite, "--on", "local")):
        done = symbench(*command, store=store)
        assert done.returncode == 0, done.stderr
        assert WARNING in done.stderr
