"""Tables of docs/relaxation.md, from the published boards: `python -m results.report.relaxation_page`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmark.errors import UserError
from benchmark.files import write_text
from benchmark.markdown import table
from results.report.publish import PUBLISHED_FOLDER

PAGE = PUBLISHED_FOLDER.parents[1] / "docs" / "relaxation.md"
Row = Mapping[str, Any]


def rates() -> str:
    """Models at each relaxation rate where nothing breaks the symmetry, from the board `relaxation-rate`."""
    return _symmetric_data(_board("relaxation-rate"))


def default_rate() -> str:
    """Models at the default rate on the same data with more seeds, from the board `relaxation-symmetric`."""
    return _symmetric_data(_board("relaxation-symmetric"))


def _symmetric_data(document: Mapping[str, Any]) -> str:
    rows = sorted(document["rows"], key=lambda row: (_order(row), row["model"], -(_rate(row) or 0)))
    strict = _mean(_one(rows, "e2cnn", 0), "rmse_future")
    return _provenance(document) + table(
        ["model", "relaxation rate", "RMSE future", "over strict", "RMSE domain", "equivariance error", "seeds"],
        (
            [
                *(row["model"], _written(_rate(row)), _statistic(row, "rmse_future")),
                f"{_mean(row, 'rmse_future') / strict:.2f}",
                *(_statistic(row, "rmse_domain"), _error(row), row["done"]),
            ]
            for row in rows
            if row["done"]
        ),
    )


def hidden_breaking() -> str:
    """Models without breaking and with a strong, hidden one, from the board `beta-plane`."""
    document = _board("beta-plane")
    rows: Sequence[Row] = [row for row in document["rows"] if row["done"]]
    strict, free = (_mean(_one(rows, model, level), "rmse_future") for model, level in (("e2cnn", 0), ("convnet", 5)))
    lines = []
    for model in dict.fromkeys(row["model"] for row in sorted(rows, key=_order)):
        at = {row["level"]: row for row in rows if row["model"] == model}
        line: list[Any] = [model]
        for level, best in ((0, strict), (5, free)):
            row = at.get(level)
            line += (
                ["", "", ""]
                if row is None
                else [
                    _statistic(row, "rmse_future"),
                    f"{_mean(row, 'rmse_future') / best:.2f}",
                    _error(row),
                ]
            )
        lines.append(line)
    return _provenance(document) + table(
        [
            *("model", "beta 0: RMSE future", "over e2cnn", "equivariance error"),
            *("beta 5: RMSE future", "over convnet", "equivariance error"),
        ],
        lines,
    )


TABLES: Mapping[str, Callable[[], str]] = {
    function.__name__: function for function in (rates, default_rate, hidden_breaking)
}


def filled(text: str) -> str:
    """The page `text` with each table between its markers made anew. UserError: a marker is missing."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, begun, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (begun and closed):
            raise UserError(f"{PAGE}: the markers of the table {name} are missing")
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


def _board(name: str) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads((PUBLISHED_FOLDER / name / "board.json").read_text(encoding="utf-8"))
    return document


def _provenance(document: Mapping[str, Any]) -> str:
    made = document["provenance"]
    name = document["suite"]
    return (
        f"Board [{name}](../results/published/{name}/README.md), commit"
        f" {', '.join(commit[:12] for commit in made['git_commit'])}, torch {', '.join(made['torch'])}.\n\n"
    )


def _one(rows: Iterable[Row], model: str, level: float) -> Row:
    return next(row for row in rows if row["model"] == model and row["level"] == level)


def _order(row: Row) -> int:
    return ["reference", "strict", "approximate", "relaxed", "cnn"].index(row["family"])


def _rate(row: Row) -> float | None:
    rate: float | None = row["train"].get("relaxation_rate")
    return rate


def _mean(row: Row, metric: str) -> float:
    return float(row["metrics"][metric]["mean"])


def _statistic(row: Row, metric: str) -> str:
    return str(row["written"].get(metric, "-"))


def _error(row: Row) -> str:
    """Equivariance error with two digits; its spread over seeds is on the board."""
    return f"{_mean(row, 'model_equivariance_error'):.1e}"


def _written(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:g}"


if __name__ == "__main__":
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
