"""Cost of symbench beside the training: `python -m benchmark.bench.overhead`.

Measured on one core: small cells that share a job, compared with the sum of their trainings; and the commands that read
the store, in processor time, which other work on the machine affects less than the clock. The bench calls the command
line, on a temporary store. The many records are copies of one, with numbers scaled at random.
"""

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

from benchmark.bench.harness import Row, formatted, json_option, report
from benchmark.cell import Cell
from benchmark.suite import loading as suites

CELL_SECONDS, PLAN_SECONDS = 0.5, 3.0
READ_SECONDS, PLAN_SUITE_SECONDS = 1.0, 2.0
LEADERBOARD_SECONDS, REPORT_SECONDS, SYNC_SECONDS, RUNS_PER_SECOND = 5.0, 20.0, 5.0, 15.0
SYMBENCH = Path(sys.executable).with_name("symbench")
SUITE = """\
name: {name}
protocol: {{name: disjoint, input_frames: 1, train_steps: 2, test_steps: 4}}
datasets: [{{smoke_rotation_levels: {{level: {levels}, preset: small}}}}]
models: {models}
seeds: {seeds}
train: {{epochs: 2, batch_size: 8}}
"""
FEW_MODELS = (
    "convnet: {hidden: [4, 8]}",
    "coordconv: {hidden: [4, 8]}",
    "e2cnn: {hidden: [2, 4]}",
    "relaxed_steerable_rotation: {hidden: 2, penalty: [0, 1e-4]}",
    "rpp_rotation: {hidden: [2, 4]}",
)
MANY_MODELS = (
    "convnet: {hidden: WIDTHS}",
    "e2cnn: {hidden: WIDTHS, order: 4}",
    "relaxed_steerable_rotation: {hidden: WIDTHS, penalty: [0, 1e-4]}",
)
PLANS = ("plan", "plan --on gpu-cluster")


def symbench(folder: Path, command: str) -> float:
    """Processor seconds of a command in `folder`. Raises CalledProcessError if it fails."""
    return _processor_seconds(folder, [str(SYMBENCH), *command.split()])


def _processor_seconds(folder: Path, command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def packed_cells(folder: Path, count: int) -> list[Row]:
    """Time of each of `count` small cells in one job, less its training; one more cell runs in a job before.

    Wall time from the end of the first to the end of the last, and processor time with the training included, which
    serves on a machine that has other work. The start of a job is in neither.
    """
    cells = _write_suite(folder / "packed.yaml", range(1), ["convnet: {hidden: 4}"], range(count + 1))[:count]
    symbench(folder, "data prepare packed.yaml --store packed")
    alone = symbench(folder, f"run packed.yaml --store packed --only seed={count}")
    together = symbench(folder, "run packed.yaml --store packed")
    records = [_read(folder / "packed" / "cells" / cell.id) for cell in cells]
    training = sum(one["metrics"]["training_seconds"] for one in records) / count
    ended = [one["status"]["heartbeat"] for one in records]
    beside = f"a packed cell beside its training of {training:.2f} s, {count} in a job"
    return [
        _row(beside, (max(ended) - min(ended)) / (count - 1) - training, CELL_SECONDS),
        _row("processor time with training", (together - alone) / (count - 1), CELL_SECONDS + training),
    ]


def _read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return record


def _row(what: str, seconds: float, allowed: float) -> Row:
    return {"what": what, "seconds": seconds, "allowed": allowed, "beyond": "yes" if seconds > allowed else ""}


def quick_commands(folder: Path, repeats: int = 3) -> list[Row]:
    """Processor time of commands that should answer at once, beside an empty start of Python; the best of `repeats`.

    Some read the store of `packed_cells`. A start of Python, and each command, are measured in turn.
    """
    cell = next((folder / "packed" / "cells").iterdir()).name
    reading = ("status packed.yaml", "leaderboard packed.yaml", "compare packed packed --suite packed.yaml")
    lists = ("list", *(f"list {section}" for section in ("models", "datasets", "suites", "sites")))
    allowed = {
        **dict.fromkeys((*lists, *(f"{command} --store packed" for command in reading)), READ_SECONDS),
        f"logs {cell} --store packed": READ_SECONDS,
        **{f"plan {suite} --store empty": PLAN_SUITE_SECONDS for suite in suites.available()},
    }
    seconds: dict[str, list[float]] = {command: [] for command in allowed}
    empty = []
    for _ in range(repeats):
        empty.append(_processor_seconds(folder, [sys.executable, "-c", ""]))
        for command, taken in seconds.items():
            taken.append(symbench(folder, command))
    start = min(empty)
    return [
        _row(f"{command}: {min(taken) / start:.0f} x an empty start of Python", min(taken), allowed[command])
        for command, taken in seconds.items()
    ]


def many_cells(folder: Path, hundreds: int) -> list[Row]:
    """Processor time of the commands that read 100 x `hundreds` cells, copies of a record of `packed_cells`.

    The suite `seeds` has few models and many seeds, the suite `board` has many models, five seeds each. The first line
    is an empty start of Python with torch.
    """
    start = _processor_seconds(folder, [sys.executable, "-c", "import torch"])
    record = next((folder / "packed" / "cells").iterdir())
    _fill(folder / "seeds", _write_suite(folder / "seeds.yaml", range(10), FEW_MODELS, range(hundreds)), record)
    widths = str([4 * (index + 1) for index in range(hundreds)])
    models = [model.replace("WIDTHS", widths) for model in MANY_MODELS]
    cells = _write_suite(folder / "board.yaml", range(5), models, range(5))
    _fill(folder / "board", cells, record)
    runs = len(cells) + len(cells) // 5 + 1
    allowed_seconds = [
        *((f"{plan} seeds.yaml --store {store}", PLAN_SECONDS) for store in ("empty", "seeds") for plan in PLANS),
        ("status seeds.yaml --store seeds", PLAN_SECONDS),
        ("leaderboard board.yaml --store board", LEADERBOARD_SECONDS),
        ("leaderboard board.yaml --store board --html board.html", REPORT_SECONDS),
        ("sync board.yaml --store board", runs / RUNS_PER_SECOND),
        ("sync board.yaml --store board", SYNC_SECONDS),
    ]
    rows = [_row(command, symbench(folder, command), allowed) for command, allowed in allowed_seconds]
    return [_row("python -c 'import torch'", start, PLAN_SECONDS), *rows]


def _write_suite(path: Path, levels: range, models: Sequence[str], seeds: range) -> Sequence[Cell]:
    """Cells of a new suite at `path`; `models` are YAML."""
    text = SUITE.format(name=path.stem, levels=list(levels), models=f"[{{{'}, {'.join(models)}}}]", seeds=list(seeds))
    path.write_text(text, encoding="utf-8")
    return suites.load(str(path)).cells


def _fill(store: Path, cells: Sequence[Cell], finished: Path) -> None:
    """Copy the record `finished` for each of `cells`; all numbers of a copy are scaled by the same random factor."""
    draw = random.Random(0)
    finished_record = _read(finished)

    def scaled(value: Any, factor: float) -> Any:
        if isinstance(value, list):
            return [scaled(one, factor) for one in value]
        return value * factor if isinstance(value, float) else value

    for cell in cells:
        record, factor = store / "cells" / cell.id, draw.lognormvariate(0, 0.1)
        record.mkdir(parents=True)
        shutil.copyfile(finished / "history.jsonl", record / "history.jsonl")
        numbers = {name: scaled(value, factor) for name, value in finished_record["metrics"].items()}
        own = {"cell": {"id": cell.id, **cell.model_dump(mode="json")}, "metrics": numbers}
        (record / "record.json").write_text(json.dumps(finished_record | own), encoding="utf-8")


@click.command(help=__doc__)
@click.option("--cells", default=20, type=click.IntRange(min=2), show_default=True, help="Small cells in one job.")
@click.option("--hundreds", default=100, show_default=True, help="Hundreds of cells for the commands that read them.")
@json_option
def main(cells: int, hundreds: int, json_file: Path | None) -> None:
    """Measure the overhead; the module's docstring is the help text."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # threads that wait would count as processor time
        click.echo(f"{cells} cells in one job ...", err=True)
        rows = packed_cells(folder, cells)
        click.echo("commands that answer at once ...", err=True)
        rows += quick_commands(folder)
        click.echo(f"commands that read {100 * hundreds} cells ...", err=True)
        rows += many_cells(folder, hundreds)
    report(formatted(rows), rows, json_file, cells=cells, hundreds=hundreds)


if __name__ == "__main__":
    main()
