"""Checkpoint of a training: everything that the next step depends on, in one file that is complete or absent."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import MachineError
from benchmark.files import replacing
from benchmark.training.distributed import World
from benchmark.training.recorder import Epoch


@dataclass
class Position:
    """Progress within the present epoch: steps done, their summed loss on each rank, their seconds and joules."""

    step: int = 0
    error: list[float] = field(default_factory=list)
    seconds: float = 0.0
    joules: float = 0.0

    def error_on(self, world: World) -> float:
        """Summed loss of this rank. If the number of ranks has changed, rank 0 takes the sum over all."""
        if len(self.error) == world.size:
            return self.error[world.rank]
        return math.fsum(self.error) if world.is_main else 0.0


@dataclass
class Progress:
    """State of a training besides the weights, the optimiser and the schedule."""

    history: list[Epoch] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    best_rmse: float = math.inf
    best_epoch: int = 0
    best_model: dict[str, Tensor] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration of all finished epochs."""
        return sum(epoch.seconds for epoch in self.history)


class Checkpoint:
    """Saves a training to `path`, in the background, and restores it. Leaving the context waits for the last save."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        provenance: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.path, self.model, self.optimizer, self.schedule = path, model, optimizer, schedule
        self.provenance = dict(provenance)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.shutdown()
        if error[0] is None:
            self.wait()

    def save(self, progress: Progress) -> None:
        """Copy the state and write it while training goes on. Raises the error of the previous save, if it failed."""
        self.wait()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(epoch) for epoch in progress.history],
            "position": asdict(progress.position),
            "best_rmse": progress.best_rmse,
            "best_epoch": progress.best_epoch,
            "provenance": self.provenance,
        }
        snapshot = {**copy.deepcopy(state), "best_model": progress.best_model}  # the latter is a copy already
        self._written = self._writer.submit(_write, snapshot, self.path)

    def wait(self) -> None:
        """Wait until the last save is on the disk. Raises MachineError if it cannot be written."""
        if self._written is not None:
            self._written.result()

    def restore(self, world: World) -> Progress:
        """Load model, optimiser and schedule, and return the progress; a new Progress if nothing was saved.

        A checkpoint of other data or code is refused, which the log says. Raises MachineError if the file is damaged,
        or if ranks read different states.
        """
        if not world.any(self.path.exists()):
            return Progress()
        state = read(self.path)
        refusal = self._refusal(state.get("provenance", {}))
        done = -1.0 if refusal else len(state["history"]) + state["position"]["step"] / 1e9
        if len(set(world.gather(done))) > 1:
            raise MachineError(f"{self.path}: ranks read different states of it; is this disk the same on all nodes?")
        if refusal:
            if world.is_main:
                print(f"{self.path}: {refusal}; the training begins anew", flush=True)
            return Progress()
        self.model.train()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        history = [Epoch(**epoch) for epoch in state["history"]]
        position = Position(**state["position"])
        return Progress(history, position, state["best_rmse"], state["best_epoch"], state["best_model"])

    def _refusal(self, saved: Mapping[str, Any]) -> str:
        """How the provenance of a checkpoint differs from this one; empty if it does not, or is unknown."""
        return ", ".join(
            f"the {name.replace('_', ' ')} of the checkpoint is {str(saved[name])[:16]}, and now {str(value)[:16]}"
            for name, value in self.provenance.items()
            if None not in (value, saved.get(name)) and saved[name] != value
        )


def _write(state: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)


def read(path: Path) -> dict[str, Any]:
    """State dicts, numbers and lists of a checkpoint, on the CPU. Raises MachineError if it cannot be read."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise MachineError(f"{path}: not a readable checkpoint; delete it to train from the start ({error})") from error
    return state
