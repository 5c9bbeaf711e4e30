"""Consistency of a published board: its rows follow from the values of its seeds, its cells from its suite.yaml."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from benchmark.cell import Cell, ModelChoice
from benchmark.suite.suite import Suite
from results.board.contests import BoardTests, contests
from results.board.leaderboard import SETTING, best
from results.board.published_board import COMPARED, STATISTICS, row_document
from results.board.quantities import BY_RUN, METRICS, SKILLS, summaries
from results.board.row import Row, Seed, declared, with_varied_protocols
from results.board.trivial import skilled

DERIVED = ("done", "expected", "best", "metrics", "written")
"""Parts of a row that its seeds decide, besides the group letters, which depend on the version of the statistics."""
SEEDLESS = "have numbers without the value of each seed"
"""Problem of boards that were published before boards held these values."""
ROUNDING = 1e-9
"""Relative difference of two means or intervals that are computed on different machines."""


def problems(document: Mapping[str, Any], suite: Suite) -> list[str]:
    """Sentences on what does not fit together in a board; `suite` is read from its suite.yaml."""
    numbers = [without_seeds] if (without_seeds := seedless(document)) else list(_rows(document))
    return [*_counts(document), *_mixtures(document), *_identities(document, suite), *numbers]


def seedless(document: Mapping[str, Any]) -> str:
    """Sentence on the rows of an earlier board that have numbers without the value of each seed; empty without any."""
    count = sum(any(s["state"] == "done" and not s.get("values") for s in row["seeds"]) for row in document["rows"])
    return f"{count} of {len(document['rows'])} rows {SEEDLESS}" if count else ""


def cell_of(row: Mapping[str, Any], seed: int) -> Cell:
    """Cell of one seed of a row of board.json. Raises ValueError if the settings are not those of a cell."""
    grid, _, layout = row["grid"].partition(", ")
    dataset = {"name": row["dataset"], "level": row["level"], "preset": row["preset"], "grid": grid}
    return Cell.model_validate(
        {
            "dataset": {**dataset, **({"layout": layout.removesuffix(" layout")} if layout else {})},
            "model": ModelChoice.of_settings(row["model"], row["config"]),
            "protocol": row["protocol"],
            "train": row["train"],
            "seed": seed,
        }
    )


def is_tuned(document: Mapping[str, Any], suite: Suite) -> bool:
    """Whether settings come from studies, so that suite.yaml alone does not give the cells."""
    return suite.tuned or document["command"].endswith(" --tuned")


def other_version(cell: Cell, suite: Suite) -> bool:
    """Whether `suite`, read with this code, has the model of `cell` in another version, or a network within it."""
    versions = [_versions(each.model) for each in suite.cells if each.model.name == cell.model.name]
    return bool(versions) and _versions(cell.model) not in versions


def _versions(model: ModelChoice) -> dict[str, Any]:
    """Versions of a model and of the networks within it, by setting; no version is the first."""
    settings = {"version": 1, **model.settings()}
    return {key: value for key, value in settings.items() if key.rpartition(".")[2] == "version"}


def _counts(document: Mapping[str, Any]) -> Iterator[str]:
    """Totals of the board that its rows do not give."""
    states = {seed["id"]: seed["state"] for row in document["rows"] for seed in row["seeds"]}
    computed = {
        "cells": len(states),
        "states": dict(Counter(states.values())),
        "seeds": sorted({seed["seed"] for row in document["rows"] for seed in row["seeds"]}),
    }
    for key, value in computed.items():
        if document[key] != value:
            yield f"{key} is {document[key]}, the rows give {value}"
    listed = {one["id"] for one in document["missing"]}
    for key in sorted(listed ^ {key for key, state in states.items() if state != "done"}):
        yield f"cell {key}: its state and the list of missing cells do not agree"


def _mixtures(document: Mapping[str, Any]) -> Iterator[str]:
    """Rows whose seeds differ in data or code."""
    for row in document["rows"]:
        for key in COMPARED:
            values = {seed[key] for seed in row["seeds"] if key in seed}
            if len(values) > 1:
                yield f"{_name(row)}: its seeds differ in {key}: {', '.join(sorted(values))}"


def _identities(document: Mapping[str, Any], suite: Suite) -> Iterator[str]:
    """Cells whose identity is not that of their settings, and differences from the cells of `suite`."""
    if document["suite"] != suite.name + ("-tuned" if document["command"].endswith(" --tuned") else ""):
        yield f"suite is {document['suite']!r}, suite.yaml has the name {suite.name!r}"
    cells: dict[str, Cell] = {}
    for row in document["rows"]:
        for seed in row["seeds"]:
            try:
                cells[seed["id"]] = cell_of(row, seed["seed"])
            except ValueError as error:
                yield f"{_name(row)}: not the settings of a cell: {' '.join(str(error).split())}"
                return
    yield from (
        f"{cell}: the identity is {key}, its settings give {cell.id}" for key, cell in cells.items() if key != cell.id
    )
    if is_tuned(document, suite):
        return
    declared_cells = {cell.id: cell for cell in suite.cells}
    current = {key: cell for key, cell in cells.items() if not other_version(cell, suite)}
    older = {cell.model.name for key, cell in cells.items() if key not in current}
    for key, cell in current.items():
        if key not in declared_cells:
            yield f"{cell} ({key}): suite.yaml does not give this cell"
    for key, cell in declared_cells.items():
        if key not in cells and cell.model.name not in older:
            yield f"{cell} ({key}): a cell of suite.yaml that the board leaves out"


def _rows(document: Mapping[str, Any]) -> Iterator[str]:
    """Numbers of rows, and sentences on families, that do not follow from the values of the seeds."""
    rows = rows_of_board(document)
    tests = BoardTests(rows, document["metric"])
    leads = tests.family_leads
    if document.get("leads", leads) != leads:
        yield f"leads are {document['leads']}, the seeds give {leads}"
    decided = (*DERIVED, *(("group",) if document.get("statistics") == STATISTICS else ()))
    for row, computed in zip(document["rows"], _computed(tests), strict=True):
        for key in decided:
            for what, claimed, given in _differences(key, row[key], computed[key]):
                yield f"{_name(row)}: {what} is {claimed}, its seeds give {given}"
        for seed, derived in zip(row["seeds"], computed["seeds"], strict=True):
            for what, claimed, given in _differences("values", seed.get("values", {}), derived["values"]):
                yield f"{_name(row)}, seed {seed['seed']}: {what} is {claimed}, the other values give {given}"


def computed_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a board.json as the values of its seeds give them."""
    return _computed(BoardTests(rows_of_board(document), document["metric"]))


def _computed(tests: BoardTests) -> list[dict[str, Any]]:
    rows, metric = tests.rows, tests.metric
    winners, letters = best(rows, metric), tests.letters
    return [row_document(row, metric, index in winners, letters[index]) for index, row in enumerate(rows)]


def rows_of_board(document: Mapping[str, Any]) -> list[Row]:
    """Rows with the statistics of the values of their seeds."""
    rows = []
    for one in document["rows"]:
        setting = {key: one.get(key, "") for key in SETTING if key not in ("source", "differs")}
        recorded = tuple(
            {name: value for name, value in seed.get("values", {}).items() if name not in SKILLS}
            | {BY_RUN[name]: values for name, values in seed.get("by_run", {}).items() if name in BY_RUN}
            for seed in one["seeds"]
        )
        seeds = tuple(Seed(seed["seed"], seed["id"], seed["state"]) for seed in one["seeds"])
        trained = declared(one["model"])[2]
        rows.append(Row(**setting, source="", seeds=seeds, metrics={}, recorded=recorded, trained=trained))
    for positions in contests(rows):
        models = [rows[index].model for index in positions]
        with_skill = skilled([rows[index].recorded for index in positions], models)
        for index, values in zip(positions, with_skill, strict=True):
            statistics = summaries([[seed.get(name) for seed in values] for name in METRICS])
            metrics = {name: one for name, one in zip(METRICS, statistics, strict=True) if one is not None}
            rows[index] = replace(rows[index], recorded=tuple(values), metrics=metrics)
    return with_varied_protocols(rows)


def _differences(what: str, claimed: Any, given: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, claimed and computed value of each leaf that differs."""
    if isinstance(claimed, Mapping) and isinstance(given, Mapping):
        for key in claimed.keys() | given.keys():
            yield from _differences(f"{what}.{key}", claimed.get(key), given.get(key))
    elif isinstance(claimed, int | float) and isinstance(given, int | float):
        if not math.isclose(claimed, given, rel_tol=ROUNDING):
            yield what, claimed, given
    elif claimed != given:
        yield what, claimed, given


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['label']} on {row['dataset']} level {row['level']}"
