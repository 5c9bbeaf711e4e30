"""Faults of a study on two nodes of the test cluster: lost nodes, killed processes, a hang, too little memory.

    PYTHONPATH=tests python -m slurm.tune_campaign

The trials are slow until all faults are done, and one trial is let through after each. Exit status 1 if the study ends
otherwise than it should, or if a process, a port or a folder of Ray remains.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from slurm.login_node import LoginNode, manage, pids, started_cluster
from slurm.test_tune import KEEP
from support import store_in

from benchmark import discovery
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from cluster.tuning.ray_cluster.ray_node import sweep
from results.store.record import Record
from results.store.studies import StudyFolder, Trial

TRIALS, EPOCHS, PARALLEL = 14, 20, 2
PROCESSES = {
    "gcs_server": r"^\S*/gcs_server ",
    "raylet": r"^\S*/raylet ",
    "driver": r"^\S*python\S* -m cluster.tuning.driver",
    "head": r"^\S*python\S* -m ray.scripts.scripts start",
    "guard": r"^\S*python\S* -m cluster.tuning.ray_cluster.guard",
    "first task": r"^\S*python\S* -u -m submitit.core._submit",
}
"""Process of the first node -> its command line."""
FAULTY = '''
import os
import time
from pathlib import Path

import torch

from benchmark.models.convnet import ConvNet


class Faulty(ConvNet):
    """A ConvNet with slow steps until a file `go` or `go-<pid>` appears; `hungry-<pid>` takes memory."""

    def before_step(self, progress: float) -> None:
        folder, process = Path(FOLDER), os.getpid()
        if progress == 0:  # what an earlier trial of this process was marked with
            for name in ("go", "hungry"):
                (folder / f"{name}-{process}").unlink(missing_ok=True)
        if (folder / f"hungry-{process}").exists():
            torch.empty(10**14)
        fast = (folder / "go").exists() or (folder / f"go-{process}").exists()
        time.sleep(0 if fast else 0.5)
'''


class Campaign:
    """A study, and the faults that it gets one after another."""

    def __init__(self, node: LoginNode) -> None:
        self.node = node
        (study,) = distinct_studies(suites.load(str(node.suite)))
        self.folder = StudyFolder(node.store.root, study)
        (self.job,) = node.jobs()
        self.started = time.monotonic()

    def say(self, event: str) -> None:
        states = [trial.state.split(":")[0] for trial in self.folder.trials()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        print(f"{time.monotonic() - self.started:4.0f} s: {event} ({counts})", flush=True)

    def wait_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 900
        while not condition():
            assert time.monotonic() < deadline, self.node.logs()
            time.sleep(0.5)

    def running(self) -> list[tuple[Trial, Record]]:
        """Trials at work with a live process and an epoch, as the first step takes marks away; each with its record."""
        trials = [trial for trial in self.folder.trials() if not trial.closed]
        pairs = [(trial, record) for trial in trials for record in trial.records.values()]
        alive = [(t, r) for t, r in pairs if r.status.state == "running" and psutil.pid_exists(r.status.pid)]
        return [(trial, record) for trial, record in alive if record.history]

    def both(self) -> dict[str, tuple[Trial, Record]]:
        """Host -> a trial at work there, once both hosts have one."""
        self.wait_until(lambda: {record.status.host for _, record in self.running()} == {"n1", "n2"})
        return {record.status.host: (trial, record) for trial, record in self.running()}

    def let_one_through(self) -> None:
        """Let a trial end, so that Ray does not die three times in a row without one."""
        trial, record = next(iter(self.both().values()))
        self.mark("go", record)
        self.wait_until(lambda: self.folder.read_trial(trial.note.number).closed)

    def mark(self, name: str, record: Record) -> None:
        (self.node.folder / f"{name}-{record.status.pid}").touch()

    @property
    def other(self) -> str:
        return "n1" if self.first == "n2" else "n2"

    @property
    def first(self) -> str:
        return self.node.slurm("squeue", "--noheader", "--format=%B", f"--jobs={self.job}").strip()

    def kill(self, what: str, pattern: str, host: str) -> None:
        """Kill a process of `host` whose command line matches `pattern`, and wait until both hosts work again."""
        self.both()
        victims = [pid for pid in pids(host) if re.search(pattern, command_line(pid))]
        assert victims, f"{what}: no process on {host}"
        before = {record.status.pid for _, record in self.running() if record.status.host == host}
        restarts = self.restarts()
        os.kill(victims[0], signal.SIGKILL)
        self.wait_until(lambda: not before & {record.status.pid for _, record in self.running()})
        if what == "first task":
            self.wait_until(lambda: self.restarts() > restarts)
            self.restart()
        self.let_one_through()
        self.say(f"{what} killed")

    def hunger(self) -> None:
        trial, record = next(iter(self.both().values()))
        self.mark("hungry", record)
        self.wait_until(lambda: self.folder.read_trial(trial.note.number).closed)
        state = self.folder.read_trial(trial.note.number).state
        assert state.startswith("failed: host_out_of_memory"), state
        self.say(f"trial {trial.note.number} out of memory")

    def hang(self) -> None:
        """Let a trial hang at time limits until it has failed; one limit more if an epoch came before the hang."""
        number = next(iter(self.both().values()))[0].note.number
        self.limit()
        while not self.folder.read_trial(number).closed:
            self.wait_until(lambda: number in {trial.note.number for trial, _ in self.running()})
            record = next(record for trial, record in self.running() if trial.note.number == number)
            os.kill(record.status.pid, signal.SIGSTOP)
            self.limit()
            self.say(f"trial {number} hung at a time limit")
        state = self.folder.read_trial(number).state
        assert state.startswith("failed: hang"), state

    def limit(self) -> None:
        """Let the job reach its time limit, and start it again."""
        restarts = self.restarts()
        self.node.slurm("scancel", "--signal=USR2", self.job)
        self.wait_until(lambda: self.restarts() > restarts)
        self.restart()

    def lose(self, host: str) -> None:
        """Cut a host off and end its processes, and connect it again once the study has reacted."""
        is_first, restarts = host == self.first, self.restarts()
        self.both()
        subprocess.run(["ip", "-n", host, "link", "set", "eth0", "down"], check=True)
        for pid in pids(host):
            os.kill(pid, signal.SIGKILL)
        try:
            if is_first:
                self.wait_until(lambda: self.restarts() > restarts)
            else:
                self.wait_until(lambda: [r for _, r in self.running() if r.status.host != host])
                time.sleep(60)  # SLURM ends the step of a node that comes back before it is down (SlurmdTimeout)
        finally:
            assert manage("up").returncode == 0
        if is_first:
            self.restart()
            self.let_one_through()
        self.say(f"{'first' if is_first else 'another'} node lost")

    def restarts(self) -> int:
        shown = self.node.slurm("scontrol", "show", "job", self.job)
        return int((re.findall(r"Restarts=(\d+)", shown) or ["0"])[0])

    def restart(self) -> None:
        self.wait_until(lambda: "JobState=RUNNING" not in self.node.slurm("scontrol", "show", "job", self.job))
        time.sleep(10)  # at once, slurmd may still think that the job was killed
        while not self.node.jobs("RUNNING"):  # SLURM would wait for two minutes
            self.node.slurm("scontrol", "update", f"JobId={self.job}", "StartTime=now")
            time.sleep(2)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def traces(store: Path) -> list[str]:
    """Folders of Ray of the jobs in `store`, processes on the nodes, and ports that somebody listens on there."""
    logs = "\n".join(log.read_text(errors="replace") for log in store.glob("jobs/*/*-ray*.log"))
    folders = [path for path in re.findall(r"Ray's own files are in (\S+),", logs) if Path(path).exists()]
    lines = [command_line(pid)[:100] for node in ("n1", "n2") for pid in pids(node)]
    ports = []
    for node in ("n1", "n2"):
        shown = subprocess.run(["ip", "netns", "exec", node, "ss", "-Hltn"], capture_output=True, text=True, check=True)
        ports += [f"{node} {line.split()[3]}" for line in shown.stdout.splitlines()]
    return folders + [line for line in lines if line] + ports


def main() -> int:
    environment = started_cluster()
    with tempfile.TemporaryDirectory() as name:
        before = traces(Path(name))
        node = LoginNode(environment, store_in(Path(name, "store")), Path(name), minutes=90)
        node.plug_in("faulty", FAULTY)
        assert node.plugin is not None
        discovery.add_plugin(node.plugin)
        suite = node.declare("[{faulty: {hidden: 4}}]", epochs=EPOCHS)
        text = suite.read_text(encoding="utf-8").replace("preset: small", "preset: tiny")  # it sleeps long enough
        suite.write_text(text + KEEP, encoding="utf-8")
        options = ("--trials", TRIALS, "--nodes", 2, "--parallel", PARALLEL, "--scheduler", "none")
        sent = node.symbench("tune", suite, "--on", node.site, "--plugin", node.plugin, *options)
        assert sent.returncode == 0, sent.stderr
        campaign = Campaign(node)
        try:
            campaign.both()
            campaign.lose(campaign.first)
            for what, pattern in PROCESSES.items():
                campaign.kill(what, pattern, campaign.first)
            campaign.kill("raylet of another node", PROCESSES["raylet"], campaign.other)
            campaign.hunger()
            campaign.hang()
            campaign.lose(campaign.other)
            (node.folder / "go").touch()
            campaign.wait_until(lambda: not node.queue())
            campaign.say("the end")
            time.sleep(5)
            sweep()  # what a lost node left in /tmp, as the next study there does
            trials, remain = campaign.folder.trials(), [one for one in traces(node.store.root) if one not in before]
        finally:
            node.clear()
    failed = sorted(trial.state.removeprefix("failed: ").partition(":")[0] for trial in trials if trial.state != "done")
    lengths = {trial.epochs for trial in trials if trial.state == "done"}
    print(f"{len(trials)} trials, failed: {', '.join(failed)}; epochs {lengths}; remains: {remain or 'nothing'}")
    return int(len(trials) != TRIALS or failed != ["hang", "host_out_of_memory"] or lengths != {EPOCHS} or bool(remain))


if __name__ == "__main__":
    sys.exit(main())
