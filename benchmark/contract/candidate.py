"""The baseline under examination, its narrow copies, and the made-up fields that they are given."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from benchmark.cell import Training
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.training.loss import RolledOutLoss

FRAMES = 3
SQUARE, WIDE, ODD, JET = (12, 12), (12, 9), (11, 13), (62, 23)
ROUND_OFF = 1e-5
CPU = torch.device("cpu")

NARROW: Mapping[str, Any] = {"hidden": 4, "penalty": 0.01, "network": {"convnet": {"hidden": 4}}}
"""Settings that make a baseline small, and penalised where it can be: those that its Config has and takes."""


class Violation(AssertionError):  # noqa: N818 - it is no error of the program
    """The contract is broken; the message says what was found and what was expected."""


def require(condition: bool, message: str) -> None:
    """Violation with `message` unless `condition`; an assert statement would be left out under `python -O`."""
    if not condition:
        raise Violation(message)


@dataclass(frozen=True)
class Candidate:
    """A registered baseline."""

    name: str
    baseline: type[Baseline]

    @classmethod
    def named(cls, name: str) -> Candidate:
        """UserError: unknown name, or its file is broken."""
        return cls(name, model_registry.model(name))

    @property
    def file(self) -> str | None:
        """Where it is written."""
        return inspect.getsourcefile(self.baseline)

    def has(self, field: str) -> bool:
        """Whether its Config has such a field."""
        return field in self.baseline.Config.model_fields

    def config(self, **settings: Any) -> Any:
        """A narrow Config with these `settings`. ValidationError where it does not take them."""
        config = self.baseline.Config
        known = {key: value for key, value in settings.items() if self.has(key)}
        for key, value in NARROW.items():
            if self.has(key) and key not in known:
                try:
                    config.model_validate({**known, key: value})
                except ValidationError:
                    continue  # it may count its width otherwise
                known[key] = value
        return config.model_validate(known)

    def refusal(self, on: Task) -> str | None:
        """Why a narrow copy cannot run on the task, or None."""
        return self.baseline.refusal(self.config(), on)

    def build(self, on: Task, seed: int = 0, **settings: Any) -> Baseline:
        """A narrow copy."""
        config = self.config(**settings)
        torch.manual_seed(seed)
        return self.baseline(config, on)

    def task(self, grids: Iterable[tuple[int, int]] = (SQUARE, (64, 64), WIDE, JET), periodic: bool = False) -> Task:
        """The first task that it runs on. Violation: there is none."""
        tasks = [made_up(grid, periodic) for grid in grids]
        reasons = []
        for on in tasks:
            reason = self.refusal(on)
            if reason is None:
                return on
            reasons.append(f"{on.height} x {on.width}: {reason}")
        raise Violation(f"it refuses every task that it was offered ({'; '.join(reasons)})")


def made_up(grid: tuple[int, int], periodic: bool = False) -> Task:
    """A velocity on this grid."""
    return Task("made_up", FRAMES, 2, *grid, periodic=periodic)


def noise(on: Task, windows: int = 2, seed: int = 1) -> Tensor:
    """Windows (B, T, C, H, W) without any structure."""
    return _random((windows, on.input_frames, on.channels, on.height, on.width), seed)


def targets(on: Task, windows: int = 2, steps: int = 2, seed: int = 2) -> Tensor:
    """Frames (B, S, C, H, W) that no model can know."""
    return _random((windows, steps, on.channels, on.height, on.width), seed)


def drawn(windows: int, seed: int = 3) -> Tensor:
    """What training draws for each window, (B,)."""
    return torch.rand(windows, generator=torch.Generator().manual_seed(seed))


def loss(model: Baseline, x_BTCHW: Tensor, y_BSCHW: Tensor, precision: str = "fp32") -> Tensor:
    """Training's own loss, with all that the model adds to it."""
    settings = Training.model_validate({"precision": precision})
    value: Tensor = RolledOutLoss(model, settings, CPU, cache_filters=True)(x_BTCHW, y_BSCHW, drawn(len(x_BTCHW)))[0]
    return value


def relative(difference: Tensor, scale: Tensor) -> float:
    """The largest difference over the largest number."""
    return float(difference.abs().max() / scale.abs().max())


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
