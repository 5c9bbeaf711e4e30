"""Files of a store: what finished cells leave, and what earlier versions left."""

import json
import math
import os
import tarfile
import threading
from dataclasses import replace

import pytest
from fabricated_board import rows_of
from fake_slurm import FakeSlurm
from support import in_old_layout, symbench

from benchmark.files import write_json
from benchmark.suite import loading as suites
from results.board.leaderboard import aggregate, to_json
from results.board.quantities import Statistic
from results.report.publish import PUBLISHED_FOLDER
from results.store import archive, prune
from results.store.store import Store


@pytest.mark.parametrize("keeps_checkpoint", [False, True])
def test_a_finished_cell_has_at_most_four_files(new_board, new_cell, keeps_checkpoint):
    board = new_board([cell := new_cell()])
    folder = board.store.cell_folder(cell.id)
    with board.recording(cell) as recorder:
        recorder.keeps_checkpoint = keeps_checkpoint
        recorder.progress([], 6)
        recorder.rollouts([], "centered")
        recorder.checkpoint_path.write_bytes(b"weights")
        (folder / ".checkpoint.pt.0a.tmp").write_bytes(b"half")  # a killed process left it
        recorder.finish("done", {"rmse_future": 1.0})
    kept = {"checkpoint.pt"} if keeps_checkpoint else set()
    files = {"record.json", "history.jsonl", "predictions.h5", *kept}
    assert {path.name for path in folder.iterdir()} == files
    with board.store.recorder(cell):  # as a job does that then sees the result
        pass
    assert {path.name for path in folder.iterdir()} == files


def test_records_of_earlier_versions_are_read(new_board, new_cell):
    board = new_board([cell := new_cell()])
    board.finish(cell, {"torch": "2.6"})
    before = board.store.read([cell]), board.store.statuses([cell])
    folder = in_old_layout(board.store, cell)
    assert (board.store.read([cell]), board.store.statuses([cell])) == before
    (folder / "metrics.json").unlink()
    assert board.store.read([cell])[1][0].reason == "status.json says done, but metrics.json is missing"


@pytest.mark.parametrize(
    ("metric", "value"),
    [*(("rmse_future", value) for value in (-5.0, math.inf, "2.0", [1.0, -1.0])), ("true_field", [0.0, -math.inf])],
)
def test_an_impossible_metric_is_a_broken_record_and_leads_no_board(new_board, new_cell, metric, value):
    board = new_board([new_cell(seed=seed) for seed in range(2)])
    for cell in board.suite.cells:
        board.finish(cell, rmse_future=2.0)
    path = board.store.cell_folder(board.suite.cells[0].id) / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "metrics": {**record["metrics"], metric: value}}))
    records, (broken,) = board.store.read(board.suite.cells)
    assert broken.reason.startswith(f"metrics: {metric} is ")
    (row,) = aggregate(board.suite.cells, records, "rmse_future")
    assert row.metrics["rmse_future"] == Statistic(2.0, None, 1)


def test_components_of_a_vector_may_be_negative(new_board, new_cell):
    board = new_board([new_cell()])
    board.finish(new_cell(), learned_field=[-0.1, 0.2, 0.0], true_field=[0.48, -0.36, 0.8])
    (row,) = to_json(rows_of(board))
    assert row["complete"]
    means = {name: [part["mean"] for part in parts] for name, parts in row["vectors"].items()}
    assert means == {"learned_field": [-0.1, 0.2, 0.0], "true_field": [0.48, -0.36, 0.8]}


def test_who_reads_a_cell_that_finishes_sees_it_before_or_after(new_board, new_cell):
    cells = [new_cell(seed=seed) for seed in range(60)]
    board = new_board(cells)
    worker = threading.Thread(target=lambda: [board.finish(cell) for cell in cells])
    worker.start()
    while worker.is_alive():
        assert board.store.statuses(cells)[1] == []
    worker.join()
    assert len(board.store.statuses(cells)[0]) == len(cells)


class TestPrune:
    """A store with two cells, of which the first is finished, and three folders of jobs."""

    @pytest.fixture
    def board(self, new_board, new_cell):
        board = new_board([new_cell(), new_cell(seed=1)])
        board.finish(board.suite.cells[0])
        board.store.make()
        with board.recording(board.suite.cells[1]) as recorder:
            recorder.checkpoint_path.write_bytes(b"goes on")
            recorder.fail("killed", "")
        for folder, cells, code in (("local", [0], ""), ("open", [0, 1], "bbbb"), ("queued", [0], "cccc")):
            jobs = {"cells": [board.suite.cells[index].model_dump(mode="json") for index in cells], "code": code}
            write_json(board.store.root / "jobs" / folder / "job.json", jobs)
        (board.store.root / "jobs" / "queued" / "77_submission.sh").touch()
        for digest in ("aaaa", "bbbb", "cccc"):
            write_json(board.store.root / "code" / digest / "code.json", {})
        return board

    @staticmethod
    def names(store, cells=None, keeps=None, live=("queued",)):
        """Names of what can be removed two hours later."""
        for path in [path for folder in ("jobs", "code") for path in (store.root / folder).rglob("*")]:
            os.utime(path, (path.stat().st_mtime - 7200,) * 2)
        wastes = prune.waste(store, cells, keeps, lambda folder: folder.name in live)
        return sorted(path.name for waste in wastes for path in waste.paths)

    def test_the_young_the_used_and_the_open_stay(self, board):
        assert prune.waste(board.store, None, None, lambda folder: False) == [], "sent just now"
        assert self.names(board.store) == ["aaaa", "local"]
        assert self.names(board.store, live=()) == ["aaaa", "cccc", "local", "queued"]
        assert self.names(board.store, board.suite.cells) == ["aaaa", "local"]
        assert self.names(board.store, board.suite.cells[1:]) == ["aaaa"]
        with board.store.alone("run"):
            assert self.names(board.store) == ["aaaa"], "the local job may be that of the run"

    @pytest.mark.parametrize("keeps", [False, True])
    def test_checkpoints_stay_where_the_suite_says_so(self, board, keeps):
        cell = board.suite.cells[0]
        with board.recording(cell) as recorder:
            recorder.keeps_checkpoint = keeps
            recorder.finish("done", {})
            recorder.checkpoint_path.write_bytes(b"weights")
        checkpoint = [] if keeps else ["checkpoint.pt"]
        assert self.names(board.store) == ["aaaa", *checkpoint, "local"]
        assert "checkpoint.pt" in self.names(board.store, board.suite.cells, False), (
            "the suite decides, if there is one"
        )
        assert "checkpoint.pt" not in self.names(board.store, board.suite.cells, True)

    def test_the_command_asks_and_what_is_needed_stays(self, board, monkeypatch, tmp_path):
        fake = FakeSlurm.on_path(tmp_path / "slurm", monkeypatch)
        fake.says("squeue", "77 RUNNING")
        self.names(board.store)
        before = board.store.read(board.suite.cells)
        listed = symbench("prune", store=board.store)
        assert "2 files, " in listed.stdout
        assert "nothing is removed without --yes" in listed.stdout
        assert symbench("prune", "--yes", store=board.store).returncode == 0
        assert {path.name for path in (board.store.root / "jobs").iterdir()} == {"open", "queued"}
        assert {path.name for path in (board.store.root / "code").iterdir()} == {"bbbb", "cccc"}
        assert "nothing to remove" in symbench("prune", "--yes", store=board.store).stdout
        assert board.store.read(board.suite.cells) == before
        assert (board.store.cell_folder(board.suite.cells[1].id) / "checkpoint.pt").exists()
        fake.script("squeue", "exit 1")
        assert "squeue does not answer" in symbench("prune", store=board.store).stderr


class TestArchive:
    def test_the_archive_of_a_suite_gives_its_board(self, full_board, tmp_path):
        first, second = tmp_path / "a.tar.xz", tmp_path / "b.tar.xz"
        in_old_layout(full_board.store, full_board.suite.cells[0])
        for path in (first, second):
            count, broken = archive.write(full_board.store, full_board.suite.cells, path)
        assert (count, broken, first.read_bytes()) == (20, [], second.read_bytes())
        merged = symbench("merge", first, store=Store(tmp_path / "merged"))
        assert (
            merged.stdout == f"{first}: 20 cells copied, 0 equal to those in {os.path.relpath(tmp_path / 'merged')}\n"
        )
        copy = replace(full_board, store=Store(tmp_path / "merged"))
        assert to_json(rows_of(copy)) == to_json(rows_of(full_board))

    def test_only_records_are_taken_from_an_archive(self, tmp_path):
        path = tmp_path / "hostile.tar.xz"
        with tarfile.open(path, "w:xz") as made:
            for name in ("../evil.json", "cells/0123456789abcdef/checkpoint.pt", "cells/0123456789abcdef/../../x"):
                made.addfile(tarfile.TarInfo(name))
            link = tarfile.TarInfo("cells/0123456789abcdef/record.json")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            made.addfile(link)
        with archive.opened(path) as store:
            assert list(store.root.rglob("*")) == []
        path.write_bytes(path.read_bytes()[:50])
        result = symbench("merge", path, store=Store(tmp_path / "merged"))
        assert (result.returncode, "hostile.tar.xz: not an archive of records" in result.stderr) == (2, True)

    def test_published_records_give_the_published_board(self):
        """Whoever archives by hand and whoever archives with the command write the same layout."""
        folder = PUBLISHED_FOLDER / "beta-plane"
        cells = suites.load(str(folder / "suite.yaml")).cells
        with archive.opened(folder / "records.tar.xz") as store:
            records, broken = store.read(cells)
        assert (len(records), broken) == (len(cells), [])
