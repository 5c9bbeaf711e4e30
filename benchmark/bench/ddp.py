"""What it costs to train one cell with several ranks: `python -m benchmark.bench.ddp`.

One rank and several take steps with the same global batch, in turns within one run, so that a busy machine slows all
alike; ratios are medians over rounds. A step is forward, backward and Adam on noise of the cell's size, timed by the
slowest rank. What the all-reduce adds is the difference to the same step without it. One rank also takes steps with
half the windows, which tells what part of a step does not depend on their number. A second table compares settings of
DistributedDataParallel, as ratios to the step with ours. Ranks are GPUs (nccl, bf16), or else cores (gloo, fp32).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.console import Console
from rich.markdown import Markdown

from benchmark.bench.epoch import DEVICE, FAST, noise, now
from benchmark.cell import Cell
from benchmark.evaluation import costs
from benchmark.markdown import table
from benchmark.models.baseline import Baseline
from benchmark.suite import loading as suites
from benchmark.suite.facts import is_trained
from benchmark.training import environment
from benchmark.training.distributed import World, join
from benchmark.training.experiment import Experiment
from benchmark.training.loss import RolledOutLoss
from benchmark.training.randomness import deterministic

SETTINGS: dict[str, dict[str, Any]] = {
    "bucket_cap_mb 1": {"bucket_cap_mb": 1},
    "bucket_cap_mb 25": {"bucket_cap_mb": 25},
    "gradients copied": {"gradient_as_bucket_view": False},
    "static_graph": {"static_graph": True},
    "unused sought": {"find_unused_parameters": True},
}
"""Each stands beside `World.wrap` as it is. All are legal here: every weight gets a gradient in every step."""
ALONE, HALF, OURS, APART = "one rank", "one rank, half the windows", "ours", "no all-reduce"
NUMBER, GRADIENTS = "all-reduce of a number", "all-reduce of the gradients"
FLOAT_BYTES = 4
WARM_UP = 3
Seconds = dict[str, list[float]]


def on_rank(cell: Cell, rank: int, size: int, rendezvous: Path, rounds: int, steps: int) -> Seconds:
    """Seconds of all that is timed, one for each round; the same on all ranks."""
    torch.set_num_threads(1)
    batch, device = cell.train.batch_size, torch.device("cuda", rank) if FAST else DEVICE
    with join(rank, size, device, rendezvous) as world, deterministic(0):
        torch.backends.cudnn.deterministic = False
        runs: dict[str, Callable[[], object]] = {}
        for name, windows in ((ALONE, batch), (HALF, batch // 2)):
            runs[name] = _step(cell, world, windows) if world.is_main else lambda: None
        if size > 1:
            share = batch // size
            runs |= {name: _step(cell, world, share, chosen) for name, chosen in {OURS: {}, **SETTINGS}.items()}
            runs[APART] = _step(cell, world, share, {}, apart=True)
            number, gradients = (torch.zeros(count, device=device) for count in (1, costs.parameters(_build(cell))))
            runs |= {NUMBER: lambda: world.sum(number), GRADIENTS: lambda: world.sum(gradients)}
        for run in runs.values():
            for _ in range(WARM_UP):
                run()
        seconds: Seconds = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                world.any(False)  # wait for each other
                started = now()
                for _ in range(steps):
                    run()
                seconds[name].append(world.maximum((now() - started) / steps))
        return seconds


def _step(
    cell: Cell, world: World, windows: int, settings: dict[str, Any] | None = None, apart: bool = False
) -> Callable[[], None]:
    """A step on so many windows: without `settings` of one rank, else of all, `apart` or with averaged gradients."""
    model = _build(cell).to(world.device)
    train = cell.train.model_copy(update={"precision": "bf16"}) if FAST else cell.train
    loss: torch.nn.Module = RolledOutLoss(model, train, world.device, cache_filters=True)
    if settings is not None:
        loss = world.wrap(loss, **settings)
    optimizer = torch.optim.Adam(model.parameters(), fused=True if FAST else None)
    x, y = (values.to(world.device) for values in noise(cell, None)[0].batch(torch.arange(windows)))
    draws = torch.zeros(windows, device=world.device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with world.keeping_gradients(loss) if apart else nullcontext():
            loss(x, y, draws)[0].backward()
        optimizer.step()

    return run


def _build(cell: Cell) -> Baseline:
    """The model of the cell, on the CPU."""
    experiment = Experiment.of(cell)
    return costs.built(experiment.model_class, experiment.config, experiment.task)


def measure(cell: Cell, size: int, rounds: int, steps: int) -> dict[str, Any]:
    """The row of one cell and `size` ranks; seconds are medians over rounds."""
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder, "rendezvous")
        with ProcessPoolExecutor(size, multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(on_rank, cell, rank, size, rendezvous, rounds, steps) for rank in range(size)]
            of_ranks = [job.result() for job in jobs]
    seconds = of_ranks[0]  # all ranks tell the same
    took = {name: median(values) for name, values in seconds.items()}
    parameters = costs.parameters(_build(cell))
    row = {
        "model": cell.model.name,
        "parameters": parameters,
        "gradient_bytes": FLOAT_BYTES * parameters,
        "batch": cell.train.batch_size,
        "ranks": size,
        "seconds": took,
    }
    if size == 1:
        return row

    def ratio(name: str, to: str) -> float:
        return median(one / other for one, other in zip(seconds[name], seconds[to], strict=True))

    return row | {
        "added_s": median(one - other for one, other in zip(seconds[OURS], seconds[APART], strict=True)),
        "speed_up": ratio(ALONE, OURS),
        "settings": {name: ratio(name, OURS) for name in SETTINGS},
    }


@click.command(help=__doc__)
@click.argument("suite", default="quickstart")
@click.option("--models", help="Only these, separated by commas.")
@click.option("--batch", type=click.IntRange(min=2), help="Windows in a batch.  [default: the suite's]")
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=10, show_default=True, help="In each round.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write it there, with its provenance.")
def main(
    suite: str,
    models: str | None,
    batch: int | None,
    rounds: int,
    steps: int,
    json_file: Path | None,
) -> None:
    """See above. The tables are Markdown, shown as such on a terminal."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # ranks would warn that unused weights are sought in vain
    cells = _cells(suite, models.split(",") if models else None)
    rows = []
    for name, cell in cells.items():
        if batch is not None:
            cell = cell.model_copy(update={"train": cell.train.model_copy(update={"batch_size": batch})})
        for size in _sizes(cell.train.batch_size):
            click.echo(f"{name}, ranks: {size} ...", err=True)
            rows.append(measure(cell, size, rounds, steps))
    if json_file is not None:
        document = {"suite": suite, "rounds": rounds, "steps": steps, "rows": rows}
        document["environment"] = environment.anonymous(World(0, 1, DEVICE))
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    tables = to_markdown(rows)
    if sys.stdout.isatty():
        Console().print(Markdown(tables))
    else:
        click.echo(tables)


def _cells(suite: str, models: Sequence[str] | None) -> dict[str, Cell]:
    """The first cell of each model that is trained."""
    cells: dict[str, Cell] = {}
    for cell in suites.load(suite).cells:
        name = cell.model.name
        if is_trained(cell) and (models is None or name in models):
            cells.setdefault(name, cell)
    return cells


def _sizes(batch: int) -> list[int]:
    """2, 4, 8 ... ranks, as many as there are devices and the batch can be divided by; 1 where there is but one GPU."""
    devices = torch.cuda.device_count() if FAST else max(2, environment.available_cpus())
    return [size for size in (2**power for power in range(1, 10)) if size <= devices and batch % size == 0] or [1]


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The times of steps, and the settings of DistributedDataParallel."""
    headings = ("model", "parameters", "batch", "ranks", "one rank", "half the windows")
    several = ("step", "computing", "all-reduce adds", "times as fast")
    measured, settings = [], []
    for row in rows:
        seconds = row["seconds"]
        known = (row["model"], f"{row['parameters']:,}", row["batch"], row["ranks"])
        alone = (_milliseconds(seconds[ALONE]), _milliseconds(seconds[HALF]))
        if row["ranks"] == 1:
            measured.append((*known, *alone, *[""] * len(several)))
            continue
        shared = (seconds[OURS], seconds[APART], row["added_s"])
        measured.append((*known, *alone, *map(_milliseconds, shared), f"{row['speed_up']:.2f}"))
        reduced = (_milliseconds(seconds[NUMBER]), _milliseconds(seconds[GRADIENTS]))
        ratios = (f"{ratio:.2f}" for ratio in row["settings"].values())
        settings.append((row["model"], row["ranks"], f"{row['gradient_bytes'] / 2**20:.2f} MiB", *reduced, *ratios))
    return "\n\n".join(
        (
            table((*headings, *several), measured),
            table(("model", "ranks", "gradients", NUMBER, GRADIENTS, *SETTINGS), settings),
        )
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if abs(seconds) < 1 else f"{seconds:.3g} s"


if __name__ == "__main__":
    main()
