import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request

import pytest

from benchmark.errors import MachineError, UserError
from benchmark.suite import Suite
from results import mlflow_view

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow and what it imports
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def sync(board, report="<p>report</p>", uri=None):
    records, _ = board.store.read(board.suite.cells)
    return mlflow_view.sync(board.store, board.suite, records, uri, report)


def runs(board, filter_string=""):
    from mlflow.tracking import MlflowClient

    uri = mlflow_view.default_tracking_uri(board.store)
    (experiment,) = mlflow_view.boards(uri).values()
    return list(MlflowClient(uri).search_runs([experiment], filter_string))


@pytest.fixture
def small_board(new_board, new_cell):
    cells = [new_cell("convnet"), new_cell("e2cnn"), new_cell("e2cnn", seed=1)]
    board = new_board(cells, "a/b <i>é'\"")
    board.finish(cells[0])
    board.finish(cells[1])
    board.diverge(cells[2])
    return board


def counts(synced):
    return synced.created, synced.updated, synced.unchanged, synced.removed


def test_syncing_again_changes_only_what_changed(small_board):
    assert counts(sync(small_board)) == (4, 0, 0, 0)
    before = {run.info.run_id for run in runs(small_board)}
    assert counts(sync(small_board)) == (0, 0, 4, 0)
    assert {run.info.run_id for run in runs(small_board)} == before
    assert len(before) == 4

    small_board.finish(small_board.suite.cells[2])
    assert counts(sync(small_board)) == (0, 2, 2, 0), "the cell, and the board with it"
    assert len(runs(small_board)) == 4

    small_board = type(small_board)(
        Suite(small_board.suite.name, small_board.suite.path, small_board.suite.cells[:2], small_board.suite.resources),
        small_board.store,
    )
    assert counts(sync(small_board)) == (0, 1, 2, 1)


def test_the_view_can_be_rebuilt_elsewhere(small_board):
    uri = f"sqlite:///{small_board.store.root / 'again.db'}"
    assert counts(sync(small_board, uri=uri)) == (4, 0, 0, 0)
    assert list(mlflow_view.boards(uri)) == [small_board.suite.name]


def test_a_run_tells_what_the_record_tells(small_board, new_cell):
    from mlflow.tracking import MlflowClient

    sync(small_board)
    cell = new_cell("convnet")
    (run,) = runs(small_board, f"tags.`symbench.cell` = '{cell.id}'")
    records, _ = small_board.store.read([cell])
    record = records[cell.id]
    assert run.info.end_time == round(1000 * record.status.heartbeat)
    assert run.info.end_time - run.info.start_time == 12_000
    assert run.data.params["config.hidden"] == "64"
    assert run.data.params["dataset"] == "smoke_rotation_levels"
    assert run.data.metrics["rmse_future"] == record.metrics["rmse_future"]
    assert run.data.tags["symbench.state"] == "done"
    assert (run.data.tags["symbench.parameters"], run.data.tags["symbench.flops"]) == ("5.60 M", "30.6 G")
    assert run.data.metrics["flops"] == 30_550_000_000
    client = MlflowClient(mlflow_view.default_tracking_uri(small_board.store))
    curve = client.get_metric_history(run.info.run_id, "validation_rmse")
    assert [(point.step, point.value) for point in curve] == [(e.epoch, e.validation_rmse) for e in record.history]
    steps = client.get_metric_history(run.info.run_id, "rmse_future_by_step")
    assert [point.value for point in steps] == record.metrics["rmse_future_by_step"]

    (board,) = runs(small_board, "tags.`symbench.kind` = 'leaderboard'")
    assert "| RMSE future | RMSE domain | Params | FLOPs | seeds |" in board.data.tags["mlflow.note.content"]
    assert "| 5.60 M | 30.6 G | 1/1 " in board.data.tags["mlflow.note.content"]
    assert {a.path for a in client.list_artifacts(board.info.run_id)} == {"report.html", "leaderboard.json"}
    (diverged,) = runs(small_board, "tags.`symbench.state` = 'diverged'")
    assert diverged.info.status == "FINISHED"


def test_a_database_of_something_else_is_left_alone(small_board):
    path = small_board.store.root / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("create table customers (id integer)")
    database.close()
    content = path.read_bytes()
    with pytest.raises(MachineError, match="belongs to something else"):
        sync(small_board, uri=f"sqlite:///{path}")
    assert path.read_bytes() == content
    path.write_bytes(b"no database at all, and long enough to tell" * 9)
    with pytest.raises(MachineError, match="not a readable database"):
        sync(small_board, uri=f"sqlite:///{path}")


def test_a_server_that_refuses_is_one_sentence(small_board, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MachineError, match=r"^MLflow at http://127\.0\.0\.1:9: [^\n]+$"):
        sync(small_board, uri="http://127.0.0.1:9")


def test_the_page_is_served_to_this_machine_alone(tmp_path):
    with pytest.raises(UserError, match="loopback"):
        mlflow_view.ui_command("sqlite:///x.db", tmp_path, host="0.0.0.0")
    argv = mlflow_view.ui_command("sqlite:///x.db", tmp_path, port=5001)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert "127.0.0.1:5001" in argv[argv.index("--allowed-hosts") + 1].split(",")


@pytest.mark.browser
def test_the_board_opens_in_a_browser(small_board, dump_dom):
    synced = sync(small_board)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = small_board.store
    argv = mlflow_view.ui_command(
        mlflow_view.default_tracking_uri(store), mlflow_view.artifact_folder(store), port=port
    )
    with (store.root / "server.log").open("wb") as log:
        environment = {**os.environ, **mlflow_view.ENVIRONMENT}
        server = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            dom = dump_dom(mlflow_view.board_url(f"http://127.0.0.1:{port}", synced.experiment_id))
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=20)
    for expected in ("convnet level 0 seed 0", "e2cnn level 0 seed 1", "rmse_future", "model_equivariance_error"):
        assert expected in dom
    assert dom.index("e2cnn level 0 seed 0") < dom.index("convnet level 0 seed 0"), "best first"
    assert ">LEADERBOARD<" not in dom, "the view shows cells"


def wait_for(url, server, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the MLflow server did not come up")
