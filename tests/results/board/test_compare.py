"""Comparison of two models, suites or stores: pairing, tests, and the differences that are named."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from support import rewrite

from benchmark.errors import UserError
from results.board import compare, leaderboard
from results.board.compare_table import summary, to_table
from results.board.contests import BoardTests
from results.statistics.multiple_comparisons import holm
from results.store.store import Store


@pytest.fixture
def board(new_board, new_cell):
    """convnet against e2cnn at two levels, three seeds; clearly apart at level 0 only."""
    cells = [new_cell(model, level, seed) for level in (0, 3) for model in ("convnet", "e2cnn") for seed in (0, 1, 2)]
    board = new_board(cells)
    errors = {("convnet", 0): (0.30, 0.31, 0.32), ("e2cnn", 0): (0.20, 0.211, 0.219)}
    errors |= {("convnet", 3): (0.30, 0.40, 0.50), ("e2cnn", 3): (0.41, 0.29, 0.52)}
    for cell in cells:
        board.finish(cell, rmse_future=errors[cell.model.name, cell.dataset.level][cell.seed])
    return board


def of_models(board, first="convnet", second="e2cnn", metric="rmse_future"):
    return compare.models(board.suite, board.store, first, second, metric)


def shown(compared):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(to_table(compared))
    console.file.close()
    return console.export_text()


def test_two_models_are_compared_level_by_level_over_common_seeds(board):
    compared = of_models(board)
    assert [(pair.first.level, compared.winner(pair)) for pair in compared.pairs] == [(0, "second"), (3, "")]
    first, second = np.array([0.30, 0.31, 0.32]), np.array([0.20, 0.211, 0.219])
    test = compared.pairs[0].test
    assert test.effect.size == pytest.approx(stats.gmean(first) / stats.gmean(second) - 1)
    assert test.raw == pytest.approx(stats.ttest_ind(np.log(first), np.log(second), equal_var=False).pvalue)
    assert test.p == test.raw, "each level is a contest of its own, with one pair"
    assert compared.pairs[0].improvement == 0
    assert compared.pairs[1].improvement == pytest.approx(5 / 9)
    assert compared.improvement.value == pytest.approx(5 / 18)
    assert "A is better on 0, B on 1, no significant difference on 1 (p < 0.05)" in summary(compared)
    text = shown(compared)
    assert "smoke_rotation_levels (small, centered)" in text
    assert "+47.7 % [" in text


def test_the_metric_decides_what_is_better(board):
    for cell in board.suite.cells:
        board.finish(cell, samples_per_second=(100.0 if cell.model.name == "convnet" else 50.0) + cell.seed)
    compared = of_models(board, metric="samples_per_second")
    assert [compared.winner(pair) for pair in compared.pairs] == ["first", "first"]
    with pytest.raises(UserError, match="did you mean 'rmse_future'"):
        of_models(board, metric="rmse_futur")


def test_a_model_of_several_settings_has_to_be_said_in_full(new_board, new_cell):
    cells = [new_cell("convnet", seed=s) for s in (0, 1)]
    cells += [new_cell("convnet", seed=s, hidden=32) for s in (0, 1)]
    board = new_board(cells)
    for cell in cells:
        board.finish(cell, rmse_future=0.1 * cell.model.config["hidden"] + 0.01 * cell.seed)
    with pytest.raises(UserError, match=r"has several settings; name one of 'convnet hidden=32', 'convnet hidden=64'"):
        of_models(board, "convnet", "convnet hidden=64")
    compared = of_models(board, "convnet hidden=32", "convnet hidden=64")
    assert compared.pairs[0].test.effect.size == pytest.approx(-0.5, abs=0.001)
    (hidden,) = [one for one in compared.differences if one.kind == "setting"]
    assert (hidden.what, hidden.first, hidden.second) == ("hidden", ("32",), ("64",))


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [("convet", "e2cnn", "did you mean 'convnet'"), ("e2cnn", "e2cnn", "both are 'e2cnn'")],
)
def test_names_that_lead_nowhere(board, first, second, reason):
    with pytest.raises(UserError, match=reason):
        of_models(board, first, second)


def test_missing_and_diverged_seeds_are_told(new_board, new_cell):
    cells = [new_cell(model, seed=seed) for model in ("convnet", "e2cnn") for seed in (0, 1, 2)]
    board = new_board(cells)
    for cell in cells[:3]:
        board.finish(cell, rmse_future=0.2 + 0.01 * cell.seed)
    board.finish(cells[3], rmse_future=0.3)
    board.diverge(cells[4])
    (pair,) = of_models(board).pairs
    assert (pair.test, pair.reason) == (None, "one seed: the spread over seeds is unknown")
    assert pair.improvement == 1, "one that diverged is worse than any"
    text = shown(of_models(board))
    assert "one seed" in " ".join(text.split())
    assert "1 diverged, 1 absent" in " ".join(text.split())
    document = compare.to_json(of_models(board))
    assert document["pairs"][0]["second_remark"] == "1 diverged, 1 absent"
    json.dumps(document, allow_nan=False)


def test_two_suites_meet_in_what_they_have_in_common(board, new_cell, new_board):
    longer = [
        cell.model_copy(update={"train": cell.train.model_copy(update={"epochs": 400})}) for cell in board.suite.cells
    ]
    longer = [type(cell).model_validate(cell.model_dump()) for cell in longer]  # with ids of their own
    extra = new_cell("convnet", level=9, epochs=400)
    suite = replace(board.suite, name="longer", cells=(*longer, extra))
    other = replace(board, suite=suite)
    for cell in longer:
        other.finish(cell, rmse_future=0.1 + 0.001 * cell.seed)
    compared = compare.suites(board.suite, suite, board.store, "rmse_future")
    assert len(compared.pairs) == 4
    assert [one.what for one in compared.differences] == ["epochs"]
    assert [(row.level, row.label) for row in compared.only_second] == [(9, "convnet")]
    assert "only in longer: convnet" in shown(compared)
    with pytest.raises(UserError, match="have nothing in common"):
        compare.suites(board.suite, replace(suite, cells=(extra,)), _with(board, extra), "rmse_future")


def test_rows_of_another_protocol_are_not_paired(board):
    shorter = [
        cell.model_copy(update={"protocol": cell.protocol.model_copy(update={"test_steps": 5})})
        for cell in board.suite.cells
    ]
    shorter = [type(cell).model_validate(cell.model_dump()) for cell in shorter]
    suite = replace(board.suite, name="shorter", cells=tuple(shorter))
    for cell in shorter:
        board.finish(cell, rmse_future=0.1 + 0.001 * cell.seed)
    with pytest.raises(UserError, match="have nothing in common"):
        compare.suites(board.suite, suite, board.store, "rmse_future")


def _with(board, cell):
    board.finish(cell)
    return board.store


def test_two_stores_show_versions_and_data_that_differ(board, tmp_path):
    other = replace(board, store=Store(tmp_path / "other"))
    for cell in board.suite.cells:
        other.finish(cell, rmse_future=0.1 + 0.001 * cell.seed)
    environment = {"torch": "2.6", "data_checksum": "f" * 64, "host": "elsewhere"}
    for cell in board.suite.cells:
        rewrite(other.store, cell, environment=environment)
        rewrite(board.store, cell, environment={"torch": "2.13", "data_checksum": "0" * 64})
    compared = compare.stores(board.suite, board.store, other.store, "rmse_future")
    assert len(compared.pairs) == 4
    assert not any(pair.same for pair in compared.pairs)
    assert [(one.kind, one.first, one.second) for one in compared.differences] == [
        ("data", ("0" * 16,), ("f" * 16,)),
        ("data", ("0" * 16,), ("f" * 16,)),
        ("version", ("2.13",), ("2.6",)),
    ], "a host that only one of them tells does not differ"
    assert compared.warning == ""
    for cell in board.suite.cells:
        rewrite(other.store, cell, environment={"metrics_version": 2})
    compared = compare.stores(board.suite, board.store, other.store, "rmse_future")
    assert "A has metrics of version 1, B of version 2" in shown(compared)
    assert "their numbers do not compare" in compare.to_json(compared)["warning"]
    with pytest.raises(UserError, match="no results of suite 'levels'"):
        compare.stores(board.suite, board.store, Store(tmp_path / "empty"), "rmse_future")


def test_the_same_records_are_not_called_a_tie(board):
    compared = compare.stores(board.suite, board.store, board.store, "rmse_future")
    assert all(pair.same for pair in compared.pairs)
    assert compared.improvement is None
    assert summary(compared) == "A and B are the same records: there is nothing to compare."


def test_names_are_text_and_not_markup(new_board, new_cell):
    cells = [new_cell("[red]x[/red]"), new_cell("convnet")]
    board = new_board(cells)
    for cell in cells:
        with board.recording(cell) as recorder:
            recorder.finish("done", {"rmse_future": 0.1})
    assert "[red]x[/red]" in shown(of_models(board, "[red]x[/red]", "convnet"))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_compare_says_what_the_board_says(new_board, new_cell, seeds):
    """Models of a contest share a letter exactly if their comparison is not significant; p and interval agree."""
    names = ("convnet", "e2cnn", "relaxed_steerable_rotation")
    cells = [new_cell(model, level, seed) for level in (0, 3) for model in names for seed in range(seeds)]
    board, rng = new_board(cells), np.random.default_rng(seeds)
    errors = dict(zip(names, (0.1, 0.105, 0.13), strict=True))
    for cell in cells:
        board.finish(cell, rmse_future=errors[cell.model.name] * np.exp(0.03 * rng.standard_normal()))
    rows = leaderboard.aggregate(cells, board.store.read(cells)[0])
    letters = dict(zip([(row.model, row.level) for row in rows], BoardTests(rows, "rmse_future").letters, strict=True))
    for first, second in itertools.permutations(names, 2):
        for pair in of_models(board, first, second).pairs:
            level = pair.first.level
            assert pair.significant != bool(set(letters[first, level]) & set(letters[second, level]))
            low, high = pair.test.effect.ends(pair.test.level)
            assert pair.significant == (not low <= 0 <= high)
    for verdict in BoardTests(rows, "rmse_future").verdicts:
        (pair,) = [
            pair
            for pair in of_models(board, verdict.rival.model, verdict.best.model).pairs
            if pair.first.level == verdict.best.level
        ]
        assert pair.test == verdict.test
        low, high = verdict.test.effect.ends(verdict.test.level)
        assert verdict.sure == (not low <= 0 <= high), "verdict and interval never contradict each other"


def test_rows_of_two_boards_are_adjusted_for_the_lines_of_the_comparison(board, tmp_path):
    other = replace(board, store=Store(tmp_path / "other"))
    for cell in board.suite.cells:
        other.finish(cell, rmse_future=0.1 + 0.001 * cell.seed)
    compared = compare.stores(board.suite, board.store, other.store, "rmse_future")
    raw = [pair.test.raw for pair in compared.pairs]
    assert [pair.test.p for pair in compared.pairs] == pytest.approx(holm(raw).tolist())
