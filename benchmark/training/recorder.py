"""What a running cell tells the world. The store implements it; rank 0 alone calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmark.evaluation.rollouts import Rollouts

State = Literal["running", "done", "diverged", "failed", "n/a"]
FINAL_STATES: frozenset[State] = frozenset({"done", "diverged", "n/a"})
"""A cell in one of these is a result and is not run again."""


@dataclass(frozen=True)
class Status:
    """The content of status.json; `heartbeat` is seconds since 1970, `failure` the class of a failure."""

    state: State
    attempt: int = 1
    epoch: int = 0
    epochs: int = 0
    heartbeat: float = 0.0
    host: str = ""
    pid: int = 0
    failure: str = ""
    message: str = ""

    @property
    def is_result(self) -> bool:
        """Whether the cell is finished for good."""
        return self.state in FINAL_STATES

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl; RMSE in the units of the field, over all rolled-out steps."""

    epoch: int
    train_loss: float
    train_rmse: float
    validation_rmse: float
    learning_rate: float
    seconds: float


class Recorder(Protocol):
    """Where the record of one cell goes. Every file is complete or absent."""

    @property
    def checkpoint_path(self) -> Path: ...

    def start(self) -> None:
        """A new attempt begins."""

    def progress(self, history: Sequence[Epoch], epochs: int) -> None:
        """Before the first and after each epoch: the history so far, which is also a heartbeat."""

    def environment(self, environment: Mapping[str, Any]) -> None: ...

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str) -> None: ...

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None:
        """The cell is a result: `done`, `diverged` or `n/a`; `metrics` may be partial for the last two."""

    def fail(self, failure: str, message: str) -> None:
        """The cell did not become a result; `failure` is the class, which decides what happens next."""


class Follower:
    """The recorder of the other ranks: knows where the checkpoint is and writes nothing."""

    def __init__(self, checkpoint_path: Path) -> None:
        self.checkpoint_path = checkpoint_path

    def start(self) -> None: ...

    def progress(self, history: Sequence[Epoch], epochs: int) -> None: ...

    def environment(self, environment: Mapping[str, Any]) -> None: ...

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str) -> None: ...

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None: ...

    def fail(self, failure: str, message: str) -> None: ...
