"""What a large store costs to read: `python -m results.bench [--records N]`.

Writes made-up records into a temporary store, and measures the commands as a person runs them, each in a process of
its own: wall and CPU seconds beside what is allowed. The numbers in the records mean nothing and stay in that folder.
"""

from __future__ import annotations

import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmark import suites
from benchmark.cell import Cell
from benchmark.recorder import Epoch, Status

from .store import Store

LEVELS, SEEDS, EPOCHS, RUNS, WAVES = 5, 5, 40, 8, 32
LEADERBOARD_SECONDS, REPORT_SECONDS, SYNC_SECONDS, RUNS_PER_SECOND = 5.0, 20.0, 5.0, 15.0
SUITE = """\
name: bench
protocol: {{name: disjoint, input_frames: 2, train_steps: 4, test_steps: 6}}
datasets:
  - smoke_rotation_levels: {{level: {levels}, preset: small}}
models:
  - convnet: {{hidden: {widths}}}
  - e2cnn: {{hidden: {widths}, order: 4}}
  - relaxed_steerable_rotation: {{hidden: {widths}, penalty: [0, 1.0e-4]}}
seeds: {seeds}
train: {{epochs: 40, batch_size: 4}}
"""


@dataclass(frozen=True)
class Cost:
    """Of one command."""

    name: str
    wall: float
    cpu: float
    allowed: float


@click.command()
@click.option("--records", default=10_000, show_default=True, help="How many, at least.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder to keep the store in.")
def main(records: int, keep: Path | None) -> None:
    """Measure leaderboard, report and sync over made-up records."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        suite, cells = _fill(folder, records)
        costs = [
            _measured("leaderboard", LEADERBOARD_SECONDS, "leaderboard", suite, folder),
            _measured("leaderboard --html", REPORT_SECONDS, "leaderboard", suite, folder, "--html", folder / "b.html"),
            _measured("first sync", math.nan, "sync", suite, folder),
            _measured("sync with nothing new", SYNC_SECONDS, "sync", suite, folder),
        ]
        runs = json.loads(next((folder / "mlflow").glob("*.json")).read_text())["runs"]
    table = Table("command", "wall s", "CPU s", "allowed s", title=f"{cells} records, {len(runs)} runs in MLflow")
    for cost in costs:
        allowed = f"{len(runs) / RUNS_PER_SECOND:.1f}" if math.isnan(cost.allowed) else f"{cost.allowed:.1f}"
        table.add_row(cost.name, f"{cost.wall:.1f}", f"{cost.cpu:.1f}", allowed)
    console = Console()
    console.print(table)
    first = costs[2]
    console.print(
        f"first sync: {len(runs) / first.wall:.1f} runs/s, {len(runs) / first.cpu:.1f} per CPU second"
        f" ({RUNS_PER_SECOND:.0f} asked for)"
    )


def _measured(name: str, allowed: float, command: str, suite: Path, store: Path, *arguments: object) -> Cost:
    argv = [Path(sys.executable).with_name("symbench"), command, suite, "--store", store, *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(list(map(str, argv)), stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(name, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, allowed)


def _fill(folder: Path, records: int) -> tuple[Path, int]:
    """A suite file and a record for each of its cells; the number of cells."""
    each = 4 * LEVELS * SEEDS
    widths = [4 * (index + 1) for index in range(math.ceil(records / each))]
    path = folder / "bench.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SUITE.format(levels=list(range(LEVELS)), widths=widths, seeds=list(range(SEEDS))), encoding="utf-8")
    suite, store, draw = suites.load(str(path)), Store(folder), random.Random(0)
    for number, cell in enumerate(suite.cells):
        _write(store, cell, number, draw)
    return path, len(suite.cells)


def _write(store: Store, cell: Cell, number: int, draw: random.Random) -> None:
    """Plain writes: the recorder would wait for the disk fifty thousand times."""
    folder = store.cell_folder(cell.id)
    folder.mkdir(parents=True)
    broken = 0.05 * float(cell.dataset.level)
    error = 0.2 + broken * draw.random() + 0.01 * draw.gauss(0, 1)
    by_step = [error * (0.5 + step / 6) for step in range(6)]
    by_run = [error * (0.8 + 0.4 * draw.random()) for _ in range(RUNS)]
    spectrum = [error / wave**3 for wave in range(1, WAVES + 1)]
    history = [
        Epoch(e, 1 / (e + 1), 0.5 / (e + 1), error * (0.9 + 1 / (e + 1)), 1e-3 * 0.95**e, 2.0) for e in range(EPOCHS)
    ]
    metrics = {
        **{name: error * (1 + 0.1 * draw.random()) for name in ("rmse_validation", "rmse_future", "rmse_domain")},
        **{"vrmse_future": 2 * error, "vrmse_domain": 2 * error},
        **{"rmse_future_by_step": by_step, "rmse_domain_by_step": by_step},
        **{f"rmse_{split}_by_run": by_run for split in ("future", "domain")},
        **{f"spectrum_{whose}{split}": spectrum for whose in ("", "truth_") for split in ("future", "domain")},
        **{f"spectrum_error_{split}": broken for split in ("future", "domain")},
        **{f"divergence_{whose}{split}": 0.01 + error for whose in ("", "truth_") for split in ("future", "domain")},
        **{"model_equivariance_error": broken / 2 + 1e-7, "model_equivariance_error_relative": broken + 1e-7},
        **{"data_equivariance_error": broken, "data_equivariance_error_relative": 2 * broken},
        **{"parameters": 1000 * number, "flops": 10**6 * number, "samples_per_second": 400.0},
        **{"peak_memory_bytes": 2**30, "training_seconds": 80.0, "epochs": EPOCHS, "best_epoch": EPOCHS - 2},
    }
    environment = {
        **{"symbench": "0.1.0", "git_commit": "0" * 40, "git_dirty": False, "python": "3.11", "torch": "2.13.0"},
        **{"host": "nowhere", "device": "none", "device_type": "cpu", "world_size": 1, "threads": 1},
        **{"data_file": f"level-{cell.dataset.level}.h5", "data_checksum": f"{hash(cell.dataset.level):064x}"},
    }
    status = Status("done", epoch=EPOCHS, epochs=EPOCHS, heartbeat=1.7e9 + 100 * number, host="nowhere")
    documents = {
        "cell.json": {"id": cell.id, **cell.model_dump(mode="json")},
        "metrics.json": metrics,
        "environment.json": environment,
        "status.json": status.to_json(),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1), encoding="utf-8")
    lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)
    (folder / "history.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
