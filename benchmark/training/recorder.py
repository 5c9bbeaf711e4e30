"""Recorder: the interface through which a running cell reports its state. The store implements it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmark.evaluation.relaxation import Relaxation
from benchmark.evaluation.rollouts import Rollouts

State = Literal["running", "done", "diverged", "failed", "n/a"]
FINAL_STATES: frozenset[State] = frozenset({"done", "diverged", "n/a"})
"""States of a cell that has a result and is not run again."""

METRICS_VERSION = 1
"""Version of what the metrics and splits mean; raise it when a meaning changes. A record without it is of version 1."""

NOT_LEARNED = "did not learn"
"""Beginning of the message of a cell that is done and whose network equals a trivial forecast."""


@dataclass(frozen=True)
class Status:
    """Content of status.json; `heartbeat` is in seconds since 1970, `failure` the class of a failure."""

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
        """Whether the cell has a result."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl. The RMSE is in the units of the field, over all rolled-out steps.

    Of a model with a penalty on its weights, at the last step of the epoch: `penalty_share` is the penalty's part of
    the loss, and `penalty_gradient` the norm of its gradient over that of the rest of the loss, on the deviations from
    the symmetry, or on all weights if there are none. Both are None for other models. `joules` is None if the energy
    was not measured.
    """

    epoch: int
    train_loss: float
    train_rmse: float
    validation_rmse: float
    learning_rate: float
    seconds: float
    penalty_share: float | None = None
    penalty_gradient: float | None = None
    joules: float | None = None


class Recorder(Protocol):
    """Writer of the record of one cell. Every file is complete or absent."""

    @property
    def checkpoint_path(self) -> Path: ...

    def start(self) -> None:
        """Begin a new attempt."""

    def progress(self, history: Sequence[Epoch], epochs: int) -> None:
        """Write the history so far, of `epochs` in total; also a heartbeat. Called before the first epoch, too."""

    def environment(self, environment: Mapping[str, Any]) -> None:
        """Write the provenance."""

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str, relaxations: Sequence[Relaxation] = ()) -> None:
        """Write example roll-outs and the relaxed layers; `grid` is the grid of the roll-outs' components."""

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None:
        """Write the result. `metrics` may be partial if `state` is `diverged` or `n/a`.

        A cell that is done may have a message, too: see NOT_LEARNED.
        """

    def fail(self, failure: str, message: str) -> None:
        """Write that the attempt failed; the class `failure` decides what happens next."""


class Follower:
    """Recorder of the ranks other than 0: it knows the path of the checkpoint and writes nothing."""

    def __init__(self, checkpoint_path: Path) -> None:
        self.checkpoint_path = checkpoint_path

    def start(self) -> None: ...

    def progress(self, history: Sequence[Epoch], epochs: int) -> None: ...

    def environment(self, environment: Mapping[str, Any]) -> None: ...

    def rollouts(self, rollouts: Sequence[Rollouts], grid: str, relaxations: Sequence[Relaxation] = ()) -> None: ...

    def finish(self, state: State, metrics: Mapping[str, Any], message: str = "") -> None: ...

    def fail(self, failure: str, message: str) -> None: ...
