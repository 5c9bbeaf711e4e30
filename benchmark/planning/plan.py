"""What a suite still has to do, and what that will cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Literal

import torch
from pydantic import BaseModel

from benchmark.cell import Cell, Level
from benchmark.planning.step_timing import Pace
from benchmark.suite import facts
from benchmark.suite.facts import is_trained
from benchmark.suite.suite import Suite
from benchmark.training.recorder import FINAL_STATES

Speed = Callable[[Cell], float]
"""Floating-point operations a second of all ranks of a cell."""
PaceOf = Callable[[Cell], Pace | None]
"""What was timed of a cell's kind where it will run, if it was."""
Basis = Literal["measured", "probe", "from FLOPs", "unknown"]
BACKWARD_COST = 2
"""A backward pass costs about two forward passes."""


@dataclass(frozen=True)
class Timing:
    """A finished training: what `cell` took; `alike` where as many ran beside it as will."""

    cell: Cell
    training_seconds: float
    alike: bool = True


@dataclass(frozen=True)
class Estimate:
    """Seconds for one cell, early stopping left out, and what they come from."""

    seconds: float
    basis: Basis


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
    estimate: str
    """`measured` on a finished sibling, a `probe` of a few steps, `from FLOPs`, `unknown` where the model cannot be
    built; empty if done."""


@dataclass(frozen=True)
class Plan:
    """`left` are the cells still to run, in the suite's order; seconds are for one after another."""

    rows: tuple[PlanRow, ...]
    left: tuple[Cell, ...]
    estimated_seconds: float


def left_of(suite: Suite, states: Mapping[str, str]) -> tuple[Cell, ...]:
    """The cells still to run, by the `states` of cells by id."""
    return tuple(cell for cell in suite.cells if states.get(cell.id) not in FINAL_STATES)


def make_plan(suite: Suite, left: Sequence[Cell], expected: Mapping[str, Estimate]) -> Plan:
    """What `suite` still has to do, with an estimate by id for each cell that is `left`."""
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
                estimate=", ".join(dict.fromkeys(estimate.basis for estimate in waiting)),
            )
        )
    return Plan(tuple(rows), tuple(left), sum(row.estimated_seconds for row in rows))


def estimates(
    cells: Sequence[Cell],
    timings: Sequence[Timing],
    speed: Speed | None = None,
    pace_of: PaceOf = lambda cell: None,
) -> dict[str, Estimate]:
    """For each cell by id: what finished siblings took in the mean, what a probe says, or its FLOPs at the `speed` at
    which it will run, by default on this machine."""
    alike = _Alike()
    taken: dict[tuple[str, ...], dict[bool, list[float]]] = {}
    for timing in timings:
        taken.setdefault(alike(timing.cell), {}).setdefault(timing.alike, []).append(timing.training_seconds)
    known = {like: Estimate(fmean(found.get(True) or found[False]), "measured") for like, found in taken.items()}
    expected = {}
    for cell in cells:
        like = alike(cell)
        if like not in known:
            known[like] = _estimate(cell, speed or (lambda cell: flops_per_second()), pace_of)
        expected[cell.id] = known[like]
    return expected


def unmeasured(cells: Sequence[Cell], timings: Sequence[Timing]) -> list[Cell]:
    """One of each set of trained cells that cost the same, where none of the set has run."""
    alike = _Alike()
    known = {alike(timing.cell) for timing in timings}
    first = {alike(cell): cell for cell in reversed(cells)}
    return [cell for like, cell in reversed(first.items()) if like not in known and is_trained(cell)]


def siblings_of(cells: Sequence[Cell], done: Iterable[Cell], most: int) -> list[Cell]:
    """At most so many of `done` for each set of `cells` that cost the same."""
    alike = _Alike()
    found: dict[tuple[str, ...], list[Cell]] = {alike(cell): [] for cell in cells}
    for cell in done:
        kept = found.get(alike(cell))
        if kept is not None and len(kept) < most:
            kept.append(cell)
    return [cell for members in found.values() for cell in members]


class _Alike:
    """Equal for cells that cost the same: all but seed and level. Cells of a suite share their parts, which are many
    times fewer than cells; an instance must not outlive the cells that it is asked about."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}

    def __call__(self, cell: Cell) -> tuple[str, ...]:
        return tuple(map(self._text, (cell.dataset, cell.model, cell.protocol, cell.train)))

    def _text(self, part: BaseModel) -> str:
        if id(part) not in self.known:
            # Sorted: a record read back has the settings of its model in another order.
            self.known[id(part)] = json.dumps(part.model_dump(mode="json", exclude={"level"}), sort_keys=True)
        return self.known[id(part)]


def _estimate(cell: Cell, speed: Speed, pace_of: PaceOf) -> Estimate:
    try:
        pace = pace_of(cell) if is_trained(cell) else None
        if pace is not None:
            return Estimate(pace.seconds(cell), "probe")
        return Estimate(_flops(cell) / speed(cell), "from FLOPs")
    except Exception:  # noqa: BLE001 - a plug-in may raise anything; the run will say it of that cell
        return Estimate(0.0, "unknown")


def _flops(cell: Cell) -> float:
    """Floating-point operations of training and evaluating the cell, counted on one forward pass."""
    forward = facts.flops(cell.model, facts.task_of(cell.dataset, cell.protocol)) or 0
    windows = facts.windows(cell.dataset.name, cell.dataset.preset, cell.protocol)
    forecasts = {name: count * steps for name, (count, steps) in windows.items()}
    each_epoch = forecasts["train"] * (1 + BACKWARD_COST) + forecasts["validation"]
    epochs = cell.train.epochs if is_trained(cell) else 0
    return forward * (epochs * each_epoch + forecasts["future"] + forecasts["domain"])


@cache
def flops_per_second(threads: int | None = None) -> float:
    """Of a small convolution on the device that training would use; on a CPU, in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels, side, batch = 64, 64, 4
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1).to(device)
    x = torch.randn(batch, channels, side, side, device=device)
    repeats = 4
    with torch.inference_mode():
        convolution(x).sum().item()
        started = time.perf_counter()
        for _ in range(repeats):
            convolution(x).sum().item()
        seconds = time.perf_counter() - started
    torch.set_num_threads(before)
    return repeats * 2 * batch * channels**2 * 9 * side**2 / seconds
