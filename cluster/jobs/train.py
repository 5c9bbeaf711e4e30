"""Training of one cell from Python, as `symbench run` does it."""

from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.suite.suite import Resources, Suite
from cluster.jobs.display import Display
from cluster.jobs.launch import run
from results.store.store import Store


def train(cell: Cell, store: str | Path = "runs", resources: Resources | None = None) -> dict[str, Any]:
    """Train and test `cell` in processes of this machine, and return its metrics by name.

    A cell that the store has finished is not trained again. UserError: its data are not there (`symbench data
    prepare`). MachineError: the training failed or diverged, or another process runs it.
    """
    place = Store(Path(store))
    suite = Suite("python", Path("python.yaml"), (cell,), resources or Resources())
    with Display(Console(stderr=True)) as display:
        run(suite, place, display, suite)
    record = place.read((cell,))[0][cell.id]
    if record.status.state != "done":
        raise MachineError(f"{cell}: {record.status.state}: {record.status.message}")
    return dict(record.metrics)
