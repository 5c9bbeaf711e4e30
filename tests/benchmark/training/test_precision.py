"""Accuracy of bf16: it differs from fp32 by less than two seeds do. suites/precision-small.yaml has simulated data."""

from pathlib import Path

import torch
from swirls import swirls

from benchmark.cell import Training
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.models.baseline import Task
from benchmark.models.convnet import ConvNet
from benchmark.training.loop import TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic

SEEDS = range(3)
SETTINGS = Training(epochs=4, batch_size=8, learning_rate=1e-2, weight_decay=0.0)


def rmse(field: torch.Tensor, precision: str, seed: int, checkpoint: Path) -> list[float]:
    """Validation RMSE after each epoch."""
    settings = SETTINGS.model_copy(update={"precision": precision})
    splits = [Split((0, 1, 2, 3), tuple(range(start, start + 20)), 2) for start in (0, 30)]
    data = TrainingData(*(Windows.of(field, split, 1) for split in splits))
    with deterministic(seed):
        model = ConvNet(ConvNet.Config(hidden=8, layers=3), Task("swirls", 1, 2, *field.shape[-2:], target="change"))
        progress = fit(model, data, settings, seed, TrainingOutput(checkpoint))
    return [epoch.validation_rmse for epoch in progress.history]


def test_bf16_lies_within_the_spread_of_seeds(tmp_path: Path) -> None:
    """Each seed in bf16 ends nearer to itself in fp32 than a fifth of the range over seeds."""
    field = torch.from_numpy(swirls())
    fp32, bf16 = (
        [rmse(field, precision, seed, tmp_path / f"{precision}{seed}.pt") for seed in SEEDS]
        for precision in ("fp32", "bf16")
    )
    assert all(curve[-1] < 0.6 * curve[0] for curve in (*fp32, *bf16))
    ends = [curve[-1] for curve in fp32]
    for one, other in zip(fp32, bf16, strict=True):
        assert 0 < abs(one[-1] - other[-1]) < 0.2 * (max(ends) - min(ends))
