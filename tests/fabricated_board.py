"""A store with fabricated numbers, for the tests of what shows results."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmark.cell import Cell, DatasetChoice, ModelChoice, Protocol, Training
from benchmark.evaluation.rollouts import Rollouts
from benchmark.suite.suite import Resources, Suite
from benchmark.training.recorder import Epoch
from results.board import leaderboard
from results.board.row import Row
from results.store.cell_recorder import CellRecorder
from results.store.store import Store

if TYPE_CHECKING:
    from results.report.report import Report

MODELS = {
    "convnet": ({"hidden": 64}, 0.30, 0.9),
    "e2cnn": ({"hidden": 64, "order": 4}, 0.20, 0.0),
    "relaxed_steerable_rotation": ({"hidden": 32, "penalty": 1e-4}, 0.17, 0.5),
}
"""Name -> config, error at level 0, share of the data's equivariance error that the model has."""
SIZE, STEPS = 24, 8


@dataclasses.dataclass(frozen=True)
class Board:
    """A suite and a store for its cells; `finish` fabricates the result of one."""

    suite: Suite
    store: Store

    @contextmanager
    def recording(self, cell: Cell) -> Iterator[CellRecorder]:
        with self.store.recorder(cell) as recorder:
            assert recorder is not None
            recorder.start()
            yield recorder

    def finish(self, cell: Cell, environment: Mapping[str, object] = MappingProxyType({}), **metrics: object) -> None:
        with self.recording(cell) as recorder:
            history = [Epoch(e, 1.0 / (e + 1), 0.5 / (e + 1), 0.6 / (e + 1), 1e-3 * 0.95**e, 2.0) for e in range(6)]
            versions = {"symbench": "0.1.0", "git_commit": "0" * 40, "python": "3.11", "torch": "2.13"}
            recorder.environment({**versions, **environment})
            recorder.progress(history, 6)
            recorder.rollouts([_rollouts(cell)], cell.dataset.grid)
            recorder.finish("done", {**_metrics(cell), **metrics})

    def diverge(self, cell: Cell) -> None:
        with self.recording(cell) as recorder:
            recorder.finish("diverged", {}, "NaN in epoch 3")

    def refuse(self, cell: Cell, reason: str) -> None:
        with self.recording(cell) as recorder:
            recorder.finish("n/a", {}, reason)


def rows_of(board: Board, metric: str = "rmse_future") -> list[Row]:
    records, broken = board.store.read(board.suite.cells)
    assert not broken
    return leaderboard.aggregate(board.suite.cells, records, metric)


def report_of(board: Board, metric: str = "rmse_future") -> "Report":
    from results.report.report import Report  # matplotlib, which every process of the tests would import

    return Report(board.store, board.suite, *board.store.read(board.suite.cells), metric)


def make_cell(model: str = "convnet", level: int = 0, seed: int = 0, epochs: int = 200, **config: object) -> Cell:
    return Cell(
        dataset=DatasetChoice(name="smoke_rotation_levels", level=level, preset="small"),
        model=ModelChoice(name=model, config={**MODELS.get(model, ({},))[0], **config}),
        protocol=Protocol(),
        train=Training(epochs=epochs),
        seed=seed,
    )


@pytest.fixture
def new_cell() -> Callable[..., Cell]:
    return make_cell


@pytest.fixture
def new_board(tmp_path: Path) -> Callable[..., Board]:
    """A board of the given cells with nothing in its store."""

    def new(cells: Sequence[Cell], name: str = "levels") -> Board:
        suite = Suite(name, Path("levels.yaml"), tuple(cells), Resources())
        return Board(suite, Store(tmp_path / "store"))

    return new


@pytest.fixture
def full_board(new_board: Callable[..., Board]) -> Board:
    """Three models, three levels, two seeds: all done but one that diverged, one that is n/a and one absent."""
    cells = [make_cell(model, level, seed) for level in (0, 3, 9) for model in MODELS for seed in (0, 1)]
    refused = [make_cell("unheard_of", level) for level in (0, 3, 9)]
    board = new_board([*cells, *refused])
    for cell in cells[:-2]:
        board.finish(cell)
    board.diverge(cells[-2])
    for cell in refused:
        board.refuse(cell, "needs a square grid")
    return board


@pytest.fixture
def small_board(new_board: Callable[..., Board]) -> Board:
    """Two settings with three seeds, one of which diverged: six runs in MLflow with their parents and the board."""
    cells = [make_cell("convnet"), make_cell("e2cnn"), make_cell("e2cnn", seed=1)]
    board = new_board(cells, "a/b <i>é'\"")
    board.finish(cells[0])
    board.finish(cells[1])
    board.diverge(cells[2])
    return board


def _metrics(cell: Cell) -> dict[str, object]:
    _, base, share = MODELS[cell.model.name]
    broken = 0.05 * float(cell.dataset.level)
    error = base + (1.0 - share) * broken + 0.01 * cell.seed
    by_step = [error * (0.5 + step / STEPS) for step in range(STEPS)]
    return {
        "rmse_validation": 0.9 * error,
        "rmse_future": error,
        "rmse_domain": 1.2 * error,
        "vrmse_future": 2 * error,
        "vrmse_domain": 2.4 * error,
        "rmse_future_by_step": by_step,
        "rmse_domain_by_step": [1.2 * value for value in by_step],
        "model_equivariance_error": share * broken + 3e-7,
        "model_equivariance_error_relative": 2 * share * broken + 6e-7,
        "data_equivariance_error": broken,
        "data_equivariance_error_relative": 2 * broken,
        "strict_floor": 0.6 * broken,
        "parameters": 5_600_000,
        "flops": 30_550_000_000,
        "samples_per_second": 410.0,
        "peak_memory_bytes": 1.5 * 2**30,
        "training_seconds": 12.0,
        "epochs": 6,
        "best_epoch": 5,
    }


def _rollouts(cell: Cell) -> Rollouts:
    """A vortex that wanders; the prediction lags behind by the model's error."""
    _, base, _ = MODELS[cell.model.name]
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    x, y = np.meshgrid(axis, axis, indexing="ij")

    def frame(time: float) -> np.ndarray:
        bump = np.exp(-8 * ((x - 0.08 * time + 0.3) ** 2 + (y + 0.2) ** 2))
        return np.stack((-(y + 0.2) * bump, (x - 0.08 * time + 0.3) * bump)).astype(np.float32)

    truth = np.stack([frame(step) for step in range(STEPS)])[None]
    prediction = np.stack([frame(step * (1 - base)) for step in range(STEPS)])[None]
    return Rollouts("future", truth[:, :2], truth, prediction, [(3, 40)])


@pytest.fixture
def chromium(tmp_path: Path) -> list[str]:
    """Command that starts headless Chromium with a profile of its own."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("SYMBENCH_REQUIRE_CHROMIUM") == "1":
            pytest.fail("chromium is not installed, and SYMBENCH_REQUIRE_CHROMIUM=1 asks for it")
        pytest.skip("chromium is not installed")
    quiet = "disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    flags = [f"--{flag}" for flag in ("headless", "no-sandbox", *quiet.split())]
    return [path, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1600,900"]


@pytest.fixture
def dump_dom(chromium: list[str], tmp_path: Path) -> Callable[[str], str]:
    """Opens an address in headless Chromium and returns the page's DOM as text, once its scripts came to rest.

    What was on the screen then lies in `tmp_path / "screen.png"`.
    """

    def dump(url: str) -> str:
        picture = f"--screenshot={tmp_path / 'screen.png'}"
        argv = [*chromium, "--virtual-time-budget=20000", picture, "--dump-dom", url]
        return subprocess.run(argv, capture_output=True, text=True, timeout=90, check=True).stdout

    return dump
