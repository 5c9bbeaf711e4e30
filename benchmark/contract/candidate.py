"""Baseline under examination, its narrow copies, and the synthetic fields that they read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from benchmark.cell import Training
from benchmark.kinds.kind import Kind
from benchmark.kinds.kinds import KINDS
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline
from benchmark.models.task import TASKS, AnyTask
from benchmark.training.loss import RolledOutLoss

ROUND_OFF = 1e-5
CPU = torch.device("cpu")
UNTRAINED = "it has nothing to train"

NARROW: Mapping[str, Any] = {"hidden": 4, "penalty": 0.01}
"""Settings for a small baseline with a penalty; each is used if the Config has and accepts it, as is a `network`."""


class Violation(AssertionError):  # noqa: N818 - not an error of the program
    """Broken contract; the message has the measured and the expected value."""


def require(condition: bool, message: str) -> None:
    """Raise Violation unless `condition`; `python -O` would drop an assert statement."""
    if not condition:
        raise Violation(message)


@dataclass(frozen=True)
class Candidate:
    """Registered baseline, on states of one kind."""

    name: str
    baseline: type[Baseline]
    kind: Kind

    @classmethod
    def named(cls, name: str, kind: str | None = None) -> Candidate:
        """Candidate of that name, on its usual kind of states. UserError: unknown name, or its file is broken."""
        baseline = model_registry.model(name)
        return cls(name, baseline, KINDS[kind or baseline.kinds[0]])

    @property
    def file(self) -> str | None:
        """Path of its source file."""
        return inspect.getsourcefile(self.baseline)

    def has(self, field: str) -> bool:
        """Whether its Config has a field of that name."""
        return field in self.baseline.Config.model_fields

    def config(self, **settings: Any) -> Any:
        """Narrow Config with these `settings`. ValidationError: it does not accept them."""
        config = self.baseline.Config
        known = {key: value for key, value in settings.items() if self.has(key)}
        network = {"network": {TASKS[self.kind.name].plain[1]: {"hidden": 4}}}
        for key, value in {**NARROW, **network}.items():
            if self.has(key) and key not in known:
                try:
                    config.model_validate({**known, key: value})
                except ValidationError:
                    continue  # e.g. another unit of the width
                known[key] = value
        return config.model_validate(known)

    def refusal(self, task: AnyTask) -> str | None:
        """Reason why a narrow copy cannot run on `task`, or None."""
        return self.baseline.cannot_run(self.config(), task)

    def build(self, task: Any, seed: int = 0, **settings: Any) -> Baseline:
        """Narrow copy with random weights."""
        config = self.config(**settings)
        torch.manual_seed(seed)
        return self.baseline(config, task)

    def task(self, tasks: Sequence[Any] | None = None) -> Any:
        """First of `tasks`, by default those of its kind, that it supports. Violation: it supports none."""
        reasons = []
        for task in self.kind.tasks if tasks is None else tasks:
            reason = self.refusal(task)
            if reason is None:
                return task
            reasons.append(f"{' x '.join(map(str, task.shape))}: {reason}")
        raise Violation(f"it supports none of the offered tasks ({'; '.join(reasons)})")


def noise(task: AnyTask, windows: int = 2, seed: int = 1) -> Tensor:
    """Random windows (B, T, ...)."""
    return _random((windows, task.input_frames, *task.shape), seed)


def targets(task: AnyTask, windows: int = 2, steps: int = 2, seed: int = 2) -> Tensor:
    """Random frames (B, S, ...), independent of `noise`."""
    return _random((windows, steps, *task.shape), seed)


def uniform_draws(windows: int, seed: int = 3) -> Tensor:
    """Random numbers as training draws for each window, (B,)."""
    return torch.rand(windows, generator=torch.Generator().manual_seed(seed))


def loss(model: Baseline, x: Tensor, y: Tensor, precision: str = "fp32") -> Tensor:
    """Loss as in training, with the terms that the model adds."""
    settings = Training.model_validate({"precision": precision})
    value: Tensor = RolledOutLoss(model, settings, CPU, cache_filters=True)(x, y, uniform_draws(len(x)))[0]
    return value


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
