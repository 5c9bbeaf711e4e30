"""Golden run: `fit` trains the same weights, bit for bit, as a plain loop without its optimisations."""

from pathlib import Path

import pytest
import torch

from benchmark.bench.plain_loop import PlainLoop
from benchmark.cell import Training
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.training.loop import TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic

SETTINGS = Training(epochs=3, batch_size=4, learning_rate=1e-2, weight_decay=4e-4, early_stop_after=None)


def model(name: str) -> Baseline:
    baseline = model_registry.model(name)
    config = {"hidden": 4} if "hidden" in baseline.Config.model_fields else {}
    return baseline(baseline.Config.model_validate(config), Task("noise", 2, 12, 12))


@pytest.mark.parametrize(
    "name", ["convnet", "e2cnn", "relaxed_steerable_rotation", "relaxed_group_translation", "augmentation"]
)
def test_the_last_epoch_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    field = torch.randn(2, 24, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    splits = [Split((0, 1), tuple(range(start, start + 9)), 2) for start in (0, 12)]
    data = TrainingData(*(Windows.of(field, split, 2) for split in splits))
    with deterministic(1):
        plain = model(name)
        rmse = list(PlainLoop(plain, SETTINGS, cache_filters=True).epochs(data, 1, tmp_path / "plain.pt"))
    with deterministic(1):
        ours = model(name)
        progress = fit(ours, data, SETTINGS, 1, TrainingOutput(tmp_path / "c.pt"))
    saved = torch.load(tmp_path / "c.pt", weights_only=True)["model"]  # `ours` has the best weights
    expected = plain.train().state_dict()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], value) for key, value in expected.items())
    assert [epoch.validation_rmse for epoch in progress.history] == pytest.approx(rmse, rel=1e-6)
