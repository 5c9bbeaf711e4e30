"""Tuning with a real Ray on the loopback address, whose processes are killed in turn."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm.login_node import WAITING
from support import start, symbench
from tuning_support import MakeSuite

from benchmark import discovery
from benchmark.cell import FIRST_TUNING_SEED
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from benchmark.suite.tuned import read_result
from results.store.store import Store
from results.store.studies import StudyFolder, Trial

pytest.importorskip("ray")
PATIENCE_SECONDS = 300
HANGING = '''
import time

from benchmark.models.convnet import ConvNet


class Hanging(ConvNet):
    """A ConvNet that never ends its first step."""

    def before_step(self, progress: float) -> None:
        time.sleep(10_000)
'''


def folder_of(path: Path, store: Store) -> StudyFolder:
    """Folder of the first study of a suite."""
    return StudyFolder(store.root, distinct_studies(suites.load(str(path)))[0])


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def running_at(folder: StudyFolder, epoch: int) -> list[tuple[Trial, Any]]:
    """Running trials that have reached `epoch`, each with its record."""
    if not (folder.root / "trials").is_dir():
        return []
    pairs = [(trial, record) for trial in folder.trials() for record in trial.records.values() if not trial.closed]
    return [pair for pair in pairs if pair[1].status.state == "running" and pair[1].status.epoch >= epoch]


def descendants(process: int) -> list[psutil.Process]:
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def heads_of(process: int) -> list[psutil.Process]:
    """Heads of Ray among the descendants of `process`, some of which may end meanwhile."""
    heads = []
    for below in descendants(process):
        with suppress(psutil.NoSuchProcess):
            heads += [below] if below.name() == "gcs_server" else []
    return heads


def succeed(*command: object, store: Store) -> None:
    done = symbench(*command, store=store)
    assert done.returncode == 0, done.stderr


def tuned_suite(make_suite: MakeSuite, **changes: Any) -> Path:
    """Suite whose search covers the training and a penalty alone, so that all trials have one size."""
    path = make_suite(**changes)
    order = ", order" if "steerable" in path.read_text() else ""
    train = "train: {learning_rate: {low: 1e-4, high: 1e-3}}"
    path.write_text(f"{path.read_text()}tuning: {{keep: [hidden, layers, kernel_size{order}], {train}}}\n")
    return path


def remaining_ray_folders(store: Store) -> list[str]:
    """Existing folders of the Ray nodes that this store's jobs have started."""
    lines = [line for log in store.root.glob("jobs/*/*-ray.log") for line in log.read_text().splitlines()]
    folders = re.findall(r"Ray's own files are in (\S+),", "\n".join(lines))
    assert folders
    return [folder for folder in folders if Path(folder).exists()]


def test_a_suite_is_tuned_and_run_with_the_best_settings(store: Store, make_suite: MakeSuite) -> None:
    """With two ranks in a trial; no trial runs twice or is on the board, and Ray leaves no folder."""
    models = "[persistence, {convnet: {hidden: 4}}, {relaxed_steerable_rotation: {hidden: 2, penalty: 1e-4}}]"
    path = tuned_suite(make_suite, models=models, ranks=2, epochs=3)
    early = symbench("run", path, "--tuned", store=store)
    assert early.returncode == 2
    assert "not tuned in store" in early.stderr
    alone = symbench("tune", path, "--only", "model=convnet", "--trials", 2, store=store)
    assert alone.returncode == 2
    assert "relaxed_steerable_rotation: is not tuned at all" in alone.stderr

    succeed("tune", path, "--trials", 2, store=store)
    assert not remaining_ray_folders(store)
    folder = folder_of(path, store)
    for trial in folder.trials():
        assert trial.closed
        for record in trial.records.values():
            assert record.environment["world_size"] == 2
            assert record.cell.seed >= FIRST_TUNING_SEED
            assert not {name for name in record.metrics if "future" in name or "domain" in name}
            assert not record.predictions_path.exists()
    result = read_result(folder.result_path)
    assert result["spent"]["trials"] == 2
    assert result["found"]["rmse_validation"] <= result["found"]["rmse_validation_default"]

    files = {file: file.stat().st_mtime_ns for file in folder.root.rglob("cells/*/history.jsonl")}
    succeed("tune", path, "--trials", 2, store=store)
    assert {file: file.stat().st_mtime_ns for file in folder.root.rglob("cells/*/history.jsonl")} == files

    succeed("run", path, "--tuned", store=store)
    tuned = suites.load(str(path), store.root, tuned=True)
    records = store.read(tuned.cells)[0].values()
    assert [record.status.state for record in records] == ["done"] * 3
    assert {r.cell.model.name: r.environment.get("study") for r in records if r.cell.model.name != "persistence"} == {
        study.model.name: study.name for study in distinct_studies(suites.load(str(path)))
    }
    rows = json.loads(symbench("leaderboard", path, "--tuned", "--json", store=store).stdout)
    assert not [seed for row in rows for seed in row["seeds"] if seed["seed"] >= FIRST_TUNING_SEED]
    board = symbench("leaderboard", path, "--tuned", store=store)
    assert "What tuning cost" in board.stdout
    assert "not tuned alike" not in board.stderr


@pytest.fixture
def waiting_suite(make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Suite whose epochs take a few tenths of a second until there is a file `go`, and its plug-in."""
    plugin = tmp_path / "waiting.py"
    plugin.write_text(WAITING.replace("FOLDER", repr(str(tmp_path))).replace("0.1", "0.03"), encoding="utf-8")
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    discovery.add_plugin(plugin)
    return tuned_suite(make_suite, models="[{waiting: {hidden: 4}}]", epochs=20), plugin


def test_a_search_survives_kills_of_worker_head_and_tune_and_ctrl_c(
    store: Store, waiting_suite: tuple[Path, Path]
) -> None:
    """Finished trials stay as they are, and interrupted ones resume from their checkpoints."""
    path, plugin = waiting_suite
    folder = folder_of(path, store)
    command = ("tune", path, "--plugin", plugin, "--trials", 6, "--scheduler", "none")
    tune = start(*command, store=store)
    try:
        (_, record), *_ = wait_until(lambda: running_at(folder, 3))
        assert psutil.Process(record.status.pid).nice() == os.nice(0), "as important as the command"
        os.kill(record.status.pid, signal.SIGKILL)  # a worker
        wait_until(lambda: [t for t in folder.trials() for r in t.records.values() if r.status.attempt > 1])

        wait_until(lambda: running_at(folder, 6))
        (head,) = heads_of(tune.pid)
        head.kill()
        wait_until(lambda: [other for other in heads_of(tune.pid) if other.pid != head.pid])
        wait_until(lambda: [trial for trial in folder.trials() if trial.closed] and running_at(folder, 5))

        processes = descendants(tune.pid)
        tune.kill()
        tune.wait()
        wait_until(lambda: not [process for process in processes if process.is_running()])
        killed = by_number(folder)

        tune = start(*command, store=store)
        attempts = {key: r.status.attempt for trial in killed.values() for key, r in trial.records.items()}
        resumed = wait_until(
            lambda: [r for _, r in running_at(folder, 3) if r.status.attempt > attempts.get(r.cell.id, 0)]
        )
        processes = descendants(tune.pid)
        os.killpg(tune.pid, signal.SIGINT)
        assert tune.wait(timeout=60) == 130
        assert not [process for process in processes if process.is_running()]
        assert not remaining_ray_folders(store)
    finally:
        tune.kill()
        tune.wait()
    stopped = by_number(folder)
    failures = {key: r.status.failure for trial in stopped.values() for key, r in trial.records.items()}
    assert {failures[record.cell.id] for record in resumed} == {"time_limit"}
    plugin.with_name("go").touch()
    succeed(*command, store=store)
    done = by_number(folder)
    assert sorted(done) == list(range(6))
    for before in (killed, stopped):
        closed = [trial.closed for trial in before.values()]
        assert any(closed)
        assert not all(closed)
        for number, trial in before.items():
            if trial.closed:
                assert done[number].records == trial.records
            for key, record in trial.records.items():
                assert list(done[number].records[key].history[: len(record.history)]) == list(record.history)
    assert all(len(r.history) == 20 for trial in done.values() for r in trial.records.values())


def by_number(folder: StudyFolder) -> dict[int, Trial]:
    return {trial.note.number: trial for trial in folder.trials()}


def test_a_study_ends_when_its_hours_are_spent(
    store: Store, make_suite: MakeSuite, capfd: pytest.CaptureFixture[str]
) -> None:
    """The running trials end as well, and without one at its last epoch there is no result."""
    path = tuned_suite(make_suite, epochs=100_000)
    path.write_text(path.read_text().replace("epochs: 100000", "epochs: 100000, early_stop_after: null"))
    folder = folder_of(path, store)
    command = ("tune", path, "--gpu-hours", 0.001)
    no_result = (
        r"no trial was trained to its last epoch \(\d+ stopped when the hours were spent\); see .*, and go on with"
    )
    assert symbench(*command, store=store).returncode == 1
    assert re.search(no_result, capfd.readouterr().out)  # of the driver
    trials = folder.trials()
    assert {trial.state for trial in trials} == {"stopped when the hours were spent"}
    assert sum(trial.device_hours for trial in trials) >= 0.001
    again = symbench(*command, store=store)
    assert again.returncode == 1
    assert re.search(no_result, again.stderr)
    assert [trial.records for trial in folder.trials()] == [trial.records for trial in trials]
    other = symbench(*command, "--search", "optuna", store=store)
    assert other.returncode == 2
    assert "its search is another one than when the study was begun (random, now optuna)" in other.stderr


def test_a_trial_that_hangs_uses_up_the_hours(
    store: Store, make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time counts whether or not it brings an epoch; the study ends, and so do both ranks of the trial."""
    plugin = tmp_path / "hanging.py"
    plugin.write_text(HANGING, encoding="utf-8")
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    discovery.add_plugin(plugin)
    path = tuned_suite(make_suite, models="[{hanging: {hidden: 4}}]", ranks=2)
    assert symbench("tune", path, "--plugin", plugin, "--gpu-hours", 0.02, store=store).returncode == 1
    (trial,) = folder_of(path, store).trials()
    assert trial.state == "stopped when the hours were spent"
    assert trial.device_hours >= 0.02
    assert trial.epochs == 0
    assert not remaining_ray_folders(store)
    jobs = str(store.root / "jobs")
    assert not [p for p in psutil.process_iter(["cmdline"]) if any(jobs in part for part in p.info["cmdline"] or ())]


def test_without_ray_the_error_says_what_to_install(store: Store, make_suite: MakeSuite, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    code = (
        "import importlib.util as u, sys; real = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'ray' else real(name, *rest); "
        "from benchmark.cli.main import main; main()"
    )
    arguments = ["tune", str(make_suite()), "--store", str(store.root)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1].startswith("symbench: tune needs ray: pip install")
