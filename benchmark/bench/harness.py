"""Parts that the benches share: device, clock, cells of a suite, noise of their size, options, tables and JSON."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.console import Console
from rich.markdown import Markdown

from benchmark.cell import Cell
from benchmark.data.windows import Windows
from benchmark.markdown import table
from benchmark.models.baseline import Baseline
from benchmark.suite import loading as suites
from benchmark.suite.facts import is_trained
from benchmark.training import environment
from benchmark.training.distributed import World
from benchmark.training.experiment import Experiment

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
Row = dict[str, Any]

suite_argument = click.argument("suite", default="quickstart")
models_option = click.option("--models", help="Only these models, separated by commas.")
batch_option = click.option("--batch", type=int, help="Batch size.  [default: the suite's]")
json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    help="Also write the rows and their provenance to this file.",
)


def now() -> float:
    """Clock in seconds, read after all work of the GPU is done."""
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Median over rounds of first / second. Both of a round slow down together on a busy machine."""
    return median(one / other for one, other in zip(first, second, strict=True))


def trained_cells(suite: str, models: str | None, batch: int | None) -> list[Cell]:
    """First cell of each trained model of `suite`, or of `models` only, with batch size `batch`."""
    cells: dict[str, Cell] = {}
    for cell in suites.load(suite).cells:
        if is_trained(cell) and (models is None or cell.model.name in models.split(",")):
            if batch is not None:
                cell = cell.model_copy(update={"train": cell.train.model_copy(update={"batch_size": batch})})
            cells.setdefault(cell.model.name, cell)
    if not cells:
        raise click.UsageError(f"{suite} has no trained model named {models}")
    return list(cells.values())


def processes(count: int, suite: str) -> ProcessPoolExecutor:
    """New processes that know the plug-ins of `suite`."""
    return ProcessPoolExecutor(count, get_context("spawn"), suites.load, (suite,))


def build(cell: Cell) -> Baseline:
    """Model of `cell` on the device of the bench."""
    return Experiment.of(cell).build().to(DEVICE)


def noise(cell: Cell, most: int | None = None) -> tuple[Windows, Windows]:
    """Training and validation windows of noise, in the size of the cell's data, on the CPU.

    Training windows are as long as the loss rolls out. At most `most` of them, and the same share of the validation's.
    """
    experiment = Experiment.of(cell)
    task, splits = experiment.task, experiment.splits
    runs = 1 + max(run for split in splits.values() for run in split.runs)
    frames = experiment.dataset.presets[cell.dataset.preset].frames
    field = torch.randn(runs, frames, *task.shape, generator=torch.Generator().manual_seed(0))
    train, validation = (Windows.of(field, splits[name], task.input_frames) for name in ("train", "validation"))
    train = replace(train, steps=cell.rollout_steps)
    if most is not None and most < len(train):
        share = max(1, len(validation) * most // len(train))
        train, validation = (
            replace(windows, index=windows.index[:count]) for windows, count in ((train, most), (validation, share))
        )
    return train, validation


def formatted(rows: Sequence[Row], columns: Mapping[str, str] | None = None) -> str:
    """Markdown table of `rows`; `columns` maps headings to formats such as "{epoch_s:.3g} s" (default: all keys)."""
    if columns is None:
        formats = {str: "", int: ":,", float: ":.4g"}
        columns = {key.replace("_", " "): f"{{{key}{formats[type(value)]}}}" for key, value in rows[0].items()}
    return table(list(columns), ([style.format_map(row) for style in columns.values()] for row in rows))


def report(tables: str, rows: Sequence[Row], json_file: Path | None, **settings: Any) -> None:
    """Print Markdown `tables`, and write `settings`, `rows` and the provenance to `json_file`, if given."""
    if json_file is not None:
        document = {**settings, "rows": rows, "environment": environment.anonymous(World(device=DEVICE))}
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if sys.stdout.isatty():
        Console().print(Markdown(tables))
    else:
        click.echo(tables)
