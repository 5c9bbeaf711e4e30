"""Symmetry errors on the board: columns that stand beside each other, notes, and metrics that do not rank."""

import io

import pytest
from fabricated_board import report_of, rows_of
from rich.console import Console

from benchmark.cell import Cell, DatasetChoice
from benchmark.errors import UserError
from results.board.contests import BoardTests
from results.board.notes import symmetry_notes
from results.board.quantities import METRICS, with_neighbours
from results.board.table import to_table
from results.report import export, publish
from results.tracking.notes import board_note, setting_note
from results.tracking.suite_runs import wanted_runs

CHANGE, NEAR, INSIDE, WITHIN = (
    f"model_equivariance_error_{name}" for name in ("over_change", "near_walls", "inside", "within_range")
)
HALF_A_CELL = "strict networks are not strict here"


def on(dataset: str, cell: Cell, grid: str = "centered") -> Cell:
    choice = DatasetChoice(name=dataset, level=cell.dataset.level, preset="small", grid=grid)
    return cell.model_copy(update={"dataset": choice})


def printed(rows, metric="rmse_future", width=200):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_table(rows, metric))
    return " ".join(console.file.getvalue().split())


def page_of(board):
    return report_of(board).html


@pytest.fixture
def staggered(new_board, new_cell):
    cells = [on("smoke_rotation_levels", new_cell(model), "staggered") for model in ("convnet", "e2cnn")]
    board = new_board(cells)
    for cell in cells:
        board.finish(cell, **{CHANGE: 0.6})
    return board


@pytest.fixture
def walls(new_board, new_cell):
    """A ConvNet that reaches 5 cells, and another network that covers the grid."""
    cells = [on("smoke_translation", new_cell(model)) for model in ("convnet", "e2cnn")]
    board = new_board(cells)
    board.finish(cells[0], **{CHANGE: 0.06, NEAR: 0.1, INSIDE: 0.0, "reach": 5})
    board.finish(cells[1], **{CHANGE: 0.5, "reach": 32})
    return board


@pytest.fixture
def zooms(new_board, new_cell):
    cells = [on("smoke_scale", new_cell(model, level)) for level in (0, 1) for model in ("convnet", "e2cnn")]
    board = new_board(cells)
    for cell in cells:
        board.finish(cell, **{CHANGE: 0.5, WITHIN: 0.11, "equivariance_floor": 0.042})
    return board


@pytest.mark.parametrize(("grid", "noted"), [("staggered", True), ("centered", False)])
@pytest.mark.parametrize("dataset", ["smoke_rotation", "smoke_scale", "smoke_translation", "gone"])
def test_strict_is_not_strict_on_a_staggered_grid_except_for_shifts(dataset, grid, noted):
    (*notes,) = symmetry_notes([(dataset, "small", grid)] * 2)
    assert sum(HALF_A_CELL in note for note in notes) == (noted and dataset in ("smoke_rotation", "smoke_scale"))
    assert sum("floor" in note for note in notes) == (dataset == "smoke_scale")


def test_the_note_is_wherever_the_board_is(staggered, tmp_path):
    rows = rows_of(staggered)
    published = publish.publish(staggered.store, staggered.suite, tmp_path, None)
    texts = [
        printed(rows),
        page_of(staggered),
        export.to_markdown(rows),
        export.to_latex(rows),
        setting_note(rows[0]),
        board_note(BoardTests(rows, "rmse_future")),
        published.files[1].read_text(),
    ]
    for text in texts:
        assert text.count(HALF_A_CELL) == 1


def test_the_error_over_the_change_is_the_column_where_it_is_recorded(staggered, full_board):
    new = printed(rows_of(staggered))
    assert "change" in new
    assert " 0.600 " in new
    old = printed(rows_of(full_board))
    assert "change" not in old
    assert "<0.0001" in old, "the absolute error of older records"
    assert "Equivariance error / change" not in page_of(full_board)


def test_near_walls_and_inside_stand_side_by_side_or_are_not_applicable(walls):
    rows = {row.model: row for row in rows_of(walls)}
    assert (rows["convnet"].written(NEAR), rows["convnet"].written(INSIDE)) == ("0.1000", "0")
    assert rows["convnet"].written("reach") == "5"
    assert (rows["e2cnn"].written(NEAR), rows["e2cnn"].written(INSIDE)) == ("n/a", "n/a")
    assert rows["convnet"].written(WITHIN) == "-"
    page = page_of(walls)
    assert page.index(f'data-metric="{NEAR}"') < page.index(f'data-metric="{INSIDE}"')
    assert page.count('<td data-value="">n/a</td>') == 2
    assert "inside | n/a" in setting_note(rows["e2cnn"])


@pytest.mark.parametrize(
    ("metric", "neighbours"),
    [
        (WITHIN, ["equivariance_floor"]),
        ("divergence_future", ["divergence_truth_future"]),
        ("divergence_domain", ["divergence_truth_domain"]),
        (NEAR, [INSIDE, "reach"]),
    ],
)
def test_a_number_stands_beside_its_floor(metric, neighbours):
    assert with_neighbours(["rmse_future", metric, "flops"]) == ["rmse_future", metric, *neighbours, "flops"]


def test_the_scale_board_shows_the_error_within_scales_with_its_floor(zooms):
    text = printed(rows_of(zooms))
    assert "Floor of the RMSE" in text, "the titles are folded"
    assert " 0.110 " in text
    assert " 0.042" in text
    page = page_of(zooms)
    assert "How strict is the model under zooms?" in page
    assert "Does the model break the symmetry where the data do?" not in page
    markdown = export.to_markdown(rows_of(zooms))
    assert "Floor of the zoom" in markdown


@pytest.mark.parametrize(("dataset", "ratio"), [("smoke_scale", False), ("smoke_translation", True)])
def test_errors_of_two_actions_have_no_ratio(new_board, new_cell, dataset, ratio):
    board = new_board([on(dataset, new_cell(level=1))])
    board.finish(board.suite.cells[0])
    records, _ = board.store.read(board.suite.cells)
    runs = wanted_runs(board.store, board.suite, BoardTests(rows_of(board), "rmse_future"), records)
    names = {name for run in runs for name, *_ in run.metrics}
    assert "data_equivariance_error" in names
    assert ("symmetry_ratio" in names) == ratio


@pytest.mark.parametrize(
    "metric",
    ["spectrum_error_future", "spectrum_error_domain", "divergence_future", "data_equivariance_error", "reach"],
)
def test_no_board_is_ranked_by_a_number_that_says_nothing_alone(full_board, metric):
    """Persistence repeats a true frame: its spectrum and divergence are those of the truth."""
    with pytest.raises(UserError, match="does not rank models"):
        rows_of(full_board, metric)
    assert METRICS[metric].unranked


def test_the_spectrum_has_no_best_mark(new_board, new_cell):
    cells = [new_cell("convnet"), new_cell("e2cnn")]
    board = new_board(cells)
    for cell, error in zip(cells, (1.0, 2.0), strict=True):
        board.finish(cell, rmse_future=error, spectrum_error_future=1 / error)
    page = page_of(board)
    assert 'data-metric="spectrum_error_future"' in page
    assert 'class="best">0.5000' not in page
    assert page.index('data-metric="rmse_future"') < page.index('data-metric="spectrum_error_future"')
