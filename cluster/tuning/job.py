"""Tuning job, as JSON that the driver, its trials and their ranks read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from benchmark import discovery
from benchmark.cell import Training
from benchmark.suite.study import Study
from cluster.jobs import snapshot
from results.store.studies import Effort

STUDY_FAILED = 4
"""Exit status of a driver whose studies did not all reach a result; any other status but 0 means that it died."""
REDUCTION = 3
"""Reduction factor of ASHA: one of three trials passes each rung."""


class TuneJob(BaseModel):
    """Studies that one Ray cluster runs one after another; paths are absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path
    studies: tuple[Study, ...]
    effort: Effort
    plugins: tuple[Path, ...]
    code: Path | None = None
    """Snapshot of the code that the job imports; None: the checkout as it is."""
    device: Literal["cpu", "cuda"]
    ranks: PositiveInt
    """Processes that train a trial together, on one node."""
    threads: PositiveInt
    """CPUs of each rank."""
    gpu_share: PositiveFloat = 1.0
    """Share of a GPU for each rank."""
    node_cpus: PositiveInt
    node_gpus: NonNegativeInt
    nodes: PositiveInt = 1
    requeues: NonNegativeInt = 0
    signal_seconds: NonNegativeInt = 60
    """Time between the scheduler's signal and the limit."""
    scratch: str | None = None

    @classmethod
    def load(cls, path: Path) -> TuneJob:
        """Job in `path`, whose plug-ins are registered in this process."""
        job = cls.model_validate_json(path.read_text(encoding="utf-8"))
        snapshot.require(job.code)
        discovery.replace_plugins(job.plugins)
        return job

    @property
    def gpus_per_trial(self) -> float:
        """GPUs of all ranks of a trial; 0 on a CPU."""
        return self.ranks * self.gpu_share if self.device == "cuda" else 0.0

    @property
    def trials_at_once(self) -> int:
        """Trials that run at a time on all nodes."""
        per_node = self.node_gpus / self.gpus_per_trial if self.gpus_per_trial else self.node_cpus / self.cpus_per_trial
        return self.nodes * int(per_node + 1e-6)

    @property
    def cpus_per_trial(self) -> int:
        """CPUs of all ranks of a trial."""
        return self.ranks * self.threads

    @property
    def devices_per_trial(self) -> float:
        """Device-hours per hour of a trial: GPUs, or ranks on a CPU."""
        return self.gpus_per_trial if self.device == "cuda" else float(self.ranks)


def first_rung(train: Training) -> int:
    """Epochs before ASHA may stop a trial: a ninth of those after which a training may end."""
    horizon = min(train.epochs, train.early_stop_after or train.epochs)
    return max(1, horizon // REDUCTION**2)


def rungs(effort: Effort, train: Training) -> list[int]:
    """Epochs at which trials are compared; the last one is the end of the training."""
    epochs, epoch = [], first_rung(train)
    while effort.scheduler == "asha" and epoch < train.epochs:
        epochs.append(epoch)
        epoch *= REDUCTION
    return [*epochs, train.epochs]


def stop_file(job_file: Path) -> Path:
    """File whose existence asks all trials to save and stop."""
    return job_file.with_suffix(".stop")
