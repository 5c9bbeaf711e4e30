"""Launches on this machine in which a rank or a cell ends because of another one."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from support import records, symbench

from benchmark import discovery
from benchmark.errors import MachineError
from benchmark.suite import loading as suites
from cluster.jobs import launch
from cluster.jobs.display import Display
from results.store import record
from results.store.store import Store

MakeSuite = Callable[..., Path]

CROWDED = """
from pathlib import Path

from benchmark.models.convnet import ConvNet

class Crowded(ConvNet):
    def before_step(self, progress):
        try:
            Path(__file__).with_name("crowded").touch(exist_ok=False)
        except FileExistsError:
            return
        raise RuntimeError("CUDA out of memory")
"""


def test_a_cell_that_lacks_memory_beside_others_is_tried_again_alone(
    store: Store, make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the first cell that trains finds no room, whichever it is."""
    (tmp_path / "crowded.py").write_text(CROWDED, encoding="utf-8")
    path = make_suite(models="[{crowded: {hidden: [2, 3]}}]")
    monkeypatch.setattr(discovery.BASELINES, "plugins", {})
    discovery.add_plugin(tmp_path / "crowded.py")
    assert symbench("run", path, "--parallel", 2, "--plugin", tmp_path / "crowded.py", store=store).returncode == 0
    assert sorted((record.status.state, record.status.attempt) for record in records(path, store)) == [
        ("done", 1),
        ("done", 2),
    ]


def kill_rank_1() -> None:
    """Kill the second rank of a job of this process as soon as it exists."""
    for _ in range(1000):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.environ().get("SUBMITIT_LOCAL_LOCALID") == "1":
                    return child.kill()
        time.sleep(0.01)
    raise AssertionError("no second rank")


def test_a_rank_that_dies_while_it_starts_does_not_keep_the_other_waiting(
    store: Store, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 would wait for the limit of a collective operation."""
    monkeypatch.setattr(launch, "LAST_RANK_SECONDS", 2.0)
    suite = suites.load(str(make_suite(models="[persistence]", ranks=2)))
    with ThreadPoolExecutor() as threads, Display(Console(stderr=True)) as display:
        killing = threads.submit(kill_rank_1)
        with pytest.raises(MachineError, match="the job ended before "):
            launch.run(suite, store, display, suite)
        killing.result()


def test_a_record_that_cannot_be_read_back_is_the_error(
    store: Store, make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell counts as one that never began, which is no reason."""

    def refuse(metrics: object) -> None:
        raise ValueError("metrics: no such number")

    monkeypatch.setattr(record, "_checked_metrics", refuse)
    suite = suites.load(str(make_suite(models="[persistence]")))
    unreadable = pytest.raises(MachineError, match="cannot be read back: metrics: no such number")
    with Display(Console(stderr=True)) as display, unreadable:
        launch.run(suite, store, display, suite)
