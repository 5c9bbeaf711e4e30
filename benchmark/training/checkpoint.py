"""The checkpoint of a training: everything that the next step depends on, in one file that is complete or absent."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import MachineError
from benchmark.files import replacing
from benchmark.training.distributed import World
from benchmark.training.recorder import Epoch


@dataclass
class Position:
    """How far the present epoch is: steps done, their summed loss on each rank, and what they took."""

    step: int = 0
    error: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Progress:
    """Everything that the next step depends on, besides the weights and the optimiser."""

    history: list[Epoch] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    best_rmse: float = math.inf
    best_epoch: int = 0
    best_model: dict[str, Tensor] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.history)


class Checkpoint:
    """What is saved to `path` and restored from it; as a context, at whose end all is written."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.path, self.model, self.optimizer, self.schedule = path, model, optimizer, schedule
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.shutdown()
        if error[0] is None:
            self.wait()

    def save(self, progress: Progress) -> None:
        """Take a copy, which is written while training goes on, in place of what is there.

        An error of the last writing comes here, or at the end.
        """
        self.wait()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(epoch) for epoch in progress.history],
            "position": asdict(progress.position),
            "best_rmse": progress.best_rmse,
            "best_epoch": progress.best_epoch,
        }
        kept = {**copy.deepcopy(state), "best_model": progress.best_model}  # which is a copy already
        self._written = self._writer.submit(_write, kept, self.path)

    def wait(self) -> None:
        """Until what was saved last is on the disk. MachineError: it cannot be written."""
        if self._written is not None:
            self._written.result()

    def restore(self, world: World) -> Progress:
        """Set model, optimiser and schedule to what was saved; a fresh Progress where nothing was."""
        if not world.any(self.path.exists()):
            return Progress()
        state = read(self.path)
        self.model.train()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        there = world.gather(len(state["history"]) + state["position"]["step"] / 1e9)
        if len(set(there)) > 1:
            raise MachineError(f"{self.path}: ranks read different states of it; is this disk the same on all nodes?")
        history = [Epoch(**epoch) for epoch in state["history"]]
        position = Position(**state["position"])
        return Progress(history, position, state["best_rmse"], state["best_epoch"], state["best_model"])


def _write(state: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)


def share_of(errors: Sequence[float], world: World) -> float:
    """What this rank has summed; where there are other ranks than there were, the first takes it all."""
    if len(errors) == world.size:
        return errors[world.rank]
    return math.fsum(errors) if world.is_main else 0.0


def read(path: Path) -> dict[str, Any]:
    """State dicts, numbers and lists only, on the CPU: who loads them moves them, but for Adam's steps, which stay.

    MachineError where the file cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise MachineError(f"{path}: not a readable checkpoint; delete it to train from the start ({error})") from error
    return state
