"""Suites on a real two-node SLURM that are stopped, preempted and cancelled, and the doctor there."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable

from slurm.login_node import SITE, WAITING, LoginNode, manage, pids, ranks_on, same

from benchmark.discovery import ROOT
from cluster.jobs.snapshot import PACKAGES
from results.store.record import Record

NewLoginNode = Callable[..., LoginNode]
Undisturbed = Callable[[int], Record]


def test_stopped_three_times_the_result_is_the_same_bit_for_bit(
    new_login_node: NewLoginNode, undisturbed: Undisturbed
) -> None:
    """After the signal before the time limit, all ranks save and the job continues: one rank, and two on two nodes.

    The second signal reaches one of the two ranks only, and both stop.
    """
    nodes = {ranks: new_login_node() for ranks in (1, 2)}
    for ranks, node in nodes.items():
        node.plug_in("waiting", WAITING)
        node.declare("[{waiting: {hidden: 4}}]", epochs=60, ranks=ranks, nodes=ranks)
        node.run()
    for stop in (1, 2, 3):
        for ranks, node in nodes.items():
            (record,) = node.wait_for_epoch(stop)
            if (ranks, stop) == (2, 2):
                other = "n2" if record.status.host == "n1" else "n1"
                (pid,) = (pid for pid, rank in ranks_on(other, node.jobs()[0]).items() if rank == 1)
                os.kill(pid, signal.SIGUSR2)
            else:
                node.slurm("scancel", "--signal=USR2", node.jobs()[0])
            node.wait_until(lambda node=node: node.states() == ["time_limit"])
    for node in nodes.values():
        (node.folder / "go").touch()
    for ranks, node in nodes.items():
        node.wait_for_all()
        (record,) = node.records()
        assert record.status.state == "done", node.logs()
        assert record.environment["world_size"] == ranks
        assert record.status.attempt == 4
        assert [epoch.epoch for epoch in record.history] == list(range(1, 61))
        assert len(node.submissions()) == 1
        assert same(record, undisturbed(ranks))


def test_code_that_is_edited_after_the_start(login_node: LoginNode, undisturbed: Undisturbed) -> None:
    """The collecting job and the cell that it sends again, both started later, run the code of the first submission."""
    checkout = login_node.folder / "checkout"
    ignored = shutil.ignore_patterns("published", "__pycache__")
    for package in PACKAGES:
        if (ROOT / package).is_dir():
            shutil.copytree(ROOT / package, checkout / package, ignore=ignored)
        else:
            shutil.copyfile(ROOT / package, checkout / package)
    login_node.environment = login_node.environment | {"PYTHONPATH": str(checkout)}
    login_node.plug_in("waiting", WAITING)
    login_node.declare("[{waiting: {hidden: 4}}]", epochs=60)
    login_node.run()
    (record,) = login_node.wait_for_epoch(1)
    for edited in (
        login_node.plugin,
        checkout / "benchmark" / "cell.py",
        checkout / "cluster" / "slurm" / "collector.py",
    ):
        edited.write_text("raise SystemExit('edited')", encoding="utf-8")
    (login_node.folder / "go").touch()
    os.kill(record.status.pid, signal.SIGKILL)
    login_node.wait_for_all()
    assert login_node.states() == ["done"], login_node.logs()
    (again,) = login_node.records()
    assert again.status.attempt == 2
    assert again.environment["model_digest"] == record.environment["model_digest"]
    assert len({submission.code for submission in login_node.submissions()}) == 1
    assert same(again, undisturbed(1))


def test_preempted_jobs_come_back_and_cancelled_ones_do_not(
    new_login_node: NewLoginNode, undisturbed: Undisturbed
) -> None:
    """A job of a partition with a higher priority takes both nodes.

    SLURM requeues preempted jobs. A job of the partition `polite` gets a signal first (GraceTime) and ends on its own;
    SLURM does not requeue it, and the last job sends its cell again. Of four other jobs, one is cancelled while it
    runs and one while it waits after the requeue.
    """
    plain, warned = new_login_node(cells_per_job=1), new_login_node(partition="polite")
    for node, seeds in ((plain, "[0, 1, 2, 3]"), (warned, "[0]")):
        node.plug_in("waiting", WAITING)
        node.declare("[{waiting: {hidden: 4}}]", seeds=seeds, epochs=60)
        node.run()
    plain.wait_for_epoch(1, cells=4)
    warned.wait_for_epoch(1)
    job_of = {cells[0]: job for job, cells in plain.submissions()[0].jobs.items()}
    jobs = [job_of[record.cell.id] for record in plain.records()]
    plain.slurm("scancel", jobs[1])
    plain.wait_until(lambda: jobs[1] not in plain.jobs())
    urgent = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    plain.slurm(*urgent)
    plain.wait_until(lambda: sorted(plain.jobs("PENDING")) == [jobs[0], *jobs[2:]])
    plain.slurm("scancel", jobs[2])
    for node in (plain, warned):
        (node.folder / "go").touch()
    for node in (plain, warned):
        node.wait_for_all()
    assert plain.states() == ["done", "cancelled", "cancelled", "done"], plain.logs()
    assert len(plain.submissions()) == 1
    assert (plain.store.root / "tiny.html").exists()
    assert warned.states() == ["done"], warned.logs()
    assert len(warned.submissions()) == 2
    assert same(plain.records()[0], undisturbed(1))
    assert same(warned.records()[0], undisturbed(1))


def test_a_cancelled_cell_is_not_sent_again(login_node: LoginNode) -> None:
    login_node.declare(epochs=400)
    login_node.run()
    login_node.wait_for_epoch(2)
    cancelled = login_node.symbench("cancel", login_node.suite)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "2 jobs cancelled" in cancelled.stdout
    login_node.wait_for_all()
    (record,) = login_node.records()
    assert record.status.state == "failed"
    assert record.status.epoch >= 2
    assert "no jobs in the queue" in login_node.symbench("cancel", login_node.suite).stdout


def test_the_doctor_passes_the_cluster(login_node: LoginNode) -> None:
    examined = login_node.symbench("doctor", "--on", login_node.site, "--json")
    findings = {finding["check"]: finding for finding in json.loads(examined.stdout)}
    assert examined.returncode == 0, examined.stdout
    login = {"commands", "controller", "accounting", "limits"}
    assert login | {"shared folder", "environment", "compiler", "clock", "ranks"} <= set(findings)
    assert {finding["verdict"] for finding in findings.values()} <= {"ok", "warning"}
    assert "n1, n2" in findings["shared folder"]["detail"]


def test_the_doctor_reports_a_wrong_site_file(login_node: LoginNode) -> None:
    login_node.site.write_text(json.dumps(SITE | {"partition": "gold"}))
    examined = login_node.symbench("doctor", "--on", login_node.site)
    assert examined.returncode == 3
    assert "invalid partition" in examined.stdout
    assert "not ready: limits" in examined.stderr
    login_node.site.write_text(json.dumps(SITE | {"python": "/no/such/python"}))
    examined = login_node.symbench("doctor", "--on", login_node.site)
    assert examined.returncode == 3
    assert "not ready: environment" in examined.stderr


def test_the_controller_and_accounting_may_be_down(login_node: LoginNode) -> None:
    """slurmctld restarts while a job runs; then slurmdbd is dead, and symbench uses squeue alone."""
    suite = login_node.declare(epochs=5000)
    login_node.run()
    login_node.wait_for_epoch(2)
    for daemon in ("slurmctld", "slurmdbd"):
        end(daemon, signal.SIGTERM)
    away = login_node.symbench("status", suite)
    assert away.returncode == 0, away.stderr
    assert "running" in away.stdout
    refused = login_node.symbench("run", suite, "--on", login_node.site)
    assert refused.returncode == 3
    assert "squeue does not answer" in refused.stderr
    mended = manage("up")
    assert mended.returncode == 0, mended.stderr
    end("slurmdbd", signal.SIGKILL)
    try:
        assert login_node.symbench("cancel", suite).returncode == 0
        login_node.wait_for_all()
        login_node.declare(epochs=3)
        login_node.run()
        login_node.wait_for_all()
    finally:
        manage("up")
    assert "done" in login_node.states(), login_node.logs()


def end(daemon: str, how: signal.Signals) -> None:
    deadline = time.monotonic() + 60
    for pid in pids(daemon):
        os.kill(pid, how)
    while pids(daemon):
        assert time.monotonic() < deadline, f"{daemon} does not end"
        time.sleep(0.2)
