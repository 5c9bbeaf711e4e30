"""The table of the theory page is that of the committed board."""

import json
from math import hypot
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_follows_from_the_board() -> None:
    board = json.loads((ROOT / "results/published/beta-plane/board.json").read_text(encoding="utf-8"))
    floors = {data["level"]: data["strict_floor"] for data in board["data"]}
    errors = {(row["label"], row["level"]): row["metrics"]["rmse_future"]["mean"] for row in board["rows"]}
    expected = []
    for level, floor in sorted(floors.items()):
        strict, predicted = errors["e2cnn", level], hypot(errors["e2cnn", 0], floor)
        numbers = f"{floor:.4f} | {predicted:.4f} | {strict:.4f} | {strict / predicted:.2f}"
        expected.append(f"| {level:g} | {numbers} | {errors['convnet', level]:.4f} |")
    page = (ROOT / "docs/theory.md").read_text(encoding="utf-8")
    assert "\n".join(expected) in page, "\n".join(expected)
