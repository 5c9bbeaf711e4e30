"""Estimated training times of cells: from finished cells of the same kind, from a probe, or from FLOPs."""

from collections.abc import Iterable, Mapping, Sequence

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.planning.plan import (
    Estimate,
    Speed,
    StepTimingOf,
    Timing,
    estimates,
    flops_per_second,
    open_cells_of,
    siblings_of,
)
from benchmark.suite.facts import is_trained
from benchmark.suite.suite import Suite
from cluster.jobs.capacity import shape_here, threads_of
from cluster.jobs.packing import GFLOPS, Shape, shapes
from cluster.site import Site
from cluster.slurm.probe_results import ProbeResults
from results.store.record import Record
from results.store.store import Store

Records = Mapping[str, Record]
Estimates = dict[str, Estimate]
SIBLINGS = 5
"""Number of finished cells of a kind that an estimate uses."""


def on_site(suite: Suite, cells: Sequence[Cell], records: Records, site: Site, store: Store) -> Estimates:
    """Estimates by cell id for the ranks that cells have on `site`. Raises UserError if it cannot run a cell."""
    by_shape = shapes(suite, cells, site)
    shape_of = {cell.id: shape for shape, members in by_shape.items() for cell in members}
    speed: Speed = lambda cell: 1e9 * (site.gflops or GFLOPS[shape_of[cell.id].device]) * shape_of[cell.id].ranks  # noqa: E731
    trained = trained_shape(by_shape)
    step_timing_of: StepTimingOf = lambda cell: None  # noqa: E731
    if trained is not None and (store.root / "step_timings").is_dir():  # otherwise SLURM need not be asked
        step_timing_of = ProbeResults.on_site(store, site, trained).read
    return estimates(cells, timings(records.values(), trained), speed, step_timing_of)


def siblings(suite: Suite, states: Mapping[str, str], store: Store) -> dict[str, Record]:
    """Records for estimates of the unfinished cells: a few of each kind. `states` are by cell id."""
    done = (cell for cell in suite.cells if states.get(cell.id) == "done")
    return store.read(siblings_of(open_cells_of(suite, states), done, SIBLINGS))[0]


def here(suite: Suite, cells: Sequence[Cell], records: Records, store: Store) -> tuple[Estimates, Shape | None]:
    """Estimates by cell id on this machine for `cells`, a selection from `suite`; and the shape of cells here.

    If this machine cannot run them, the shape is None and finished cells of any machine count.
    """
    try:
        shape = shape_here(suite, store)
    except MachineError:
        return estimates(cells, timings(records.values(), None)), None
    speed: Speed = lambda cell: shape.ranks * flops_per_second(threads_of(shape))  # noqa: E731
    return estimates(cells, timings(records.values(), shape), speed, ProbeResults.here(store, shape).read), shape


def trained_shape(by_shape: Mapping[Shape, Sequence[Cell]]) -> Shape | None:
    """Shape of the trained cells, None if there are none."""
    return next((shape for shape, cells in by_shape.items() if any(map(is_trained, cells))), None)


def timings(records: Iterable[Record], shape: Shape | None) -> list[Timing]:
    """Training times of finished cells; of trained ones, only those with the device and number of ranks of `shape`."""
    return [
        Timing(
            record.cell,
            record.metrics["training_seconds"],
            alike=shape is None or record.environment.get("lanes", 1) == shape.lanes,
        )
        for record in records
        if record.status.state == "done" and (shape is None or _ran_like(record, shape))
    ]


def _ran_like(record: Record, shape: Shape) -> bool:
    if not is_trained(record.cell):
        return True
    ran = record.environment
    return (ran.get("device_type"), ran.get("world_size")) == (shape.device, shape.ranks)
