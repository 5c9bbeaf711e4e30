"""The board as one HTML file that needs nothing but a browser: same records, same bytes."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmark.errors import UserError
from benchmark.suite import SUITES_FOLDER, Suite

from . import figures, rollouts
from .leaderboard import Row, aggregate, best
from .quantities import METRICS, written_statistic
from .store import Broken, Record, Store

COLUMNS = (
    "data_equivariance_error",
    "rmse_future",
    "rmse_domain",
    "model_equivariance_error",
    "parameters",
    "flops",
    "vrmse_future",
    "vrmse_domain",
    "model_equivariance_error_relative",
    "samples_per_second",
    "peak_memory_bytes",
    "training_seconds",
    "best_epoch",
)
PROVENANCE = ("symbench", "git_commit", "python", "torch", "device", "world_size", "host", "data_file", "data_checksum")


@dataclass(frozen=True)
class Plot:
    """A figure of the page, or the sentence that stands in its place."""

    title: str
    caption: str
    svg: Markup | None


def render(
    store: Store, suite: Suite, records: Mapping[str, Record], broken: Sequence[Broken], metric: str = "rmse_future"
) -> str:
    """The whole page. UserError: no such metric."""
    rows = aggregate(suite.cells, records, metric)
    environment = Environment(
        loader=PackageLoader("results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        suite=suite.name,
        metric=METRICS[metric],
        columns=[(name, METRICS[name]) for name in (*COLUMNS, *({metric} - set(COLUMNS)))],
        rows=rows,
        winners={name: best(rows, name) for name in ("rmse_future", "rmse_domain", metric)},
        written=written_statistic,
        command=lambda row: reproduce(suite, row),
        panels=[
            (f"{name} ({preset}, {grid})", _plots(list(members), rows, records, metric))
            for (name, preset, grid), members in groupby(rows, key=lambda row: row.panel)
        ],
        broken=[(_below(broken_one.folder, store), broken_one.reason) for broken_one in broken],
        provenance=_provenance(records[cell.id] for cell in suite.cells if cell.id in records),
        provenance_keys=PROVENANCE,
    )


def reproduce(suite: Suite, row: Row) -> str:
    """Shell commands that run the cells of `row` and no others."""
    name = suite.path.stem if suite.path.parent == SUITES_FOLDER else str(suite.path)
    wanted = {seed.cell_id for seed in row.seeds}
    settings = {"dataset": row.dataset, "preset": row.preset, "model": row.model, "level": row.level, **row.config}
    clauses: list[str] = []
    left = _selected(suite, clauses)
    for key, value in settings.items():
        narrowed = _selected(suite, [*clauses, f"{key}={value}"])
        if wanted <= narrowed < left:
            clauses, left = [*clauses, f"{key}={value}"], narrowed
    if left == wanted:
        return _run(name, clauses)
    return "\n".join(_run(name, [f"id={seed.cell_id}"]) for seed in row.seeds)


def _run(suite: str, clauses: Sequence[str]) -> str:
    return " ".join(
        ["symbench run", shlex.quote(suite), *(["--only", shlex.quote(",".join(clauses))] if clauses else [])]
    )


def _selected(suite: Suite, clauses: Sequence[str]) -> set[str]:
    """The ids that `--only` keeps; none where it cannot express the value."""
    try:
        return {cell.id for cell in suite.only(",".join(clauses)).cells}
    except UserError:
        return set()


def _plots(rows: Sequence[Row], board: Sequence[Row], records: Mapping[str, Record], metric: str) -> list[Plot]:
    """The figures of one dataset, in the styles of the whole board."""
    look = figures.styles(board)
    broken_most = max(rows, key=_data_error).level
    last = [row for row in rows if row.level == broken_most]
    at_level = f"level {broken_most}, where the data breaks the symmetry most"
    made = (
        (
            f"{METRICS[metric].title} against the measured symmetry breaking of the data",
            "Bars: one standard deviation over seeds. Only finished seeds count; the table tells which are not.",
            figures.against_data_error(rows, metric, look),
        ),
        (
            "How much symmetry the models keep",
            "On the dashed line a model breaks the symmetry exactly as much as the data does.",
            figures.against_data_error(rows, "model_equivariance_error", look),
        ),
        (
            "Error by rolled-out step",
            f"Later frames of the runs seen; {at_level}. Band: one standard deviation over seeds.",
            figures.by_step(last, "rmse_future_by_step", look),
        ),
        (
            "A roll-out",
            f"Speed |u| in field units, first kept window of the future test, first finished seed; {at_level}."
            f" The first {rollouts.MOST_MODELS} models of the table at most; x to the right, y up.",
            rollouts.picture(last, records),
        ),
    )
    return [Plot(title, caption, None if svg is None else Markup(svg)) for title, caption, svg in made]


def _data_error(row: Row) -> float:
    error = row.metrics.get("data_equivariance_error")
    return -1.0 if error is None else error.mean


def _provenance(records: Any) -> list[tuple[list[str], int]]:
    """Each combination of versions, machine and data found in the records, and in how many of them."""
    found = Counter(tuple(_told(record.environment, key) for key in PROVENANCE) for record in records)
    return [(list(values), count) for values, count in sorted(found.items())]


def _told(environment: Mapping[str, Any], key: str) -> str:
    value = str(environment.get(key, ""))
    return Path(value).name if key == "data_file" else value


def _below(folder: Path, store: Store) -> str:
    return folder.relative_to(store.root).as_posix() if folder.is_relative_to(store.root) else folder.name
