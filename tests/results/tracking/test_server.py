"""Syncs to a real MLflow server: watched, and killed in mid-sync."""

import signal
from dataclasses import replace

import pytest
from mlflow_support import IGNORED_WARNINGS, REPORT, Server, counts, history_of

from benchmark.errors import MachineError
from results.tracking import sync as mlflow_sync
from results.tracking import watch as mlflow_watch
from results.tracking import write as mlflow_write

pytestmark = IGNORED_WARNINGS


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill(signal.SIGTERM)


def client_of(server):
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.url)


def runs(server, suite, which=""):
    client = client_of(server)
    experiment = client.get_experiment_by_name(f"symbench/{suite}")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id], which))


def epochs_shown(server, run):
    curve = client_of(server).get_metric_history(run.info.run_id, "validation_rmse")
    return sorted((point.step, point.value) for point in curve)


def test_a_watch_shows_each_epoch_of_a_running_cell_and_completes_its_run(server, new_board, new_cell):
    cell, other = new_cell("convnet"), new_cell("convnet", seed=1)
    board = new_board([cell, other], "watched")
    board.finish(other)
    rounds = mlflow_watch.watch(board.store, board.suite, server.url, seconds=0)

    assert counts(next(rounds).synced) == (4, 0, 0, 0), "the other cell, its setting, its model and the board"
    with board.recording(cell) as recorder:
        recorder.progress(history_of(2), 100)
        assert counts(next(rounds).synced) == (1, 3, 1, 0), "the model, the setting and the board say that it runs"
        (run,) = runs(server, "watched", f"tags.`symbench.cell` = '{cell.id}'")
        assert (run.info.status, run.data.tags["symbench.state"]) == ("RUNNING", "running")
        assert run.data.params["config.hidden"] == "64"
        for epochs in (3, 60, 100):  # more than the curve of a finished cell has points
            recorder.progress(history_of(epochs), 100)
            assert counts(next(rounds).synced) == (0, 1, 4, 0)
            expected = [(one.epoch, one.validation_rmse) for one in history_of(epochs)]
            assert epochs_shown(server, run) == expected, "each once"
            recorder.progress(history_of(epochs), 100)  # a heartbeat
            assert counts(next(rounds).synced) == (0, 0, 5, 0)
        recorder.finish("done", {"rmse_future": 0.1, "best_epoch": 40, "training_seconds": 200.0})
    last = next(rounds)
    assert (last.final, last.synced.created, last.synced.updated) == (2, 0, 4)
    with pytest.raises(StopIteration):
        next(rounds)
    (done,) = runs(server, "watched", f"tags.`symbench.cell` = '{cell.id}'")
    assert (done.info.run_id, done.info.status) == (run.info.run_id, "FINISHED")
    assert done.data.metrics["rmse_future"] == 0.1
    assert epochs_shown(server, run) == expected
    assert mlflow_sync.sync(board.store, board.suite, server.url).unchanged == 5


def test_a_server_killed_in_mid_sync_loses_nothing(server, full_board, monkeypatch):
    """Last of this file, since it takes the server away."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    board, made = replace(full_board, suite=replace(full_board.suite, name="killed")), 0

    def create(*arguments):
        nonlocal made
        made += 1
        if made == 5:
            server.kill()
        return mlflow_write.create(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_sync, "create", create)
        with pytest.raises(MachineError, match="the results are safe in the store, and the next sync goes on"):
            mlflow_sync.sync(board.store, board.suite, server.url, REPORT)
    server.start()
    present = len(runs(server, "killed"))
    assert present >= 4
    mlflow_sync.sync(board.store, board.suite, server.url, REPORT)
    shown = runs(server, "killed")
    keys = [run.data.tags["symbench.cell"] for run in shown]
    assert len(keys) == len(set(keys)) > present
    assert all(run.data.tags.get("symbench.digest") for run in shown)
    assert mlflow_sync.sync(board.store, board.suite, server.url, REPORT).unchanged == len(keys)
