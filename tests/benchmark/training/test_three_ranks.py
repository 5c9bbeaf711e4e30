"""Three ranks, whose gradients gloo adds up in an order that depends on their memory layout."""

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.cell import Training
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.models.baseline import Task
from benchmark.models.convnet import ConvNet
from benchmark.training.distributed import join
from benchmark.training.loop import Execution, StoppedError, TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic

RANKS, STEPS = 3, 6
SETTINGS = Training(epochs=2, batch_size=6, learning_rate=1e-3, early_stop_after=None)


def trained(rank: int, ranks: int, folder: Path, stop_at: int | None) -> tuple[NDArray[np.float32], list[float]]:
    """Weights and curves of a ConvNet after two epochs on one of the ranks, stopped once before step `stop_at`."""
    torch.set_num_threads(1)
    field = torch.randn(3, 30, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    splits = [Split((0, 1, 2), tuple(range(start, start + 12)), 2) for start in (0, 15)]
    data = TrainingData(*(Windows.of(field, split, 2) for split in splits))
    calls = itertools.count(1)
    for attempt in range(2):
        with join(rank, ranks, torch.device("cpu"), folder / f"rendezvous{attempt}") as world, deterministic(0):
            model = ConvNet(ConvNet.Config(hidden=16), Task("noise", 2, 8, 8))
            try:
                output, execution = TrainingOutput(folder / "c.pt"), Execution(world, lambda: next(calls) == stop_at)
                progress = fit(model, data, SETTINGS, 0, output, execution)
            except StoppedError:
                continue
            weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy()
            return weights, [error for epoch in progress.history for error in (epoch.train_loss, epoch.validation_rmse)]
    raise AssertionError("stopped twice")


def test_three_ranks_go_on_bit_for_bit_and_learn_as_one(tmp_path: Path) -> None:
    results: list[tuple[NDArray[np.float32], list[float]]] = []
    with ProcessPoolExecutor(RANKS, multiprocessing.get_context("spawn")) as pool:
        for name, stop_at in (("uninterrupted", None), ("stopped", STEPS // 2)):
            folder = tmp_path / name
            folder.mkdir()
            ranks = [pool.submit(trained, rank, RANKS, folder, stop_at) for rank in range(RANKS)]
            results += [rank.result(timeout=200) for rank in ranks]
    assert all(np.array_equal(results[0][0], weights) for weights, _ in results)
    _, alone = trained(0, 1, tmp_path, None)
    assert all(curve == pytest.approx(alone, rel=1e-6) for _, curve in results)
