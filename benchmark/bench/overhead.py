"""What symbench itself costs beside the training: `python -m benchmark.bench.overhead`.

Four seeds side by side on all cores, against one seed on all cores. Then, on one core: small cells that share a job,
against the sum of their trainings; and the commands that look at 10,000 cells, in processor time, which other work on
the machine changes less than the clock's. Everything is done by the command line, in a temporary store; the 10,000
records are copies of one, with other numbers that mean nothing.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmark.cell import Cell
from benchmark.suite import loading as suites

ALLOWED_FOR_FOUR = 3.5
"""Times what one seed takes."""
ALLOWED_CELL_SECONDS = 0.5
ALLOWED_COMMAND_SECONDS = 3.0
SYMBENCH = Path(sys.executable).with_name("symbench")
SUITE = """\
name: {name}
protocol: {{name: disjoint, input_frames: 1, train_steps: 2, test_steps: 4}}
datasets: [{{smoke_rotation_levels: {{level: {levels}, preset: small}}}}]
models: {models}
seeds: {seeds}
train: {{epochs: {epochs}, batch_size: 8}}
"""
SMALL_MODELS = ("convnet: {hidden: 32}", "relaxed_steerable_rotation: {hidden: 8, penalty: 1e-5}")
"""As in the quickstart."""
SEED_EPOCHS = 3
MANY_MODELS = (
    "[{convnet: {hidden: [4, 8]}}, {coordconv: {hidden: [4, 8]}}, {e2cnn: {hidden: [2, 4]}}, "
    "{relaxed_steerable_rotation: {hidden: 2, penalty: [0, 1e-4]}}, {rpp_rotation: {hidden: [2, 4]}}]"
)
BOARD_MODELS = (
    "[{{convnet: {{hidden: {widths}}}}}, {{e2cnn: {{hidden: {widths}, order: 4}}}}, "
    "{{relaxed_steerable_rotation: {{hidden: {widths}, penalty: [0, 1e-4]}}}}]"
)
BOARD_LEVELS = BOARD_SEEDS = 5
LEADERBOARD_SECONDS, REPORT_SECONDS, SYNC_SECONDS, RUNS_PER_SECOND = 5.0, 20.0, 5.0, 15.0
RECORD = ("status.json", "environment.json", "history.jsonl")


def symbench(*arguments: object) -> tuple[float, str]:
    """Processor seconds and output of a command. CalledProcessError: it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([SYMBENCH, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def four_seeds(folder: Path, model: str, epochs: int, repeats: int) -> dict[str, Any]:
    """Four seeds of a small cell side by side, beside one seed; the best of `repeats`, in turn.

    By the clock, from the first start to the last end; what starts the jobs is in neither. One seed is timed with a
    thread for each core and on one core alone, since threads that have to wait for a core are slower than none; the
    quicker way counts.
    """
    path, store = folder / "seeds.yaml", folder / "seeds"
    path.write_text(
        SUITE.format(name="seeds", levels=0, models=f"[{model}]", seeds=[0, 1, 2, 3], epochs=epochs), encoding="utf-8"
    )
    symbench("data", "prepare", path, "--store", store)
    cells = suites.load(str(path)).cells
    cores = os.sched_getaffinity(0)
    ways = {"four": (len(cells), cores), "threads": (1, cores), "alone": (1, {min(cores)})}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (count, ours) in ways.items():
            os.sched_setaffinity(0, ours)
            symbench("run", path, "--store", store, *(["--only", "seed=0"] if count == 1 else []))
            taken[way].append(_span([store / "cells" / cell.id for cell in cells[:count]]))
            shutil.rmtree(store / "cells")
    os.sched_setaffinity(0, cores)
    best = {way: min(seconds) for way, seconds in taken.items()}
    one = min(best["threads"], best["alone"])
    what = f"four seeds of {model} side by side, {best['four'] / one:.2f} x the {one:.2f} s of one"
    return {"what": what, "seconds": best["four"], "allowed": ALLOWED_FOR_FOUR * one, "each": taken}


def packed_cells(folder: Path, count: int, epochs: int) -> list[dict[str, Any]]:
    """`count` trivial cells in one job, after one alone in another: what each takes beyond its training.

    By the clock, from the first start to the last end; and in processor time with the training included, which is what
    to look at on a machine that has other work. What starts a job is in neither.
    """
    store, path = folder / "store", folder / "packed.yaml"
    models, seeds = "[{convnet: {hidden: 4}}]", list(range(count + 1))
    path.write_text(SUITE.format(name="packed", levels=0, models=models, seeds=seeds, epochs=epochs), encoding="utf-8")
    symbench("data", "prepare", path, "--store", store)
    alone, _ = symbench("run", path, "--store", store, "--only", f"seed={count}")
    together, _ = symbench("run", path, "--store", store)
    cells = [store / "cells" / cell.id for cell in suites.load(str(path)).cells[:count]]
    trained = [json.loads((cell / "metrics.json").read_text(encoding="utf-8"))["training_seconds"] for cell in cells]
    each = (_span(cells) - sum(trained)) / count
    training = sum(trained) / count
    what = f"a packed cell beyond its training of {training:.2f} s, {count} in a job"
    with_training = {
        "what": "the same in processor time, training included",
        "seconds": (together - alone) / (count - 1),
        "allowed": ALLOWED_CELL_SECONDS + training,
    }
    return [{"what": what, "seconds": each, "allowed": ALLOWED_CELL_SECONDS}, with_training]


def _span(cells: list[Path]) -> float:
    """Seconds from the first start of one of `cells` to the last end."""
    started = min((cell / "cell.json").stat().st_mtime for cell in cells)
    return max((cell / "status.json").stat().st_mtime for cell in cells) - started


def many_cells(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """plan and status for a hundred times `seeds` cells, none of them run and then all; needs a finished cell."""
    path = folder / "many.yaml"
    levels = list(range(10))
    path.write_text(
        SUITE.format(name="many", levels=levels, models=MANY_MODELS, seeds=list(range(seeds)), epochs=2),
        encoding="utf-8",
    )
    cells = suites.load(str(path)).cells
    empty, full = folder / "empty", folder / "full"
    _fill(full, cells, next((folder / "store" / "cells").iterdir()))
    rows = []
    for store, told in ((empty, "none run"), (full, "all run")):
        for command in (("plan", path), ("plan", path, "--on", "gpu-cluster"), ("status", path)):
            words = " ".join(str(word) for word in command if word != path)
            seconds, _ = symbench(*command, "--store", store)
            what = f"{words}, {len(cells)} cells, {told}"
            rows.append({"what": what, "seconds": seconds, "allowed": ALLOWED_COMMAND_SECONDS})
    return rows


def large_board(folder: Path, widths: int) -> list[dict[str, Any]]:
    """leaderboard, report and sync for a hundred times `widths` records, five seeds a row; needs a finished cell."""
    path, store = folder / "board.yaml", folder / "board"
    models = BOARD_MODELS.format(widths=[4 * (index + 1) for index in range(widths)])
    levels, seeds = list(range(BOARD_LEVELS)), list(range(BOARD_SEEDS))
    path.write_text(SUITE.format(name="board", levels=levels, models=models, seeds=seeds, epochs=2), encoding="utf-8")
    cells = suites.load(str(path)).cells
    _fill(store, cells, next((folder / "store" / "cells").iterdir()))
    runs = len(cells) + len(cells) // BOARD_SEEDS + 1
    commands = (
        ("leaderboard", LEADERBOARD_SECONDS, ("leaderboard", path)),
        ("leaderboard --html", REPORT_SECONDS, ("leaderboard", path, "--html", folder / "board.html")),
        ("first sync", runs / RUNS_PER_SECOND, ("sync", path)),
        ("sync with nothing new", SYNC_SECONDS, ("sync", path)),
    )
    return [
        {
            "what": f"{what}, {len(cells)} records",
            "seconds": symbench(*command, "--store", store)[0],
            "allowed": allowed,
        }
        for what, allowed, command in commands
    ]


def _fill(store: Path, cells: Sequence[Cell], finished: Path) -> None:
    """Copy the record in the folder `finished` for each of `cells`, all numbers of one scaled by the same factor."""
    draw = random.Random(0)
    metrics = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))

    def scaled(value: Any, factor: float) -> Any:
        if isinstance(value, list):
            return [scaled(one, factor) for one in value]
        return value * factor if isinstance(value, float) else value

    for cell in cells:
        record, factor = store / "cells" / cell.id, draw.lognormvariate(0, 0.1)
        record.mkdir(parents=True)
        for name in RECORD:
            shutil.copyfile(finished / name, record / name)
        document = {"id": cell.id, **cell.model_dump(mode="json")}
        (record / "cell.json").write_text(json.dumps(document), encoding="utf-8")
        (record / "metrics.json").write_text(json.dumps(scaled(metrics, factor)), encoding="utf-8")


@click.command(help=__doc__)
@click.option("--cells", default=20, type=click.IntRange(min=2), show_default=True, help="Trivial cells in one job.")
@click.option("--epochs", default=2, show_default=True)
@click.option("--seeds", default=100, show_default=True, help="A hundred cells each for the commands.")
@click.option("--repeats", default=3, show_default=True, help="Of the four seeds, of which the best counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(cells: int, epochs: int, seeds: int, repeats: int, as_json: bool) -> None:
    """See above. What it is doing goes to stderr, the table to stdout."""
    with tempfile.TemporaryDirectory() as name:
        rows = []
        for model in SMALL_MODELS:
            click.echo(f"four seeds of {model} ...", err=True)
            rows.append(four_seeds(Path(name), model, SEED_EPOCHS, repeats))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # threads that wait would count as processor time
        click.echo(f"{cells} cells in one job ...", err=True)
        rows += packed_cells(Path(name), cells, epochs)
        click.echo(f"plan and status of {100 * seeds} cells ...", err=True)
        rows += many_cells(Path(name), seeds)
        click.echo(f"leaderboard, report and sync of {100 * seeds} records ...", err=True)
        rows += large_board(Path(name), seeds)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("what", "seconds", "allowed", "beyond")
    for row in rows:
        beyond = "yes" if row["seconds"] > row["allowed"] else ""
        table.add_row(row["what"], f"{row['seconds']:.2f}", f"{row['allowed']:.2f}", beyond)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
