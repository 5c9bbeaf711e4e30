"""Provenance of finished cells against that of today, and records that are discarded to be trained again."""

import dataclasses

import pytest
from support import store_in

from benchmark.errors import MachineError
from benchmark.models.model_digest import model_digest
from results.store.provenance import stored_checksum

UNKNOWN = {"data_checksum": None, "model_digest": None}


@pytest.mark.parametrize(
    ("change", "kinds", "line"),
    [
        ({}, [], None),
        (UNKNOWN, [], None),
        ({"data_checksum": "0" * 64}, ["data"], "data (smoke_rotation_levels level 0 (small))"),
        ({"model_digest": "0" * 16}, ["code"], "code (convnet)"),
        ({"metrics_version": 0}, ["metrics"], "metrics (smoke_rotation_levels level 0 (small))"),
    ],
)
def test_a_result_of_other_data_code_or_metrics_is_counted_and_named(
    new_board, new_cell, tmp_path, change, kinds, line
):
    """Today's data are those of the file at level 0; without a file, as at level 3, nothing can be trained again."""
    cells = [new_cell(), new_cell(level=3), new_cell(seed=1)]
    board = dataclasses.replace(new_board(cells), store=store_in(tmp_path / "store", "small"))
    today = {
        "data_checksum": stored_checksum(next(board.store.data_folder.rglob("*.h5"))),
        "model_digest": model_digest(cells[0].model),
    }
    board.finish(cells[0], {**today, **change})
    board.finish(cells[1], {"data_checksum": "3" * 64, "model_digest": "3" * 16})
    with board.recording(cells[2]) as recorder:
        recorder.environment({"data_checksum": "4" * 64, "model_digest": "4" * 16})
        recorder.fail("machine", "has no result")
    review = board.store.review(cells)
    assert {kind: list(outdated) for kind, outdated in review.outdated.items()} == {kind: [cells[0]] for kind in kinds}
    assert review.cells == ([cells[0]] if kinds else [])
    advice = "`symbench run --retrain` trains them again"
    assert review.outdated_lines == ([f"1 finished cell was computed with other {line}; {advice}"] if line else [])


def test_settings_whose_seeds_differ_are_named_once_each(new_board, new_cell):
    cells = [new_cell(hidden=hidden, seed=seed) for hidden in (4, 8) for seed in (0, 1)]
    board = new_board(cells)
    for cell, digest in zip(cells, ("a", "b", "c", "c"), strict=True):
        board.finish(cell, {"model_digest": digest})
    place = "convnet, smoke_rotation_levels level 0 (small)"
    assert board.store.review(cells).mixed_lines == [f"{place}: different code (a: seed 0; b: seed 1)"]
    assert board.store.review(cells[2:]).mixed_lines == []


def test_a_discarded_record_is_absent_and_that_of_a_running_cell_stays(full_board):
    store, (cell, running, *_) = full_board.store, full_board.suite.cells
    (store.cell_folder(cell.id) / "checkpoint.pt").write_bytes(b"old")
    store.discard(cell)
    assert [path for path in store.cell_folder(cell.id).iterdir() if not path.name.startswith("lease-")] == []
    assert store.read([cell]) == ({}, [])
    with full_board.recording(running), pytest.raises(MachineError, match="a process runs it"):
        store.discard(running)
