"""Rules for every command: help with an example, stable JSON, one line for a mistake."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from fabricated_board import Board
from support import SYMBENCH, symbench

from benchmark.cli import jobs
from benchmark.cli.data import data
from benchmark.cli.main import cli
from benchmark.suite import loading as suites
from benchmark.training.recorder import Epoch
from results.store.store import Store

MakeSuite = Callable[..., Path]
COMMANDS = [*((name,) for name in cli.commands if name != "data"), *(("data", name) for name in data.commands)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command: tuple[str, ...]) -> None:
    result = symbench(*command, "--help", store=None)
    assert f"symbench {' '.join(command)}" in result.stdout.split("Example")[1]
    about = result.stdout.split("Options:")[0]
    assert "field" not in about, "states are particles, too"


@pytest.mark.parametrize(("group", "first", "last"), [((), "list", "check-dataset"), (("data",), "prepare", "package")])
def test_a_group_lists_its_commands_in_the_order_of_work(group: tuple[str, ...], first: str, last: str) -> None:
    listed = symbench(*group, "--help", store=None).stdout.split("Commands:\n")[1]
    names = re.findall(r"^  (\S+)", listed, re.MULTILINE)
    assert (names[0], names[-1]) == (first, last)
    assert "..." not in listed, "sentences are whole"


def test_lists(store: Store) -> None:
    listed = json.loads(symbench("list", "--json", store=None).stdout)
    assert set(listed) == {"models", "datasets", "suites", "sites"}
    families = {row["name"]: row["family"] for row in listed["models"]}
    assert families["convnet"] == "cnn"
    assert families["relaxed_steerable_rotation"] == "relaxed"
    table = symbench("list", "models", store=None).stdout
    assert [name for name in families if name not in table] == []


@pytest.mark.parametrize("command", ["plan", "status"])
def test_two_settings_of_a_model_are_told_apart(store: Store, make_suite: MakeSuite, command: str) -> None:
    path = make_suite(models="[{convnet: {hidden: [4, 6]}}]")
    store.make()
    document = json.loads(symbench(command, path, "--json", store=store).stdout)
    rows = document["rows"] if command == "plan" else document
    shown = [(row["label"], row["settings"]["hidden"]) for row in rows]
    assert shown == [("convnet hidden=4", 4), ("convnet hidden=6", 6)]
    assert "convnet hidden=6" in symbench(command, path, store=store).stdout


def test_the_way_from_plan_to_board_and_mlflow(store: Store, make_suite: MakeSuite, tmp_path: Path) -> None:
    path = make_suite(models="[persistence, {convnet: {hidden: 4}}]")
    plan = json.loads(symbench("plan", path, "--json", store=store).stdout)
    assert (plan["cells"], plan["finished"], plan["left"]) == (2, 0, 2)
    assert plan["estimated_seconds"] > 0
    assert symbench("run", path, "--only", "model=persistence", store=store).returncode == 0
    states = {row["model"]: row["state"] for row in json.loads(symbench("status", path, "--json", store=store).stdout)}
    assert states == {"persistence": "done", "convnet": "waiting"}
    assert "no cell has failed" in symbench("retry", path, "--failed", "killed", store=store).stdout
    assert symbench("run", path, store=store).returncode == 0
    measured = json.loads(symbench("plan", path, "--json", store=store).stdout)
    assert (plan["files"], plan["bytes"]) == (2 + 3 + 1, pytest.approx(measured["bytes"], rel=0.01))
    assert measured["files"] == plan["files"]
    assert "records " in (line := symbench("plan", path, store=store).stdout.splitlines()[-1]), line
    assert "(measured), data 400 kB" in line
    (trained,) = (row for row in json.loads(symbench("status", path, "--json", store=store).stdout) if row["epochs"])
    assert f"epoch 1/{trained['epochs']}: train loss " in symbench("logs", trained["id"], store=store).stdout

    html = tmp_path / "board.html"
    board = symbench("leaderboard", path, "--html", html, store=store)
    assert board.returncode == 0, board.stderr
    assert "convnet" in board.stdout
    assert "convnet" in html.read_text(encoding="utf-8")
    html.unlink()
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does when it has its lines
    command = [*map(str, (SYMBENCH, "leaderboard", path, "--html", html, "--store", store.root))]
    ended = subprocess.run(command, stdout=writing, check=False)
    os.close(writing)
    assert ended.returncode != 0, "nobody reads the table"
    assert "convnet" in html.read_text(encoding="utf-8")
    rows = json.loads(symbench("leaderboard", path, "--json", store=store).stdout)
    assert {row["model"] for row in rows} == {"persistence", "convnet"}
    assert all(row["complete"] for row in rows)
    assert rows[0]["metrics"]["data_equivariance_error"]["mean"] == 0.5  # as the file says

    first = symbench("sync", path, store=store)
    assert first.returncode == 0, first.stderr
    assert "7 runs created" in first.stdout  # two models, their settings and cells, and the board
    again = symbench("sync", path, "--watch", store=store)
    assert again.returncode == 0, again.stderr
    assert "0 runs created, 0 updated, 7 unchanged" in again.stdout
    assert "watching until every cell is done" in again.stdout

    compared = symbench("compare", "convnet", "persistence", "--suite", path, "--json", store=store)
    assert compared.returncode == 0, compared.stderr
    (pair,) = json.loads(compared.stdout)["pairs"]
    means = {row["model"]: row["metrics"]["rmse_future"]["mean"] for row in rows}
    assert (pair["first_mean"], pair["second_mean"]) == (means["convnet"], means["persistence"])
    assert pair["effect"] is None, "one seed each"
    assert "A: convnet" in symbench("compare", "convnet", "persistence", "--suite", path, store=store).stdout
    assert symbench("publish", path, "--into", tmp_path / "published", store=store).returncode == 0
    published = json.loads((tmp_path / "published" / "tiny" / "board.json").read_text(encoding="utf-8"))
    assert published["states"] == {"done": 2}


def test_a_broken_record_is_named_and_the_rest_stands(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[persistence, {convnet: {hidden: 4}}]")
    for cell in suites.load(str(path)).cells:
        with store.recorder(cell) as recorder:
            assert recorder is not None
            recorder.start()
            recorder.finish("done", {"rmse_future": 0.1, "rmse_domain": 0.1})
    broken = store.cell_folder(cell.id) / "record.json"
    broken.write_text(broken.read_text()[:20])
    board = symbench("leaderboard", path, store=store)
    assert board.returncode == 0
    assert f"{cell.id}: " in board.stderr
    assert "persistence" in board.stdout


@pytest.mark.parametrize("arguments", [("plan",), ("run", "quickstart", "--colour"), ("list", "nonsense")])
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    result = symbench(*arguments, store=None)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("output", "status"), [(">&-", 0), (">&- 2>&-", 0), (">/dev/full", 3)], ids=["closed", "all closed", "full"]
)
def test_outputs_that_cannot_be_written(output: str, status: int) -> None:
    ended = subprocess.run(f"{SYMBENCH} list suites {output}", shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert ended.stderr == ("symbench: the output cannot be written: No space left on device\n" if status else "")


def test_an_encoding_that_lacks_letters(tmp_path: Path) -> None:
    """The store's name has a letter that ASCII lacks."""
    (tmp_path / "störe").mkdir()
    command = [str(SYMBENCH), "status", "quickstart", "--store", str(tmp_path / "störe")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    assert (ended.returncode, "waiting" in ended.stdout) == (0, True)


@pytest.mark.parametrize("command", [("status", "quickstart"), ("leaderboard",), ("logs", "quickstart", "--failed")])
def test_a_wrong_store_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = symbench(*command, store=Store(tmp_path / "mistyped"))
    assert (result.returncode, result.stdout) == (2, "")
    assert re.search("no store at .*mistyped; `symbench run` makes it", result.stderr)


def test_two_models_are_compared_within_a_suite(store: Store) -> None:
    result = symbench("compare", "convnet", "e2cnn", store=store)
    assert result.returncode == 2
    assert "are compared with --suite SUITE" in result.stderr


def test_a_shell_completes_names() -> None:
    def completed(*words: str) -> str:
        variables = {"_SYMBENCH_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": "2"}
        return subprocess.run([SYMBENCH], env={**os.environ, **variables}, capture_output=True, text=True).stdout

    assert completed("symbench", "run", "quick") == "plain,quickstart\n"
    assert completed("symbench", "check-baseline", "e2") == "plain,e2cnn\n"


def test_ui_before_the_first_sync(store: Store) -> None:
    result = symbench("ui", store=store)
    assert result.returncode == 3
    assert "nothing to show yet; `symbench sync SUITE` fills MLflow" in result.stderr
    database = store.root / "x.db"
    result = symbench("ui", "--tracking-uri", f"sqlite:///{database.resolve()}", store=Store(store.root / "mistyped"))
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert not database.exists()


@pytest.mark.parametrize("end", ["done", "killed"])
def test_logs_follow_a_cell_to_its_end(end: str, new_board, new_cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch is printed once; a process that dies leaves the state `running`, and the command ends all the same."""
    cell = new_cell()
    board: Board = new_board([cell])
    history = [Epoch(number, 0.1, 0.1, 0.1, 1e-3, 2.0) for number in (1, 2, 3)]
    with ExitStack() as process:
        recorder = process.enter_context(board.recording(cell))
        recorder.progress(history[:1], 3)

        def train_on(seconds: float) -> None:
            if len(steps) > 1:
                recorder.progress(history[: len(history) - len(steps) + 2], 3)
            elif end == "done":
                recorder.finish("done", {"rmse_future": 0.1})
                process.close()
            else:
                process.close()
            steps.pop()

        steps = ["end", "epoch 3", "epoch 2"]
        monkeypatch.setattr(jobs.time, "sleep", train_on)
        answer = symbench("logs", cell.id, "--follow", store=board.store)
    assert re.findall(r"^epoch (\d)/3", answer.stdout, re.M) == ["1", "2", "3"]
    assert not steps
