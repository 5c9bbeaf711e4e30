"""Draws docs/images/theory.svg from the committed boards: `python docs/theory_figure.py`.

Errors and floors are over the error of the same network at level 0, so that one curve is predicted for all boards.
"""

import json
from math import hypot
from pathlib import Path

from results.figures.plot import DASH, Axis, Series, Style, chart, standalone

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docs" / "images" / "theory.svg"
BUDGETS = {"beta-plane": "59M FLOPs a step", "trapped-ions": "55k parameters"}
STRICT = (
    ("beta-plane", "e2cnn", Style("#2a6caa", "s")),
    ("trapped-ions", "egnn", Style("#d87318", "o")),
    ("trapped-ions", "tfn", Style("#3f8f4f", "^")),
)
"""Board, strict network on it, look."""
CURVE = [0.1 * 10 ** (i / 20) for i in range(39)]


def errors(board: str, label: str) -> list[tuple[float, float, float]]:
    """Level, strict floor and mean RMSE of a network at each level of a committed board, by level."""
    path = ROOT / "results" / "published" / board / "board.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    floors = {data["level"]: data["strict_floor"] for data in content["data"]}
    rows = [row for row in content["rows"] if (row["label"], row["budget"]) == (label, BUDGETS[board])]
    return sorted((row["level"], floors[row["level"]], row["metrics"]["rmse_future"]["mean"]) for row in rows)


def figure() -> str:
    """SVG document."""
    series = [Series("predicted", CURVE, [hypot(1, x) for x in CURVE], Style("#777777", dash=DASH))]
    for board, label, style in STRICT:
        (_, _, symmetric), *broken = errors(board, label)
        places = [floor / symmetric for _, floor, _ in broken]
        series.append(Series(f"{label}, {board}", places, [error / symmetric for _, _, error in broken], style))
    x, y = Axis("strict floor / error at level 0", log=True), Axis("error / error at level 0", log=True)
    drawing = chart(series, x, y)
    assert drawing is not None
    return standalone(drawing, "Error of strict networks, predicted and on the boards")


if __name__ == "__main__":
    IMAGE.write_text(figure(), encoding="utf-8")
