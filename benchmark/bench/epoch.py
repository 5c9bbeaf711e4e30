"""Time of an epoch, beside the plain loop of benchmark/bench/plain_loop.py: `python -m benchmark.bench.epoch`.

An epoch is training, validation and the checkpoint. Both loops train the same model on the same noise in turns, and the
ratio is the median over rounds of ours over plain, so that a busy machine slows both alike; the first epoch of each is
not counted. Each has a process of its own, so that neither has the other's memory. A suite says which models and which
size. Ours has the settings of the suite, but is compiled, on a GPU in bf16 and on a CPU in channels_last; the plain
loop is not. The training loop itself times the parts, in epochs of their own, since on a GPU each part has to be
waited for.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.markdown import Markdown

from benchmark.bench.plain_loop import plain_fit
from benchmark.cell import Cell, Training
from benchmark.data.windows import Windows
from benchmark.evaluation.costs import parameters
from benchmark.markdown import table
from benchmark.models.baseline import Baseline
from benchmark.suite import loading as suites
from benchmark.suite.facts import is_trained
from benchmark.training import environment
from benchmark.training.distributed import World
from benchmark.training.experiment import Experiment
from benchmark.training.loop import Execution, TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic

ARITHMETIC = ("forward", "backward", "optimizer")
PARTS = ("data", *ARITHMETIC, "validation", "checkpoint")
EPOCHS = 3
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FAST = DEVICE.type == "cuda"
ENGINE = {"compile": True, "precision": "bf16"} if FAST else {"compile": True, "channels_last": True}
ALLOWED_TIME = 1 / 4 if FAST else 1 / 1.5


@dataclass
class Clock:
    """Seconds of each part since the first epoch ended."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = now()
        yield
        self.seconds[name] += now() - started


def now() -> float:
    """Seconds; what was given to the GPU is done."""
    if FAST:
        torch.cuda.synchronize()
    return time.perf_counter()


def noise(cell: Cell, most: int | None) -> tuple[Windows, Windows]:
    """Training and validation windows of the cell's size on the CPU; of the former at most so many, of the latter as
    large a share."""
    experiment = Experiment.of(cell)
    splits, frames = experiment.splits, experiment.dataset.presets[cell.dataset.preset].frames
    task = experiment.task
    runs = 1 + max(run for split in splits.values() for run in split.runs)
    shape = (runs, frames, task.channels, task.height, task.width)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    train, validation = (Windows.of(values, splits[name], task.input_frames) for name in ("train", "validation"))
    if most is not None and most < len(train):
        of_validation = max(1, len(validation) * most // len(train))
        train, validation = (
            replace(windows, index=windows.index[:count])
            for windows, count in ((train, most), (validation, of_validation))
        )
    return train, validation


@dataclass(frozen=True)
class Measured:
    """Seconds of each epoch but the first, and of each part of them where these were timed; peak memory in bytes."""

    epochs: list[float]
    parts: dict[str, float]
    memory: int


def _ours(cell: Cell, settings: Training, most: int | None, with_parts: bool = False) -> Measured:
    clock = Clock() if with_parts else None
    environment.reset_peak_memory(DEVICE)
    marks: list[float] = []

    def mark(history: object) -> None:
        marks.append(now())
        if clock is not None and len(marks) == 2:
            clock.seconds.clear()

    windows = noise(cell, most)
    data = TrainingData(*(replace(one, field=one.field.to(DEVICE), index=one.index.to(DEVICE)) for one in windows))
    execution = Execution(World(0, 1, DEVICE))
    if clock is not None:
        execution = replace(execution, timer=clock.part)
    with deterministic(0), tempfile.TemporaryDirectory() as folder:
        torch.backends.cudnn.deterministic = False
        fit(_build(cell), data, settings, 0, TrainingOutput(Path(folder, "checkpoint.pt"), mark), execution)
        marks[-1] = now()  # what was left of writing is waited for
    return _measured(marks, clock)


def _plain(cell: Cell, settings: Training, most: int | None, workers: int) -> Measured:
    environment.reset_peak_memory(DEVICE)
    windows = noise(cell, most)
    marks = [now()]
    with deterministic(0), tempfile.TemporaryDirectory() as folder:
        torch.backends.cudnn.deterministic = False
        path = Path(folder, "checkpoint.pt")
        model = _build(cell)
        plain_fit(model, *windows, settings, 0, DEVICE, path, workers, on_epoch=lambda: marks.append(now()))
    return _measured(marks)


def _build(cell: Cell) -> Baseline:
    return Experiment.of(cell).build().to(DEVICE)


def _measured(marks: list[float], clock: Clock | None = None) -> Measured:
    epochs = [after - before for before, after in pairwise(marks[1:])]
    parts = dict(clock.seconds) if clock is not None else {}
    return Measured(epochs, parts, environment.peak_memory_bytes(DEVICE) or 0)


def _freeing(run: Callable[..., Measured], *arguments: Any, **options: Any) -> Measured:
    """What `run` measures; the other process has the GPU's memory to itself then."""
    measured = run(*arguments, **options)
    gc.collect()
    torch.cuda.empty_cache()
    return measured


def _process(suite: str) -> ProcessPoolExecutor:
    """A process that knows the plug-ins of the suite."""
    return ProcessPoolExecutor(1, get_context("spawn"), suites.load, (suite,))


def measure(suite: str, cell: Cell, rounds: int, most: int | None, workers: int) -> dict[str, Any]:
    """The row of one cell."""
    plain_settings = cell.train.model_copy(update={"epochs": EPOCHS, "early_stop_after": None})
    settings = plain_settings.model_copy(update=ENGINE)
    seconds: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, float] = {}
    with _process(suite) as ours, _process(suite) as plain:
        runs: dict[str, Callable[[], Future[Measured]]] = {
            "ours": lambda: ours.submit(_freeing, _ours, cell, settings, most),
            "plain": lambda: plain.submit(_freeing, _plain, cell, plain_settings, most, workers),
        }
        for _ in range(rounds):
            for name, run in runs.items():
                measured = run().result()
                seconds[name].append(statistics.median(measured.epochs))
                memory[name] = measured.memory / 2**20
        timed = ours.submit(_ours, cell, settings, most, with_parts=True).result()
    whole, windows = sum(timed.epochs), noise(cell, most)
    return {
        "model": cell.model.name,
        "parameters": parameters(_build(cell)),
        "grid": f"{windows[0].field.shape[-2]} x {windows[0].field.shape[-1]}",
        "windows": len(windows[0]),
        "batch": cell.train.batch_size,
        "epoch_s": statistics.median(seconds["ours"]),
        "plain_s": statistics.median(seconds["plain"]),
        "time_ratio": statistics.median(a / b for a, b in zip(seconds["ours"], seconds["plain"], strict=True)),
        "allowed_time": ALLOWED_TIME,
        "memory_mib": memory["ours"],
        "plain_memory_mib": memory["plain"],
        **{name: timed.parts[name] / whole for name in PARTS},
        "arithmetic": sum(timed.parts[name] for name in ARITHMETIC) / whole,
    }


@click.command(help=__doc__)
@click.argument("suite", default="quickstart")
@click.option("--models", help="Only these, separated by commas.")
@click.option("--windows", "most", type=int, help="At most so many training windows.  [default: all]")
@click.option("--batch", type=int, help="Windows in a batch.  [default: the suite's]")
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Of the plain loop's DataLoader.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write it there, with its provenance.")
def main(
    suite: str,
    models: str | None,
    most: int | None,
    batch: int | None,
    rounds: int,
    workers: int,
    json_file: Path | None,
) -> None:
    """See above. The table is Markdown, shown as such on a terminal."""
    wanted = models.split(",") if models else None
    cells: dict[str, Cell] = {}
    for cell in suites.load(suite).cells:
        name = cell.model.name
        if is_trained(cell) and (wanted is None or name in wanted):
            cells.setdefault(name, cell)
    rows = []
    for name, cell in cells.items():
        click.echo(f"{name} ...", err=True)
        if batch is not None:
            cell = cell.model_copy(update={"train": cell.train.model_copy(update={"batch_size": batch})})
        rows.append(measure(suite, cell, rounds, most, workers))
        click.echo("    {time_ratio:.2f} x the time of the plain loop".format(**rows[-1]), err=True)
    if json_file is not None:
        document = {"suite": suite, "rounds": rounds, "workers": workers, "rows": rows}
        document["environment"] = environment.anonymous(World(0, 1, DEVICE))
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = to_markdown(rows)
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        click.echo(text)


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each model; parts in per cent of the epoch."""
    headings = ["model", "parameters", "grid", "windows", "epoch", "plain", "ratio", *PARTS, "arithmetic", "memory"]
    lines = [
        (
            row["model"],
            f"{row['parameters']:,}",
            row["grid"],
            row["windows"],
            f"{row['epoch_s']:.3g} s",
            f"{row['plain_s']:.3g} s",
            f"{row['time_ratio']:.2f}",
            *(f"{100 * row[name]:.1f} %" for name in (*PARTS, "arithmetic")),
            f"{row['memory_mib']:.0f} MiB (plain {row['plain_memory_mib']:.0f})",
        )
        for row in rows
    ]
    return table(headings, lines)


if __name__ == "__main__":
    main()
