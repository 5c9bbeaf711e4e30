"""With a real MLflow server: killed in mid-sync, logged to live, and opened in a browser."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace

import pytest
from PIL import Image

from benchmark.errors import MachineError, UserError
from benchmark.recorder import Epoch
from results import live, mlflow_server, mlflow_view, mlflow_watch, mlflow_write
from results.mlflow_client import ENVIRONMENT

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow and what it imports
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Server:
    """One that can be killed and comes back with what it had."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        self.argv = mlflow_server.command(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts", port=self.port)
        self.process = None

    def start(self):
        with (self.folder / "server.log").open("ab") as log:
            environment = {**os.environ, **ENVIRONMENT}
            self.process = subprocess.Popen(self.argv, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the MLflow server did not come up")

    def kill(self, how=signal.SIGKILL):
        if self.process is not None:
            os.killpg(self.process.pid, how)
            self.process.wait(timeout=30)
            self.process = None


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


def history_of(epochs):
    return [Epoch(e, 1.0 / (e + 1), 0.5 / (e + 1), 0.6 / (e + 1), 1e-3, 2.0) for e in range(epochs)]


def named(board, name):
    return replace(board, suite=replace(board.suite, name=name))


def epochs_shown(server, run):
    curve = client_of(server).get_metric_history(run.info.run_id, "validation_rmse")
    return sorted((point.step, point.value) for point in curve)


def test_a_watch_shows_each_epoch_of_a_running_cell_and_completes_its_run(server, new_board, new_cell):
    cell, other = new_cell("convnet"), new_cell("convnet", seed=1)
    board = new_board([cell, other], "watched")
    board.finish(other)
    rounds = mlflow_watch.watch(board.store, board.suite, server.url, seconds=0)

    def counts():
        synced = next(rounds).synced
        return synced.created, synced.updated, synced.unchanged, synced.removed

    assert counts() == (3, 0, 0, 0), "the other cell, its setting and the board"
    with board.recording(cell) as recorder:
        recorder.progress(history_of(2), 100)
        assert counts() == (1, 2, 1, 0), "the setting and the board say that it runs"
        (run,) = runs(server, "watched", f"tags.`symbench.cell` = '{cell.id}'")
        assert (run.info.status, run.data.tags["symbench.state"]) == ("RUNNING", "running")
        assert run.data.params["config.hidden"] == "64"
        for epochs in (3, 60, 100):  # more than the curve of a finished cell has points
            recorder.progress(history_of(epochs), 100)
            assert counts() == (0, 1, 3, 0)
            expected = [(one.epoch, one.validation_rmse) for one in history_of(epochs)]
            assert epochs_shown(server, run) == expected, "each once"
            recorder.progress(history_of(epochs), 100)  # a heartbeat
            assert counts() == (0, 0, 4, 0)
        recorder.finish("done", {"rmse_future": 0.1, "best_epoch": 40, "training_seconds": 200.0})
    last = next(rounds)
    assert (last.final, last.synced.created, last.synced.updated) == (2, 0, 3)
    with pytest.raises(StopIteration):
        next(rounds)
    (done,) = runs(server, "watched", f"tags.`symbench.cell` = '{cell.id}'")
    assert (done.info.run_id, done.info.status) == (run.info.run_id, "FINISHED")
    assert done.data.metrics["rmse_future"] == 0.1
    assert epochs_shown(server, run) == expected
    assert mlflow_view.sync(board.store, board.suite, server.url).unchanged == 4


def test_a_live_run_is_completed_by_the_sync(server, new_board, new_cell):
    """Its id stays, its curve gets what is missing, and its parent and its numbers come with the sync."""
    cell = new_cell("convnet")
    board = new_board([cell], "live")
    assert "on an address that the nodes reach" in live.announce(board.store, board.suite, server.url, elsewhere=True)
    assert live.announce(board.store, board.suite, server.url) == ""
    live._announced.cache_clear()
    assert mlflow_view.sync(board.store, board.suite, server.url, "").created == 0
    with board.store.recorder(cell) as recorder:
        watched = live.watched(recorder, cell, board.store)
        watched.start()
        watched.progress(history_of(2), 6)
        watched.told.close()
        (run,) = runs(server, "live")
        assert (run.info.status, run.data.params["config.hidden"]) == ("RUNNING", "64")
        assert run.data.tags["symbench.kind"] == "cell"
        watched.progress(history_of(4), 6)
        watched.told.close()
        curve = client_of(server).get_metric_history(run.info.run_id, "validation_rmse")
        assert [(point.step, point.value) for point in curve] == [(e.epoch, e.validation_rmse) for e in history_of(4)]
        watched.fail("preempted", "gone")
        watched.told.close()
    assert runs(server, "live")[0].info.status == "FAILED"

    again = live.Reporter(server.url, "live")  # the next attempt, in another process
    again.progress(cell, history_of(5))
    again.close()
    board.finish(cell)
    synced = mlflow_view.sync(board.store, board.suite, server.url, "")
    assert (synced.created, synced.updated) == (2, 1), "its parent and the board are new"
    (done,) = runs(server, "live", "tags.`symbench.kind` = 'cell'")
    assert done.info.run_id == run.info.run_id
    assert done.info.status == "FINISHED"
    curve = client_of(server).get_metric_history(run.info.run_id, "validation_rmse")
    assert [point.step for point in curve] == list(range(6))
    (parent,) = runs(server, "live", "tags.`symbench.kind` = 'setting'")
    assert done.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert mlflow_view.sync(board.store, board.suite, server.url, "").unchanged == 3


def test_a_run_that_began_live_after_a_sync_is_not_made_twice(server, new_board, new_cell):
    cells = [new_cell("convnet"), new_cell("convnet", seed=1)]
    board = new_board(cells, "late")
    board.finish(cells[0])
    mlflow_view.sync(board.store, board.suite, server.url, "")
    reporter = live.Reporter(server.url, "late")
    reporter.progress(cells[1], history_of(3))
    reporter.close()
    board.finish(cells[1])
    mlflow_view.sync(board.store, board.suite, server.url, "")
    assert len(runs(server, "late", "tags.`symbench.kind` = 'cell'")) == 2


@pytest.mark.parametrize("kind", ["down", "silent", "nonsense"])
def test_a_server_that_fails_is_given_up_and_training_goes_on(new_board, new_cell, monkeypatch, capsys, kind):
    monkeypatch.setattr(live, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(live, "LAST_WORDS_SECONDS", 30.0)
    cell = new_cell("convnet")
    board = new_board([cell])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if kind != "down":
            other.listen()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        if kind == "nonsense":
            monkeypatch.setattr(live.Reporter, "_ask", lambda *_: {"unheard": "of"})
        reporter = live.Reporter(url, "levels")
        with board.store.recorder(cell) as recorder:
            watched = live.Watched(recorder, cell, reporter)
            watched.start()
            for epochs in range(1, 7):
                watched.progress(history_of(epochs), 6)
            watched.finish("done", {"rmse_future": 0.1})
        reporter.close()
        assert reporter.gave_up.wait(30)
    reporter.progress(cell, history_of(7))  # to no purpose, and without harm
    records, broken = board.store.read([cell])
    assert broken == []
    assert len(records[cell.id].history) == 6
    assert records[cell.id].status.state == "done"
    assert capsys.readouterr().out.count("given up") == 1


def test_a_full_queue_loses_nothing_that_is_not_sent_later(new_cell, monkeypatch):
    monkeypatch.setattr(live, "WAITING", 1)
    monkeypatch.setattr(live.Reporter, "_work", lambda *_: None)
    reporter, cell = live.Reporter("http://127.0.0.1:9", "levels"), new_cell()
    reporter.progress(cell, history_of(1))
    reporter.progress(cell, history_of(2))  # finds no place
    first = reporter._queue.get_nowait()
    reporter.progress(cell, history_of(3))
    second = reporter._queue.get_nowait()
    assert [[epoch.epoch for epoch in message.args[1]] for message in (first, second)] == [[0], [1, 2]]


def test_a_suite_that_is_not_announced_is_not_watched(new_board, new_cell, monkeypatch, capsys):
    board, cell = new_board([new_cell()]), new_cell()
    with pytest.raises(UserError, match="must be an MLflow server"):
        live.announce(board.store, board.suite, "sqlite:///x.db")
    with pytest.raises(UserError, match=r"me:\*\*\*@host"):
        live.announce(board.store, board.suite, "postgresql://me:secret@host/a")
    with pytest.raises(UserError, match="not a readable address"):
        live.announce(board.store, board.suite, "http://me:secret@[::1")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD"):
        live.announce(board.store, board.suite, "http://me:secret@127.0.0.1:9")
    assert "the jobs try it" in live.announce(board.store, board.suite, "http://127.0.0.1:9")
    live._announced.cache_clear()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    live.complete(board.store, board.suite, "", [])
    assert "the server is down" in capsys.readouterr().out
    with board.store.recorder(cell) as recorder:
        assert isinstance(live.watched(recorder, cell, board.store), live.Watched)
        other = new_cell("e2cnn")
        assert live.watched(recorder, other, board.store) is recorder
        live.announce(board.store, board.suite, None)
        live._announced.cache_clear()
        assert live.watched(recorder, cell, board.store) is recorder


def assert_painted(screen):
    """Text, lines and marks: no blank page, and no lone spinner."""
    with Image.open(screen) as picture:
        counts = [count for count, _ in picture.convert("RGB").getcolors(2**24)]
    assert len(counts) > 100
    assert max(counts) < 0.97 * sum(counts)


@pytest.mark.browser
def test_the_boards_open_in_a_browser(server, full_board, new_cell, dump_dom, tmp_path):
    """Columns, filter and order as the link says; names as text; the report among the artifacts."""
    hostile = new_cell("<script>alert(1)</script>")
    suite = replace(full_board.suite, name="shown", cells=(*full_board.suite.cells, hostile))
    board = replace(full_board, suite=suite)
    board.refuse(hostile, "<img src=x onerror=alert(1)>")
    mlflow_view.sync(board.store, suite, server.url, "<p>report</p>")
    links = dict(mlflow_view.boards_at(server.url)["shown"])

    page = dump_dom(f"{server.url}/{links['Who wins at level 0?']}")
    for expected in ("rmse_future_low", "rmse_future_high", "ratio_to_best", "rmse_domain"):
        assert expected in page, expected
    places = [page.index(f">level 0, {name}<") for name in ("relaxed_steerable_rotation", "e2cnn", "convnet")]
    assert places == sorted(places), "best first"
    assert ">LEADERBOARD<" not in page, "the board shows settings"
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert_painted(tmp_path / "screen.png")

    (leaderboard,) = runs(server, "shown", "tags.`symbench.kind` = 'leaderboard'")
    address = f"{server.url}/#/experiments/{leaderboard.info.experiment_id}/runs/{leaderboard.info.run_id}"
    page = dump_dom(address)
    assert "Least RMSE future" in page
    assert "<img src=x" not in page
    assert_painted(tmp_path / "screen.png")
    page = dump_dom(f"{address}/artifacts")
    for name in ("report.html", "leaderboard.csv", "figures"):
        assert name in page, name


def test_a_server_killed_in_mid_sync_loses_nothing(server, full_board, monkeypatch):
    """Last of this file, since it takes the server away."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    board, made = named(full_board, "killed"), 0

    def create(*arguments):
        nonlocal made
        made += 1
        if made == 5:
            server.kill()
        return mlflow_write.create(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_view, "create", create)
        with pytest.raises(MachineError, match="the results are safe in the store, and the next sync goes on"):
            mlflow_view.sync(board.store, board.suite, server.url, "")
    server.start()
    present = len(runs(server, "killed"))
    assert present >= 4
    mlflow_view.sync(board.store, board.suite, server.url, "")
    shown = runs(server, "killed")
    keys = [run.data.tags["symbench.cell"] for run in shown]
    assert len(keys) == len(set(keys)) > present
    assert all(run.data.tags.get("symbench.digest") for run in shown)
    assert mlflow_view.sync(board.store, board.suite, server.url, "").unchanged == len(keys)
