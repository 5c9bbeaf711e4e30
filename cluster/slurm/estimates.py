"""Estimated training times of cells: from finished cells of the same kind, from a probe, or from FLOPs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.planning.plan import (
    Estimate,
    StepTimingOf,
    Timing,
    estimates,
    flops_per_second,
    open_cells_of,
    siblings_of,
)
from benchmark.suite.facts import is_trained
from benchmark.suite.suite import Suite
from cluster.jobs.capacity import shapes_here, threads_of
from cluster.jobs.packing import Shape, shapes
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
    expected: Estimates = {}
    for shape, members in shapes(suite, cells, site).items():
        speed = partial(float, 1e9 * shape.gflops(site))
        step_timing_of: StepTimingOf = lambda cell: None  # noqa: E731
        if any(map(is_trained, members)) and (store.root / "step_timings").is_dir():  # else SLURM need not be asked
            step_timing_of = ProbeResults.on_site(store, site, shape).read
        expected |= estimates(members, timings(records.values(), shape), speed, step_timing_of)
    return expected


def siblings(suite: Suite, states: Mapping[str, str], store: Store) -> dict[str, Record]:
    """Records for estimates of the unfinished cells: a few of each kind. `states` are by cell id."""
    done = (cell for cell in suite.cells if states.get(cell.id) == "done")
    return store.read(siblings_of(open_cells_of(suite, states), done, SIBLINGS))[0]


def here(
    suite: Suite, cells: Sequence[Cell], records: Records, store: Store
) -> tuple[Estimates, list[tuple[Shape, Sequence[Cell]]] | None]:
    """Estimates by cell id on this machine for `cells`, a selection from `suite`; and the cells of each shape here.

    If this machine cannot run them, the shapes are None and finished cells of any machine count.
    """
    try:
        shapes_of = shapes_here(suite, store)
    except MachineError:
        return estimates(cells, timings(records.values(), None)), None
    expected: Estimates = {}
    parts = replace(suite, cells=tuple(cells)).by_resources()
    for resources, part in parts.items():
        shape = shapes_of[resources]
        known, probed = timings(records.values(), shape), ProbeResults.here(store, shape).read
        expected |= estimates(part.cells, known, partial(_speed_here, shape), probed)
    return expected, [(shapes_of[resources], part.cells) for resources, part in parts.items()]


def _speed_here(shape: Shape) -> float:
    return shape.ranks * flops_per_second(threads_of(shape))


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
