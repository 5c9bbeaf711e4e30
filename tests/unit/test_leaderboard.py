import io
import json
import math

import pytest
from rich.console import Console

from benchmark.errors import UserError
from results import leaderboard
from results.quantities import METRICS, Statistic, written, written_statistic
from results.table import to_table


def rows_of(board, metric="rmse_future"):
    records, broken = board.store.read(board.suite.cells)
    assert not broken
    return leaderboard.aggregate(board.suite.cells, records, metric)


def test_mean_and_sample_standard_deviation(new_board, new_cell):
    cells = [new_cell(seed=seed) for seed in range(3)]
    board = new_board(cells)
    for cell, value in zip(cells, (1.0, 2.0, 6.0), strict=True):
        board.finish(cell, rmse_future=value, rmse_future_by_step=[value, 2 * value])
    (row,) = rows_of(board)
    assert row.complete
    assert row.metrics["rmse_future"] == Statistic(3.0, pytest.approx(math.sqrt(7.0)), 3)
    assert [step.mean for step in row.curves["rmse_future_by_step"]] == [3.0, 6.0]


def test_one_seed_has_no_standard_deviation(new_board, new_cell):
    board = new_board([new_cell()])
    board.finish(new_cell(), rmse_future=2.0)
    (row,) = rows_of(board)
    assert row.metrics["rmse_future"] == Statistic(2.0, None, 1)


def test_an_incomplete_row_says_so_and_cannot_win(new_board, new_cell):
    whole = [new_cell("e2cnn", seed=seed) for seed in (0, 1)]
    partial = [new_cell("convnet", seed=seed) for seed in (0, 1, 2)]
    board = new_board([*partial, *whole])
    for cell in whole:
        board.finish(cell, rmse_future=2.0)
    board.finish(partial[0], rmse_future=1.0)
    board.diverge(partial[1])
    rows = rows_of(board)
    assert [row.model for row in rows] == ["e2cnn", "convnet"], "a diverged seed puts a row behind"
    assert rows[1].remark == "1 diverged, 1 absent"
    assert not rows[1].complete
    assert leaderboard.best(rows, "rmse_future") == {0}


def test_a_model_that_cannot_run_gives_its_reason(new_board, new_cell):
    board = new_board([new_cell()])
    board.refuse(new_cell(), "needs a square grid")
    (row,) = rows_of(board)
    assert row.remark == "n/a: needs a square grid"
    assert row.metrics == {}


def test_a_label_holds_only_what_tells_rows_of_a_model_apart(new_board, new_cell):
    board = new_board([new_cell("convnet", hidden=32), new_cell("convnet", hidden=64), new_cell("e2cnn", epochs=9)])
    assert [row.label for row in rows_of(board)] == ["convnet hidden=32", "convnet hidden=64", "e2cnn"]


def test_rows_are_sorted_by_level_as_numbers_and_then_by_the_metric(new_board, new_cell):
    cells = [new_cell(model, level) for level in (10, 9) for model in ("convnet", "e2cnn")]
    board = new_board(cells)
    for cell, speed in zip(cells, (1.0, 2.0, 1.0, 2.0), strict=True):
        board.finish(cell, samples_per_second=speed)
    order = [(row.level, row.model) for row in rows_of(board, "samples_per_second")]
    assert order == [(9, "e2cnn"), (9, "convnet"), (10, "e2cnn"), (10, "convnet")]


def test_an_unknown_metric_names_the_nearest(new_board):
    with pytest.raises(UserError, match=r"'rmse_futur'; did you mean 'rmse_future'\? \(valid: .*rmse_domain"):
        leaderboard.aggregate([], {}, "rmse_futur")


def test_json_has_stable_fields(full_board):
    rows = leaderboard.to_json(rows_of(full_board))
    assert json.loads(json.dumps(rows, allow_nan=False)) is not None
    identity = {"dataset", "preset", "grid", "level", "model", "label", "family", "source"}
    settings = {"config", "protocol", "train"}
    state = {"seeds", "complete", "reason", "done", "expected", "diverged", "failed"}
    assert set(rows[0]) == identity | settings | state | {"metrics", "curves"}
    assert rows[0]["metrics"]["rmse_future"]["n"] == 2


@pytest.mark.parametrize("metric", METRICS)
def test_the_table_fits_a_terminal_and_keeps_names_literal(full_board, new_board, metric):
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(to_table(rows_of(full_board, metric), metric))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "relaxed_steerable_" in text
    assert "1 diverged, 1 absent" in text
    assert "0.1750 ± 0.0071" in text
    assert " 2/2" in text, "no column is cut off"


def test_numbers_are_written_without_noise():
    assert [written(v) for v in (0.0, 0.17499999, 3e-7, 1234.56)] == ["0", "0.1750", "3.00e-07", "1235"]
    assert written_statistic("epochs", Statistic(6, 0.0, 2)) == "6"
    assert written_statistic("peak_memory_bytes", Statistic(2.0**20, None, 1)) == "1.000"
    assert written_statistic("rmse_future", Statistic(0.8, 1e-6, 2)) == "0.8000 ± 1e-06"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (12.5, "12.50"), (512, "512"), (1234, "1.23 k"), (999_499, "999 k"), (999_999, "1.00 M")),
        *((5_594_336, "5.59 M"), (30_550_000_000, "30.6 G"), (728e9, "728 G"), (1.5e12, "1.50 T"), (3e18, "3000 P")),
    ],
)
def test_sizes_are_written_with_a_prefix(value, text):
    assert written_statistic("flops", Statistic(value, None, 1)) == text


def test_a_size_that_differs_between_seeds_tells_its_spread_in_the_same_unit():
    assert written_statistic("parameters", Statistic(5.6e6, 2e4, 2)) == "5.60 ± 0.02 M"


def test_parameters_and_flops_are_on_the_board_and_integers_in_json(full_board):
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(to_table(rows_of(full_board)))
    text = console.file.getvalue()
    assert "Params" in text
    assert "FLOPs" in text
    assert "5.60 M" in text
    assert "30.6 G" in text
    told = json.dumps(leaderboard.to_json(rows_of(full_board))[0]["metrics"]["flops"])
    assert told == '{"mean": 30550000000, "std": 0.0, "n": 2}'


def test_records_from_before_flops_were_counted_still_read(new_board, new_cell):
    board = new_board([new_cell(seed=seed) for seed in (0, 1)])
    with board.recording(new_cell(seed=0)) as recorder:
        recorder.finish("done", {"rmse_future": 2.0, "parameters": 1000})
    board.finish(new_cell(seed=1), rmse_future=2.0, parameters=1001, flops=4_000_000)
    (row,) = rows_of(board)
    assert row.metrics["flops"] == Statistic(4_000_000, None, 1)
    assert row.metrics["parameters"].mean == 1000.5
    assert written_statistic("flops", row.metrics["flops"]) == "4.00 M"
