"""The command that counts what is left of a suite, and what it will cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import (
    Selection,
    budget_option,
    json_option,
    name_broken,
    only_option,
    selecting,
    site_of,
    site_option,
    suite_argument,
    tuned_option,
)
from benchmark.terminal import Examples, duration, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmark.cell import Cell
    from benchmark.planning.plan import Plan
    from benchmark.suite.suite import Suite
    from cluster.jobs.packing import Shape
    from cluster.site import Site
    from results.store.record import Record
    from results.store.store import Store


@click.command(cls=Examples, epilog="symbench plan quickstart\nsymbench plan my-suite.yaml --on my-site.yaml --json")
@selecting(suite_argument, only_option, tuned_option)
@site_option
@budget_option
@click.option("--probe", is_flag=True, help="Time a few steps of each kind of cell first, and keep what that says.")
@click.option("--patience", default=600, show_default=True, help="Seconds to wait for the probe's job on a cluster.")
@json_option
def plan(selection: Selection, site: str, hours: float | None, probe: bool, patience: int, as_json: bool) -> None:
    """Count the cells of SUITE, what is done, and what the rest will cost, here or on a cluster.

    Estimates come from finished cells of the same kind, from a probe, or from FLOPs. Only --probe changes anything.
    """
    from benchmark.planning.plan import left_of, make_plan
    from cluster.slurm import estimates
    from cluster.slurm.work import affordable

    place, store = site_of(site, hours), selection.store
    loaded, whole = selection.load_with_whole()
    statuses, broken = store.statuses(loaded.cells)
    name_broken(broken)
    states = {key: status.state for key, status in statuses.items()}
    records = estimates.siblings(loaded, states, store)
    if probe:
        _probe(whole, left_of(loaded, states), records, store, place, patience)
    if place is not None and hours is not None:
        loaded = affordable(loaded, store, place, hours)
    open_cells = left_of(loaded, states)
    shape = None
    if place is None:
        expected, shape = estimates.here(whole, open_cells, records, store)
    else:
        expected = estimates.on_site(loaded, open_cells, records, place, store)
    result = make_plan(loaded, open_cells, expected)
    seconds = {key: estimate.seconds for key, estimate in expected.items()}
    if place is not None:
        cost, told = _cost_there(loaded, result, seconds, place)
    else:
        cost, told = _cost_here(result, seconds, shape)
    rows = [vars(row) | {"estimated_seconds": round(row.estimated_seconds, 2)} for row in result.rows]
    total, left = len(loaded.cells), len(result.left)
    if as_json:
        counts = {"suite": loaded.name, "cells": total, "finished": total - left, "left": left}
        print_json({**counts, "estimated_seconds": round(result.estimated_seconds, 2), **cost, "rows": rows})
        return
    print_table(loaded.name, rows)
    click.echo(f"{total} cells: {total - left} finished, {left} left, about {told}")


def _cost_here(result: Plan, seconds: Mapping[str, float], shape: Shape | None) -> tuple[dict[str, Any], str]:
    """Fields and text; `shape` is None where this machine cannot run the cells."""
    if shape is None:
        return {}, duration(result.estimated_seconds)
    took, at_once = shape.job_seconds(result.left, seconds), min(shape.lanes, len(result.left))
    told = f"{duration(took)} with {at_once} at once" if at_once > 1 else duration(took)
    return {"at_once": at_once, "wall_seconds": round(took, 2)}, told


def _cost_there(suite: Suite, result: Plan, seconds: Mapping[str, float], site: Site) -> tuple[dict[str, Any], str]:
    from cluster.slurm.submit import Cost, batches

    cost = Cost.of(batches(suite, result.left, seconds, site), seconds, site)
    fields = {
        "jobs": cost.jobs,
        "longest_job_seconds": round(cost.longest_seconds, 2),
        "gpu_hours": round(cost.gpu_hours, 3),
        "rank_hours": round(cost.rank_hours, 3),
    }
    return fields, f"{duration(result.estimated_seconds)} in all; {cost}"


def _probe(
    suite: Suite,
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    store: Store,
    site: Site | None,
    patience: int,
) -> None:
    """Measure what no finished cell tells; what was measured before is not measured again."""
    from benchmark.planning.plan import unmeasured
    from cluster.jobs.launch import shape_here
    from cluster.jobs.packing import require_precision, shapes
    from cluster.slurm import estimates
    from cluster.slurm import probes as pacing

    def say(line: str) -> None:
        click.echo(line, err=True)

    if site is None:
        shape = shape_here(suite, store)
        require_precision(cells, shape.device)
        wanted = unmeasured(cells, estimates.timings(records.values(), shape))
        store.make()
        pacing.probe_here(wanted, store, shape, say)
        return
    on_site = estimates.trained_shape(shapes(suite, cells, site))
    if on_site is not None:
        wanted = unmeasured(cells, estimates.timings(records.values(), on_site))
        pacing.probe_on_site(wanted, store, site, on_site, patience, say)
