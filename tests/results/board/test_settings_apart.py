"""Rows that differ in a setting at its default, in the protocol, the grid or the budget are never taken for one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated_board import Board, make_cell, report_of, rows_of

import symbench
from benchmark.cell import Cell
from benchmark.suite import loading as suites
from benchmark.suite.labels import labels
from results.board import compare
from results.board.contests import BoardTests
from results.board.leaderboard import aggregate
from results.report import publish
from results.report.export import to_latex, to_markdown

MODELS = ("convnet", "e2cnn", "relaxed_steerable_rotation")


def changed(cell: Cell, part: str, **update: object) -> Cell:
    return cell.model_copy(update={part: getattr(cell, part).model_copy(update=update)})


def boards_of(part: str, key: str, values: Sequence[object], new_board: Callable[..., Board]) -> Board:
    """Three models with three seeds at two levels, for each of `values`; the error follows the place of the value."""
    entries = [
        (changed(make_cell(model, level, seed), part, **{key: value}), 0.2 + 0.05 * number + 0.02 * place)
        for number, value in enumerate(values)
        for place, model in enumerate(MODELS)
        for level in (0, 3)
        for seed in (0, 1, 2)
    ]
    board = new_board([cell for cell, _ in entries])
    for cell, error in entries:
        board.finish(cell, rmse_future=error * (1 + 0.01 * cell.seed))
    return board


def test_a_setting_at_its_default_is_told_from_the_other(new_board: Callable[..., Board]) -> None:
    rows = rows_of(boards_of("train", "rollout_steps", [2, None], new_board))
    assert {row.label for row in rows if row.model == "convnet"} == {
        "convnet rollout_steps=2",
        "convnet rollout_steps=null",
    }
    (first, *_) = BoardTests(rows, "rmse_future").verdicts
    assert first.best is not None
    assert first.best.label == "convnet rollout_steps=2"


def test_contests_of_two_protocols_are_named_everywhere(new_board: Callable[..., Board], tmp_path: Path) -> None:
    board = boards_of("protocol", "train_runs", [3, None], new_board)
    rows = rows_of(board)
    tests = BoardTests(rows, "rmse_future")
    expected = {"disjoint, train_runs 3", "disjoint, train_runs null"}
    assert {row.terms for row in rows} == expected
    assert {one.terms for one in tests.verdicts} == expected
    assert all(sum(f"), {terms}: level 0" in lead for lead in tests.family_leads) == 2 for terms in expected)
    assert all(
        "disjoint, train_runs 3" in text for text in (to_markdown(rows, "rmse_future"), to_latex(rows, "rmse_future"))
    )
    page = (publish.publish(board.store, board.suite, tmp_path / "p", None).files[0].parent / "README.md").read_text()
    for runs in ("3", "null"):
        assert page.count(f"(small, centered), train_runs {runs}, designed test runs:") == 1
        assert page.count(f"| smoke_rotation_levels, train_runs {runs} | 0 |") == 3
    compared = compare.models(board.suite, board.store, "convnet train_runs=3", "e2cnn train_runs=3", "rmse_future")
    assert {pair["terms"] for pair in compare.to_json(compared)["pairs"]} == {"disjoint, train_runs 3"}
    headings = [panel.heading for panel in report_of(board).panels]
    assert headings == [f"smoke_rotation_levels (small, centered, train_runs {runs})" for runs in ("3", "null")]


def test_a_width_that_a_budget_decides_is_no_setting() -> None:
    cells = [changed(make_cell(hidden=hidden), "dataset", name=name) for hidden, name in ((8, "a"), (9, "b"))]
    entries = [(cell, "1M parameters") for cell in cells]
    assert labels(entries, {cell.id for cell in cells}) == ["convnet", "convnet"]
    assert labels(entries) == ["convnet hidden=8", "convnet hidden=9"]


def test_budgets_on_two_data_sets_leave_one_label_for_each_model(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ndatasets:\n  - beta_plane: {level: 0, preset: small}\n"
        "  - smoke_rotation_levels: {level: 0, preset: tiny}\n"
        "models: [convnet, {augmentation: {budget: null}}]\nbudget: {flops: 59M}\n"
        "protocol: {input_frames: 1, train_steps: 2, test_steps: 2}\n"
    )
    suite = suites.load(str(path))
    rows = aggregate(suite.cells, {}, budgets=suite.budgets)
    assert {row.label for row in rows} == {"convnet", "augmentation"}
    assert len({json.dumps(row.config, sort_keys=True) for row in rows if row.model == "convnet"}) == 2


def test_both_layouts_have_axes_and_names_of_their_own() -> None:
    figure = symbench.figure("handedness", metric="rmse_domain")
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == len(set(titles)) == 2
    page = (publish.PUBLISHED_FOLDER / "handedness" / "README.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ")[:3]
        for line in page.partition("## All rows")[2].splitlines()
        if line.startswith("| smoke_rotation") and "| e2cnn |" in line
    ]
    assert len({tuple(row) for row in rows}) == 2
    cell = make_cell()
    published = changed(cell, "dataset", layout="published")
    assert (str(cell), str(published)) == (
        "smoke_rotation_levels level 0 (small), convnet, seed 0",
        "smoke_rotation_levels level 0 (small, centered, published layout), convnet, seed 0",
    )


@pytest.mark.parametrize("key", ["train_runs", "input_frames", "target"])
def test_the_published_numbers_stand_beside_what_differs(key: str) -> None:
    from results.report.literature import _difference

    (row,) = aggregate([make_cell()], {})
    values = {"train_runs": 1, "input_frames": 2, "target": "change"}
    altered = replace(row, protocol={**row.protocol, key: values[key]})
    assert f"{key} {values[key]} instead of" in _difference(altered)
    assert key not in _difference(row)
