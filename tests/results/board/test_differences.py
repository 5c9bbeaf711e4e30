"""Marks of rows whose seeds are of different data, code or metrics, and notes on versions, in every view of a board."""

import csv
import io
import json
from html import unescape

import pytest
from fabricated_board import report_of, rows_of
from rich.console import Console

from results.board.contests import BoardTests
from results.board.differences import provenance_notes
from results.board.table import to_table
from results.report import export, publish
from results.tracking import suite_runs

ONE, OTHER = "a1" * 32, "b2" * 32
PLACE = "smoke_rotation_levels level 0 (small)"


@pytest.fixture
def board_with(new_board, new_cell):
    """Board of three seeds of the ConvNet at level 0, with these environments."""

    def make(*environments):
        cells = [new_cell(seed=seed) for seed in range(len(environments))]
        board = new_board(cells)
        for cell, environment in zip(cells, environments, strict=True):
            board.finish(cell, environment)
        return board

    return make


@pytest.mark.parametrize(
    ("environments", "mark", "notes"),
    [
        ([{}, {}, {}], "", []),
        ([{"data_checksum": ONE, "model_digest": "c0de"}] * 3, "", []),
        ([{}, {"model_digest": "c0de"}, {"metrics_version": 1}], "", []),
        (
            [{"data_checksum": ONE}, {"data_checksum": OTHER}, {"data_checksum": ONE}],
            "different data (a1a1a1a1: seeds 0, 2; b2b2b2b2: seed 1)",
            [],
        ),
        (
            [{"model_digest": "c0de"}, {"model_digest": "code"}, {}],
            "different code (c0de: seed 0; code: seed 1)",
            [],
        ),
        ([{}, {}, {"metrics_version": 2}], "different metrics (1: seeds 0, 1; 2: seed 2)", []),
        (
            [{"git_commit": "f" * 40, "torch": "2.6"}, {}, {"git_dirty": True}],
            "",
            [
                "Seeds of one row differ in git_commit: ffffffff, 00000000 (convnet, smoke_rotation_levels level 0).",
                "Seeds of one row differ in torch: 2.6, 2.13 (convnet, smoke_rotation_levels level 0).",
            ],
        ),
    ],
)
def test_a_row_whose_seeds_do_not_belong_together_is_marked(board_with, environments, mark, notes):
    """Records of older versions do not say: that counts as unknown, and nothing is said of it."""
    (row,) = rows_of(board_with(*environments))
    assert (row.mixed, row.remark) == (mark, mark)
    assert provenance_notes([row]) == notes


def test_rows_of_a_task_with_different_data_and_levels_of_a_model_with_different_code_are_named(new_board, new_cell):
    cells = [new_cell("convnet"), new_cell("e2cnn"), new_cell("convnet", level=3)]
    board = new_board(cells)
    for cell, data, code in zip(cells, (ONE, OTHER, "3" * 64), ("c0de", "e2", "code"), strict=True):
        board.finish(cell, {"data_checksum": data, "model_digest": code})
    assert sorted(provenance_notes(rows_of(board))) == [
        f"convnet: different code: c0de ({PLACE}); code ({PLACE.replace('0', '3')}).",
        f"{PLACE}: different data: b2b2b2b2 (e2cnn); a1a1a1a1 (convnet).",
    ]


def test_every_view_shows_the_mark_and_the_notes(board_with, tmp_path):
    board = board_with(
        {"data_checksum": ONE, "git_dirty": True},
        {"data_checksum": OTHER, "git_dirty": False},
        {"model_digest": "c0de"},
    )
    rows, (records, _) = rows_of(board), board.store.read(board.suite.cells)
    mark, (note,) = rows[0].remark, provenance_notes(rows)
    assert "git_dirty: true, false" in note
    published = json.loads(publish.publish(board.store, board.suite, tmp_path, None).files[0].read_text())
    assert published["rows"][0]["remark"] == mark
    assert published["differences"] == [note]
    console = Console(width=400, file=io.StringIO(), color_system=None)
    console.print(to_table(rows))
    (line,) = csv.DictReader(io.StringIO(export.to_csv(rows)))
    assert line["mixed"] == mark
    tests = BoardTests(rows, "rmse_future")
    _, setting, *cells = suite_runs.wanted_runs(board.store, board.suite, tests, records)  # after the model's run
    assert setting.tags["symbench.remark"] == mark
    assert [run.tags.get("symbench.code") for run in cells] == [None, None, "c0de"]
    board_run = suite_runs.board_run(tests, records, report_of(board))
    pages = [
        unescape(board_run.artifacts["report.html"]),
        board_run.tags["mlflow.note.content"].replace("\\", ""),
        (tmp_path / "levels" / "README.md").read_text().replace("\\", ""),
        export.to_markdown(rows).replace("\\", ""),
        " ".join(console.file.getvalue().split()),
    ]
    for page in pages:
        assert note in page
        assert "a1a1a1a1: seed 0; b2b2b2b2: seed 1" in page
