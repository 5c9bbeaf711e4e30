"""Time of an epoch of each model of a suite, compared with a plain loop: `python -m benchmark.bench.epoch`.

An epoch is training, validation and checkpoint. The engine of symbench (settings of the suite, compiled; bf16 on a GPU,
channels_last on a CPU) and the plain loop (benchmark/bench/plain_loop.py) train the same model on the same noise, each
in its own process, in turns. The ratio is the median over rounds of engine / plain; the first epoch of each is not
counted.
"""

import gc
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import click
import torch

from benchmark.bench import harness
from benchmark.bench.harness import DEVICE, ON_GPU, Row, build, noise, now
from benchmark.bench.plain_loop import PlainLoop
from benchmark.cell import Cell, Training
from benchmark.evaluation.costs import parameters
from benchmark.training import environment
from benchmark.training.distributed import World
from benchmark.training.loop import Execution, TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic

EPOCHS = 3
WORKERS = 2
ENGINE = {"compile": True, "precision": "bf16"} if ON_GPU else {"compile": True, "channels_last": True}
ALLOWED_TIME = 1 / 4 if ON_GPU else 1 / 1.5
COLUMNS = {
    "model": "{model}",
    "parameters": "{parameters:,}",
    "grid": "{grid}",
    "windows": "{windows}",
    "epoch": "{epoch_s:.3g} s",
    "plain": "{plain_s:.3g} s",
    "ratio": "{time_ratio:.2f}",
    "memory": "{memory_mib:.0f} MiB (plain {plain_memory_mib:.0f})",
}


@dataclass(frozen=True)
class Measured:
    """Seconds of each epoch but the first, and peak memory in MiB."""

    epochs: list[float]
    memory: float


def engine(cell: Cell, settings: Training, data: TrainingData, checkpoint: Path, times: list[float]) -> None:
    """Train with `fit`; `times` gets the start of the first epoch and the end of each."""
    on_device = TrainingData(
        *(
            replace(windows, field=windows.field.to(DEVICE), index=windows.index.to(DEVICE))
            for windows in (data.train, data.validation)
        )
    )
    output = TrainingOutput(checkpoint, lambda history: times.append(now()))
    fit(build(cell), on_device, settings, 0, output, Execution(World(device=DEVICE)))
    times[-1] = now()  # the last checkpoint is written


def plain(cell: Cell, settings: Training, data: TrainingData, checkpoint: Path, times: list[float]) -> None:
    """Train with the plain loop, timed as in `engine`."""
    times.append(now())
    for _ in PlainLoop(build(cell), settings, WORKERS).epochs(data, 0, checkpoint):
        times.append(now())


def run(loop: Callable[..., None], cell: Cell, settings: Training, most: int | None) -> Measured:
    """Epochs of `loop` on at most `most` windows, in this process. Frees the GPU's memory at the end."""
    environment.reset_peak_memory(DEVICE)
    times: list[float] = []
    with deterministic(0), tempfile.TemporaryDirectory() as folder:
        torch.backends.cudnn.deterministic = False
        loop(cell, settings, TrainingData(*noise(cell, most)), Path(folder, "checkpoint.pt"), times)
    epochs = [after - before for before, after in pairwise(times[1:])]
    measured = Measured(epochs, (environment.peak_memory_bytes(DEVICE) or 0) / 2**20)
    gc.collect()
    torch.cuda.empty_cache()
    return measured


def measure(suite: str, cell: Cell, rounds: int, most: int | None) -> Row:
    """Row of one cell of `suite`."""
    plain_settings = cell.train.model_copy(update={"epochs": EPOCHS, "early_stop_after": None})
    settings = plain_settings.model_copy(update=ENGINE)
    ours, theirs = [], []
    with harness.processes(1, suite) as first, harness.processes(1, suite) as second:
        for _ in range(rounds):
            ours.append(first.submit(run, engine, cell, settings, most).result())
            theirs.append(second.submit(run, plain, cell, plain_settings, most).result())
    ours_s, plain_s = ([median(measured.epochs) for measured in rows] for rows in (ours, theirs))
    windows = noise(cell, most)[0]
    return {
        "model": cell.model.name,
        "parameters": parameters(build(cell)),
        "grid": f"{windows.field.shape[-2]} x {windows.field.shape[-1]}",
        "windows": len(windows),
        "batch": cell.train.batch_size,
        "epoch_s": median(ours_s),
        "plain_s": median(plain_s),
        "time_ratio": harness.median_ratio(ours_s, plain_s),
        "allowed_time": ALLOWED_TIME,
        "memory_mib": ours[-1].memory,
        "plain_memory_mib": theirs[-1].memory,
    }


@click.command(help=__doc__)
@harness.suite_argument
@harness.models_option
@click.option("--windows", "most", type=int, help="Largest number of training windows.  [default: all]")
@harness.batch_option
@click.option("--rounds", default=3, show_default=True)
@harness.json_option
def main(
    suite: str, models: str | None, most: int | None, batch: int | None, rounds: int, json_file: Path | None
) -> None:
    """Time the epochs of a suite; the module's docstring is the help text."""
    rows = []
    for cell in harness.trained_cells(suite, models, batch):
        click.echo(f"{cell.model.name} ...", err=True)
        rows.append(measure(suite, cell, rounds, most))
        click.echo("    {time_ratio:.2f} x the time of the plain loop".format(**rows[-1]), err=True)
    harness.report(harness.formatted(rows, COLUMNS), rows, json_file, suite=suite, rounds=rounds, workers=WORKERS)


if __name__ == "__main__":
    main()
