"""Results and comparisons as pandas DataFrames."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas

from benchmark.errors import UserError
from benchmark.suite import loading as suites
from results.board import compare as comparing
from results.board.leaderboard import aggregate
from results.board.notes import unit_of
from results.board.published_board import read
from results.board.quantities import METRICS
from results.board.row import Row
from results.report.board_check import rows_of_board, seedless
from results.report.publish import board_folder
from results.store.store import Store

PLACE = ("dataset", "preset", "grid", "level", "model", "label", "family", "budget")


def results(board: str | Path, store: str | Path | None = None) -> pandas.DataFrame:
    """One row for each seed of a published board, or of a suite in `store`.

    `board` is the name or the folder of a published board; with a `store`, the name or the file of a suite. Columns:
    place and label of the setting, `seed`, `state`, each metric (NaN if the seed has none), and the settings as
    `model.hidden`, `train.epochs`, `protocol.input_frames`. `frame.attrs["units"]` has the unit of each metric,
    `frame.attrs["titles"]` its title. UserError: no such board or suite.
    """
    rows = rows_of(board, store)
    names = [name for name in METRICS if any(name in row.metrics for row in rows)]
    datasets = {row.dataset for row in rows}
    frame = pandas.DataFrame(
        {
            **{key: getattr(row, key) for key in PLACE},
            **{"seed": seed.seed, "state": seed.state},
            **{name: row.values[name][index] if name in row.values else None for name in names},
            **_settings(row),
        }
        for row in rows
        for index, seed in enumerate(row.seeds)
    )
    frame[names] = frame[names].astype(float)
    frame.attrs = {
        "board": str(board),
        "units": {name: METRICS[name].base_unit or unit_of(name, datasets) for name in names},
        "titles": {name: METRICS[name].title for name in names},
    }
    return frame


def rows_of(board: str | Path, store: str | Path | None, metric: str = "rmse_future") -> list[Row]:
    """Rows of a published board, or of a suite in `store`. UserError: as in `results`."""
    if store is None:
        document = read(board_folder(str(board)) / "board.json")
        if problem := seedless(document):
            raise UserError(f"board {str(board)!r}: {problem}; `symbench publish` writes it with them")
        return rows_of_board(document)
    suite, records = suites.load(str(board), Path(store), skip_untuned=True), Store(Path(store))
    return aggregate(suite.cells, records.read(suite.cells, history=False)[0], metric, suite.budgets)


def _settings(row: Row) -> dict[str, Any]:
    parts: dict[str, Mapping[str, Any]] = {"model": row.config, "train": row.train, "protocol": row.protocol}
    return {f"{part}.{key}": value for part, settings in parts.items() for key, value in settings.items()}


def compare(
    first: str, second: str, suite: str | Path, store: str | Path = "runs", metric: str = "rmse_future"
) -> pandas.DataFrame:
    """Two models of a suite, one row for each contest, with the tests of the board.

    Columns: place, `first`, `second` and their means, `difference` (relative if `kind` is so) with its adjusted
    interval `low` to `high`, `p`, and `better`, the label of the model that is significantly better, or None.
    UserError: no such suite or model, or no results.
    """
    loaded = suites.load(str(suite), Path(store), skip_untuned=True)
    compared = comparing.models(loaded, Store(Path(store)), first, second, metric)
    return pandas.DataFrame(
        {
            **{key: pair[key] for key in (*comparing.PLACE, "first", "second", "first_mean", "second_mean")},
            "kind": (effect := pair["effect"] or {}).get("kind"),
            "difference": effect.get("value"),
            "low": effect.get("low"),
            "high": effect.get("high"),
            "p": pair["p_adjusted"],
            "better": pair.get(pair["better"] or ""),
            "note": pair["reason"],
        }
        for pair in comparing.to_json(compared)["pairs"]
    )
