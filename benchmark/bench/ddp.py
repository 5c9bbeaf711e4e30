"""Time of a training step on one rank and on several: `python -m benchmark.bench.ddp`.

A step is forward, backward and Adam on noise of the cell's size, timed by the slowest rank. One rank and several take
steps with the same global batch, in turns within one run, so that a busy machine slows all alike; ratios are medians
over rounds. The cost of the all-reduce is the difference from the same step without it. One rank also takes steps with
half the windows, the best that two ranks can reach. Before each step of a training, ranks ask each other whether to
stop; the time of a question is given as a share of the step. Ranks are GPUs (nccl, bf16) or CPU cores (gloo, fp32).
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import click
import torch
from torch import nn

from benchmark.bench import harness
from benchmark.bench.harness import DEVICE, ON_GPU, Row
from benchmark.cell import Cell
from benchmark.evaluation.costs import parameters
from benchmark.training.distributed import World, join
from benchmark.training.loss import RolledOutLoss
from benchmark.training.machine import available_cpus
from benchmark.training.randomness import deterministic

ALONE, HALF, OURS, APART = "one rank", "one rank, half the windows", "ours", "no all-reduce"
STOP = "stop flag"
WARM_UP = 3
HEADINGS = {ALONE: "one rank", HALF: "half the windows", OURS: "all ranks", APART: "without all-reduce"}


def time_on_rank(cell: Cell, rank: int, size: int, rendezvous: Path, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each kind of step in each round; equal on all ranks."""
    torch.set_num_threads(1)
    batch, device = cell.train.batch_size, torch.device("cuda", rank) if ON_GPU else DEVICE
    with join(rank, size, device, rendezvous) as world, deterministic(0):
        torch.backends.cudnn.deterministic = False
        runs: dict[str, Callable[[], object]] = {}
        for name, windows in ((ALONE, batch), (HALF, batch // 2)):
            runs[name] = _step(cell, world, windows, lambda loss: loss) if world.is_main else lambda: None
        if size > 1:
            runs[OURS] = _step(cell, world, batch // size, world.wrap)
            runs[APART] = _step(cell, world, batch // size, world.wrap, average=False)
            runs[STOP] = lambda: world.any(False)
        for run in runs.values():
            for _ in range(WARM_UP):
                run()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                world.any(False)  # ranks wait for each other
                started = harness.now()
                for _ in range(steps):
                    run()
                seconds[name].append(world.maximum((harness.now() - started) / steps))
        return seconds


def _step(
    cell: Cell, world: World, windows: int, wrap: Callable[[nn.Module], nn.Module], average: bool = True
) -> Callable[[], None]:
    """One optimiser step on `windows` windows, with the loss in `wrap`; without `average`, no all-reduce."""
    model = harness.build(cell).to(world.device)
    train = cell.train.model_copy(update={"precision": "bf16"}) if ON_GPU else cell.train
    loss = wrap(RolledOutLoss(model, train, world.device, cache_filters=True))
    optimizer = torch.optim.Adam(model.parameters(), fused=True if ON_GPU else None)
    x, y = (values.to(world.device) for values in harness.noise(cell)[0].batch(torch.arange(windows)))
    draws = torch.zeros(windows, device=world.device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with nullcontext() if average else world.keeping_gradients(loss):
            loss(x, y, draws)[0].backward()
        optimizer.step()

    return run


def measure(suite: str, cell: Cell, size: int, rounds: int, steps: int) -> Row:
    """Row of one cell and `size` ranks; seconds are medians over rounds."""
    with tempfile.TemporaryDirectory() as folder, harness.processes(size, suite) as pool:
        rendezvous = Path(folder, "rendezvous")
        jobs = [pool.submit(time_on_rank, cell, rank, size, rendezvous, rounds, steps) for rank in range(size)]
        seconds, *_ = [job.result() for job in jobs]
    weights = parameters(harness.build(cell))
    row = {
        "model": cell.model.name,
        "parameters": weights,
        "gradient_bytes": 4 * weights,
        "batch": cell.train.batch_size,
        "ranks": size,
        "seconds": {name: median(values) for name, values in seconds.items()},
    }
    if size > 1:
        row["added_s"] = median(one - other for one, other in zip(seconds[OURS], seconds[APART], strict=True))
        row["speed_up"] = harness.median_ratio(seconds[ALONE], seconds[OURS])
        row["stop_share"] = harness.median_ratio(seconds[STOP], seconds[OURS])
    return row


@click.command(help=__doc__)
@harness.suite_argument
@harness.models_option
@click.option("--batch", type=click.IntRange(min=2), help="Global batch size.  [default: the suite's]")
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Steps in each round.")
@harness.json_option
def main(suite: str, models: str | None, batch: int | None, rounds: int, steps: int, json_file: Path | None) -> None:
    """Time the steps of a suite's models; the module's docstring is the help text."""
    rows = []
    for cell in harness.trained_cells(suite, models, batch):
        for size in _sizes(cell.train.batch_size):
            click.echo(f"{cell.model.name}, ranks: {size} ...", err=True)
            rows.append(measure(suite, cell, size, rounds, steps))
    harness.report(to_markdown(rows), rows, json_file, suite=suite, rounds=rounds, steps=steps)


def _sizes(batch: int) -> list[int]:
    """Numbers of ranks: 2, 4, 8 ... up to the number of devices, if they divide the batch; else 1."""
    devices = torch.cuda.device_count() if ON_GPU else max(2, available_cpus())
    return [size for size in (2**power for power in range(1, 10)) if size <= devices and batch % size == 0] or [1]


def to_markdown(rows: Sequence[Row]) -> str:
    """Table of `rows`; a single rank has no times of several."""
    cells = []
    for row in rows:
        cell = {key: row[key] for key in ("model", "parameters", "batch", "ranks")}
        cell |= {heading: _milliseconds(row["seconds"].get(name)) for name, heading in HEADINGS.items()}
        cell["all-reduce adds"] = _milliseconds(row.get("added_s"))
        cell["speed-up"] = f"{row['speed_up']:.2f}" if "speed_up" in row else ""
        cell["stop flag"] = f"{100 * row['stop_share']:.2g} %" if "stop_share" in row else ""
        cells.append(cell)
    return harness.formatted(cells)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.3g} ms"


if __name__ == "__main__":
    main()
