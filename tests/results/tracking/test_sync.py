"""MLflow as a view of the store: complete, repeatable, and separate from the runs of other people."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from mlflow_support import IGNORED_WARNINGS, client_of, counts, history_of, runs, sync

from benchmark.errors import MachineError, UserError
from results.store.store import Store
from results.tracking import experiment as mlflow_experiment
from results.tracking import sync as mlflow_sync
from results.tracking import watch as mlflow_watch
from results.tracking.runs import REVISION, RUN_KEY

pytestmark = IGNORED_WARNINGS
NOBODY = 65534


def test_syncing_again_changes_only_what_changed(small_board):
    assert counts(sync(small_board)) == (8, 0, 0, 0)
    before = {run.info.run_id for run in runs(small_board)}
    assert counts(sync(small_board)) == (0, 0, 8, 0)
    assert {run.info.run_id for run in runs(small_board)} == before
    assert len(before) == 8

    small_board.finish(small_board.suite.cells[2])
    assert counts(sync(small_board)) == (0, 6, 2, 0), "cell, parent and model, those that it now beats, the board"
    assert {run.info.run_id for run in runs(small_board)} == before, "completed where they stood"

    fewer = replace(small_board, suite=replace(small_board.suite, cells=small_board.suite.cells[:2]))
    assert counts(sync(fewer)) == (0, 5, 2, 1)
    parents = {run.info.run_id for run in runs(small_board, "tags.`symbench.kind` = 'setting'")}
    seeds = runs(small_board, "tags.`symbench.kind` = 'cell'")
    assert {run.data.tags["mlflow.parentRunId"] for run in seeds} == parents, "moved below the parents that were remade"


def test_nothing_new_reads_no_record_and_writes_nothing(small_board, monkeypatch):
    (broken := small_board.store.cell_folder(small_board.suite.cells[0].id) / "record.json").write_text("{")
    first = sync(small_board)
    assert [one.folder for one in first.broken] == [broken.parent]
    database = small_board.store.root / "mlflow.db"
    content = database.read_bytes()
    monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("the records were read"))
    again = sync(small_board)
    assert counts(again) == (0, 0, first.created, 0)
    assert again.broken == first.broken, "what was skipped is still named"
    assert database.read_bytes() == content
    database.touch()  # as if somebody had written to it: MLflow is asked, and the records are not
    assert counts(sync(small_board)) == (0, 0, first.created, 0)


def test_a_run_that_a_person_deletes_comes_back(small_board):
    sync(small_board)
    (run,) = runs(small_board, "tags.`symbench.seed` = '1'")
    client_of(small_board).delete_run(run.info.run_id)
    assert counts(sync(small_board)) == (0, 0, 8, 0)
    assert [one.info.run_id for one in runs(small_board, "tags.`symbench.seed` = '1'")] == [run.info.run_id]


def test_each_store_changes_its_own_runs_alone(small_board, tmp_path):
    """A colleague syncs the same suite to the same server."""
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    sync(small_board, uri)
    other = replace(small_board, store=Store(tmp_path / "other"))
    other.store.make()
    other.finish(other.suite.cells[0])
    assert counts(sync(other, uri)) == (4, 0, 0, 0)
    assert counts(sync(small_board, uri)) == (0, 0, 8, 0)
    assert counts(sync(other, uri)) == (0, 0, 4, 0)
    stores = [run.data.tags["symbench.store"] for run in runs(small_board, uri=uri)]
    assert (stores.count(small_board.store.identity), stores.count(other.store.identity)) == (8, 4)


def test_two_suites_of_one_name_do_not_remove_each_others_runs(small_board, tmp_path):
    files = [tmp_path / name for name in ("first.yaml", "second.yaml")]
    first, second = (replace(small_board, suite=replace(small_board.suite, path=path)) for path in files)
    second = replace(second, suite=replace(second.suite, cells=second.suite.cells[:2]))
    for path in files:
        path.touch()
    sync(first)
    with pytest.raises(UserError, match=r"in MLflow shows .*first\.yaml, .* another `name`"):
        sync(second)
    assert len(runs(small_board)) == 8
    files[0].rename(tmp_path / "moved.yaml")  # the same suite elsewhere, with fewer cells
    assert counts(sync(second))[3] == 1


def test_a_store_that_was_moved_gets_a_database_of_its_place(small_board):
    sync(small_board)
    store = Store(small_board.store.root.rename(small_board.store.root.with_name("moved")))
    moved = replace(small_board, store=store)
    anew = sync(moved)
    assert counts(anew) == (8, 0, 0, 0)
    assert str(anew).endswith("removed; the store was moved, and its old database is now mlflow.db.moved")
    assert (store.root / "mlflow.db.moved").exists()
    assert counts(sync(moved)) == (0, 0, 8, 0)
    assert not small_board.store.root.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_reader_of_the_store_syncs_to_a_database_of_their_own(small_board):
    """Another user, nobody, without permission to write."""
    with TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        root = Path(shutil.copytree(small_board.store.root, f"{home}/store"))
        read = replace(small_board, store=Store(root))
        files = sorted(root.rglob("*"))
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            with pytest.raises(UserError, match="you may read it and not write; name a database of your own"):
                mlflow_sync.sync(read.store, read.suite)
            assert counts(sync(read, f"sqlite:///{home}/own.db")) == (8, 0, 0, 0)
        finally:
            os.setresuid(0, 0, 0)
        assert sorted(root.rglob("*")) == files


def test_the_wrong_store_removes_nothing(small_board, tmp_path):
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    sync(small_board, uri)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: nothing of suite .* runs stay as they are"):
        sync(replace(small_board, store=Store(tmp_path / "empty")), uri)
    with pytest.raises(UserError, match="mistyped: there is none"):
        sync(replace(small_board, store=Store(tmp_path / "mistyped")), uri)
    assert not (tmp_path / "mistyped").exists()
    assert len(runs(small_board, uri=uri)) == 8
    assert counts(sync(small_board, uri)) == (0, 0, 8, 0)


def test_a_cell_that_is_interrupted_goes_on_in_its_run_and_one_trained_anew_gets_another(new_board, new_cell):
    board = new_board([cell := new_cell()])
    with board.recording(cell) as recorder:
        recorder.progress(history_of(3), 9)
        sync(board)
        recorder.fail("preempted", "gone")
    sync(board)
    (failed,) = runs(board, "tags.`symbench.kind` = 'cell'")
    assert (failed.info.status, failed.data.tags["symbench.message"]) == ("FAILED", "gone")
    with board.recording(cell) as recorder:
        recorder.progress(history_of(4), 9)
        assert counts(sync(board)) == (0, 4, 0, 0)
        (run,) = runs(board, "tags.`symbench.kind` = 'cell'")
        assert (run.info.run_id, run.info.status) == (failed.info.run_id, "RUNNING")
        assert "symbench.message" not in run.data.tags
        for history in (history_of(2), [replace(epoch, validation_rmse=9.0) for epoch in history_of(6)]):
            recorder.progress(history, 9)
            sync(board)
            (anew,) = runs(board, "tags.`symbench.kind` = 'cell'")
            curve = client_of(board).get_metric_history(anew.info.run_id, "validation_rmse")
            assert [(point.step, point.value) for point in curve] == [(e.epoch, e.validation_rmse) for e in history]
            assert anew.info.run_id != run.info.run_id
            run = anew


def test_epochs_alone_draw_no_report(small_board, new_cell, monkeypatch):
    late = new_cell("convnet", seed=1)
    board = replace(small_board, suite=replace(small_board.suite, cells=(*small_board.suite.cells, late)))
    with board.recording(late) as recorder:
        recorder.progress(history_of(1), 9)
        sync(board)
        with monkeypatch.context() as patch:
            patch.setattr(mlflow_sync, "board_run", lambda *_: pytest.fail("the board was made"))
            recorder.progress(history_of(2), 9)
            assert counts(sync(board)) == (0, 1, 8, 0)
        recorder.environment({"torch": "2.13"})
        made = counts(sync(board, report=SimpleNamespace(html="<p>with its provenance</p>", svg_figures=[])))
    assert made == (0, 1, 8, 0), "the report names versions"


def test_a_watch_goes_on_after_an_error(small_board, monkeypatch):
    board = replace(small_board, suite=replace(small_board.suite, cells=small_board.suite.cells[:1]))
    rounds = mlflow_watch.watch(board.store, board.suite, seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_sync, "sync", lambda *_: (_ for _ in ()).throw(MachineError("the server is down")))
        assert next(rounds) == mlflow_watch.Round(None, 1, "the server is down")
    assert next(rounds).synced.created == 4
    assert list(rounds) == []


@pytest.mark.parametrize("busy", [(Store, "read"), (mlflow_sync, "_update_runs")])
def test_a_run_that_another_sync_makes_meanwhile_stays_the_only_one(small_board, new_cell, monkeypatch, busy):
    late, made = new_cell("convnet", seed=1), []
    board = replace(small_board, suite=replace(small_board.suite, cells=(*small_board.suite.cells, late)))
    before = getattr(*busy)

    def make(*arguments):
        client = client_of(board)
        (experiment,) = [one for one in client.search_experiments() if "symbench.suite" in one.tags]
        run = client.create_run(experiment.experiment_id, tags={RUN_KEY: late.id})
        client.set_experiment_tag(experiment.experiment_id, REVISION, "another-1")
        made.append(run.info.run_id)
        return before(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(*busy, make)
        sync(board)
    board.finish(late)
    sync(board)
    shown = runs(board, f"tags.`{RUN_KEY}` = '{late.id}'")
    assert [run.info.run_id for run in shown] == made


@pytest.mark.parametrize("made", [1, 4, 7])
def test_an_interrupted_sync_is_completed_by_the_next(small_board, monkeypatch, made):
    """After the first model, after the first seed, and before the board, which comes last."""
    remaining, create = made, mlflow_sync.create

    def stopped(*arguments):
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise KeyboardInterrupt
        return create(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_sync, "create", stopped)
        with pytest.raises(KeyboardInterrupt):
            sync(small_board)
    assert len(runs(small_board)) == made
    assert counts(sync(small_board)) == (8 - made, 0, made, 0)
    assert len(runs(small_board)) == 8


def test_a_run_cut_off_between_its_requests_is_completed(small_board, monkeypatch):
    """Such a run has no digest, which is set last."""
    from mlflow.tracking import MlflowClient

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sync(small_board)
    (half,) = runs(small_board)
    assert counts(sync(small_board)) == (7, 1, 0, 0)
    assert half.info.run_id in {run.info.run_id for run in runs(small_board)}


def test_another_database_shows_the_same_run_for_run(small_board):
    uri = f"sqlite:///{small_board.store.root / 'again.db'}"
    assert counts(sync(small_board)) == counts(sync(small_board, uri)) == (8, 0, 0, 0)
    assert list(mlflow_experiment.table_view_links(uri)) == [small_board.suite.name]
    here, there = (content_of(small_board, where) for where in (None, uri))
    assert here == there
    assert len(here) == 8


def content_of(board, uri):
    """Name -> content of each run in MLflow, without the ids that MLflow makes up."""
    client, contents = client_of(board, uri), {}
    ids = {run.info.run_id: run.info.run_name for run in runs(board, uri=uri)}
    for run_id, name in ids.items():
        run = client.get_run(run_id)
        content = {**vars(run.info), **run.data.to_dictionary(), "inputs": len(run.inputs.dataset_inputs)}
        content["tags"] = {**content["tags"], "mlflow.parentRunId": ids.get(content["tags"].get("mlflow.parentRunId"))}
        content["curves"] = {
            key: [(one.step, one.timestamp, one.value) for one in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        }
        assert content.pop("_artifact_uri").endswith(f"/{content.pop('_run_id')}/artifacts")
        del content["_experiment_id"]
        contents[name] = content
    return contents
