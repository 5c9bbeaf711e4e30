"""Measurement of a training step and of a forecast in a few steps, on the machine where the cells will run."""

import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from benchmark.cell import Cell
from benchmark.data.dataset import SplitName
from benchmark.data.paths import field_path
from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import BATCH, forecast_error
from benchmark.planning.step_timing import StepTiming
from benchmark.training.distributed import World
from benchmark.training.experiment import Experiment, stored_field
from benchmark.training.loop import Execution, StoppedError, TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic

WARM_UP, WARM_UP_COMPILED = 1, 2
STEPS = 5
ENOUGH_SECONDS = 20.0
"""After so long, one timed step is enough."""
RANDOM_RUNS, RANDOM_FRAMES = 2, 8
"""Size of the random field where there are no data: runs, and frames in addition to those of a window."""


def measure(cell: Cell, world: World, data_folder: Path) -> StepTiming | None:
    """Time a few steps of `cell` on the ranks of `world`; every rank calls it. None if the model refuses the task.

    The training loop is stopped after a few steps; its results are discarded.
    """
    windows, data = _windows(cell, world, data_folder)
    experiment = Experiment.of(cell)
    if experiment.refusal() is not None:
        return None
    warm_up = WARM_UP_COMPILED if cell.train.compile else WARM_UP
    clock = _Clock(world.device, warm_up)
    train = _repeated(windows["train"], (warm_up + STEPS + 1) * cell.train.batch_size)
    validation = replace(_repeated(windows["validation"], world.size * BATCH), steps=1)
    with deterministic(cell.seed), tempfile.TemporaryDirectory() as folder:
        model = experiment.build().to(world.device)
        output, execution = TrainingOutput(Path(folder) / "checkpoint.pt"), Execution(world, should_stop=clock)
        with suppress(StoppedError):
            fit(model, TrainingData(train, validation), cell.train, 0, output, execution)
        forecast_error(model, _repeated(validation, world.size), world, cell.train.precision).rmse()  # warms up
        started = time.perf_counter()
        forecast_error(model, validation, world, cell.train.precision).rmse()
        return StepTiming(clock.step_seconds(), (time.perf_counter() - started) / len(validation), data)


class _Clock:
    """Callback before each step: notes the time, and returns whether to stop."""

    def __init__(self, device: torch.device, warm_up: int) -> None:
        self.device = device
        self.warm_up = warm_up
        self.marks: list[float] = []

    def __call__(self) -> bool:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.marks.append(time.perf_counter())
        timed = len(self.marks) - 1 - self.warm_up
        return timed >= STEPS or (timed >= 1 and self.marks[-1] - self.marks[0] > ENOUGH_SECONDS)

    def step_seconds(self) -> float:
        steps = [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]
        return statistics.median(steps[self.warm_up :])


def _windows(cell: Cell, world: World, data_folder: Path) -> tuple[Mapping[SplitName, Windows], str]:
    """Windows of the cell, or of noise of the same shape if its data are missing; and `real` or `random`."""
    experiment, protocol = Experiment.of(cell), cell.protocol
    if field_path(data_folder, cell.dataset).exists():
        return experiment.windows(stored_field(cell.dataset, data_folder).field, world.device), "real"
    task = experiment.task
    frames = protocol.input_frames + protocol.train_steps
    shape = (RANDOM_RUNS, frames + RANDOM_FRAMES, *task.shape)
    field = torch.randn(shape, generator=torch.Generator().manual_seed(cell.seed)).to(world.device)
    index = torch.cartesian_prod(torch.arange(RANDOM_RUNS), torch.arange(RANDOM_FRAMES)).to(world.device)
    windows = Windows(field, index, protocol.input_frames, protocol.train_steps)
    return {"train": windows, "validation": windows}, "random"


def _repeated(windows: Windows, count: int) -> Windows:
    """`count` windows, repeated if there are fewer."""
    times = -(-count // len(windows))
    return replace(windows, index=windows.index.repeat(times, 1)[:count])
