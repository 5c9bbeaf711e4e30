"""Launching for real: submitit's local executor, gloo ranks, processes killed in the middle."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from support import start, symbench

from benchmark.models import model_registry
from benchmark.suite import loading as suites
from benchmark.suite.suite import Suite
from results.store.record import Record
from results.store.store import Store

MakeSuite = Callable[..., Path]

TOY = '''
"""A baseline dropped into a folder: one number for each component."""
import torch
from benchmark.models.baseline import Baseline

class Gain(Baseline):
    family, symmetries, source = "cnn", (), "test"
    def __init__(self, config, task):
        super().__init__(config, task)
        self.gain = torch.nn.Parameter(torch.zeros(task.channels, 1, 1))
    def forward(self, x):
        {body}
'''


MOODY = '''
"""A baseline whose setting says what becomes of its training."""
import os, signal, time
from pathlib import Path
from typing import Literal
import torch
from benchmark.models.baseline import Baseline
from benchmark.cell import Frozen

HERE = Path(__file__).parent

def wait_for(name):
    deadline = time.monotonic() + 120
    while not (HERE / name).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody left {name}")
        time.sleep(0.01)

class Moody(Baseline):
    class Config(Frozen):
        act: Literal["wait", "die", "fail", "train"] = "train"
    family, symmetries, source = "cnn", (), "test"
    def __init__(self, config, task):
        super().__init__(config, task)
        self.act = config.act
        self.gain = torch.nn.Parameter(torch.zeros(task.channels, 1, 1))
    def forward(self, x):
        act = self.act if self.training else "train"
        if act == "wait":
            (HERE / "waiting").touch()
            wait_for("dying")
        elif act == "die":
            wait_for("waiting")
            (HERE / "dying").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif act == "fail":
            1 / 0
        return x[:, -1] * (1 + self.gain)
'''


@contextmanager
def one_core() -> Iterator[None]:
    """What is started has one thread in each process, however many run side by side."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def records(path: Path, store: Store) -> list[Record]:
    found, broken = store.read(suites.load(str(path)).cells)
    assert not broken
    return list(found.values())


def wait_for_epoch(path: Path, store: Store, epoch: int, cells: int = 1) -> Record:
    """Until so many at once are that far; one of them."""
    loaded: Suite = suites.load(str(path))
    for _ in range(3000):
        running = [r for r in store.read(loaded.cells)[0].values() if r.status.state == "running"]
        if sum(record.status.epoch >= epoch for record in running) >= cells:
            return max(running, key=lambda record: record.status.epoch)
        time.sleep(0.1)
    raise AssertionError(f"not {cells} cells at once reached epoch {epoch}")


def wait_for_the_end(pids: Sequence[int]) -> None:
    """Who is killed dies a moment later, and is a zombie until its parent, or init, has looked."""
    for _ in range(100):
        left = [process for process in psutil.process_iter(["status"]) if process.pid in pids]
        if all(process.info["status"] == psutil.STATUS_ZOMBIE for process in left):
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {left}")


def narrow(name: str) -> dict[str, object]:
    """Settings that make a baseline small, and penalised where it can be."""
    small = {"hidden": 2, "penalty": 0.01}
    return {key: value for key, value in small.items() if key in model_registry.model(name).Config.model_fields}


def losses(record: Record) -> list[object]:
    return [replace(epoch, seconds=0.0) for epoch in record.history]


def outcome(record: Record) -> dict[str, object]:
    """The metrics that a second training must give again."""
    costs = {"training_seconds", "samples_per_second", "peak_memory_bytes"}
    return {key: value for key, value in record.metrics.items() if key not in costs}


def test_a_suite_runs_and_the_second_start_finds_it_done(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[persistence, {convnet: {hidden: 4}}]", seeds="[0, 1]", ranks=2)
    first = symbench("run", path, store=store)
    assert first.returncode == 0, first.stderr
    assert "3 cells run, 0 were finished, 0 failed" in first.stdout
    done = records(path, store)
    assert [record.status.state for record in done] == ["done"] * 3
    for record in done:
        files = {file.name for file in record.folder.iterdir()}
        assert {"cell.json", "status.json", "metrics.json", "environment.json", "predictions.h5"} <= files
        assert not [name for name in files if name.endswith(".tmp")]
        assert record.environment["world_size"] == 2
    before = {file: file.stat().st_mtime_ns for file in store.root.rglob("cells/*/*")}
    second = symbench("run", path, store=store)
    assert second.returncode == 0
    assert "0 cells run, 3 were finished" in second.stdout
    assert {file: file.stat().st_mtime_ns for file in store.root.rglob("cells/*/*")} == before


def test_two_ranks_equal_one(store: Store, make_suite: MakeSuite, tmp_path: Path) -> None:
    """Same global batch: the same curve and the same metrics, to the rounding of a sum in another order.

    The first epoch shows whether gradients and penalty are right. Later the kink of an L1 penalty turns rounding into
    a step of another sign, and a roll-out amplifies that. The contract asks it of every baseline, for two steps.
    """
    chosen = ("convnet", "relaxed_steerable_rotation", "remul")
    models = json.dumps([{name: narrow(name)} for name in chosen])
    symbench("run", make_suite(models=models), store=store)
    alone = records(make_suite(models=models), store)
    other = Store(tmp_path / "other")
    other.make()
    (other.root / "data").symlink_to(store.data_folder.resolve())
    result = symbench("run", make_suite(models=models, ranks=2), store=other)
    assert result.returncode == 0, result.stderr
    for one, two in zip(alone, records(make_suite(models=models, ranks=2), other), strict=True):
        assert two.environment["world_size"] == 2
        assert one.cell.id == two.cell.id
        for epoch, (left, right) in enumerate(zip(one.history, two.history, strict=True)):
            tolerance = 1e-6 if epoch == 0 else 5e-3
            assert right.train_loss == pytest.approx(left.train_loss, rel=tolerance)
            assert right.validation_rmse == pytest.approx(left.validation_rmse, rel=tolerance)
        for name in ("rmse_future", "rmse_domain", "vrmse_future"):
            assert two.metrics[name] == pytest.approx(one.metrics[name], rel=5e-3)


@pytest.mark.parametrize(("ranks", "lanes"), [(1, 2), (2, 1)])
def test_killed_in_mid_training_it_goes_on_bit_for_bit(
    store: Store, make_suite: MakeSuite, tmp_path: Path, ranks: int, lanes: int
) -> None:
    """Beside another one, too, and one after another gives the same bits."""
    cores = one_core if lanes > 1 else nullcontext
    path = make_suite(epochs=40, ranks=ranks, seeds=str(list(range(lanes))))
    with cores():
        launched = start("run", path, "--parallel", lanes, store=store)
    running = wait_for_epoch(path, store, 3)
    os.killpg(launched.pid, signal.SIGKILL)
    launched.wait()
    while any(store.being_run(cell) for cell in suites.load(str(path)).cells):  # the workers end a moment later
        time.sleep(0.1)
    status = symbench("status", path, "--json", store=store)
    assert '"state": "interrupted"' in status.stdout
    with cores():
        again = symbench("run", path, "--parallel", lanes, store=store)
    assert again.returncode == 0, again.stderr
    resumed = {record.cell.id: record for record in records(path, store)}
    assert [record.environment["lanes"] for record in resumed.values()] == [lanes] * lanes
    assert resumed[running.cell.id].status.attempt == 2
    # The second attempt began where the first had stopped: what it had written was not trained again.
    assert list(resumed[running.cell.id].history[: len(running.history)]) == list(running.history)

    undisturbed = Store(tmp_path / "undisturbed")
    undisturbed.make()
    (undisturbed.root / "data").symlink_to(store.data_folder.resolve())
    with cores():
        symbench("run", path, "--parallel", 1, store=undisturbed)
    for whole in records(path, undisturbed):
        assert len(whole.history) == 40
        assert losses(resumed[whole.cell.id]) == losses(whole)
        assert outcome(resumed[whole.cell.id]) == outcome(whole)


def test_ctrl_c_or_kill_stops_cleanly_and_the_same_command_goes_on(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(epochs=40, seeds="[0, 1]")
    epoch = 0
    for stop in (lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGTERM)):
        launched = start("run", path, "--parallel", 2, store=store)
        wait_for_epoch(path, store, epoch + 2, cells=2)
        stop(launched.pid)
        assert launched.wait(timeout=60) == 130
        stopped = records(path, store)
        assert [(r.status.state, r.status.failure) for r in stopped] == [("failed", "cancelled")] * 2
        assert not any(store.being_run(record.cell) for record in stopped)
        wait_for_the_end([record.status.pid for record in stopped])
        epoch = max(record.status.epoch for record in stopped)
    again = symbench("run", path, store=store)
    assert again.returncode == 0, again.stderr
    assert [record.status.state for record in records(path, store)] == ["done"] * 2


def test_one_failing_cell_stops_no_sibling(store: Store, make_suite: MakeSuite, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        TOY.format(body="return 1 / 0 if self.training else x[:, -1]"), encoding="utf-8"
    )
    path = make_suite(models="[faulty, {convnet: {hidden: 4}}]", ranks=2)
    result = symbench("run", path, "--plugin", tmp_path / "faulty.py", store=store)
    assert result.returncode == 1
    assert "code_error: ZeroDivisionError: division by zero" in result.stderr
    assert "1 cells run, 0 were finished, 1 failed" in result.stdout
    assert "Traceback" not in result.stderr
    plugin = ("--plugin", tmp_path / "faulty.py")
    failed = next(
        row["id"]
        for row in json.loads(symbench("status", path, "--json", *plugin, store=store).stdout)
        if row["state"] == "failed"
    )
    log = symbench("logs", failed[:6], store=store)
    assert log.stdout.startswith(f"{failed} ")
    assert "ZeroDivisionError" in log.stdout
    assert "convnet" not in log.stdout
    wrong = symbench("retry", path, "--failed", "code_eror", *plugin, store=store)
    assert wrong.returncode == 2
    assert "unknown reason 'code_eror'; did you mean 'code_error'" in wrong.stderr
    again = symbench("retry", path, "--failed", "code_error", *plugin, store=store)
    assert again.returncode == 1
    assert "0 cells run, 0 were finished, 1 failed" in again.stdout


def test_who_dies_without_a_word_leaves_the_cell_beside_it_alone(
    store: Store, make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cell goes on only when the second one, which waits for it, is about to die: they run at once."""
    (tmp_path / "moody.py").write_text(MOODY, encoding="utf-8")
    path = make_suite(models="[{moody: {act: [wait, die, fail, train]}}]")
    result = symbench("run", path, "--parallel", 2, "--plugin", tmp_path / "moody.py", store=store)
    assert result.returncode == 1
    assert "killed: the process died without an error message; `symbench logs" in result.stderr
    assert "2 cells run, 0 were finished, 2 failed" in result.stdout
    monkeypatch.setattr(model_registry, "_plugins", {})
    model_registry.add_plugin(tmp_path / "moody.py")
    ended = [(record.status.state, record.status.failure, record.status.attempt) for record in records(path, store)]
    # One that has failed is tried once; who marked the dead one had to hold it, but made no attempt.
    assert ended == [("done", "", 1), ("failed", "killed", 1), ("failed", "code_error", 1), ("done", "", 1)]


def test_an_unreadable_record_is_made_again_without_training_again(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[{convnet: {hidden: 4}}, persistence]")
    symbench("run", path, store=store)
    before = next(record for record in records(path, store) if record.cell.model.name == "convnet")
    (before.folder / "metrics.json").write_text('{"rmse_future": 0.')
    again = symbench("run", path, store=store)
    assert again.returncode == 0, again.stderr
    assert "1 cells run, 1 were finished" in again.stdout
    after = next(record for record in records(path, store) if record.cell.model.name == "convnet")
    assert list(after.history) == list(before.history)
    assert outcome(after) == outcome(before)


def test_nan_is_a_result(store: Store, make_suite: MakeSuite, tmp_path: Path) -> None:
    (tmp_path / "bomb.py").write_text(TOY.format(body="return x[:, -1] * (1 + 1e15 * self.gain)"), encoding="utf-8")
    path = make_suite(models="[bomb]")
    result = symbench("run", path, "--plugin", tmp_path / "bomb.py", store=store)
    assert result.returncode == 0, result.stderr
    assert "diverged" in result.stderr
    again = symbench("run", path, "--plugin", tmp_path / "bomb.py", store=store)
    assert "0 cells run, 1 were finished" in again.stdout


def test_a_toy_baseline_in_a_folder_trains_and_reaches_the_board(
    store: Store, make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gain.py").write_text(TOY.format(body="return x[:, -1] * (1 + self.gain)"), encoding="utf-8")
    monkeypatch.setattr(model_registry, "_plugins", {})
    model_registry.add_plugin(tmp_path / "gain.py")
    path = make_suite(models="[persistence, gain]", epochs=30)
    plugin = ("--plugin", tmp_path / "gain.py")
    assert symbench("run", path, *plugin, store=store).returncode == 0
    board = symbench("leaderboard", path, *plugin, store=store)
    assert board.returncode == 0, board.stderr
    assert "gain" in board.stdout
    still, gain = sorted(records(path, store), key=lambda record: record.cell.model.name != "persistence")
    assert gain.metrics["rmse_future"] < still.metrics["rmse_future"]  # the field decays, and it learnt that


class TestRefusals:
    """Each one clear line and exit status 2 or 3; nothing lost, nothing run twice."""

    def refused(self, result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
        assert result.returncode == status, result.stderr
        assert "Traceback" not in result.stderr
        for part in parts:
            assert part in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    def test_a_misspelt_key(self, store: Store, make_suite: MakeSuite) -> None:
        path = make_suite()
        path.write_text(path.read_text().replace("seeds", "sedes"))
        self.refused(symbench("run", path, store=store), 2, f"{path}:6", "did you mean 'seeds'")

    def test_an_unknown_model(self, store: Store, make_suite: MakeSuite) -> None:
        result = symbench("plan", make_suite(models="[convnett]"), store=store)
        self.refused(result, 2, "unknown model 'convnett'; did you mean 'convnet'?")

    def test_a_batch_that_the_ranks_cannot_share(self, store: Store, make_suite: MakeSuite) -> None:
        result = symbench("run", make_suite(ranks=3), store=store)
        self.refused(result, 2, "train.batch_size: 8 is not divisible by the 3 ranks")

    def test_tf32_without_a_gpu(self, store: Store, make_suite: MakeSuite) -> None:
        path = make_suite()
        path.write_text(path.read_text().replace("epochs: 3", "epochs: 3, precision: tf32"))
        if not torch.cuda.is_available():
            self.refused(symbench("run", path, store=store), 2, "tf32 needs a GPU")

    def test_data_of_another_level(self, store: Store, make_suite: MakeSuite) -> None:
        path = make_suite()
        path.write_text(path.read_text().replace("level: 0", "level: 1"))
        there = next(store.data_folder.rglob("*.h5"))
        there.rename(there.with_name("level_1.h5"))
        result = symbench("run", path, store=store)
        assert result.returncode == 1
        assert "holds smoke_rotation_levels (small) level 0" in result.stderr

    def test_missing_data(self, store: Store, make_suite: MakeSuite) -> None:
        next(store.data_folder.rglob("*.h5")).unlink()
        self.refused(symbench("run", make_suite(), store=store), 3, "no such data file", "symbench data prepare")

    def test_a_second_run_in_the_same_store(self, store: Store, make_suite: MakeSuite) -> None:
        path = make_suite(epochs=200)
        first = start("run", path, store=store)
        try:
            wait_for_epoch(path, store, 1)
            self.refused(symbench("run", path, store=store), 3, "another `symbench run` is at work here")
            assert records(path, store)[0].status.attempt == 1
        finally:
            os.killpg(first.pid, signal.SIGINT)
            first.wait(timeout=60)

    def test_an_orphaned_job_is_not_run_twice(self, store: Store, make_suite: MakeSuite) -> None:
        path = make_suite(epochs=200)
        first = start("run", path, store=store)
        wait_for_epoch(path, store, 1)
        first.kill()  # the launcher alone: its job goes on
        first.wait()
        try:
            self.refused(symbench("run", path, store=store), 3, "still being run by an earlier job")
        finally:
            os.killpg(first.pid, signal.SIGKILL)

    def test_a_store_that_cannot_be_written(self, make_suite: MakeSuite, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        result = symbench("run", make_suite(), store=Store(tmp_path / "file" / "store"))
        self.refused(result, 3, "cannot be written")

    @pytest.mark.parametrize("arguments", [("run", "nonsense"), ("run", "quickstart", "--only", "seed=9")])
    def test_wrong_names(self, store: Store, arguments: Sequence[str]) -> None:
        self.refused(symbench(*arguments, store=store), 2, "unknown")
