"""Cells that a launch on a cluster has to send, divided into jobs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.cell import Cell
from benchmark.data.layout import require_data
from benchmark.errors import UserError
from benchmark.suite.suite import Suite
from cluster.jobs import policies
from cluster.jobs.packing import affordable_cells, shapes
from cluster.site import Site
from cluster.slurm import estimates
from cluster.slurm.submissions import Submission, queued_ids
from cluster.slurm.submit import Batch, batches
from results.store.store import Store


@dataclass(frozen=True)
class Work:
    """Cells to send, and the jobs that run them."""

    cells: tuple[Cell, ...]
    batches: tuple[Batch, ...]
    finished: int
    queued: int
    """Number of unfinished cells that earlier jobs run."""
    seconds: Mapping[str, float]
    """Estimated training time by cell id."""


def affordable(suite: Suite, store: Store, site: Site, hours: float) -> Suite:
    """The part of `suite` that fits into a budget of `hours`: GPU-hours, or rank-hours on a site without GPUs.

    Finished cells cost nothing and stay. Raises UserError if the budget does not pay for one seed of all models.
    """
    records, _ = store.read(suite.cells)
    unfinished = [cell for cell in suite.cells if not (cell.id in records and records[cell.id].status.is_result)]
    times = estimates.on_site(suite, unfinished, records, site, store)
    cost = {
        cell.id: times[cell.id].seconds * shape.units(site) / shape.lanes
        for shape, members in shapes(suite, unfinished, site).items()
        for cell in members
    }
    chosen = {cell.id for cell in affordable_cells(unfinished, cost, 3600 * hours)}
    if not any(cost[cell_id] for cell_id in chosen) and any(cost.values()):
        total = sum(cost.values()) / 3600
        raise UserError(f"--budget: {hours:g} h do not pay for one seed of all models; the suite takes {total:.3g} h")
    return replace(suite, cells=tuple(cell for cell in suite.cells if cell.id in chosen or cell.id not in cost))


def work_for(
    suite: Suite,
    store: Store,
    site: Site,
    only: Iterable[str] | None = None,
    alone: Collection[str] = (),
    collector: str | None = None,
) -> Work:
    """Unfinished cells of `suite` (or of the ids in `only`) that no job runs or will run, divided into jobs.

    A cell whose id is in `alone` has a job to itself. `collector` is the collecting job that asks.

    Raises MachineError if data are missing, and UserError if the site cannot run the cells.
    """
    records, _ = store.read(suite.cells)
    finished = {key for key, record in records.items() if record.status.is_result}
    queued = queued_ids(store, Submission, collector)
    wanted = set(only) if only is not None else {cell.id for cell in suite.cells}
    unfinished = [cell for cell in suite.cells if cell.id not in finished and cell.id in wanted]
    cells = tuple(cell for cell in unfinished if cell.id not in queued and not store.being_run(cell))
    require_data(store.data_folder, cells)
    times = estimates.on_site(suite, cells, records, site, store)
    seconds = {key: time.seconds for key, time in times.items()}
    require_enough_time(suite, cells, seconds, site)
    jobs = tuple(batches(suite, cells, seconds, site, alone))
    return Work(cells, jobs, len(finished), len(unfinished) - len(cells), seconds)


def require_enough_time(suite: Suite, cells: Sequence[Cell], seconds: Mapping[str, float], site: Site) -> None:
    """Raise UserError if a cell takes longer than its job with all requeues at the time limit."""
    times = policies.POLICIES["time_limit"].retries + 1
    for cell in cells:
        minutes = suite.resources_of(cell).minutes or site.minutes
        if seconds[cell.id] > 60 * minutes * times:
            raise UserError(
                f"{cell}: about {seconds[cell.id] / 3600:.0f} h, and a job has {minutes} minutes {times} times; ask for"
                " more ranks or fewer epochs, or for a longer limit in the site file or in `resources` of the model"
            )
