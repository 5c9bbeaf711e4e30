"""Boards of particles: the level that models have learned, and words that are those of particles."""

from collections.abc import Callable, Sequence

import pytest
from fabricated_board import Board, report_of, rows_of
from rich.console import Console

from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol, Training
from results.board.table import to_table
from results.figures.figures import styles
from results.figures.views_discovery import learned_level
from results.tracking.notes import setting_note

NewBoard = Callable[[Sequence[Cell]], Board]


def ion_cell(model: str, level: float, seed: int) -> Cell:
    return Cell(
        dataset=DatasetChoice(name="trapped_ions", level=level, preset="small"),
        model=ModelChoice(name=model, config={}),
        protocol=Protocol(),
        train=Training(),
        seed=seed,
    )


@pytest.fixture
def ions(new_board: NewBoard) -> Board:
    """egnn has learned nothing, and relaxed_egnn the true level up to its seed."""
    board = new_board([ion_cell(m, level, n) for m in ("egnn", "relaxed_egnn") for level in (0, 0.5) for n in (0, 1)])
    for cell in board.suite.cells:
        relaxed = cell.model.name == "relaxed_egnn"
        level, seed = float(cell.dataset.level), cell.seed
        learned = {"learned_level": level + 0.01 * seed, "learned_angle": 2.0 + seed} if relaxed else {}
        errors = {"rmse_future": 0.1 + 0.01 * seed, "rmse_validation": 0.1, "data_equivariance_error": 0.8 * level}
        with board.recording(cell) as recorder:
            recorder.finish("done", {**errors, "learned_level": 0.0, **learned})
    return board


def test_the_learned_level_stands_beside_the_true_one(ions: Board) -> None:
    rows = rows_of(ions)
    (plot,) = learned_level(rows, "rmse_future", styles(rows))
    assert plot.sheet is not None
    assert plot.sheet.lines == (
        ("egnn", "0", "0 [0, 0]", "-"),
        ("egnn", "0.5", "0 [0, 0]", "-"),
        ("relaxed_egnn", "0", "0.005000 [0, 0.01000]", "2.500 [2.000, 3.000]"),
        ("relaxed_egnn", "0.5", "0.5050 [0.5000, 0.5100]", "2.500 [2.000, 3.000]"),
    )
    assert plot.svg is not None
    assert [plot.svg.count(f'class="line" data-name="{name}"') for name in ("egnn", "relaxed_egnn", "truth")] == [1] * 3


def test_it_is_in_the_report_and_among_the_figures_of_mlflow(ions: Board, full_board: Board) -> None:
    report = report_of(ions)
    assert "trapped-ions-small-learned-level" in [stem for stem, _ in report.svg_figures]
    assert "Does the model learn the breaking" in report.html
    assert "Does the model learn the breaking" not in report_of(full_board).html


def test_nothing_is_said_of_grids_and_fields(ions: Board) -> None:
    rows = rows_of(ions)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(to_table(rows))
    texts = [capture.get(), report_of(ions).html, setting_note(rows[0])]
    for text in texts:
        for word in ("field units", "Field units", "centered", "spectra", "Divergence of", "relaxed layers", "uarter"):
            assert word not in text
    assert all("data error over the 24 turns of the cube" in text for text in texts[:2])
