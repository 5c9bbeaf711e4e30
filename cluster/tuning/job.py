"""What a driver, its trials and their ranks need to know, as JSON that all of them read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from benchmark.cell import Training
from benchmark.models import model_registry
from benchmark.suite.study import Study
from results.store.studies import Effort

FRUITLESS = 4
"""What a driver returns where a study came to nothing; other numbers say that it died."""
REDUCTION = 3
"""ASHA lets one of three pass each rung."""


class TuneJob(BaseModel):
    """Studies that one Ray cluster runs one after another; paths are absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path
    studies: tuple[Study, ...]
    effort: Effort
    plugins: tuple[Path, ...]
    device: Literal["cpu", "cuda"]
    ranks: PositiveInt
    """Processes that train a trial together, on one node."""
    threads: PositiveInt
    """CPUs of each rank."""
    gpu_share: PositiveFloat = 1.0
    """Of a GPU, for each rank."""
    node_cpus: PositiveInt
    node_gpus: NonNegativeInt
    nodes: PositiveInt = 1
    requeues: NonNegativeInt = 0
    signal_seconds: NonNegativeInt = 60
    """Between the scheduler's signal and the limit."""
    scratch: str | None = None

    @classmethod
    def load(cls, path: Path) -> TuneJob:
        """Read it, and make its plug-ins known to this process."""
        job = cls.model_validate_json(path.read_text(encoding="utf-8"))
        model_registry.replace_plugins(job.plugins)
        return job

    def study(self, name: str) -> Study:
        return next(study for study in self.studies if study.name == name)

    @property
    def cpus_of_trial(self) -> int:
        return self.ranks * self.threads

    @property
    def gpus_of_trial(self) -> float:
        return self.ranks * self.gpu_share if self.device == "cuda" else 0.0

    @property
    def devices_of_trial(self) -> float:
        """What a second of a trial costs: GPUs, or ranks on a CPU."""
        return self.gpus_of_trial if self.device == "cuda" else float(self.ranks)


def first_rung(train: Training) -> int:
    """Epochs before ASHA may stop a trial: a ninth of those after which a training may end."""
    horizon = min(train.epochs, train.early_stop_after or train.epochs)
    return max(1, horizon // REDUCTION**2)


def rungs(effort: Effort, train: Training) -> list[int]:
    """Epochs at which trials are compared; the last one is the end."""
    epochs, found = first_rung(train), []
    while effort.scheduler == "asha" and epochs < train.epochs:
        found.append(epochs)
        epochs *= REDUCTION
    return [*found, train.epochs]


def stop_file(job_file: Path) -> Path:
    """Where it says that all are to save and stop."""
    return job_file.with_suffix(".stop")
