"""Plan of a suite: finished and open cells, and an estimate of the time that the open ones take."""

import json
import platform
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel

from benchmark.cell import Cell, Grid, Layout, Level, ModelChoice
from benchmark.models.task import AnyTask
from benchmark.planning.step_timing import StepTiming
from benchmark.suite import facts, remembered
from benchmark.suite.budget import described
from benchmark.suite.facts import is_trained
from benchmark.suite.labels import labels_of
from benchmark.suite.suite import Suite
from benchmark.training.machine import gpu_count
from benchmark.training.recorder import FINAL_STATES

Speed = Callable[[], float]
"""Floating-point operations per second of all ranks of a cell; measured when it is needed."""
StepTimingOf = Callable[[Cell], StepTiming | None]
"""Probe of a cell's kind where it will run, or None."""
Basis = Literal["measured", "probe", "from FLOPs", "unknown"]
EVALUATION_BATCH = 32
"""Windows in a batch of the evaluation, `BATCH` there, which needs torch."""
BACKWARD_COST = 2
"""A backward pass costs about two forward passes."""
TRAINING_SHARE = 0.6
"""Share of the speed of an undisturbed convolution that a training reaches. Measured on CPUs: 0.4 to 1.0."""
NUMBER_COST = 50
"""Time of writing one number in an operation without FLOPs, such as an activation; in FLOPs."""
OPERATION_SECONDS = 13e-6
"""Time of an operation beside its arithmetic, once for a batch. Measured on one core as NUMBER_COST: with both, a step
takes 0.8 to 2 times the estimate, on fields and on particles; from FLOPs alone it takes 0.8 to 9 times."""
REPEATS, MOST_SECONDS = 200, 3.0


@dataclass(frozen=True)
class Timing:
    """Seconds of a finished training; `alike` if as many cells ran beside it as will run beside the open ones."""

    cell: Cell
    training_seconds: float
    alike: bool = True


@dataclass(frozen=True)
class Estimate:
    """Seconds for one cell without early stopping, and the basis of the estimate."""

    seconds: float
    basis: Basis


@dataclass(frozen=True)
class PlanRow:
    """Cells of one dataset, level, place, setting of a model, budget and resources."""

    dataset: str
    preset: str
    level: Level
    grid: Grid
    layout: Layout
    model: str
    label: str
    """The model, with the settings that distinguish it from others of the model in the suite."""
    budget: str
    """Budget that decides the width, in words; empty without one."""
    resources: str
    """Resources of the model's own, in words; empty without them."""
    settings: Mapping[str, Any]
    cells: int
    finished: int
    estimated_seconds: float
    estimate: str
    """`measured` on a finished cell of the same kind, a `probe` of a few steps, `from FLOPs`, or `unknown` if the model
    cannot be built; empty if all cells are finished."""


@dataclass(frozen=True)
class Plan:
    """Rows and open cells in the suite's order; seconds are for one cell after another."""

    rows: tuple[PlanRow, ...]
    open_cells: tuple[Cell, ...]
    estimated_seconds: float


def open_cells_of(suite: Suite, states: Mapping[str, str]) -> tuple[Cell, ...]:
    """Cells without a result, by the `states` of cells by id."""
    return tuple(cell for cell in suite.cells if states.get(cell.id) not in FINAL_STATES)


def make_plan(suite: Suite, open_cells: Sequence[Cell], expected: Mapping[str, Estimate]) -> Plan:
    """Plan of `suite`, with the estimate of each open cell by its id."""
    labels = labels_of(suite.cells)
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in suite.cells:
        dataset, budget = cell.dataset, " and ".join(map(described, suite.budgets.get(cell.id, ())))
        resources, model = str(suite.own_resources.get(cell.id, "")), cell.model.name
        place = dataset.name, dataset.preset, dataset.level, dataset.grid, dataset.layout
        key = (*place, model, labels[cell.id], budget, resources)
        groups.setdefault(key, []).append(cell)
    rows = []
    for key, cells in groups.items():
        waiting = [expected[cell.id] for cell in cells if cell.id in expected]
        rows.append(
            PlanRow(
                *key,
                settings=cells[0].model.settings(),
                cells=len(cells),
                finished=len(cells) - len(waiting),
                estimated_seconds=sum(estimate.seconds for estimate in waiting),
                estimate=", ".join(dict.fromkeys(estimate.basis for estimate in waiting)),
            )
        )
    return Plan(tuple(rows), tuple(open_cells), sum(row.estimated_seconds for row in rows))


def estimates(
    cells: Sequence[Cell],
    timings: Sequence[Timing],
    speed: Speed | None = None,
    step_timing_of: StepTimingOf = lambda cell: None,
) -> dict[str, Estimate]:
    """Estimate of each cell by its id: the mean of finished cells of its kind, else a probe, else its FLOPs at `speed`.

    The default of `speed` is that of this machine.
    """
    kind_of, forward_work = CostKind(), _ForwardWork(cells)
    seconds: dict[tuple[str, ...], dict[bool, list[float]]] = {}
    for timing in timings:
        by_alike = seconds.setdefault(kind_of(timing.cell), {})
        by_alike.setdefault(timing.alike, []).append(timing.training_seconds)
    known = {kind: Estimate(fmean(each.get(True) or each[False]), "measured") for kind, each in seconds.items()}
    expected = {}
    for cell in cells:
        kind = kind_of(cell)
        if kind not in known:
            known[kind] = _estimate(cell, forward_work, speed or flops_per_second, step_timing_of)
        expected[cell.id] = known[kind]
    return expected


def unmeasured(cells: Sequence[Cell], timings: Sequence[Timing]) -> list[Cell]:
    """One trained cell of each kind that has no finished cell."""
    kind_of = CostKind()
    known = {kind_of(timing.cell) for timing in timings}
    first = {kind_of(cell): cell for cell in reversed(cells)}
    return [cell for kind, cell in reversed(first.items()) if kind not in known and is_trained(cell)]


def siblings_of(cells: Sequence[Cell], done: Iterable[Cell], most: int) -> list[Cell]:
    """At most `most` of the `done` cells for each kind in `cells`."""
    kind_of = CostKind()
    siblings: dict[tuple[str, ...], list[Cell]] = {kind_of(cell): [] for cell in cells}
    for cell in done:
        kept = siblings.get(kind_of(cell))
        if kept is not None and len(kept) < most:
            kept.append(cell)
    return [cell for members in siblings.values() for cell in members]


class CostKind:
    """Key that is equal for cells of equal cost: all but seed and level.

    Cells of a suite share their parts, so that each part is written once; an instance must not outlive its cells.
    """

    def __init__(self) -> None:
        self.known: dict[int, str] = {}

    def __call__(self, cell: Cell) -> tuple[str, ...]:
        return tuple(map(self._text, (cell.dataset, cell.model, cell.protocol, cell.train)))

    def _text(self, part: BaseModel) -> str:
        if id(part) not in self.known:
            # Sorted: a record read back has the settings of its model in another order.
            self.known[id(part)] = json.dumps(part.model_dump(mode="json", exclude={"level"}), sort_keys=True)
        return self.known[id(part)]


class _ForwardWork:
    """Work of one forecast step, as FLOPs of one window and operations of a batch.

    Of a network with many widths in the suite, three narrow ones are counted, and a parabola gives the others: the
    FLOPs are nearly always a polynomial of degree two in the width, and a wide network takes seconds to build.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.widths: dict[str, set[int]] = {}
        for choice in {id(cell.model): cell.model for cell in cells}.values():
            self.widths.setdefault(self._others(choice), set()).add(self._width(choice))

    def __call__(self, cell: Cell) -> tuple[float, float]:
        choice, task = cell.model, facts.task_of(cell.dataset, cell.protocol)
        widths = sorted(self.widths[self._others(choice)])
        if len(widths) <= 3:
            return _counted(choice, task)
        w0, w1, w2 = widths[0], widths[max(1, len(widths) // 16)], widths[max(2, len(widths) // 8)]
        width, field = self._width(choice), facts.model_facts(choice.name).width_field
        narrow = (choice.model_copy(update={"config": {**choice.config, field: each}}) for each in (w0, w1, w2))
        (c0, operations), (c1, _), (c2, _) = (_counted(each, task) for each in narrow)
        slope = (c1 - c0) / (w1 - w0)
        curvature = ((c2 - c1) / (w2 - w1) - slope) / (w2 - w0)
        return c0 + (width - w0) * (slope + curvature * (width - w1)), operations

    def _width(self, choice: ModelChoice) -> int:
        """Width of the network; 0 if it is none of the model's own settings."""
        width = choice.config.get(facts.model_facts(choice.name).width_field)
        return width if isinstance(width, int) else 0

    def _others(self, choice: ModelChoice) -> str:
        field = facts.model_facts(choice.name).width_field
        others = {key: value for key, value in choice.config.items() if key != field or not self._width(choice)}
        return json.dumps([choice.name, others], sort_keys=True)


def _counted(choice: ModelChoice, task: AnyTask) -> tuple[float, float]:
    flops, numbers, operations = facts.work(choice, task)
    return flops + NUMBER_COST * numbers, operations


def _estimate(
    cell: Cell, forward_work: Callable[[Cell], tuple[float, float]], speed: Speed, step_timing_of: StepTimingOf
) -> Estimate:
    try:
        step_timing = step_timing_of(cell) if is_trained(cell) else None
        if step_timing is not None:
            return Estimate(step_timing.seconds(cell), "probe")
        flops, operations = forward_work(cell)
        training, testing = _forecasts(cell)
        passes = training / cell.train.batch_size + testing / EVALUATION_BATCH
        seconds = (training + testing) * flops / speed() + passes * operations * OPERATION_SECONDS
        return Estimate(seconds, "from FLOPs")
    except Exception:  # noqa: BLE001 - a plug-in may raise anything; `run` reports it for that cell
        return Estimate(0.0, "unknown")


def _forecasts(cell: Cell) -> tuple[float, float]:
    """Forecast steps of windows that training the cell costs, backward passes included, and those of its evaluation."""
    windows = facts.windows(cell.dataset.name, cell.dataset.preset, cell.protocol)
    forecasts = {name: count * steps for name, (count, steps) in windows.items()}
    epochs = cell.train.epochs if is_trained(cell) else 0
    testing = epochs * forecasts["validation"] + forecasts["future"] + forecasts["domain"]
    return epochs * windows["train"][0] * cell.rollout_steps * (1 + BACKWARD_COST), testing


@cache
def flops_per_second(threads: int | None = None) -> float:
    """Speed of a training on the device that it would use, with `threads` on a CPU, from that of a small convolution.

    Measured once a day on each machine.
    """
    device = platform.machine()
    if gpu_count():
        import torch  # takes seconds

        device = torch.cuda.get_device_name()
    where = f"{socket.gethostname()} {device} {threads} {time.strftime('%Y-%m-%d')}"
    speed: float = remembered.answer(
        Path(__file__).resolve(), f"FLOPs per second {where}", lambda: _measured_speed(threads)
    )
    return speed


def _measured_speed(threads: int | None) -> float:
    """Speed of the fastest of many convolutions: other programs disturb some of them, and the answer holds all day."""
    import torch  # as above

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    channels, side, batch = 64, 64 if on_gpu else 32, 4 if on_gpu else 1  # below a millisecond
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1).to(device)
    x = torch.randn(batch, channels, side, side, device=device)
    with torch.inference_mode():
        seconds = _fastest(lambda: convolution(x).sum().item())
    torch.set_num_threads(before)
    return TRAINING_SHARE * 2 * batch * channels**2 * 9 * side**2 / seconds


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of REPEATS calls, or of those that fit into MOST_SECONDS."""
    work()  # warms up
    begun = time.perf_counter()
    times: list[float] = []
    while len(times) < REPEATS and (not times or time.perf_counter() - begun < MOST_SECONDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
