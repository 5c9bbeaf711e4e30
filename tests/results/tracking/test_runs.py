"""Content of the runs in MLflow: numbers, curves, notes, artifacts, and the table views."""

import base64
import json
import re
import zlib
from pathlib import Path
from statistics import fmean, geometric_mean

import pytest
from fabricated_board import report_of
from mlflow_support import IGNORED_WARNINGS, client_of, counts, history_of, runs, sync
from support import rewrite as write_parts

from results.figures.figures import FAMILIES
from results.tracking import experiment as mlflow_experiment
from results.tracking.client import default_tracking_uri
from results.tracking.runs import LONGEST_TAG
from results.tracking.suite_runs import CURVE_POINTS, cell_run

pytestmark = IGNORED_WARNINGS


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
    every, few = ([p[3] for p in cell_run(r, "s", "convnet").metrics if p[0] == "train_loss"] for r in (running, done))
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
        write_parts(board.store, cell, environment={"data_file": "level-3.h5", "data_checksum": "c0ffee" * 10})
    board.finish(board.suite.cells[3], rmse_future=0.2)
    sync(board)
    (parent,) = runs(board, "tags.`symbench.kind` = 'setting' and params.model = 'convnet'")
    numbers = parent.data.metrics
    assert numbers["rmse_future"] == fmean(errors)
    assert (numbers["rmse_future_low"], numbers["rmse_future_high"]) == (0.1, 0.6), "three seeds: their range"
    assert (numbers["seeds_done"], numbers["seeds_expected"]) == (3, 3)
    assert numbers["ratio_to_best"] == pytest.approx(geometric_mean(errors) / 0.2)
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
        "strict_floor": pytest.approx(0.09),
    }


def test_the_board_run_carries_table_figures_and_report(full_board):
    report = report_of(full_board)
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
    assert "(data error 0, floor 0): relaxed_steerable_rotation 0.1750, " in note
    assert len(note) <= 5000


def states_of(board, families=""):
    """Question -> the state of MLflow's table that its link opens with."""
    client = client_of(board)
    (experiment,) = [one for one in client.search_experiments() if "symbench.suite" in one.tags]
    (links,) = mlflow_experiment.table_view_links(default_tracking_uri(board.store)).values()
    states = {}
    (report, landing), *views = links
    assert report == "The report"
    (board,) = runs(board, "tags.`symbench.kind` = 'leaderboard'")
    assert f"/runs/{board.info.run_id}/artifacts/report.html" in landing
    first_line = experiment.tags["mlflow.note.content"].splitlines()[0]
    assert first_line.startswith(f"{families}level 0 (data error 0, floor 0): ")
    for question, path in views:
        assert path.startswith(f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=")
        assert path in experiment.tags["mlflow.note.content"]
        key = path.partition("viewStateShareKey=")[2].partition("&")[0]
        named = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
        assert named["name"] == question, "in MLflow's menu of views"
        packed = named["state"].removeprefix("deflate;")
        states[question] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return states


def opened_by(board, state):
    return runs(board, state["searchFilter"], [f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"])


def test_what_lacks_a_seed_does_not_lead(small_board):
    """The steerable model has the lesser error, but one of its seeds diverged."""
    sync(small_board)
    states = states_of(small_board)
    for question in ("1 Who wins?", "3 Level by level"):
        shown = [run.data.params["model"] for run in opened_by(small_board, states[question])]
        assert shown == ["convnet", "e2cnn"]


def test_the_ready_boards_answer_their_questions(full_board):
    """MLflow's own search, with the filter and the order that a board's link opens with."""
    sync(full_board)
    relaxed_leads = (
        "Relaxed against strict: level 0: 17 % ahead, not sure; level 3: 42 % ahead, sure."
        " Relaxed against cnn: level 0: 74 % ahead, sure; level 3: 28 % ahead, sure. "
    )
    states = states_of(full_board, relaxed_leads)

    def opened(question):
        return opened_by(full_board, states[question])

    assert len(states) == 6
    first, second, *_ = opened("1 Who wins?")
    assert (first.info.run_name, second.info.run_name) == ("convnet", "e2cnn"), "at level 9"
    (relaxed,) = runs(full_board, "tags.`symbench.kind` = 'model' and params.model = 'relaxed_steerable_rotation'")
    assert relaxed.data.tags["verdict"] == "L0 best, not sure · L3 sure winner · L9 unfinished"
    assert (relaxed.data.metrics["L0"], relaxed.data.metrics["x best L0"]) == (0.175, 1)
    assert relaxed.data.tags["mlflow.runColor"] == FAMILIES["relaxed"].color
    assert {run.data.tags["symbench.kind"] for run in opened("3 Level by level")} == {"setting"}
    assert {run.data.tags["symbench.kind"] for run in opened("6 Every seed, with its curves")} == {"cell"}
    for view in states.values():
        shown = {key.partition("`")[2][:-1] for key in view["selectedColumns"] if key.startswith("metrics.")}
        assert all(len(name) <= 20 for name in shown)
        there = {name for run in opened_by(full_board, view) for name in run.data.metrics}
        assert shown <= there | {"skill_future"}, "no empty column; skill needs a trivial forecast, which is not here"


def test_one_seed_is_not_tested(new_board, new_cell):
    """The other models are not as good, but cannot be told from the best."""
    board = new_board([new_cell(), new_cell("e2cnn")])
    for cell in board.suite.cells:
        board.finish(cell)
    sync(board)
    models = runs(board, "tags.`symbench.kind` = 'model'")
    verdicts = {run.data.tags["symbench.label"]: run.data.tags["verdict"] for run in models}
    assert verdicts == {"e2cnn": "L0 best, not tested", "convnet": "L0 not tested"}


def test_hostile_names_are_text(new_board, new_cell):
    cell = new_cell("<script>alert(1)</script>\n| [x](javascript:alert(1)) *b*", note="'\"; drop table runs; --" * 500)
    long = [new_cell("convnet", note=letter * 9000) for letter in "ab"]
    board = new_board([cell, *long], "<script>é'\"")
    board.refuse(cell, "<img src=x onerror=alert(1)> | ```")
    board.finish(long[0])
    assert counts(sync(board)) == (7, 0, 0, 0)
    assert counts(sync(board)) == (0, 0, 7, 0)
    for run in runs(board):
        note = run.data.tags.get("mlflow.note.content", "")
        for active in ("<script", "<img", "[x]", "```"):
            assert active not in note.replace("\\" + active[0], ""), note
        assert "\n" not in run.info.run_name
        assert all(len(value) <= LONGEST_TAG for value in run.data.tags.values())
        assert all(len(value) <= 6000 for value in run.data.params.values())


def test_a_foreign_metric_is_left_out(small_board):
    path = small_board.store.cell_folder(small_board.suite.cells[0].id) / "record.json"
    rewrite(path, r'"flops": \d+', '"flops": 1' + "0" * 400)
    rewrite(path, r'"rmse_future_by_step": \[[^]]*\]', '"rmse_future_by_step": 5')
    assert counts(sync(small_board)) == (8, 0, 0, 0)


def rewrite(path, old, new):
    text = path.read_text()
    path.write_text(re.sub(old, new, text))
    assert path.read_text() != text


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("record.json", r'"heartbeat": [\d.]+', '"heartbeat": NaN'),
        ("record.json", r'"heartbeat": [\d.]+', '"heartbeat": 1e30'),
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
