"""With a real MLflow server: watched, killed in mid-sync, and opened in a browser."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow_support import IGNORED_WARNINGS, REPORT, counts, history_of, make_database
from PIL import Image

from benchmark.errors import MachineError
from results.tracking import experiment as mlflow_experiment
from results.tracking import server as mlflow_server
from results.tracking import sync as mlflow_sync
from results.tracking import watch as mlflow_watch
from results.tracking import write as mlflow_write

pytestmark = IGNORED_WARNINGS


class Server:
    """A server that can be killed and started again with its database."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        database = f"sqlite:///{folder / 'mlflow.db'}"
        make_database(database)
        # As `pip install` leaves it; an environment that is older than our pages lacks them.
        info = folder / "pages" / "pages-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Name: pages\nVersion: 0\n")
        (info / "entry_points.txt").write_text("[mlflow.app]\nsymbench = results.tracking.app:app\n")
        self.path = str(info.parent)
        sys.path.append(self.path)
        self.argv = mlflow_server.command(database, folder / "artifacts", port=self.port)
        self.process = None

    def start(self):
        with (self.folder / "server.log").open("ab") as log:
            environment = mlflow_server.environment("127.0.0.1", self.port)
            environment["PYTHONPATH"] = os.pathsep.join((os.environ.get("PYTHONPATH", ""), self.path))
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
    sys.path.remove(server.path)


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
    mlflow_sync.sync(board.store, suite, server.url, REPORT)
    links = dict(mlflow_experiment.table_view_links(server.url)["shown"])

    for added in ("", "&searchFilter=&orderByKey=&orderByAsc=&startTime=&lifecycleFilter=&datasetsFilter=W10%3D"):
        page = dump_dom(f"{server.url}/{links['1 Who wins?']}{added}")  # what MLflow adds, and reload and Back keep
        for expected in ("verdict", "x best L0", "x best L9", "level 0 (data error 0, floor 0): relaxed_steerable_"):
            assert expected in page, expected
        assert "L0 best, not sure" in page
        assert ">LEADERBOARD<" not in page, "the board shows models"
        assert "<script>alert(1)" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert_painted(tmp_path / "screen.png")

    (leaderboard,) = runs(server, "shown", "tags.`symbench.kind` = 'leaderboard'")
    address = f"{server.url}/#/experiments/{leaderboard.info.experiment_id}/runs/{leaderboard.info.run_id}"
    page = dump_dom(address)
    assert "Lowest RMSE future" in page
    assert "<img src=x" not in page
    assert_painted(tmp_path / "screen.png")
    page = dump_dom(f"{address}/artifacts")
    for name in ("report.html", "leaderboard.csv", "figures"):
        assert name in page, name


def test_the_pages_are_as_our_own_expect_them(server, dump_dom):
    """Internals of MLflow that `results.tracking.app` changes: if this fails, they have moved."""
    page = dump_dom(f"{server.url}/")
    assert "assistant.fab.autoOpenedOnFirstLoad_v1" in page.partition("<title>")[0], "our script is in the head"
    built = Path(mlflow.__file__).parent / "server" / "js" / "build"
    scripts = "".join(path.read_text(errors="replace") for path in built.rglob("*.js"))
    for name in ("assistant.fab.autoOpenedOnFirstLoad", "workflowType", "viewStateShareKey", "data-assistant-ui"):
        assert name in scripts, name


def test_a_page_under_another_name_of_this_machine_may_write(server):
    request = urllib.request.Request(
        f"{server.url}/ajax-api/2.0/mlflow/experiments/search",
        b'{"max_results": 1}',
        {"Content-Type": "application/json", "Origin": f"http://localhost:{server.port}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


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
