"""What a launch on a cluster would send: cells that are no result and that no job has in hand, divided into jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.cell import Cell
from benchmark.data.layout import require_data
from benchmark.errors import UserError
from benchmark.suite.suite import Suite
from cluster.jobs import failures
from cluster.jobs.packing import shapes, within
from cluster.site import Site
from cluster.slurm import estimates
from cluster.slurm.submissions import Submission, in_hand
from cluster.slurm.submit import Batch, batches
from results.store.store import Store


@dataclass(frozen=True)
class Work:
    """What a launch would send: `left` are the cells of `batches`; those that earlier jobs have in hand are not."""

    left: tuple[Cell, ...]
    batches: tuple[Batch, ...]
    finished: int
    elsewhere: int
    """Cells that earlier jobs have in hand."""
    seconds: Mapping[str, float]


def affordable(suite: Suite, store: Store, site: Site, hours: float) -> Suite:
    """`suite` without the open cells that `hours` of all GPUs together, or of all ranks on CPUs, do not pay for.

    Results cost nothing.
    """
    records, _ = store.read(suite.cells)
    left = [cell for cell in suite.cells if not (cell.id in records and records[cell.id].status.is_result)]
    seconds = estimates.seconds_on(suite, left, records, site, store)
    cost = {
        cell.id: seconds[cell.id] * shape.units(site) / shape.lanes
        for shape, members in shapes(suite, left, site).items()
        for cell in members
    }
    paid = {cell.id for cell in within(left, cost, 3600 * hours)}
    if not any(cost[cell_id] for cell_id in paid) and any(cost.values()):
        whole = sum(cost.values()) / 3600
        raise UserError(f"--budget: {hours:g} h do not pay for one seed of all models; the suite takes {whole:.3g} h")
    open_ids = {cell.id for cell in left}
    return replace(suite, cells=tuple(cell for cell in suite.cells if cell.id in paid or cell.id not in open_ids))


def work_for(suite: Suite, store: Store, site: Site, only: Iterable[str] | None = None) -> Work:
    """The cells of `suite` (of `only`, by id) that are not a result and that no job has in hand, divided into jobs.

    MachineError: data are missing. UserError: the site cannot run them.
    """
    records, _ = store.read(suite.cells)
    finished = {key for key, record in records.items() if record.status.is_result}
    sent = in_hand(store, Submission)
    wanted = set(only) if only is not None else {cell.id for cell in suite.cells}
    open_cells = [cell for cell in suite.cells if cell.id not in finished and cell.id in wanted]
    left = [cell for cell in open_cells if cell.id not in sent and not store.being_run(cell)]
    require_data(store.data_folder, left)
    seconds = estimates.seconds_on(suite, left, records, site, store)
    require_that_they_end(left, seconds, site)
    return Work(
        tuple(left), tuple(batches(suite, left, seconds, site)), len(finished), len(open_cells) - len(left), seconds
    )


def require_that_they_end(cells: Sequence[Cell], seconds: Mapping[str, float], site: Site) -> None:
    """UserError where a cell takes longer than its job and all retries of it last."""
    times = failures.POLICIES["time_limit"].retries + 1
    for cell in cells:
        if seconds[cell.id] > 60 * site.minutes * times:
            raise UserError(
                f"{cell}: about {seconds[cell.id] / 3600:.0f} h, and a job has {site.minutes} minutes {times} times; "
                "ask for more ranks or fewer epochs, or for a longer limit in the site file"
            )
