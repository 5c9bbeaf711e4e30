"""Processes of a search: supervisor, Ray nodes, and the tasks of a SLURM job."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_INET, AF_INET6
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fake_slurm import FakeSlurm
from tuning_support import job_for

from benchmark.errors import MachineError
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
    meeting, joined, signals = allocation.Meeting(tmp_path / "ray"), [], Signals()

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
    with meeting.hold():
        meeting.write({"address": "10.0.0.1:5"})
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
    assert allocation.Meeting(tmp_path / "ray-tune-0-7-0").read() == {"over": True}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    ("restart", "restarts", "expected"),
    [(0, 0, ["requeue 7"]), (2, 2, ["cancel 7"]), (1, 2, [])],
    ids=["requeued", "cancelled after too many", "requeued by another task"],
)
def test_a_job_without_its_first_node_is_requeued(
    folder: StudyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: bool,
    restart: int,
    restarts: int,
    expected: list[str],
) -> None:
    """Whether the first task was lost at work or has not come; not before SLURM answers, and once."""
    fake = FakeSlurm.on_path(tmp_path / "bin", monkeypatch)
    fake.says_in_turn(
        "scontrol",
        "exit 1",
        f"echo '   Requeue=1 Restarts={restarts} BatchFlag=1'",
        'echo "requeue $2" >> "$HERE/calls"',
    )
    fake.script("scancel", 'echo "cancel $1" >> "$HERE/calls"')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    monkeypatch.setattr(allocation, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(allocation, "MEETING_SECONDS", 60.0 if begun else 0.1)
    monkeypatch.setattr(allocation, "LOST_SECONDS", 0.1)
    meeting = allocation.Meeting(tmp_path / "ray")
    if begun:
        with meeting.hold():
            meeting.write({"address": "10.0.0.1:5"})
            assert meeting.is_held
            text = (tmp_path / "ray" / "lease-1.json").read_text()
        meeting.write({"address": "10.0.0.1:5"})
        (tmp_path / "ray" / "lease-1.json").write_text(text.replace(f'"pid": {os.getpid()}', '"pid": 4194305'))
    job = job_for(folder).model_copy(update={"requeues": 2})
    allocation._join(job, tmp_path / "job.json", meeting, Signals())
    calls = tmp_path / "bin" / "calls"
    assert (calls.read_text().splitlines() if calls.exists() else []) == expected


def test_a_job_that_is_over_is_not_requeued(folder: StudyFolder, tmp_path: Path) -> None:
    meeting = allocation.Meeting(tmp_path / "ray")
    with meeting.hold():
        pass
    meeting.patience_seconds = 0.0
    assert not meeting.is_held
    assert not meeting.is_deserted
    allocation._join(job_for(folder), tmp_path / "job.json", meeting, Signals())


def test_ray_does_not_listen_on_a_public_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On several nodes it listens on all addresses of each, and not only on the one that it is given."""
    monkeypatch.setattr(ray_node, "sweep", lambda: pytest.fail("the node starts"))
    addresses = [
        (AF_INET, "10.0.0.1"),
        (AF_INET6, "fe80::1%eth0"),
        (psutil.AF_LINK, "00:00:5e:00:53:00"),
        (AF_INET, "8.8.8.8"),
    ]
    interfaces = {"eth0": [SimpleNamespace(family=family, address=address) for family, address in addresses]}
    monkeypatch.setattr(ray_node.psutil, "net_if_addrs", lambda: interfaces)
    node = ray_node.RayNode(tmp_path / "log", "10.0.0.1", 1, 0)
    with pytest.raises(MachineError, match=r"8\.8\.8\.8: Ray would listen on a public address"), node:
        pass
    assert ray_node.listening_addresses(ray_node.LOOPBACK) == [ray_node.LOOPBACK]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_ray_node_lets_nobody_else_in(tmp_path: Path, nodes: int) -> None:
    """Files and sockets lie in one private folder; it listens where it is said to, and refuses another token."""
    pytest.importorskip("ray")
    ip = ray_node.LOOPBACK if nodes == 1 else ray_node.own_address()
    with ray_node.RayNode(tmp_path / "log", ip, 1, 0) as node:
        root = node.folder
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        if os.geteuid() == 0:
            listing = subprocess.run(
                ["ls", root], user=65534, group=65534, extra_groups=[], capture_output=True, check=False
            )
            assert b"Permission denied" in listing.stderr
        processes = psutil.Process(node.guard.pid).children(recursive=True)
        unix = {c.laddr for process in processes for c in process.net_connections("unix") if c.laddr.startswith("/")}
        assert {Path(path).name for path in unix} == {"raylet", "plasma_store"}
        assert all(Path(path).is_relative_to(root) for path in unix)
        listening = [c for process in processes for c in process.net_connections("inet") if c.status == "LISTEN"]
        addresses = {c.laddr.ip.removeprefix("::ffff:") for c in listening}
        assert addresses == ({ip} if nodes == 1 else {ip, "::"})
        (other := tmp_path / "other").mkdir()
        stranger = ray_node.environment(ray_node.write_token(other), ip)
        command = [sys.executable, "-c", f"import ray; ray.init(address={node.address!r})"]
        with subprocess.Popen(command, env=stranger, stderr=subprocess.PIPE, text=True) as client:
            assert any("InvalidAuthToken" in line for line in client.stderr or [])
            client.kill()  # it would try again for a while
    assert not root.exists()


def test_the_folder_of_a_ray_node_has_room_for_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node.os, "access", lambda name, mode: name != "/tmp")
    monkeypatch.setattr(ray_node.tempfile, "gettempdir", lambda: "/scratch")
    assert ray_node._temporary_root() == Path("/scratch")
    monkeypatch.setattr(ray_node.tempfile, "gettempdir", lambda: "/scratch/of/somebody/with/a/long/name")
    with pytest.raises(MachineError, match=r"/tmp and /scratch/of/.*: none is writable and has at most 26 characters"):
        ray_node._temporary_root()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
def test_a_link_of_another_user_ends_no_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A link to a folder whose guard is dead, with a name that all commands of Ray contain."""
    monkeypatch.setattr(ray_node, "_temporary_root", lambda: tmp_path)
    mine = tmp_path / "elsewhere"
    mine.mkdir()
    (mine / "guard.pid").write_text("4194305")  # no process has this id
    link = tmp_path / ray_node.PREFIX
    link.symlink_to(mine)
    os.lchown(link, 65534, 65534)
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", f"{link}running"], stdin=subprocess.DEVNULL
    ) as process:
        ray_node.sweep()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.kill()
