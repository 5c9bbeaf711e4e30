"""A user's session on the login node: symbench and SLURM's commands on one store and its jobs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from slurm.cluster import pids_on
from support import SYMBENCH, suite_in

from cluster.slurm.submissions import Submission, notes
from results.store.record import Record, read_record
from results.store.store import Store

SITE = {
    "scheduler": "slurm",
    "partition": "main",
    "minutes": 10,
    "signal_seconds": 60,
    "memory_gb": 1.0,
    "jobs": 4,
    "job_minutes": 1,
    "poll_seconds": 1,
    "setup": ["export OMP_NUM_THREADS=1"],
}
WAITING = '''
import time
from pathlib import Path

from benchmark.models.convnet import ConvNet


class Waiting(ConvNet):
    """A ConvNet with slow steps until a file `go` appears beside the plug-in, of which jobs import a copy."""

    def before_step(self, progress: float) -> None:
        time.sleep(0 if Path(FOLDER, "go").exists() else 0.1)
'''
"""Code of the baseline `waiting`."""
PATIENCE_SECONDS = 600
CLUSTER = Path(__file__).with_name("cluster.py")
COSTS = {"training_seconds", "samples_per_second", "peak_memory_bytes"}


class LoginNode:
    """Session with its own store and site file; sees only jobs of that store."""

    def __init__(self, environment: dict[str, str], store: Store, folder: Path, **site: object) -> None:
        self.environment, self.store, self.folder = environment, store, folder
        self.site = folder / "my site.yaml"
        self.site.write_text(json.dumps(SITE | site), encoding="utf-8")
        self.suite = folder / "tiny.yaml"
        self.plugin: Path | None = None

    def declare(self, models: str = "[{convnet: {hidden: 4}}]", nodes: int = 1, **options: Any) -> Path:
        """Write the suite, without early stopping; keywords are those of `suite_in`."""
        text = suite_in(self.folder, models, **options).read_text(encoding="utf-8")
        text = text.replace("preset: tiny", "preset: small")  # long enough to be stopped
        text = text.replace("batch_size: 8", "batch_size: 8, early_stop_after: null")
        self.suite.write_text(text.replace("{ranks: ", f"{{nodes: {nodes}, ranks: "), encoding="utf-8")
        return self.suite

    def plug_in(self, name: str, code: str) -> None:
        """Write a plug-in that `run` passes to symbench; FOLDER in its code is the folder."""
        self.plugin = self.folder / f"{name}.py"
        self.plugin.write_text(code.replace("FOLDER", repr(str(self.folder))), encoding="utf-8")

    def symbench(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(SYMBENCH), *map(str, arguments), "--store", os.path.relpath(self.store.root)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300, check=False)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start `symbench` in the background."""
        command = [str(SYMBENCH), *map(str, arguments), "--store", os.path.relpath(self.store.root)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def run(self, *options: object) -> str:
        plugin = () if self.plugin is None else ("--plugin", self.plugin)
        done = self.symbench("run", self.suite, "--on", self.site, *plugin, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def queue(self) -> list[str]:
        """`<job> <state> <name>` of the queued and running jobs of this store."""
        command = ["squeue", "--noheader", "--array", "--format=%i %T %j|%o"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        return [line.partition("|")[0] for line in lines if str(self.store.root.resolve()) in line]

    def jobs(self, state: str = "") -> list[str]:
        """Ids of the jobs that run cells."""
        return [line.split()[0] for line in self.queue() if "collect" not in line and state in line]

    def wait_until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, (self.queue(), self.logs())
            time.sleep(0.2)

    def clear(self) -> None:
        if jobs := [line.split()[0] for line in self.queue()]:
            self.slurm("scancel", *jobs)
        self.wait_for_all()

    def wait_for_all(self) -> None:
        """Wait until no job of this store is in the queue."""
        self.wait_until(lambda: not self.queue())

    def wait_for_epoch(self, epoch: int, cells: int = 1) -> list[Record]:
        """Wait until `cells` running cells have done `epoch` epochs; return their records."""

        def reached() -> list[Record]:
            return [r for r in self.records() if r.status.state == "running" and r.status.epoch >= epoch]

        self.wait_until(lambda: len(reached()) >= cells)
        return reached()

    def records(self) -> list[Record]:
        """Records of all cells that began, sorted by model and seed."""
        records = [read_record(folder) for folder in (self.store.root / "cells").glob("*")]
        return sorted(filter(None, records), key=lambda record: (record.cell.model.name, record.cell.seed))

    def states(self) -> list[str]:
        """State of each record: `done`, or the class of failure."""
        return [record.status.failure or record.status.state for record in self.records()]

    def submissions(self) -> list[Submission]:
        submissions, broken = notes(self.store, Submission)
        assert not broken
        return submissions

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.store.root / "jobs").glob("*/*_log.out")))


def same(one: Record, other: Record) -> bool:
    """Whether all metrics but the costs are equal bit for bit."""
    first, second = ({k: v for k, v in r.metrics.items() if k not in COSTS} for r in (one, other))
    return first == second


def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run cluster.py as make does."""
    return subprocess.run([sys.executable, str(CLUSTER), *arguments], capture_output=True, text=True, check=False)


def started_cluster() -> dict[str, str]:
    """Start the cluster for a script, which ends if it cannot; the environment with its variables."""
    answer = manage("up")
    if answer.returncode:
        sys.exit(answer.stderr)
    return exported_by(answer)


def exported_by(answer: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Environment with the variables that an answer of `cluster.py` exports."""
    exports = [line.removeprefix("export ") for line in answer.stdout.splitlines() if line.startswith("export ")]
    return os.environ | dict(line.split("=", 1) for line in exports)


def pids(name: str) -> list[int]:
    """Process ids of a daemon, or of all processes on a node."""
    answer = manage("pids", name)
    assert answer.returncode == 0, answer.stderr
    return [int(pid) for pid in answer.stdout.split()]


def ranks_on(node: str, job: str) -> dict[int, int]:
    """Process id -> rank of the Python processes of a job on a node."""
    ranks = {}
    for pid in pids_on(node):
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            variables = dict(line.partition("=")[::2] for line in lines)
            is_python = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"python")  # not srun
            array = f"{variables.get('SLURM_ARRAY_JOB_ID')}_{variables.get('SLURM_ARRAY_TASK_ID')}"
            if is_python and "SLURM_PROCID" in variables and job in (variables.get("SLURM_JOB_ID"), array):
                ranks[pid] = int(variables["SLURM_PROCID"])
    return ranks
