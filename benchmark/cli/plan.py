"""`symbench plan`: counts the cells of a suite and estimates the time that they take."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import Selection, budget_option, json_option, name_broken, site_of, site_option, some_cells
from benchmark.planning.footprint import Footprint, footprint
from benchmark.planning.plan import Plan, PlanRow, make_plan, open_cells_of, siblings_of
from benchmark.terminal import Examples, duration, one_line, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmark.cell import Cell
    from benchmark.suite.suite import Suite
    from cluster.jobs.packing import Shape
    from cluster.site import Site
    from results.store.store import Store


@click.command(cls=Examples, epilog="symbench plan quickstart\nsymbench plan my-suite.yaml --on my-site.yaml --json")
@some_cells
@site_option
@budget_option
@click.option("--probe", is_flag=True, help="First time a few steps of each kind of cell, and keep the result.")
@click.option("--patience", default=600, show_default=True, help="Seconds to wait for the probe's job on a cluster.")
@json_option
def plan(selection: Selection, site: str, hours: float | None, probe: bool, patience: int, as_json: bool) -> None:
    """Show the cells of SUITE, finished and open, and the time that the open ones take, here or on a cluster.

    Estimates come from finished cells of the same kind, from a probe, or from FLOPs. Only --probe changes anything.
    """
    from cluster.slurm import estimates

    place, store = site_of(site, hours), selection.store
    loaded, full_suite = selection.load_with_full_suite()
    statuses, broken = store.statuses(loaded.cells)
    name_broken(broken)
    states = {key: status.state for key, status in statuses.items()}
    records = estimates.siblings(loaded, states, store)
    if probe:
        from cluster.slurm.probes import probe_suite_here, probe_suite_on_site  # they import torch

        wanted, say = open_cells_of(loaded, states), partial(click.echo, err=True)
        if place is None:
            probe_suite_here(full_suite, wanted, records, store, say)
        else:
            probe_suite_on_site(replace(full_suite, cells=wanted), records, store, place, patience, say)
    if place is not None and hours is not None:
        from cluster.slurm.work import affordable  # it imports torch, as what sends jobs does

        loaded = affordable(loaded, store, place, hours)
    open_cells = open_cells_of(loaded, states)
    if place is None:
        expected, shapes = estimates.here(full_suite, open_cells, records, store)
    else:
        expected, shapes = estimates.on_site(loaded, open_cells, records, place, store), None
    result = make_plan(loaded, open_cells, expected)
    review = store.review(loaded.cells, states)
    seconds = {key: estimate.seconds for key, estimate in expected.items()}
    cost, text = _cost_here(result, seconds, shapes) if place is None else _cost_there(loaded, result, seconds, place)
    files = _files(loaded, states, store)
    total, count = len(loaded.cells), len(open_cells)
    if as_json:
        rows = [vars(row) | {"estimated_seconds": _rounded(row.estimated_seconds)} for row in result.rows]
        counts = {"suite": loaded.name, "cells": total, "finished": total - count, "left": count}
        outdated = {kind: len(cells) for kind, cells in review.outdated.items()}
        counts |= {"set": list(loaded.overrides), "outdated": outdated, "mixed": review.mixed_lines, **files.counts}
        print_json({**counts, "estimated_seconds": _rounded(result.estimated_seconds), **cost, "rows": rows})
        return
    print_table(loaded.name, _table(result.rows))
    unknown = sum(estimate.basis == "unknown" for estimate in expected.values())
    beside = f", and {unknown} cells of unknown time, which cannot be built" if unknown else ""
    click.echo(f"{total} cells: {total - count} finished, {count} open, about {text}{beside}")
    click.echo(f"about {files}")
    for line in (*_overrides(loaded), *review.outdated_lines, *review.mixed_lines):
        click.echo(line, err=True)


def _table(rows: Sequence[PlanRow]) -> list[dict[str, Any]]:
    """Rows for the terminal, with the columns that these rows need."""
    own = [key for key in ("budget", "resources") if any(getattr(row, key) for row in rows)]
    places = [key for key in ("grid", "layout") if len({getattr(row, key) for row in rows}) > 1]
    return [
        {key: getattr(row, key) for key in ("dataset", "preset", "level", *places)}
        | {"model": row.label}
        | {key: getattr(row, key) for key in (*own, "cells", "finished")}
        | {"time": _time(row), "estimated": row.estimate}
        for row in rows
    ]


def _rounded(seconds: float) -> float:
    """Three digits, also of less than a second."""
    return float(f"{seconds:.3g}")


def _overrides(suite: Suite) -> list[str]:
    """Line for each `--set`: the value, and the one of the file."""
    return [
        f"--set {one_line(override)}: instead of {'nothing' if replaced is None else json.dumps(replaced)}"
        for override, replaced in suite.overrides.items()
    ]


def _files(suite: Suite, states: Mapping[str, str], store: Store) -> Footprint:
    """Files that the suite will leave, measured on one finished cell of each kind."""
    done = siblings_of(suite.cells, (cell for cell in suite.cells if states.get(cell.id) == "done"), 1)
    sizes = {cell.id: size for cell in done if (size := store.files_of(cell)) is not None}
    return footprint(suite, sizes, store.data_folder)


def _time(row: PlanRow) -> str:
    if not row.estimate or row.estimate == "unknown":
        return "?" if row.estimate else ""
    return duration(row.estimated_seconds)


def _cost_here(
    result: Plan, seconds: Mapping[str, float], shapes: Sequence[tuple[Shape, Sequence[Cell]]] | None
) -> tuple[dict[str, Any], str]:
    """JSON fields and text; `shapes` is None where this machine cannot run the cells."""
    if shapes is None:
        return {}, duration(result.estimated_seconds)
    wall = sum(shape.job_seconds(cells, seconds) for shape, cells in shapes)
    at_once = max((min(shape.lanes, len(cells)) for shape, cells in shapes), default=0)
    text = f"{duration(wall)} with {at_once} at once" if at_once > 1 else duration(wall)
    return {"at_once": at_once, "wall_seconds": round(wall, 2)}, text


def _cost_there(suite: Suite, result: Plan, seconds: Mapping[str, float], site: Site) -> tuple[dict[str, Any], str]:
    from cluster.slurm.submit import Cost, batches

    cost = Cost.of(batches(suite, result.open_cells, seconds, site), seconds, site)
    fields = {
        "jobs": cost.jobs,
        "longest_job_seconds": round(cost.longest_seconds, 2),
        "gpu_hours": round(cost.gpu_hours, 3),
        "rank_hours": round(cost.rank_hours, 3),
    }
    return fields, f"{duration(result.estimated_seconds)} in all; {cost}"
