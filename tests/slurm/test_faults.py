"""Unattended suites with faults: a lost node, a killed process, a time limit, an error, too little memory.

All suites are sent at once, and each test waits for the end of its own.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest
from slurm.login_node import WAITING, LoginNode, manage, pids, ranks_on, same
from support import SYMBENCH

from benchmark.training.recorder import Epoch
from cluster.jobs.job import Job
from results.store.record import Record

NewLoginNode = Callable[..., LoginNode]
Undisturbed = Callable[[int], Record]

FAULTY = '''
import os

from benchmark.models.convnet import ConvNet


class Faulty(ConvNet):
    """A ConvNet that raises an error in the first training step, on the last rank."""

    def before_step(self, progress: float) -> None:
        if os.environ["SLURM_PROCID"] == str(int(os.environ["SLURM_NTASKS"]) - 1):
            raise ValueError("out of order")
'''

HUNGRY = '''
import torch

from benchmark.models.convnet import ConvNet


class Hungry(ConvNet):
    """A ConvNet that allocates 120 MB for each window of a training batch."""

    def forward(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        ballast = torch.ones(len(x_BTCHW) if self.training else 0, 30_000_000)
        return super().forward(x_BTCHW) + ballast[:0].sum()
'''

SLOW = '''
import os
import time

from benchmark.models.convnet import ConvNet


class Slow(ConvNet):
    """A ConvNet whose steps take a second until SLURM requeues the job."""

    def before_step(self, progress: float) -> None:
        time.sleep(1 if "SLURM_RESTART_COUNT" not in os.environ else 0)
'''

STILL = '''
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.persistence import Persistence


class Still(Persistence):
    """Persistence with a number, to make many cells."""

    class Config(Frozen):
        number: PositiveInt = 1
'''

SEND_LANES = """
import sys
from pathlib import Path
from benchmark import discovery
from benchmark.suite import loading as suites
from cluster import site
from cluster.jobs.packing import Shape
from cluster.slurm.collector import collect
from cluster.slurm.submit import Batch, submit
from results.store.store import Store

plugin, suite_file, site_file, store = sys.argv[1:]
discovery.add_plugin(Path(plugin))
suite = suites.load(suite_file)
submit(suite, Store(Path(store)), site.load(site_file), [Batch(Shape("cpu", 1, lanes=2), (suite.cells,))], collect)
"""


@pytest.fixture(scope="module")
def lost_nodes(new_login_node: NewLoginNode, undisturbed: Undisturbed) -> dict[str, LoginNode]:
    """One job on each node; then all processes on both nodes are killed, slurmd included.

    One node is also cut off until SLURM marks it down. On the other, slurmd is back at once without the job.
    """
    undisturbed(1), undisturbed(2)  # wait until the nodes are free
    lost = {}
    for way in ("cut off", "killed"):
        node = lost[way] = new_login_node(memory_gb=6.0)  # so that each job fills a node
        node.plug_in("waiting", WAITING)
        node.declare("[{waiting: {hidden: 4}}]", epochs=60)
        node.run()
    hosts = {way: node.wait_for_epoch(1)[0].status.host for way, node in lost.items()}
    assert set(hosts.values()) == {"n1", "n2"}
    subprocess.run(["ip", "-n", hosts["cut off"], "link", "set", "eth0", "down"], check=True)
    try:
        kill_all_on(hosts["cut off"])
        lost["cut off"].wait_until(lambda: "down" in node_state(lost["cut off"], hosts["cut off"]))
    finally:
        mend()
    kill_all_on(hosts["killed"])  # slurmctld misses only jobs older than some 12 s
    mend()
    for node in lost.values():
        (node.folder / "go").touch()
    return lost


def kill_all_on(host: str) -> None:
    for pid in pids(host):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def mend() -> None:
    mended = manage("up")
    assert mended.returncode == 0, mended.stderr


def node_state(node: LoginNode, host: str) -> str:
    return node.slurm("sinfo", "--noheader", f"--nodes={host}", "--format=%T")


@pytest.fixture(scope="module")
def unattended(lost_nodes: dict[str, LoginNode], new_login_node: NewLoginNode) -> dict[str, LoginNode]:
    nodes = dict(lost_nodes)

    node = nodes["many"] = new_login_node(jobs=2, cells_per_job=250, max_array_size=3)
    node.plug_in("still", STILL)
    node.declare(f"[{{still: {{number: {list(range(1, 1001))}}}}}]")
    count_calls_of_sbatch(node)
    node.run()

    node = nodes["time limit"] = new_login_node(minutes=1, signal_seconds=10)
    node.plug_in("slow", SLOW)
    node.declare("[{slow: {hidden: 4}}]", seeds="[0, 1, 2, 3]", epochs=60)
    files = (node.plugin, node.suite, node.site, node.store.root)
    subprocess.run([sys.executable, "-c", SEND_LANES, *map(str, files)], env=node.environment, check=True)

    node = nodes["memory"] = new_login_node()
    node.plug_in("hungry", HUNGRY)
    node.declare("[{hungry: {hidden: 4}}]")
    node.run()

    for ranks in (1, 2):
        node = nodes[f"error of {ranks}"] = new_login_node()
        node.plug_in("faulty", FAULTY)
        node.declare("[faulty, {convnet: {hidden: 4}}]", seeds="[0, 1]", ranks=ranks, nodes=ranks)
        node.run()

    node = nodes["process killed"] = new_login_node()
    node.declare(epochs=60)
    node.run()
    (record,) = node.wait_for_epoch(3)
    os.kill(record.status.pid, signal.SIGKILL)

    node = nodes["twice"] = new_login_node()
    node.declare(seeds="[0, 1, 2, 3]", epochs=4)
    command = [str(SYMBENCH), "run", str(node.suite), "--on", str(node.site), "--store", str(node.store.root)]
    both = [subprocess.Popen(command, env=node.environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    return nodes


def count_calls_of_sbatch(node: LoginNode) -> None:
    """Log each call of sbatch as a line of the file `calls` in the node's folder."""
    shim = node.folder / "bin" / "sbatch"
    shim.parent.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    shim.write_text(f'#!/bin/sh\necho "$@" >> "{node.folder}/calls"\nexec {real} "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    node.environment = node.environment | {"PATH": f"{shim.parent}:{node.environment['PATH']}"}


def test_two_nodes_and_a_board(new_login_node: NewLoginNode) -> None:
    """Two-node cells and an untrained one; the last job updates MLflow and the report."""
    node = new_login_node()
    node.declare("[persistence, {convnet: {hidden: 4}}]", seeds="[0, 1]", ranks=2, nodes=2)
    node.suite.write_text(node.suite.read_text().replace("name: tiny", "name: a 'b' é"))
    assert "#SBATCH --nodes=2" in node.run("--dry-run")
    assert not node.queue()
    assert "3 cells in 2 jobs" in node.run()
    assert "nothing to send" in node.run()
    node.wait_for_all()
    assert node.states() == ["done"] * 3, node.logs()
    assert {record.environment["world_size"] for record in node.records()} == {1, 2}
    assert (node.store.root / "a--b--é.html").exists()
    assert (node.store.root / "mlflow.db").exists()
    assert "nothing to send; 3 finished" in node.run()


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_in_one_cell_affects_no_other_and_is_not_retried(unattended: dict[str, LoginNode], ranks: int) -> None:
    """With two ranks on two nodes, rank 1 raises the error."""
    node = unattended[f"error of {ranks}"]
    node.wait_for_all()
    assert node.states() == ["done", "done", "code_error", "code_error"], node.logs()
    faulty = node.records()[2:]
    assert [record.status.attempt for record in faulty] == [1, 1]
    assert all("out of order" in record.status.message for record in faulty)
    assert ranks == 1 or "rank 1" in faulty[0].status.message
    assert (node.store.root / "tiny.html").exists()


def test_after_out_of_memory_a_cell_is_sent_again_with_half_the_micro_batch(
    unattended: dict[str, LoginNode], undisturbed: Undisturbed
) -> None:
    """The kernel kills the process; with half the micro-batch the training is equal up to rounding."""
    node = unattended["memory"]
    if "task/cgroup" not in node.slurm("scontrol", "show", "config"):
        pytest.skip("this machine has no memory cgroups of version 1, so SLURM enforces no --mem")
    node.wait_for_all()
    (record,) = node.records()
    assert record.status.state == "done", node.logs()
    assert "OUT_OF_ME" in node.slurm("sacct", f"--jobs={next(iter(node.submissions()[0].jobs))}")
    jobs = [Job.model_validate_json(path.read_text()) for path in (node.store.root / "jobs").glob("*/job-*.json")]
    assert sorted(job.micro_batches.get(record.cell.id, 0) for job in jobs) == [0, 4]
    assert [losses(epoch) for epoch in record.history] == [
        pytest.approx(losses(epoch), rel=1e-4) for epoch in undisturbed(1).history[:3]
    ]


def losses(epoch: Epoch) -> tuple[float, float]:
    return epoch.train_rmse, epoch.validation_rmse


def test_the_cell_of_a_killed_process_is_sent_again(unattended: dict[str, LoginNode], undisturbed: Undisturbed) -> None:
    node = unattended["process killed"]
    node.wait_for_all()
    assert node.states() == ["done"], node.logs()
    assert len(node.submissions()) == 2
    assert same(node.records()[0], undisturbed(1))


def test_a_rank_that_dies_while_it_starts_keeps_no_other_waiting(login_node: LoginNode) -> None:
    """The other one would wait for it for several limits of a collective operation."""
    login_node.declare(epochs=1, ranks=2, nodes=2)
    login_node.run()
    login_node.wait_until(lambda: login_node.jobs("RUNNING"))
    (job,) = login_node.jobs()
    login_node.wait_until(lambda: ranks_on("n2", job))
    for rank in ranks_on("n2", job):
        os.kill(rank, signal.SIGKILL)
    login_node.wait_for_all()
    assert login_node.states() == ["done"], login_node.logs()
    first, again = sorted(login_node.submissions(), key=lambda submission: len(submission.sent_again))
    assert (first.sent_again, list(again.sent_again.values())) == ({}, [{"no_start": 1}])
    assert "First task exited 60s ago" in login_node.logs()


def test_two_submissions_at_once_run_each_cell_once(unattended: dict[str, LoginNode]) -> None:
    node = unattended["twice"]
    node.wait_for_all()
    assert node.states() == ["done"] * 4, node.logs()
    assert [record.status.attempt for record in node.records()] == [1] * 4


def test_at_the_time_limit_all_lanes_save_and_the_job_continues(
    unattended: dict[str, LoginNode], undisturbed: Undisturbed
) -> None:
    """Four cells in two lanes of one job with a limit of one minute; SLURM itself sends the signal."""
    node = unattended["time limit"]
    node.wait_for_all()
    records = node.records()
    assert node.states() == ["done"] * 4, node.logs()
    assert len(node.submissions()) == 1
    assert sum(record.status.attempt > 1 for record in records) >= 2  # the two that ran when the signal came
    assert same(records[0], undisturbed(1))


def test_a_thousand_cells_in_a_few_calls(unattended: dict[str, LoginNode]) -> None:
    """Four jobs in two arrays, since an array holds at most three."""
    node = unattended["many"]
    node.wait_for_all()
    assert node.states() == ["done"] * 1000
    (submission,) = node.submissions()
    assert len(submission.jobs) == 4
    arrays_and_collector = 2 + 1
    assert len((node.folder / "calls").read_text().splitlines()) == arrays_and_collector
    board = (node.store.root / "tiny.html").read_text()
    assert board.count("<tr") > 1000
    assert "number=1000" in board


@pytest.mark.parametrize("way", ["cut off", "killed"])
def test_a_cell_survives_the_loss_of_its_node(
    unattended: dict[str, LoginNode], undisturbed: Undisturbed, way: str
) -> None:
    """SLURM requeues the job; the cell continues once the lease of the dead holder is stale."""
    node = unattended[way]
    node.wait_for_all()
    assert node.states() == ["done"], node.logs()
    assert node.records()[0].status.attempt > 1
    assert same(node.records()[0], undisturbed(1))
