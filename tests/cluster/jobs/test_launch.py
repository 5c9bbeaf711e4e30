"""Launches on this machine with real processes: gloo ranks, killed processes, failing cells, refusals."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
import torch
from support import records, start, symbench

from benchmark import discovery
from benchmark.data import layout
from benchmark.data.dataset import Simulation
from benchmark.models import model_digest
from benchmark.suite import loading as suites
from results.store.record import Record
from results.store.store import Store

MakeSuite = Callable[..., Path]

TOY = '''
"""Baseline with one factor for each component."""
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
"""Baseline whose setting `act` decides how its training ends."""
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
            raise TimeoutError(f"no file {name}")
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


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread for each rank, for any number of lanes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wait_for_epoch(path: Path, store: Store, epoch: int, cells: int = 1) -> None:
    """Wait until `cells` running cells have done `epoch` epochs."""
    suite = suites.load(str(path))
    for _ in range(6000):
        running = [r for r in store.read(suite.cells)[0].values() if r.status.state == "running"]
        if sum(record.status.epoch >= epoch for record in running) >= cells:
            return
        time.sleep(0.05)
    raise AssertionError(f"not {cells} cells at once reached epoch {epoch}")


def wait_for_the_end(pids: Sequence[int]) -> None:
    """Wait until the processes have ended or are zombies."""
    for _ in range(100):
        processes = [process for process in psutil.process_iter(["status"]) if process.pid in pids]
        if all(process.info["status"] == psutil.STATUS_ZOMBIE for process in processes):
            return
        time.sleep(0.1)
    raise AssertionError(f"still running: {processes}")


def losses(record: Record) -> list[object]:
    return [replace(epoch, seconds=0.0) for epoch in record.history]


EPOCHS = 8
HALTING = """
import time
from pathlib import Path

from benchmark.models.convnet import ConvNet


class Halting(ConvNet):
    # Trains up to the progress in the file `limit`, from 0 to 1.

    def before_step(self, progress: float) -> None:
        while progress >= float(Path(__file__).with_name("limit").read_text()):
            time.sleep(0.01)
"""


def kill_all(launched: subprocess.Popen[bytes]) -> None:
    os.killpg(launched.pid, signal.SIGKILL)
    launched.wait()


def press_ctrl_c(launched: subprocess.Popen[bytes]) -> None:
    os.killpg(launched.pid, signal.SIGINT)
    assert launched.wait(timeout=60) == 130


def terminate(launched: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the launcher, which stops its jobs; none of its processes is alive when it says so."""
    children = psutil.Process(launched.pid).children(recursive=True)
    launched.terminate()
    assert launched.wait(timeout=60) == 130
    assert not any(child.is_running() for child in children)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("ranks", "lanes", "stops"), [(1, 2, (kill_all, press_ctrl_c, terminate)), (2, 1, (kill_all,))]
)
def test_a_stopped_training_continues_bit_for_bit(
    store: Store,
    make_suite: MakeSuite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    lanes: int,
    stops: Sequence[Callable[[subprocess.Popen[bytes]], None]],
) -> None:
    """After each stop the same command continues; two lanes give the same bits as one."""
    plugin, limit = tmp_path / "halting.py", tmp_path / "limit"
    plugin.write_text(HALTING, encoding="utf-8")
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    discovery.add_plugin(plugin)
    path = make_suite(models="[{halting: {hidden: 4}}]", epochs=EPOCHS, ranks=ranks, seeds=str(list(range(lanes))))
    command = ("run", path, "--plugin", plugin, "--parallel", lanes)
    histories = []
    for attempt, stop in enumerate(stops, start=1):
        limit.write_text(str(2 * attempt / EPOCHS))
        before = signal.getsignal(signal.SIGINT)
        if stop is terminate:  # a script's background process ignores Ctrl-C, and so do the processes that it starts
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        launched = start(*command, store=store)
        signal.signal(signal.SIGINT, before)
        wait_for_epoch(path, store, 2 * attempt, cells=lanes)
        stop(launched)
        while any(store.being_run(cell) for cell in suites.load(str(path)).cells):  # workers end with a delay
            time.sleep(0.1)
        stopped = records(path, store)
        wait_for_the_end([record.status.pid for record in stopped])
        histories += [(record.cell.id, list(record.history)) for record in stopped]
        status = symbench("status", path, "--json", "--plugin", plugin, store=store)
        assert [row["state"] for row in json.loads(status.stdout)] == ["interrupted"] * lanes
    limit.write_text("inf")
    again = symbench(*command, store=store)
    assert again.returncode == 0, again.stderr
    resumed = {record.cell.id: record for record in records(path, store)}
    assert [record.environment["lanes"] for record in resumed.values()] == [lanes] * lanes
    assert [record.status.attempt for record in resumed.values()] == [len(stops) + 1] * lanes
    # Each attempt continued from the checkpoint: epochs of earlier ones are not trained again.
    for key, history in histories:
        assert list(resumed[key].history[: len(history)]) == history

    undisturbed = Store(tmp_path / "undisturbed")
    undisturbed.make()
    (undisturbed.root / "data").symlink_to(store.data_folder.resolve())
    symbench("run", path, "--plugin", plugin, store=undisturbed)
    for record in records(path, undisturbed):
        assert len(record.history) == EPOCHS
        assert losses(resumed[record.cell.id]) == losses(record)
        assert resumed[record.cell.id].outcome == record.outcome


def test_a_failing_cell_affects_no_other(store: Store, make_suite: MakeSuite, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(TOY.format(body="return 1 / 0 if self.training else x[:, -1]"))
    plugin = ("--plugin", tmp_path / "faulty.py")
    path = make_suite(models="[faulty, persistence]", ranks=2)
    result = symbench("run", path, *plugin, store=store)
    assert result.returncode == 1
    assert "code_error: ZeroDivisionError: division by zero" in result.stderr
    assert "1 cells run, 0 were finished, 1 failed" in result.stdout
    assert "Traceback" not in result.stderr
    rows = json.loads(symbench("status", path, "--json", *plugin, store=store).stdout)
    failed = next(row["id"] for row in rows if row["state"] == "failed")
    log = symbench("logs", failed[:6], store=store)
    assert log.stdout.startswith(f"{failed} ")
    assert "ZeroDivisionError" in log.stdout
    assert "persistence" not in log.stdout
    assert "ZeroDivisionError" in symbench("logs", path, "--failed", *plugin, store=store).stdout
    refused = symbench("retry", path, "--failed", "code_eror", *plugin, store=store)
    assert refused.returncode == 2
    assert "unknown reason 'code_eror'; did you mean 'code_error'" in refused.stderr
    path = make_suite(models="[faulty, persistence]")  # the same error with one rank
    again = symbench("retry", path, "--failed", "code_error", *plugin, store=store)
    assert again.returncode == 1
    assert "0 cells run, 0 were finished, 1 failed" in again.stdout
    finished = symbench("retry", path, "--only", "model=persistence", *plugin, store=store)
    assert (finished.returncode, finished.stdout) == (0, "tiny: every cell has a result\n"), (
        "the failed one is not chosen"
    )
    chosen = symbench("retry", path, "--only", "model=faulty", *plugin, store=store)
    assert "0 cells run, 0 were finished, 1 failed" in chosen.stdout


def test_a_dying_process_affects_only_its_cell(
    store: Store, make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cell waits until the second is about to die, so both run at once."""
    (tmp_path / "moody.py").write_text(MOODY, encoding="utf-8")
    path = make_suite(models="[{moody: {act: [wait, die, fail, train]}}]")
    result = symbench("run", path, "--parallel", 2, "--plugin", tmp_path / "moody.py", store=store)
    assert result.returncode == 1
    assert "killed: the process died without an error message; `symbench logs" in result.stderr
    assert "2 cells run, 0 were finished, 2 failed" in result.stdout
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    discovery.add_plugin(tmp_path / "moody.py")
    ended = [(record.status.state, record.status.failure, record.status.attempt) for record in records(path, store)]
    # Each cell has one attempt: marking the dead one takes a lease, but is no attempt.
    assert ended == [("done", "", 1), ("failed", "killed", 1), ("failed", "code_error", 1), ("done", "", 1)]


def test_plug_ins_are_trained_and_ranked_and_a_diverged_one_is_a_result(
    store: Store, make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is an option, the other is named by the suite."""
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    for name, factor in (("gain", "1"), ("bomb", "1e15")):
        (tmp_path / f"{name}.py").write_text(TOY.format(body=f"return x[:, -1] * (1 + {factor} * self.gain)"))
    plugins = ["--plugin", tmp_path / "gain.py"]
    discovery.add_plugin(tmp_path / "gain.py")
    path = make_suite(models="[persistence, gain, bomb]", epochs=30)
    path.write_text(f"{path.read_text()}plugins: [bomb.py]\n")
    result = symbench("run", path, *plugins, store=store)
    assert result.returncode == 0, result.stderr
    assert "diverged" in result.stderr
    board = symbench("leaderboard", path, *plugins, store=store)
    assert board.returncode == 0, board.stderr
    assert "gain" in board.stdout
    by_model = {record.cell.model.name: record for record in records(path, store)}
    assert by_model["bomb"].status.state == "diverged"
    rmse = {name: record.metrics["rmse_future"] for name, record in by_model.items() if name != "bomb"}
    assert rmse["gain"] < rmse["persistence"]  # it has learnt that the field decays
    again = symbench("run", path, *plugins, store=store)
    assert "0 cells run, 3 were finished" in again.stdout


def test_results_of_other_data_or_code_are_counted_and_trained_again(
    store: Store, make_suite: MakeSuite, tmp_path: Path
) -> None:
    """A plug-in is edited and the data are doubled between two seeds of a row, as somebody may do without thinking."""
    plugin = tmp_path / "gain.py"
    now: dict[tuple[str, int], float] = {}

    def run(*options: object, seeds: str = "[0, 1]") -> str:
        discovery._source.cache_clear()  # each command of a user is a process of its own
        model_digest._digest.cache_clear()
        path = make_suite(models="[gain, {convnet: {hidden: 4}}]", seeds=seeds, epochs=1)
        result = symbench("run", path, "--plugin", plugin, *options, store=store)
        assert result.returncode == 0, result.stderr
        discovery.add_plugin(plugin)
        now.update({(one.cell.model.name, one.cell.seed): one.metrics["rmse_future"] for one in records(path, store)})
        discovery.replace_plugins([])
        return result.stdout + result.stderr

    plugin.write_text(TOY.format(body="return x[:, -1] * (1 + self.gain)"), encoding="utf-8")
    assert "computed with other" not in run(seeds="[0]")
    assert "different" not in run(seeds="[0]")
    before = dict(now)
    plugin.write_text(TOY.format(body="return 0 * x[:, -1] * self.gain"), encoding="utf-8")
    stored = layout.read(next(store.data_folder.rglob("*.h5")))
    simulation = {field.name: getattr(stored, field.name) for field in fields(Simulation)}
    doubled = Simulation(**simulation | {"field": 2 * stored.field.numpy()})
    layout.write(stored.path, stored.dataset, stored.preset, stored.level, doubled)
    said = run()
    assert "2 finished cells were computed with other data (smoke_rotation_levels level 0 (tiny)); `symbench" in said
    assert "1 finished cell was computed with other code (gain); `symbench run --retrain` trains them again" in said
    assert said.count("different data (") == 2
    assert said.count("different code (") == 1
    assert {key: now[key] for key in before} == before, "finished cells stay as they are"
    assert "2 results of other data or code discarded" in run("--retrain")
    assert now["convnet", 0] == pytest.approx(2 * before["convnet", 0], rel=0.1)
    assert now["gain", 0] == now["gain", 1] > before["gain", 0]
    assert not any(word in run() for word in ("computed with other", "different", "discarded"))


class TestRefusals:
    """Each refusal is one line with exit status 2 or 3."""

    def refused(self, result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
        assert result.returncode == status, result.stderr
        assert "Traceback" not in result.stderr
        for part in parts:
            assert part in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    def test_tf32_without_a_gpu(self, store: Store, make_suite: MakeSuite) -> None:
        path = make_suite()
        path.write_text(path.read_text().replace("epochs: 3", "epochs: 3, precision: tf32"))
        if not torch.cuda.is_available():
            self.refused(symbench("run", path, store=store), 2, "tf32 needs a GPU")

    def test_missing_data(self, store: Store, make_suite: MakeSuite) -> None:
        next(store.data_folder.rglob("*.h5")).unlink()
        self.refused(symbench("run", make_suite(), store=store), 3, "no such data file", "symbench data prepare")

    def test_a_store_or_a_cell_of_another_run(self, store: Store, make_suite: MakeSuite) -> None:
        path = make_suite(epochs=100_000)
        path.write_text(path.read_text().replace("batch_size: 8", "batch_size: 8, early_stop_after: null"))
        first = start("run", path, store=store)
        try:
            wait_for_epoch(path, store, 1)
            self.refused(symbench("run", path, store=store), 3, "another `symbench run` is at work here")
            first.kill()  # its job continues
            first.wait()
            self.refused(symbench("run", path, store=store), 3, "still being run by an earlier job")
            assert records(path, store)[0].status.attempt == 1
        finally:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()

    def test_a_network_interface_that_is_missing(
        self, store: Store, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reason reaches the user, at once on every rank."""
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nonet7")
        refused = symbench("run", make_suite(models="[persistence]", ranks=2), store=store)
        assert refused.returncode == 3
        assert "the job ended before" in refused.stderr
        assert "GLOO_SOCKET_IFNAME: " in refused.stderr
        assert "has no network interface nonet7 (it has lo" in refused.stderr

    def test_a_store_that_cannot_be_written(self, make_suite: MakeSuite, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        result = symbench("run", make_suite(), store=Store(tmp_path / "file" / "store"))
        self.refused(result, 3, "cannot be written")

    @pytest.mark.parametrize("arguments", [("run", "nonsense"), ("run", "quickstart", "--only", "seed=9")])
    def test_wrong_names(self, store: Store, arguments: Sequence[str]) -> None:
        self.refused(symbench(*arguments, store=store), 2, "unknown")
