"""Processes of a search: supervisor, Ray nodes, and the tasks of a SLURM job."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tuning_support import job_for

from benchmark.errors import MachineError
from benchmark.files import write_json
from cluster.jobs.signals import Signals
from cluster.tuning import allocation, supervise
from cluster.tuning.ray_cluster import ray_node
from results.store.studies import StudyFolder


@pytest.mark.parametrize(("should_stop", "status"), [(True, 0), (False, None)])
def test_a_driver_that_ends_with_the_whole_step_is_not_restarted(
    folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, should_stop: bool, status: int | None
) -> None:
    @contextmanager
    def driver(*arguments: Any) -> Iterator[Any]:
        yield SimpleNamespace(poll=lambda: -15, returncode=-15)

    monkeypatch.setattr(supervise, "_driver", driver)
    head: Any = SimpleNamespace(alive=True)
    assert supervise._drive(job_for(folder), tmp_path / "job.json", head, lambda: should_stop, 60.0) == status


def test_a_node_joins_the_same_head_again(
    folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a start that failed, and after it was lost; not after SIGTERM."""
    meeting, joined, signals = tmp_path / "ray.json", [], Signals()
    write_json(meeting, {"address": "10.0.0.1:5"})

    @contextmanager
    def node(log: Path, ip: str, cpus: int, gpus: int, head: str) -> Iterator[Any]:
        joined.append(head)
        if len(joined) == 1:
            raise MachineError("Ray does not start")
        signals.terminated = len(joined) == 3
        yield SimpleNamespace(alive=False)

    monkeypatch.setattr(allocation, "RayNode", node)
    monkeypatch.setattr(allocation, "address_towards", lambda host: host)
    monkeypatch.setattr(allocation, "POLL_SECONDS", 0.0)
    allocation._join(job_for(folder), tmp_path / "job.json", meeting, signals)
    assert joined == ["10.0.0.1:5"] * 3
    assert "Ray does not start" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "time_is_up", "exit_status"), [(0, False, 0), (1, False, 1), (1, True, 0)])
def test_a_job_with_a_failed_study_fails_unless_it_is_requeued(
    folder: StudyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    time_is_up: bool,
    exit_status: int,
) -> None:
    file = tmp_path / "tune-0.json"
    file.write_text(job_for(folder).model_copy(update={"requeues": 1}).model_dump_json())
    signals = SimpleNamespace(listen=lambda: None, time_is_up=time_is_up, stop=False)
    monkeypatch.setattr(allocation, "Signals", lambda: signals)
    monkeypatch.setattr(allocation.submitit, "JobEnvironment", lambda: SimpleNamespace(job_id="7", global_rank=0))
    monkeypatch.setattr(allocation, "run_studies", lambda *arguments: status)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if exit_status == 0:
        allocation.run_allocation(str(file))
    else:
        with pytest.raises(SystemExit) as end:
            allocation.run_allocation(str(file))
        assert end.value.code == exit_status
    assert json.loads((tmp_path / "ray-tune-0-7-0.json").read_text()) == {"over": True}


def test_ray_does_not_listen_on_a_public_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "sweep", lambda: pytest.fail("the node starts"))
    node = ray_node.RayNode(tmp_path / "log", "8.8.8.8", 1, 0)
    with pytest.raises(MachineError, match=r"8\.8\.8\.8: Ray would listen on a public address"), node:
        pass
