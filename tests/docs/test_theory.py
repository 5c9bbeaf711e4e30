"""The tables and the figure of the theory page are those of the committed boards."""

import runpy
from math import hypot
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURE = runpy.run_path(str(ROOT / "docs" / "theory_figure.py"))


@pytest.mark.parametrize(
    ("board", "strict", "free"), [("beta-plane", ("e2cnn",), "convnet"), ("trapped-ions", ("egnn", "tfn"), "gnn")]
)
def test_a_table_follows_from_the_board(board: str, strict: tuple[str, ...], free: str) -> None:
    errors = {label: FIGURE["errors"](board, label) for label in (*strict, free)}
    expected = []
    for number, (level, floor, free_error) in enumerate(errors[free]):
        cells = [f"{level:g}", f"{floor:.4f}"]
        for label in strict:
            error, predicted = errors[label][number][2], hypot(errors[label][0][2], floor)
            cells += [f"{predicted:.4f}", f"{error:.4f}", f"{error / predicted:.2f}"]
        expected.append(f"| {' | '.join([*cells, f'{free_error:.4f}'])} |")
    page = (ROOT / "docs/theory.md").read_text(encoding="utf-8")
    assert "\n".join(expected) in page, "\n".join(expected)


def test_the_figure_follows_from_the_boards() -> None:
    assert FIGURE["IMAGE"].read_text(encoding="utf-8") == FIGURE["figure"]()
