"""Suites on a real SLURM of two nodes: sent, stopped in all the ways that clusters know, and finished all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import SYMBENCH, store_in, suite_in

from benchmark import suite as suites
from results.store import Record, Store

SITE = (
    "{scheduler: slurm, partition: main, minutes: 10, signal_seconds: 60, cpus: 1, memory_gb: 1.0, jobs: 4, "
    "job_minutes: 1, setup: ['export OMP_NUM_THREADS=1']}"
)
PATIENCE_SECONDS = 240
CLUSTER = Path(__file__).with_name("cluster.py")
MakeSuite = Callable[..., Path]


class Cluster:
    """symbench and SLURM's commands as a person on the login node uses them."""

    def __init__(self, environment: dict[str, str], store: Store, folder: Path) -> None:
        self.environment, self.store = environment, store
        self.site = folder / "my site.yaml"
        self.site.write_text(SITE, encoding="utf-8")

    def symbench(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(SYMBENCH), *map(str, arguments), "--store", os.path.relpath(self.store.root)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300, check=False)

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def run(self, suite: Path, *options: object) -> subprocess.CompletedProcess[str]:
        done = self.symbench("run", suite, "--on", self.site, *options)
        assert done.returncode == 0, done.stderr
        return done

    def queue(self) -> list[str]:
        return self.slurm("squeue", "--noheader", "--array", "--format=%i %T %j").splitlines()

    def jobs(self) -> list[str]:
        """Ids of the jobs that run cells."""
        return [line.split()[0] for line in self.queue() if "collect" not in line]

    def wait_until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, (self.queue(), self.logs())
            time.sleep(0.2)

    def clear(self) -> None:
        if left := [line.split()[0] for line in self.queue()]:
            self.slurm("scancel", *left)
        self.wait_for_all()

    def wait_for_all(self) -> None:
        """Until the queue is empty, the collector's jobs included."""
        self.wait_until(lambda: not self.queue())

    def wait_for_epoch(self, suite: Path, epoch: int) -> Record:
        def reached() -> list[Record]:
            return [r for r in self.records(suite) if r.status.state == "running" and r.status.epoch >= epoch]

        self.wait_until(reached)
        return reached()[0]

    def records(self, suite: Path) -> list[Record]:
        cells = suites.load(str(suite)).cells
        found, _ = self.store.read(cells)
        return [found[cell.id] for cell in cells if cell.id in found]

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.store.root / "jobs").glob("*/*_log.out")))


@pytest.fixture
def cluster(slurm: dict[str, str], store: Store, tmp_path: Path) -> Iterator[Cluster]:
    """Idle before and after, whatever a test left."""
    made = Cluster(slurm, store, tmp_path)
    made.clear()
    yield made
    made.clear()


@pytest.fixture(scope="module")
def undisturbed(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The cell that others are stopped in, run in one go on the same cluster."""
    folder = tmp_path_factory.mktemp("undisturbed")
    alone = Cluster(slurm, store_in(folder / "store"), folder)
    suite = suite_in(folder, epochs=60)
    alone.run(suite)
    alone.wait_for_all()
    (record,) = alone.records(suite)
    return record


def same(one: Record, other: Record) -> bool:
    costs = {"training_seconds", "samples_per_second", "peak_memory_bytes"}
    left, right = ({k: v for k, v in r.metrics.items() if k not in costs} for r in (one, other))
    return left == right


def test_submitted_and_left_alone_it_ends_with_a_board(cluster: Cluster, make_suite: MakeSuite) -> None:
    """Two-node cells beside one that needs no training; the last job shows them in MLflow and in the report."""
    suite = make_suite(models="[persistence, {convnet: {hidden: 4}}]", seeds="[0, 1]", ranks=2)
    suite.write_text(suite.read_text().replace("ranks: 2", "ranks: 2, nodes: 2").replace("name: tiny", "name: a 'b' é"))
    dry = cluster.run(suite, "--dry-run")
    assert "#SBATCH --nodes=2" in dry.stdout
    assert not cluster.queue()
    sent = cluster.run(suite)
    assert "3 cells in 2 jobs" in sent.stdout
    again = cluster.run(suite)
    assert "nothing to send" in again.stdout
    cluster.wait_for_all()
    records = cluster.records(suite)
    assert [record.status.state for record in records] == ["done"] * 3, cluster.logs()
    assert {record.environment["world_size"] for record in records} == {1, 2}
    assert (cluster.store.root / "a--b--é.html").exists()
    assert (cluster.store.root / "mlflow.db").exists()
    assert "nothing to send; 3 finished" in cluster.run(suite).stdout


def test_stopped_three_times_the_result_is_the_same_bit_for_bit(
    cluster: Cluster, make_suite: MakeSuite, undisturbed: Record
) -> None:
    """The signal before the time limit: the job saves, puts itself back into the queue, and goes on."""
    suite = make_suite(epochs=60)
    cluster.run(suite)
    for epoch in (2, 12, 24):
        cluster.wait_for_epoch(suite, epoch)
        job = cluster.jobs()[0]
        cluster.slurm("scancel", "--signal=USR2", job)
        cluster.wait_until(lambda: cluster.records(suite)[0].status.state != "running")
        status = cluster.records(suite)[0].status
        assert (status.state, status.failure) == ("failed", "time_limit")
        cluster.wait_until(
            lambda: any(line.split()[1] == "PENDING" for line in cluster.queue() if "collect" not in line)
        )
    cluster.wait_for_all()
    (record,) = cluster.records(suite)
    assert record.status.state == "done", cluster.logs()
    assert record.status.attempt == 4
    assert [epoch.epoch for epoch in record.history] == list(range(1, 61))
    assert same(record, undisturbed)


def test_cancelled_from_outside_it_is_not_sent_again(cluster: Cluster, make_suite: MakeSuite) -> None:
    suite = make_suite(epochs=400)
    cluster.run(suite)
    cluster.wait_for_epoch(suite, 2)
    cancelled = cluster.symbench("cancel", suite)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "2 jobs cancelled" in cancelled.stdout
    cluster.wait_for_all()
    (record,) = cluster.records(suite)
    assert record.status.state == "failed"
    assert record.status.epoch >= 2
    assert "no jobs in the queue" in cluster.symbench("cancel", suite).stdout


def test_one_error_leaves_the_siblings_alone_and_is_not_retried(
    cluster: Cluster, make_suite: MakeSuite, tmp_path: Path
) -> None:
    plugin = tmp_path / "faulty.py"
    plugin.write_text(FAULTY, encoding="utf-8")
    suite = make_suite(models="[faulty, {convnet: {hidden: 4}}]", seeds="[0, 1]")
    sent = cluster.symbench("run", suite, "--on", cluster.site, "--plugin", plugin)
    assert sent.returncode == 0, sent.stderr
    cluster.wait_for_all()
    assert {path.parent.name for path in (cluster.store.root / "jobs").glob("*/submission.json")}.__len__() == 1
    states = {}
    for path in (cluster.store.root / "cells").glob("*/status.json"):
        model = json.loads((path.parent / "cell.json").read_text())["model"]["name"]
        states.setdefault(model, []).append(json.loads(path.read_text()))
    assert [status["state"] for status in states["convnet"]] == ["done", "done"]
    assert [(status["state"], status["failure"]) for status in states["faulty"]] == [("failed", "code_error")] * 2
    assert "out of order" in states["faulty"][0]["message"]


FAULTY = '''
from benchmark.models.convnet import ConvNet


class Faulty(ConvNet):
    """Breaks in its first step of training."""

    def before_step(self, progress: float) -> None:
        raise ValueError("out of order")
'''


def test_a_killed_process_is_noticed_and_its_cell_sent_again(
    cluster: Cluster, make_suite: MakeSuite, undisturbed: Record
) -> None:
    """As the kernel kills when memory runs out: no word from the process; the last job sees it and sends it again."""
    suite = make_suite(epochs=60)
    cluster.run(suite)
    record = cluster.wait_for_epoch(suite, 3)
    os.kill(record.status.pid, signal.SIGKILL)  # process ids are shared with the nodes
    cluster.wait_for_all()
    (record,) = cluster.records(suite)
    assert record.status.state == "done", cluster.logs()
    assert len(list((cluster.store.root / "jobs").glob("*/submission.json"))) == 2
    assert same(record, undisturbed)


def test_two_submissions_at_once_run_each_cell_once(cluster: Cluster, make_suite: MakeSuite) -> None:
    suite = make_suite(seeds="[0, 1, 2, 3]", epochs=4)
    command = [str(SYMBENCH), "run", str(suite), "--on", str(cluster.site), "--store", str(cluster.store.root)]
    both = [subprocess.Popen(command, env=cluster.environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    cluster.wait_for_all()
    records = cluster.records(suite)
    assert [record.status.state for record in records] == ["done"] * 4
    assert [record.status.attempt for record in records] == [1] * 4


def test_the_doctor_finds_the_cluster_well(cluster: Cluster) -> None:
    found = cluster.symbench("doctor", "--on", cluster.site, "--json")
    findings = {finding["check"]: finding for finding in json.loads(found.stdout)}
    assert found.returncode == 0, found.stdout
    assert {"commands", "controller", "accounting", "limits", "shared folder", "environment", "clock", "ranks"} <= set(
        findings
    )
    assert {finding["verdict"] for finding in findings.values()} <= {"ok", "warning"}
    assert "n1, n2" in findings["shared folder"]["detail"]


def test_the_doctor_says_what_is_wrong(cluster: Cluster) -> None:
    cluster.site.write_text(SITE.replace("partition: main", "partition: gold"), encoding="utf-8")
    found = cluster.symbench("doctor", "--on", cluster.site)
    assert found.returncode == 3
    assert "invalid partition" in found.stdout
    assert "not ready: limits" in found.stderr
    cluster.site.write_text(SITE.replace("setup: [", "python: /no/such/python, setup: ["), encoding="utf-8")
    found = cluster.symbench("doctor", "--on", cluster.site)
    assert found.returncode == 3
    assert "not ready: environment" in found.stderr


def test_a_node_that_dies_loses_nothing(cluster: Cluster, make_suite: MakeSuite, undisturbed: Record) -> None:
    """Its network is gone and its processes are dead; SLURM gives it up, and the job goes on elsewhere."""
    suite = make_suite(epochs=60)
    cluster.run(suite)
    record = cluster.wait_for_epoch(suite, 3)
    lost = record.status.host
    subprocess.run(["ip", "-n", lost, "link", "set", "eth0", "down"], check=True)
    try:
        os.kill(record.status.pid, signal.SIGKILL)
        cluster.wait_until(lambda: cluster.records(suite)[0].status.is_result)
    finally:
        mended = subprocess.run([sys.executable, str(CLUSTER), "up"], capture_output=True, text=True, check=False)
    assert mended.returncode == 0, mended.stderr
    (record,) = cluster.records(suite)
    assert record.status.state == "done", cluster.logs()
    assert record.status.host != lost
    cluster.wait_for_all()
    assert same(record, undisturbed)


def test_the_controller_and_accounting_may_be_away(cluster: Cluster, make_suite: MakeSuite) -> None:
    """slurmctld is started anew while a job runs, and slurmdbd is dead: squeue alone has to do."""
    suite = make_suite(epochs=5000)
    suite.write_text(suite.read_text().replace("batch_size: 8", "batch_size: 8, early_stop_after: null"))
    cluster.run(suite)
    cluster.wait_for_epoch(suite, 2)
    for daemon in ("slurmctld", "slurmdbd"):
        subprocess.run(["pkill", "-TERM", "-x", daemon], check=True)
        cluster.wait_until(lambda name=daemon: subprocess.run(["pgrep", "-x", name], check=False).returncode == 1)
    away = cluster.symbench("status", suite)
    assert away.returncode == 0, away.stderr
    assert "running" in away.stdout
    refused = cluster.symbench("run", suite, "--on", cluster.site)
    assert refused.returncode == 3
    assert "squeue does not answer" in refused.stderr
    mended = subprocess.run([sys.executable, str(CLUSTER), "up"], capture_output=True, text=True, check=False)
    assert mended.returncode == 0, mended.stderr
    subprocess.run(["pkill", "-KILL", "-x", "slurmdbd"], check=True)
    try:
        assert cluster.symbench("cancel", suite).returncode == 0
        cluster.wait_for_all()
        short = make_suite(epochs=3)
        cluster.run(short)
        cluster.wait_for_all()
    finally:
        subprocess.run([sys.executable, str(CLUSTER), "up"], capture_output=True, check=False)
    assert [record.status.state for record in cluster.records(short)] == ["done"], cluster.logs()
