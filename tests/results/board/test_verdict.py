"""The sentence above a level: who wins, by how much, and whether it is sure."""

from dataclasses import replace

import pytest
from fabricated_board import Board, rows_of

from results.board import leaderboard
from results.board.contests import BoardTests, effect_text
from results.tracking.suite_runs import wanted_runs

RELAXED = "relaxed_steerable_rotation"


@pytest.mark.parametrize(
    ("errors", "ending"),
    [
        (
            {"e2cnn": (0.10, 0.101, 0.102), "convnet": (0.20, 0.202, 0.204)},
            "0.1010, 100 % ahead of convnet, sure (p = ",
        ),
        ({"e2cnn": (0.10, 0.15, 0.20), "convnet": (0.11, 0.16, 0.21)}, "0.1500, 7 % ahead of convnet, not sure"),
        (
            {"e2cnn": (0.10, 0.15, 0.20), "convnet": (0.17, 0.16, 0.18), RELAXED: (0.16, 0.2, 0.2)},
            f"0.1500, 18 % ahead of convnet, not sure; {RELAXED} may be as good, too",
        ),
        (
            {"e2cnn": (0.1, 0.1001, 0.1002), "convnet": (0.12, 0.1201, 0.1202), RELAXED: (0.1, 0.2, 0.3)},
            f" % ahead of {RELAXED}, not sure",
        ),
        ({"e2cnn": (0.10,), "convnet": (0.11,)}, "0.1000, 10 % ahead of convnet, not tested with one seed"),
        ({"e2cnn": (0.0,), "convnet": (0.11,)}, "0, 0.11 ahead of convnet, not tested with one seed"),
        ({"e2cnn": (0.10,)}, "; no other model has finished all its seeds"),
    ],
    ids=["sure", "not sure", "of three", "the second is worse and the third not", "one seed", "perfect", "alone"],
)
def test_the_sentence_of_a_contest(new_board, new_cell, errors: dict[str, tuple[float, ...]], ending: str) -> None:
    cells = [(new_cell(model, seed=n), value) for model, values in errors.items() for n, value in enumerate(values)]
    board: Board = new_board([cell for cell, _ in cells])
    for cell, error in cells:
        board.finish(cell, rmse_future=error, strict_floor=0.031)
    (verdict,) = BoardTests(rows_of(board), "rmse_future").verdicts
    sentence = verdict.sentence("rmse_future")
    assert sentence.startswith("level 0 (data error 0, floor 0.031): e2cnn")
    assert ending in sentence


def test_two_contests_of_a_level_are_told_apart(new_board, new_cell) -> None:
    cell = new_cell("e2cnn")
    board: Board = new_board([cell])
    board.finish(cell, rmse_future=0.1)
    rows = [replace(row, budget=budget) for budget in ("55k parameters", "1M FLOPs a step") for row in rows_of(board)]
    sentences = [verdict.sentence("rmse_future") for verdict in BoardTests(rows, "rmse_future").verdicts]
    assert [sentence.partition(" (")[0] for sentence in sentences] == [
        "level 0, disjoint, 55k parameters",
        "level 0, disjoint, 1M FLOPs a step",
    ]


@pytest.mark.parametrize("test_runs", ["designed", "sampled"])
def test_every_view_has_the_best_of_the_scale_of_the_tests(new_board, new_cell, monkeypatch, test_runs: str) -> None:
    """The ConvNet has the lower arithmetic mean of two nearly equal models, e2cnn that of logarithms."""
    monkeypatch.setattr(leaderboard, "declared_test_runs", lambda dataset: test_runs)
    errors = {"convnet": (0.1, 0.1, 0.1), "e2cnn": (0.07, 0.1, 0.1306)}
    cells = {(model, n): new_cell(model, seed=n) for model in errors for n in range(3)}
    board: Board = new_board(list(cells.values()))
    for (model, n), cell in cells.items():
        error = errors[model][n]
        board.finish(cell, rmse_future=error, rmse_future_by_run=[error, error])
    rows = rows_of(board)
    assert [row.model for row in rows] == ["e2cnn", "convnet"]
    assert rows[0].metrics["rmse_future"].mean > rows[1].metrics["rmse_future"].mean
    assert leaderboard.best(rows, "rmse_future") == {0}
    tests = BoardTests(rows, "rmse_future")
    (verdict,) = tests.verdicts
    assert "e2cnn 0.1002, 3 % ahead of convnet, not sure" in verdict.sentence("rmse_future")
    assert effect_text(verdict.test, "rmse_future").startswith("+3.0 % [-")
    assert tests.ratios == [1.0, pytest.approx(1.0304, abs=1e-4)]
    records, _ = board.store.read(board.suite.cells)
    runs = {
        run.name: {point.name: point.value for point in run.metrics}
        for run in wanted_runs(board.store, board.suite, tests, records)
    }
    assert runs["level 0, e2cnn"]["ratio_to_best"] == runs["e2cnn"]["x best L0"] == 1
    assert runs["level 0, convnet"]["ratio_to_best"] == pytest.approx(tests.ratios[1])


def test_the_lead_of_relaxed_networks_is_that_of_the_member_with_the_lowest_validation_error(
    new_board, new_cell
) -> None:
    """Twice the error of the strict one is 100 % behind; the better relaxed network on test data is not chosen."""
    values = {("e2cnn", 0.0): (0.1, 1.0), (RELAXED, 1e-4): (0.2, 2.0), (RELAXED, 1e-2): (0.05, 3.0)}
    cells = [
        (new_cell(model, seed=n, **({"penalty": penalty} if penalty else {})), *pair)
        for (model, penalty), pair in values.items()
        for n in range(3)
    ]
    board: Board = new_board([cell for cell, *_ in cells])
    for n, (cell, error, validation) in enumerate(cells):
        board.finish(cell, rmse_future=error * (1 + 0.001 * (n % 3)), rmse_validation=validation)
    assert BoardTests(rows_of(board), "rmse_future").family_leads == [
        "Relaxed against strict: level 0: 100 % behind, sure."
    ]


def test_families_are_compared_level_by_level_and_only_where_both_have_all_seeds(new_board, new_cell) -> None:
    spread = (0.98, 1.0, 1.02)
    errors = {("e2cnn", 1): 2.0, (RELAXED, 1): 1.0, ("e2cnn", 3): 1.0, (RELAXED, 3): 1.001, ("e2cnn", 6): 1.0}
    cells = {(*key, n): new_cell(key[0], level=key[1], seed=n) for key in [*errors, (RELAXED, 6)] for n in range(3)}
    board: Board = new_board(list(cells.values()))
    for (*key, n), cell in cells.items():
        if tuple(key) in errors:
            board.finish(
                cell, rmse_future=errors[tuple(key)] * spread[n if key[0] == RELAXED else 2 - n], rmse_validation=1.0
            )
    (sentence,) = BoardTests(rows_of(board), "rmse_future").family_leads
    assert sentence == "Relaxed against strict: level 1: 100 % ahead, sure; level 3: less than 1 % behind, not sure."
