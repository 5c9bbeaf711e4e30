"""Trivial forecasts on a board: skill, and the first line of a board whose networks lose to them."""

import json

import pytest
from fabricated_board import report_of, rows_of

from benchmark.suite import facts
from benchmark.suite import loading as suites
from results.board import leaderboard
from results.board.standings import overall
from results.board.trivial import first_line, place_of
from results.report import export, publish
from results.report.report import Report
from results.statistics.bootstrap import Estimate

ERRORS = {"persistence": (0.4, 0.3), "linear": (0.5, 0.2), "convnet": (0.1, 0.25), "e2cnn": (0.3, 0.24)}
"""Model -> RMSE future at levels 0 and 3; that on the other split is the same in the other order."""


@pytest.fixture
def board(new_board, new_cell):
    cells = [
        new_cell(model, level, seed)
        for level in (0, 3)
        for model in ERRORS
        for seed in ((0,) if model in ("persistence", "linear") else (0, 1))
    ]
    board = new_board(cells)
    for cell in cells:
        at = int(cell.dataset.level == 3)
        future, domain = (ERRORS[cell.model.name][index] + 0.02 * cell.seed for index in (at, 1 - at))
        with board.recording(cell) as recorder:
            recorder.finish("done", {"rmse_future": future, "rmse_domain": domain, "data_equivariance_error": 0.1 * at})
    return board


def test_skill_is_over_the_best_trivial_forecast_of_the_same_split_and_contest(board) -> None:
    rows = {(row.model, row.level): row for row in rows_of(board)}
    assert rows["convnet", 0].values["skill_future"] == pytest.approx((1 - 0.1 / 0.4, 1 - 0.12 / 0.4))
    assert rows["convnet", 0].values["skill_domain"] == pytest.approx((1 - 0.25 / 0.2, 1 - 0.27 / 0.2))
    assert rows["convnet", 3].metrics["skill_future"].mean == pytest.approx(1 - 0.26 / 0.2)
    assert rows["persistence", 0].metrics["skill_future"].mean == 0
    assert rows["persistence", 3].metrics["skill_future"].mean == pytest.approx(-0.5)
    by_skill = [(row.level, row.model) for row in rows_of(board, "skill_future")]
    assert by_skill == [(row.level, row.model) for row in rows_of(board)], "the order is that of the error"


def test_a_contest_is_named_with_its_layout_and_budget() -> None:
    assert place_of("smoke", "centered", 3, "") == "smoke level 3"
    assert place_of("smoke", "centered, published layout", 3, "59M FLOPs") == (
        "smoke level 3 in the published layout at 59M FLOPs"
    )


def test_no_trivial_forecast_no_skill(board) -> None:
    suite = board.suite.only("model=convnet")
    (row, _) = leaderboard.aggregate(suite.cells, board.store.read(suite.cells)[0])
    assert "rmse_future" in row.metrics
    assert "skill_future" not in row.metrics
    assert first_line([row], "rmse_future") == ""


def test_the_first_line_says_that_networks_lose(board, tmp_path) -> None:
    rows, records = rows_of(board), board.store.read(board.suite.cells)[0]
    said = (
        "No network beats the best trivial forecast in RMSE future on smoke_rotation_levels level 3"
        " (linear 0.2000, best network e2cnn 0.2500)."
    )
    assert first_line(rows, "rmse_future") == said
    assert "level 0 (linear 0.2000, best network e2cnn 0.2500)" in first_line(rows, "rmse_domain")
    plain = export.to_markdown(rows).splitlines()[0].replace("\\", "")
    assert plain == said
    assert export.to_latex(rows).startswith(f"% {said}\n")
    page = Report(board.store, board.suite, records, []).html
    assert page.index(said) < page.index("How much symmetry")
    published = publish.publish(board.store, board.suite, tmp_path, None)
    text = published.files[1].read_text().replace("\\", "")
    assert text.splitlines()[2] == said
    kept = json.loads(published.files[0].read_text())["rows"][0]["metrics"]
    assert {"skill_future", "skill_domain"} <= set(kept)


def test_standings_and_figures_have_the_skill(board) -> None:
    rows = rows_of(board)
    (persistence,) = (one for one in overall(rows, "rmse_future").models if one.label == "persistence")
    assert persistence.skill == Estimate(pytest.approx(-0.25))
    page = report_of(board).html
    assert "Skill future against the measured symmetry breaking" in page


def test_every_suite_shows_the_trivial_forecasts() -> None:
    for name in suites.available():
        cells = suites.load(name).cells
        models = {cell.model.name for cell in cells}
        trivial = {name for cell in cells for name in facts.task_of(cell.dataset, cell.protocol).trivial}
        if not any(cell.protocol.input_frames > 1 for cell in cells):
            trivial.discard("linear")
        assert trivial, name
        assert trivial == models & {"persistence", "linear", "mean_velocity"}, name
