"""Studies in allocations of a real two-node SLURM, each with its own Ray cluster."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm.login_node import LoginNode, manage, pids

from benchmark.suite import loading as suites
from benchmark.suite.studies import studies
from benchmark.suite.study import Study
from results.store.record import Record
from results.store.studies import StudyFolder

pytest.importorskip("ray")
NewLoginNode = Callable[..., LoginNode]
KEEP = (
    "tuning: {keep: [hidden, layers, kernel_size], "
    "train: {learning_rate: {low: 1e-4, high: 1e-3}, rollout_steps: [2]}}\n"
)


def pid_is_of_a_node(pid: int) -> bool:
    return any(pid in pids(node) for node in ("n1", "n2"))


class Tuner:
    """A login node with a suite that declares a search space."""

    def __init__(self, node: LoginNode, **options: Any) -> None:
        self.node = node
        suite = node.declare(**options)
        suite.write_text(suite.read_text(encoding="utf-8") + KEEP, encoding="utf-8")

    def tune(self, *options: object) -> str:
        done = self.node.symbench("tune", self.node.suite, "--on", self.node.site, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def folders(self) -> list[StudyFolder]:
        by_name: dict[str, Study] = {s.name: s for s in studies(suites.load(str(self.node.suite))).values()}
        return [StudyFolder(self.node.store.root, study) for study in by_name.values()]

    def records(self) -> list[Record]:
        folders = [folder for folder in self.folders if (folder.root / "trials").is_dir()]
        return [record for folder in folders for trial in folder.trials() for record in trial.records.values()]

    def running(self, epoch: int) -> list[Record]:
        return [r for r in self.records() if r.status.state == "running" and r.status.epoch >= epoch]

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in (self.node.store.root / "jobs").glob("*/*.*"))

    def wait_for_all(self) -> None:
        self.node.wait_for_all()
        assert all(folder.result_path.exists() for folder in self.folders), self.logs()


@pytest.mark.parametrize("is_first", [False, True], ids=["another", "first"])
def test_trials_run_on_both_nodes_and_survive_the_loss_of_one(login_node: LoginNode, is_first: bool) -> None:
    """A node loses its network while a trial runs there; the trial continues from its checkpoint.

    Without another node, the study goes on where the head is; without the first one, the job is requeued.
    """
    tuner = Tuner(login_node, epochs=30)
    sent = tuner.tune("--trials", 5, "--nodes", 2, "--parallel", 2, "--scheduler", "none")
    assert "1 studies, a job each" in sent
    assert "nothing to send; 1 studies are in earlier jobs" in tuner.tune("--trials", 5)
    login_node.wait_until(lambda: {record.status.host for record in tuner.running(2)} == {"n1", "n2"})
    (job,) = login_node.jobs()
    first = login_node.slurm("squeue", "--noheader", "--format=%B", f"--jobs={job}").strip()
    other = "n2" if first == "n1" else "n1"
    lost = first if is_first else other
    there = [record for record in tuner.running(2) if record.status.host == lost]
    subprocess.run(["ip", "-n", lost, "link", "set", "eth0", "down"], check=True)
    try:
        for pid in pids(lost):
            os.kill(pid, signal.SIGKILL)
        if is_first:
            login_node.wait_until(lambda: "Restarts=1" in login_node.slurm("scontrol", "show", "job", job))
            assert f"the first node of job {job} is lost; the job is requeued" in login_node.logs()
        else:
            login_node.wait_until(lambda: all(folder.result_path.exists() for folder in tuner.folders))
    finally:
        assert manage("up").returncode == 0
    if is_first:
        login_node.wait_until(lambda: "RUNNING" not in login_node.slurm("scontrol", "show", "job", job))
        login_node.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # SLURM would wait for two minutes
    tuner.wait_for_all()
    (folder,) = tuner.folders
    assert [trial.state for trial in folder.trials()] == ["done"] * 5
    now = {record.cell.id: record for record in tuner.records()}
    assert there
    for record in there:
        assert is_first or now[record.cell.id].status.host == first
        assert list(now[record.cell.id].history[: len(record.history)]) == list(record.history)


def test_two_studies_share_a_node_and_continue_after_the_signal(login_node: LoginNode) -> None:
    """Each study has its own allocation and Ray; after the signal both jobs are requeued and finish."""
    tuner = Tuner(login_node, models="[{convnet: {hidden: 4}}, {convnet: {hidden: 6}}]", epochs=30)
    sent = tuner.tune("--trials", 3, "--parallel", 1, "--scheduler", "none")
    assert "2 studies, a job each" in sent
    login_node.wait_until(lambda: len(tuner.running(3)) == 2)
    before = {record.cell.id: record for record in tuner.records()}
    for job in login_node.jobs():
        login_node.slurm("scancel", "--signal=USR2", job)
    login_node.wait_until(lambda: len(login_node.jobs("PENDING")) == 2)
    assert "time_limit" in {record.status.failure for record in tuner.records()}
    tuner.wait_for_all()
    for folder in tuner.folders:
        assert [trial.state for trial in folder.trials()] == ["done"] * 3
    now = {record.cell.id: record for record in tuner.records()}
    for key, record in before.items():
        assert list(now[key].history[: len(record.history)]) == list(record.history)
    assert {record.status.attempt for record in now.values()} == {1, 2}
    assert "nothing to send" in tuner.tune("--trials", 3, "--scheduler", "none")
    owners = [int(path.read_text()) for path in Path("/tmp").glob("sbray-*/guard.pid")]
    assert not [pid for pid in owners if pid_is_of_a_node(pid)]
