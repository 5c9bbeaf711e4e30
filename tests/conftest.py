"""Fixtures of several folders, and how `pytest -n auto` shares the tests out among its processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import store_in, suite_in

from benchmark.training.machine import available_cpus
from results.store.store import Store

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ("fabricated_board", "tuning_support")
MakeSuite = Callable[..., Path]
MOST_PROCESSES = 4
ORDER = (
    *("tests/slurm/", "tests/cluster/tuning/test_tune.py", "tests/benchmark/contract/test_adding_a_baseline.py"),
    *("tests/benchmark/cli/", "tests/cluster/jobs/", "tests/results/tracking/", "tests/benchmark/data/"),
    *("tests/cluster/", "tests/benchmark/", "tests/results/", "tests/test_", "tests/contract/", "tests/docs/"),
)
"""Beginnings of test ids: what takes longest is begun first, so that no process is left with it in the end."""
STAND_ALONE = ("tests/benchmark/cli/test_cli.py", "tests/cluster/jobs/test_launch.py")
"""Files whose tests share no costly fixture."""
CONTRACT = "tests/contract/test_models.py::test_contract["
"""Begins the ids of all checks of a baseline, which share its module; its name follows."""


def run_together(nodeid: str) -> str:
    """Tests for which this is the same run in one process, one after another.

    Those of a file, which may share fixtures; those of SLURM, as there is one cluster; checks of one baseline.
    """
    if nodeid.startswith(CONTRACT):
        return nodeid.partition("-")[0]
    path = nodeid.split("::")[0]
    if path.startswith("tests/slurm/"):
        return "tests/slurm/"
    return nodeid if path in STAND_ALONE else path


def turn(item: pytest.Item) -> int:
    return next(n for n, beginning in enumerate(ORDER) if item.nodeid.startswith(beginning))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One for each CPU that we may use; xdist would count those of the whole machine."""
    return min(MOST_PROCESSES, available_cpus())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling  # absent with -p no:xdist

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return run_together(nodeid)

    config.option.loadscopereorder = False  # our order, not that of the number of tests
    return Scheduler(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """For the tests' processes and those they start: as many threads as CPUs in all, a cache of our own, and Ctrl-C.

    A script's background processes ignore Ctrl-C, and so would all that tests start and interrupt.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("home"))
    if processes := getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // processes)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=turn)  # stable: within a folder the order stays


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One with a small random field in place of simulated smoke."""
    return store_in(tmp_path / "störe with spaces")


@pytest.fixture
def make_suite(tmp_path: Path) -> MakeSuite:
    """Writes a suite file over that field; keywords: models, seeds, epochs, ranks."""
    return partial(suite_in, tmp_path)
