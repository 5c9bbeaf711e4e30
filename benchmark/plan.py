"""What a suite still has to do, and what that will cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from . import costs, registry
from .cell import Cell, Level
from .recorder import FINAL_STATES
from .suite import Suite

Speed = Callable[[Cell], float]
"""Floating-point operations a second of all ranks of a cell."""
BACKWARD_COST = 2
"""A backward pass costs about two forward passes."""


@dataclass(frozen=True)
class Timing:
    """A finished training: what `cell` took."""

    cell: Cell
    training_seconds: float


@dataclass(frozen=True)
class Estimate:
    """Seconds for one cell, early stopping left out, and what they come from."""

    seconds: float
    basis: Literal["measured", "from FLOPs", "unknown"]


@dataclass(frozen=True)
class PlanRow:
    """The cells of one dataset, level and model."""

    dataset: str
    preset: str
    level: Level
    model: str
    cells: int
    finished: int
    estimated_seconds: float
    basis: str
    """`measured` on a finished sibling, `from FLOPs`, `unknown` where the model cannot be built; empty if done."""


@dataclass(frozen=True)
class Plan:
    """`left` are the cells still to run, in the suite's order; seconds are for one after another."""

    rows: tuple[PlanRow, ...]
    left: tuple[Cell, ...]
    estimated_seconds: float


def make_plan(suite: Suite, states: Mapping[str, str], timings: Iterable[Timing], speed: Speed | None = None) -> Plan:
    """Compare `suite` with the `states` of its cells (by id) and estimate what is left, by default on this machine."""
    left = tuple(cell for cell in suite.cells if states.get(cell.id) not in FINAL_STATES)
    expected = estimates(left, timings, speed or (lambda cell: _flops_per_second()))
    groups: dict[tuple[str, str, Level, str], list[Cell]] = {}
    for cell in suite.cells:
        key = (cell.dataset.name, cell.dataset.preset, cell.dataset.level, cell.model.name)
        groups.setdefault(key, []).append(cell)
    rows = []
    for key, cells in groups.items():
        waiting = [expected[cell.id] for cell in cells if cell.id in expected]
        rows.append(
            PlanRow(
                *key,
                cells=len(cells),
                finished=len(cells) - len(waiting),
                estimated_seconds=sum(estimate.seconds for estimate in waiting),
                basis=", ".join(dict.fromkeys(estimate.basis for estimate in waiting)),
            )
        )
    return Plan(tuple(rows), left, sum(row.estimated_seconds for row in rows))


def estimates(cells: Iterable[Cell], timings: Iterable[Timing], speed: Speed) -> dict[str, Estimate]:
    """For each cell by id: what a finished sibling took, or its FLOPs at the `speed` at which it will run."""
    known = {_like(timing.cell): Estimate(timing.training_seconds, "measured") for timing in timings}
    expected = {}
    for cell in cells:
        like = _like(cell)
        if like not in known:
            known[like] = _estimate(cell, speed)
        expected[cell.id] = known[like]
    return expected


def _estimate(cell: Cell, speed: Speed) -> Estimate:
    try:
        return Estimate(_flops(cell) / speed(cell), "from FLOPs")
    except Exception:  # noqa: BLE001 - a plug-in may raise anything; the run will say it of that cell
        return Estimate(0.0, "unknown")


def _like(cell: Cell) -> str:
    """Cells that cost the same: equal but for seed and level."""
    dataset = cell.dataset.model_copy(update={"level": 0})
    return cell.model_copy(update={"seed": 0, "dataset": dataset}).model_dump_json()


def _flops(cell: Cell) -> float:
    """Floating-point operations of training and evaluating the cell, counted on one forward pass."""
    dataset = registry.dataset(cell.dataset.name)
    forward = _forward_flops(_like(cell))
    windows = {
        name: len(split.runs) * len(split.starts) * split.steps
        for name, split in dataset.splits(cell.protocol, cell.dataset.preset).items()
    }
    trained = registry.model(cell.model.name).trained
    each_epoch = windows["train"] * (1 + BACKWARD_COST) + windows["validation"]
    epochs = cell.train.epochs if trained else 0
    return forward * (epochs * each_epoch + windows["future"] + windows["domain"])


@cache
def _forward_flops(cell_json: str) -> int:
    cell = Cell.model_validate_json(cell_json)
    task = costs.task_of(cell.dataset, cell.protocol)
    baseline, config = registry.configured(cell.model)
    if baseline.refusal(config, task) is not None:
        return 0
    return costs.flops(costs.built(baseline, config, task))


@cache
def _flops_per_second() -> float:
    """Of a small convolution on the device that training would use."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels, side, batch = 64, 64, 16
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1).to(device)
    x = torch.randn(batch, channels, side, side, device=device)
    repeats = 4
    with torch.inference_mode():
        convolution(x).sum().item()
        started = time.perf_counter()
        for _ in range(repeats):
            convolution(x).sum().item()
        seconds = time.perf_counter() - started
    return repeats * 2 * batch * channels**2 * 9 * side**2 / seconds
