"""Merge of stores: foreign provenance stays, and a cell of two stores is compared."""

import json
from pathlib import Path

import pytest
from fabricated_board import make_cell
from support import in_old_layout, rewrite, symbench

from benchmark.cell import Cell
from results.store.store import Store

METRICS = {"rmse_future": 0.1, "rmse_domain": 0.2, "training_seconds": 5.0}


def finish(store: Store, cell: Cell, **metrics: float) -> None:
    """Record of a training on a machine with the name of the store."""
    with store.recorder(cell) as recorder:
        assert recorder is not None
        recorder.start()
        recorder.environment({"host": store.root.name, "data_checksum": store.root.name, "git_commit": "c"})
        recorder.finish("done", {**METRICS, **metrics})


def content(store: Store) -> dict[str, bytes]:
    files = (path for path in store.root.rglob("*.json") if not path.name.startswith("lease"))
    return {str(path.relative_to(store.root)): path.read_bytes() for path in files}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store, Store]:
    """Stores of Alice and Bob, and an empty one."""
    return Store(tmp_path / "alice"), Store(tmp_path / "bob"), Store(tmp_path / "all")


def test_records_of_two_stores_in_one(stores: tuple[Store, Store, Store]) -> None:
    alice, bob, together = stores
    cells = [make_cell(seed=seed) for seed in range(4)]
    finish(alice, cells[0])
    finish(alice, cells[1])
    in_old_layout(alice, cells[0])
    finish(bob, cells[1], training_seconds=9.0)
    finish(bob, cells[2])
    for store, cell in ((alice, cells[3]), (together, cells[2])):  # failed attempts
        with store.recorder(cell) as recorder:
            assert recorder is not None
            recorder.start()
            recorder.fail("killed", "no memory")
            recorder.checkpoint_path.write_bytes(b"of the attempt that failed")
    result = symbench("merge", alice.root, bob.root, store=together)
    assert result.returncode == 0, result.stderr
    assert f"{alice.root}: 2 cells copied, 0 equal" in result.stdout
    assert f"{bob.root}: 1 cells copied, 1 equal" in result.stdout
    assert (
        "convnet, smoke_rotation_levels level 0 (small): different data (alice: seeds 0, 1; bob: seed 2)"
        in result.stderr
    )
    records, broken = together.read(cells)
    assert not broken
    assert [records[cell.id].environment["host"] for cell in cells[:3]] == ["alice", "alice", "bob"]
    assert {name: text for name, text in content(alice).items() if cells[3].id not in name}.items() <= content(
        together
    ).items()
    assert not (together.cell_folder(cells[2].id) / "checkpoint.pt").exists()
    assert cells[3].id not in records

    before = content(together)
    again = symbench("merge", bob.root, alice.root, store=together)
    assert (again.returncode, content(together)) == (0, before)
    assert "0 cells copied, 2 equal" in again.stdout


def test_a_cell_with_other_numbers_is_named_and_the_first_is_kept(stores: tuple[Store, Store, Store]) -> None:
    alice, bob, together = stores
    cell, diverged = make_cell(), make_cell(seed=1)
    finish(alice, cell)
    finish(bob, cell, rmse_future=0.3, rmse_domain=0.4)
    finish(alice, diverged)
    with bob.recorder(diverged) as recorder:
        assert recorder is not None
        recorder.start()
        recorder.finish("diverged", {}, "NaN")
    result = symbench("merge", alice.root, bob.root, store=together)
    assert result.returncode == 1
    assert "rmse_domain is 0.2 in " in result.stderr
    assert "(from alice), 0.4 in " in result.stderr
    assert "(from bob), and 1 more numbers; the first is kept" in result.stderr
    assert f"{diverged} ({diverged.id}): done in " in result.stderr
    records, _ = together.read([cell, diverged])
    assert [record.metrics for record in records.values()] == [METRICS, METRICS]


def test_what_cannot_be_merged(stores: tuple[Store, Store, Store]) -> None:
    alice, bob, together = stores
    cells = [make_cell(seed=seed) for seed in range(2)]
    for cell in cells:
        finish(alice, cell)
    result = symbench("merge", alice.root, bob.root, store=together)
    assert result.returncode == 2
    assert f"{bob.root}: not a store" in result.stderr
    assert not together.root.exists(), "nothing is written before all stores are checked"
    assert "name only the others" in symbench("merge", alice.root, store=alice).stderr
    rewrite(alice, cells[0], cell=json.loads((alice.cell_folder(cells[1].id) / "record.json").read_text())["cell"])
    with together.recorder(cells[1]):
        result = symbench("merge", alice.root, store=together)
    assert result.returncode == 1
    assert f"{cells[0].id}: it describes another cell" in result.stderr
    assert f"not copied: {cells[1]}: a process runs it" in result.stderr
