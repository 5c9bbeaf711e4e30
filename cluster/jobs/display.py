"""Progress of a launch: a bar with the running cells on a terminal, one line for each finished cell in a log."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from benchmark.cell import Cell
from benchmark.suite.labels import labels_of
from benchmark.terminal import one_line
from results.store.record import Record

MAX_LINES = 8
"""Maximum number of running cells shown, since a terminal may have few lines."""


class Display(Progress):
    """Progress of one launch. Each finished cell is announced once."""

    def __init__(self, console: Console) -> None:
        self.names: dict[str, str] = {}
        """Id -> name of a cell, which tells two settings of one model apart."""
        self.running_cells: list[str] = []
        self.announced: set[str] = set()
        self.failures: dict[str, str] = {}
        """Message of a failure -> cell that it was shown for."""
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self.bar = self.add_task("", total=None)

    def stop(self) -> None:
        self.running_cells = []
        super().stop()

    def begin(self, cells: Sequence[Cell], records: Mapping[str, Record]) -> None:
        """Show the suite's cells; `records` has the finished ones."""
        self.announced = {key for key, record in records.items() if record.status.is_result}
        self.names = {cell.id: cell.named(label) for cell, label in zip(cells, labels_of(cells).values(), strict=True)}
        self.running_cells = ["starting"]
        self.update(self.bar, total=len(cells), completed=len(self.announced))

    def show(self, records: Mapping[str, Record]) -> None:
        """Show the records of cells that began since the launch."""
        if not records:
            return
        running = [record for record in records.values() if record.status.state == "running"]
        self.running_cells = [f"{self.names[record.cell.id]}: {_epoch(record)}" for record in running]
        for key, record in records.items():
            if record.status.state != "running" and key not in self.announced:
                self.announced.add(key)
                self.update(self.bar, completed=len(self.announced))
                count = "" if self.console.is_terminal else f"{len(self.announced)}/{len(self.names)} "
                name = escape(self.names[record.cell.id])
                self.console.print(f"{count}{name}: {self._ending(record)}", highlight=False, soft_wrap=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from map(Text, self.running_cells[:MAX_LINES])
        if len(self.running_cells) > MAX_LINES:
            yield Text(f"and {len(self.running_cells) - MAX_LINES} more")

    def _ending(self, record: Record) -> str:
        status, metrics, name = record.status, record.metrics, self.names[record.cell.id]
        if status.state == "done":
            return f"RMSE future {metrics['rmse_future']:.3f}, domain {metrics['rmse_domain']:.3f}"
        message = one_line(status.message)
        if status.state != "failed":
            return f"[yellow]{status.state}[/]: {escape(message)}"
        first = self.failures.setdefault(message, name)
        return f"[red]failed[/] ({escape(status.failure)}): {escape(message if first == name else f'as {first}')}"


def _epoch(record: Record) -> str:
    status = record.status
    if not record.history:
        return "starting"
    return f"epoch {status.epoch}/{status.epochs}, validation RMSE {record.history[-1].validation_rmse:.3f}"
