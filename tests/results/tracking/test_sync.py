"""MLflow as a view of the store: complete, repeatable, and separate from the runs of other people."""

import base64
import json
import re
import socket
import sqlite3
import zlib
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest

from benchmark.errors import MachineError, UserError
from benchmark.training.recorder import Epoch
from results.report.report import Report
from results.store.store import Store
from results.tracking import experiment as mlflow_experiment
from results.tracking import server as mlflow_server
from results.tracking import sync as mlflow_sync
from results.tracking import watch as mlflow_watch
from results.tracking.client import connect, default_tracking_uri, without_password
from results.tracking.suite_runs import CURVE_POINTS, cell_run
from results.tracking.tags import LONGEST_TAG, REVISION, RUN_KEY

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow and what it imports
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
REPORT = SimpleNamespace(html="<p>report</p>", svg_figures=[("figure", '<svg viewBox="0 0 2 1"></svg>')])


def sync(board, uri=None, report=REPORT):
    return mlflow_sync.sync(board.store, board.suite, uri, report)


def client_of(board, uri=None):
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri or default_tracking_uri(board.store))


def runs(board, filter_string="", order_by=None, uri=None):
    client = client_of(board, uri)
    (experiment,) = [one for one in client.search_experiments() if "symbench.suite" in one.tags]
    return list(client.search_runs([experiment.experiment_id], filter_string, order_by=order_by))


def history_of(epochs):
    return [Epoch(e, 1.0 / e, 0.5 / e, 0.6 / e, 1e-3, 2.0) for e in range(1, epochs + 1)]


@pytest.fixture
def small_board(new_board, new_cell):
    """Two settings, three seeds: with their parents and the board six runs."""
    cells = [new_cell("convnet"), new_cell("e2cnn"), new_cell("e2cnn", seed=1)]
    board = new_board(cells, "a/b <i>é'\"")
    board.finish(cells[0])
    board.finish(cells[1])
    board.diverge(cells[2])
    return board


def counts(synced):
    return synced.created, synced.updated, synced.unchanged, synced.removed


def test_syncing_again_changes_only_what_changed(small_board):
    assert counts(sync(small_board)) == (6, 0, 0, 0)
    before = {run.info.run_id for run in runs(small_board)}
    assert counts(sync(small_board)) == (0, 0, 6, 0)
    assert {run.info.run_id for run in runs(small_board)} == before
    assert len(before) == 6

    small_board.finish(small_board.suite.cells[2])
    assert counts(sync(small_board)) == (0, 4, 2, 0), "the cell, its parent, the other one that it now beats, the board"
    assert {run.info.run_id for run in runs(small_board)} == before, "completed where they stood"

    fewer = replace(small_board, suite=replace(small_board.suite, cells=small_board.suite.cells[:2]))
    assert counts(sync(fewer)) == (0, 3, 2, 1)
    parents = {run.info.run_id for run in runs(small_board, "tags.`symbench.kind` = 'setting'")}
    seeds = runs(small_board, "tags.`symbench.kind` = 'cell'")
    assert {run.data.tags["mlflow.parentRunId"] for run in seeds} == parents, "moved below the parents that were remade"


def test_nothing_new_reads_no_record_and_writes_nothing(small_board, monkeypatch):
    (broken := small_board.store.cell_folder(small_board.suite.cells[0].id) / "metrics.json").write_text("{")
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
    assert counts(sync(small_board)) == (0, 0, 6, 0)
    assert [one.info.run_id for one in runs(small_board, "tags.`symbench.seed` = '1'")] == [run.info.run_id]


def test_the_sync_of_another_store_is_noticed(small_board, tmp_path):
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    sync(small_board, uri)
    other = replace(small_board, store=Store(tmp_path / "other"))
    other.finish(other.suite.cells[0])
    assert sync(other, uri).removed == 3
    assert len(runs(small_board, uri=uri)) == 3
    sync(small_board, uri)
    assert len(runs(small_board, uri=uri)) == 6


def test_the_wrong_store_removes_nothing(small_board, tmp_path):
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    sync(small_board, uri)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: nothing of suite .* runs are left as they are"):
        sync(replace(small_board, store=Store(tmp_path / "empty")), uri)
    with pytest.raises(UserError, match="mistyped: there is none"):
        sync(replace(small_board, store=Store(tmp_path / "mistyped")), uri)
    assert not (tmp_path / "mistyped").exists()
    assert len(runs(small_board, uri=uri)) == 6
    assert counts(sync(small_board, uri)) == (0, 0, 6, 0)


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
        assert counts(sync(board)) == (0, 3, 0, 0)
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
            assert counts(sync(board)) == (0, 1, 6, 0)
        recorder.environment({"torch": "2.13"})
        made = counts(sync(board, report=SimpleNamespace(html="<p>with its provenance</p>", svg_figures=[])))
    assert made == (0, 1, 6, 0), "the report names versions"


def test_a_watch_goes_on_after_an_error(small_board, monkeypatch):
    board = replace(small_board, suite=replace(small_board.suite, cells=small_board.suite.cells[:1]))
    rounds = mlflow_watch.watch(board.store, board.suite, seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_sync, "sync", lambda *_: (_ for _ in ()).throw(MachineError("the server is down")))
        assert next(rounds) == mlflow_watch.Round(None, 1, "the server is down")
    assert next(rounds).synced.created == 3
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


@pytest.mark.parametrize("made", [1, 2, 5])
def test_an_interrupted_sync_is_completed_by_the_next(small_board, monkeypatch, made):
    """After the first setting, after its seed, and before the board, which comes last."""
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
    assert counts(sync(small_board)) == (6 - made, 0, made, 0)
    assert len(runs(small_board)) == 6


def test_a_run_cut_off_between_its_requests_is_completed(small_board, monkeypatch):
    """Such a run has no digest, which is set last."""
    from mlflow.tracking import MlflowClient

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sync(small_board)
    (half,) = runs(small_board)
    assert counts(sync(small_board)) == (5, 1, 0, 0)
    assert half.info.run_id in {run.info.run_id for run in runs(small_board)}


def test_another_database_shows_the_same_run_for_run(small_board):
    uri = f"sqlite:///{small_board.store.root / 'again.db'}"
    assert counts(sync(small_board)) == counts(sync(small_board, uri)) == (6, 0, 0, 0)
    assert list(mlflow_experiment.table_view_links(uri)) == [small_board.suite.name]
    here, there = (content_of(small_board, where) for where in (None, uri))
    assert here == there
    assert len(here) == 6


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


def test_a_seed_tells_what_its_record_tells(small_board, new_cell):
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
    client = client_of(small_board)
    curve = client.get_metric_history(run.info.run_id, "validation_rmse")
    assert [(point.step, point.value) for point in curve] == [(e.epoch, e.validation_rmse) for e in record.history]
    steps = client.get_metric_history(run.info.run_id, "rmse_future_by_step")
    assert [point.value for point in steps] == record.metrics["rmse_future_by_step"]
    (diverged,) = runs(small_board, "tags.`symbench.state` = 'diverged'")
    assert diverged.info.status == "FINISHED"


@pytest.mark.parametrize(("epochs", "best"), [(32, 3), (1000, 577), (1000, 5000), (33, 1)])
def test_the_curve_of_a_finished_cell_has_few_points_with_its_ends_and_its_best_epoch(
    new_board, new_cell, epochs, best
):
    board = new_board([cell := new_cell()])
    with board.recording(cell) as recorder:
        recorder.progress(history_of(epochs), epochs)
        (running,) = board.store.read([cell])[0].values()
        recorder.finish("done", {"best_epoch": best})
    (done,) = board.store.read([cell])[0].values()
    every, few = ([p[3] for p in cell_run(r, "s").metrics if p[0] == "train_loss"] for r in (running, done))
    assert every == list(range(1, epochs + 1))
    assert {1, epochs} | ({best} & set(every)) <= set(few)
    assert len(few) == len(set(few)) <= CURVE_POINTS + 1
    assert epochs > CURVE_POINTS or few == every


def test_a_parent_holds_the_statistics_of_its_seeds(new_board, new_cell):
    cells = [new_cell("convnet", level=3, seed=seed) for seed in (0, 1, 2)]
    board = new_board([*cells, new_cell("e2cnn", level=3)])
    errors = (0.1, 0.2, 0.6)
    for cell, error in zip(cells, errors, strict=True):
        board.finish(cell, rmse_future=error, model_equivariance_error=0.03, training_seconds=7200.0)
        path = board.store.cell_folder(cell.id) / "environment.json"
        path.write_text(json.dumps({"data_file": "level-3.h5", "data_checksum": "c0ffee" * 10}))
    board.finish(board.suite.cells[3], rmse_future=0.2)
    sync(board)
    (parent,) = runs(board, "tags.`symbench.kind` = 'setting' and params.model = 'convnet'")
    numbers = parent.data.metrics
    assert numbers["rmse_future"] == fmean(errors)
    assert (numbers["rmse_future_low"], numbers["rmse_future_high"]) == (0.1, 0.6), "three seeds: their range"
    assert (numbers["seeds_done"], numbers["seeds_expected"]) == (3, 3)
    assert numbers["ratio_to_best"] == pytest.approx(fmean(errors) / 0.2)
    assert numbers["symmetry_ratio"] == pytest.approx(0.03 / 0.15)
    assert numbers["training_hours"] == 2
    assert "seed" not in parent.data.params
    nested = runs(board, f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.data.tags["symbench.cell"] for run in nested} == {cell.id for cell in cells}
    (logged,) = parent.inputs.dataset_inputs
    assert logged.dataset.digest == ("c0ffee" * 10)[:36]
    assert json.loads(logged.dataset.source)["uri"] == "data/smoke_rotation_levels/small/level-3.h5"
    assert json.loads(logged.dataset.profile) == {
        "data_equivariance_error": pytest.approx(0.15),
        "data_equivariance_error_relative": pytest.approx(0.3),
    }


def test_the_board_run_carries_table_figures_and_report(full_board):
    report = Report(full_board.store, full_board.suite, *full_board.store.read(full_board.suite.cells))
    sync(full_board, report=report)
    (board,) = runs(full_board, "tags.`symbench.kind` = 'leaderboard'")
    client = client_of(full_board)
    names = {artifact.path for artifact in client.list_artifacts(board.info.run_id)}
    assert names == {"report.html", "leaderboard.json", "leaderboard.csv", "leaderboard.md", "figures"}
    figures = client.list_artifacts(board.info.run_id, "figures")
    assert figures
    for figure in figures:
        svg = Path(client.download_artifacts(board.info.run_id, figure.path)).read_text(encoding="utf-8")
        assert re.match(r'<svg [^>]*\bwidth="\d', svg), "MLflow's viewer shows nothing of a picture without a size"
    assert client.get_experiment(board.info.experiment_id).artifact_location.startswith("file://")
    text = Path(client.download_artifacts(board.info.run_id, "report.html")).read_text(encoding="utf-8")
    assert text == report.html
    note = board.data.tags["mlflow.note.content"]
    assert "| RMSE future | RMSE domain | Params | FLOPs | seeds |" in note
    assert "| 5.60 M | 30.6 G | 2/2 " in note
    assert "**relaxed_steerable_rotation** (0.1750 ± 0.0071); " in note
    assert len(note) <= 5000


def states_of(board):
    """Question -> the state of MLflow's table that its link opens with."""
    client = client_of(board)
    (experiment,) = [one for one in client.search_experiments() if "symbench.suite" in one.tags]
    (links,) = mlflow_experiment.table_view_links(default_tracking_uri(board.store)).values()
    states = {}
    for question, path in links:
        assert path.startswith(f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=")
        assert path in experiment.tags["mlflow.note.content"]
        key = path.partition("viewStateShareKey=")[2].partition("&")[0]
        packed = experiment.tags[f"mlflow.sharedViewState.{key}"].removeprefix("deflate;")
        states[question] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return states


def opened_by(board, state):
    return runs(board, state["searchFilter"], [f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"])


def test_what_lacks_a_seed_does_not_lead(small_board):
    """The steerable model has the lesser error, but one of its seeds diverged."""
    sync(small_board)
    states = states_of(small_board)
    for question in ("Who wins?", "Who wins at level 0?"):
        shown = [run.data.params["model"] for run in opened_by(small_board, states[question])]
        assert shown == ["convnet", "e2cnn"]


def test_the_ready_boards_answer_their_questions(full_board):
    """MLflow's own search, with the filter and the order that a board's link opens with."""
    sync(full_board)
    states = states_of(full_board)

    def opened(question):
        return opened_by(full_board, states[question])

    assert [run.data.params["level"] for run in opened("Who wins at level 3?")] == ["3"] * 4
    assert opened("Who wins at level 3?")[0].data.params["model"] == "relaxed_steerable_rotation"
    winners = [run for run in opened("Who wins?") if run.data.metrics.get("ratio_to_best") == 1]
    assert len(winners) == 3, "one at each level"
    assert {run.data.tags["symbench.kind"] for run in opened("Who wins?")} == {"setting"}
    assert {run.data.tags["symbench.kind"] for run in opened("Every seed, with its curves")} == {"cell"}
    assert opened("How symmetric are models and data?")[0].data.metrics["model_equivariance_error"] < 1e-6
    assert "metrics.`training_hours`" in states["At what cost?"]["selectedColumns"]


def test_hostile_names_are_text(new_board, new_cell):
    cell = new_cell("<script>alert(1)</script>\n| [x](javascript:alert(1)) *b*", note="'\"; drop table runs; --" * 500)
    long = [new_cell("convnet", note=letter * 9000) for letter in "ab"]
    board = new_board([cell, *long], "<script>é'\"")
    board.refuse(cell, "<img src=x onerror=alert(1)> | ```")
    board.finish(long[0])
    assert counts(sync(board)) == (5, 0, 0, 0)
    assert counts(sync(board)) == (0, 0, 5, 0)
    for run in runs(board):
        note = run.data.tags.get("mlflow.note.content", "")
        for active in ("<script", "<img", "[x]", "```"):
            assert active not in note.replace("\\" + active[0], ""), note
        assert "\n" not in run.info.run_name
        assert all(len(value) <= LONGEST_TAG for value in run.data.tags.values())
        assert all(len(value) <= 6000 for value in run.data.params.values())


def test_a_database_of_something_else_is_left_alone(small_board):
    path = small_board.store.root / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("create table customers (id integer)")
    database.close()
    content = path.read_bytes()
    with pytest.raises(MachineError, match="belongs to something else"):
        sync(small_board, f"sqlite:///{path}")
    assert path.read_bytes() == content
    path.write_bytes(b"no database at all, and long enough to tell" * 9)
    with pytest.raises(MachineError, match="not a readable database"):
        sync(small_board, f"sqlite:///{path}")


@pytest.mark.parametrize("uri", ["runs", "htp://127.0.0.1", "127.0.0.1:5000"])
def test_what_is_no_address_is_the_users_mistake(small_board, uri):
    with pytest.raises(UserError, match="must be a server such as"):
        sync(small_board, uri)


def test_a_server_that_is_down_or_silent_is_one_sentence(small_board, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(MachineError, match=r"^MLflow at http://127\.0\.0\.1:9: the server is down[^\n]+$"):
        sync(small_board, "http://127.0.0.1:9")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(MachineError, match=r"does not answer in time; the results are safe"):
            sync(small_board, f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_an_address_that_cannot_be_used_is_one_sentence(small_board, tmp_path):
    with pytest.raises(UserError, match="not a readable address"):
        sync(small_board, "http://me:secret@[::1")
    with pytest.raises(UserError, match="is a folder"):
        sync(small_board, f"sqlite:///{tmp_path}")
    with pytest.raises(MachineError, match="No module named"), connect("postgresql://me@host/a"):
        raise ImportError("No module named 'psycopg2'")  # as where a driver is installed, and MLflow wants another


@pytest.mark.parametrize("words", ["{}/a broke", "Invalid url: {}", "HTTPSConnectionPool: NameResolutionError {}"])
def test_a_password_in_an_error_is_not_repeated(words):
    with pytest.raises(MachineError) as caught, connect("https://me:secret@host"):
        raise OSError(words.format("https://me:secret@host"))
    assert "secret" not in str(caught.value)
    assert "address is wrong" in str(caught.value) or "https://me:***@host/a broke" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("status.json", r'"heartbeat": [\d.]+', '"heartbeat": NaN'),
        ("status.json", r'"heartbeat": [\d.]+', '"heartbeat": 1e30'),
        ("history.jsonl", r'"seconds": 2.0', '"seconds": null'),
        ("history.jsonl", r'"seconds": 2.0', '"seconds": NaN'),
        ("history.jsonl", r'"epoch": 3', '"epoch": "3"'),
        ("history.jsonl", r'"epoch": 3', '"epoch": 1' + "0" * 25),
    ],
)
def test_a_record_with_an_impossible_time_is_named_as_broken(small_board, file, old, new):
    folder = small_board.store.cell_folder(small_board.suite.cells[0].id)
    rewrite(folder / file, old, new)
    records, broken = small_board.store.read(small_board.suite.cells)
    assert [one.folder for one in broken] == [folder]
    assert re.search("is not a (time|number of an epoch)", broken[0].reason)
    assert len(records) == 2


def test_a_foreign_metric_is_left_out(small_board):
    path = small_board.store.cell_folder(small_board.suite.cells[0].id) / "metrics.json"
    rewrite(path, r'"flops": \d+', '"flops": 1' + "0" * 400)
    rewrite(path, r'"rmse_future_by_step": \[[^]]*\]', '"rmse_future_by_step": 5')
    assert counts(sync(small_board)) == (6, 0, 0, 0)


def rewrite(path, old, new):
    text = path.read_text()
    path.write_text(re.sub(old, new, text))
    assert path.read_text() != text


def test_a_password_is_not_repeated():
    assert without_password("https://me:secret@host:1/a") == "https://me:***@host:1/a"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_the_page_is_served_to_this_machine_alone(tmp_path):
    with pytest.raises(UserError, match="loopback"):
        mlflow_server.command("sqlite:///x.db", tmp_path, host="0.0.0.0")
    argv = mlflow_server.command("sqlite:///x.db", tmp_path, port=5001)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert "127.0.0.1:5001" in argv[argv.index("--allowed-hosts") + 1].split(",")
    argv = mlflow_server.command("sqlite:///x.db", tmp_path, host="::1")
    assert argv[argv.index("--host") + 1] == "::1"
    assert "[::1]:5000" in argv[argv.index("--allowed-hosts") + 1].split(",")
