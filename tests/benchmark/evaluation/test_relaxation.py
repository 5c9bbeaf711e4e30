"""Atlas of the relaxation: a layer that learned a field whose halves differ shows the halves."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support import symbench
from torch import nn
from torch.nn.functional import conv2d, pad
from toy_baseline import RELAXED

from benchmark.evaluation.relaxation import (
    Relaxation,
    read_relaxations,
    relaxations,
    relaxations_of,
    share_of_relaxation,
)
from benchmark.models.relaxed_group_translation import RelaxedConv2d
from results.store.store import Store

SUITE = """\
name: halves
protocol: {name: disjoint, input_frames: 1, train_steps: 2, test_steps: 4, target: change}
datasets: [{smoke_translation: {level: 0.2, preset: tiny}}]
plugins: [toy.py]
models: [{relaxed_group_translation: {hidden: 8}}, toy]
seeds: [0]
train: {epochs: 6, batch_size: 16, learning_rate: 3e-3, learning_rate_decay: 0.8, weight_decay: 0.0}
"""
SIZE, BATCH, STEPS = 16, 16, 150


def trained(factor: torch.Tensor) -> Relaxation:
    """Relaxed layer after training on random fields of a periodic box, filtered and multiplied by `factor` (H, W)."""
    torch.manual_seed(0)
    layer = RelaxedConv2d((SIZE, SIZE), 2, 2, 2, 3, "circular")
    kernel = torch.randn(2, 2, 3, 3) / 4
    deviations = [*layer.banks.own_deviations()]
    others = [parameter for name, parameter in layer.named_parameters() if not name.endswith("deviation")]
    optimizer = torch.optim.Adam([{"params": others, "lr": 1e-2}, {"params": deviations, "lr": 1e-3}])
    for _ in range(STEPS):
        x = torch.randn(BATCH, 2, SIZE, SIZE)
        truth = conv2d(pad(x, (1, 1, 1, 1), mode="circular"), kernel) * factor
        optimizer.zero_grad()
        (layer(x) - truth).square().mean().backward()
        optimizer.step()
    (shown,) = relaxations(layer.state_dict(), (SIZE, SIZE))
    return shown


@pytest.mark.parametrize("axis", [0, 1])
def test_a_field_whose_halves_differ_is_broken_there(axis):
    factor = torch.ones(SIZE, SIZE)
    factor.narrow(axis, SIZE // 2, SIZE // 2).fill_(1.5)
    shown = trained(factor)
    assert abs(np.corrcoef(shown.map.ravel(), factor.ravel())[0, 1]) > 0.95
    assert shown.explained > 0.95
    assert shown.size > 0.05


def test_a_symmetric_field_leaves_the_layer_strict():
    assert trained(torch.ones(SIZE, SIZE)).size < 0.01


def test_the_mode_is_the_known_pattern_with_its_share():
    pattern, other = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    pattern, other = pattern - pattern.mean(), other - other.mean()
    other -= pattern * (pattern * other).sum() / pattern.square().sum()
    deviation = torch.stack([3 * pattern / pattern.norm(), other / other.norm()])
    (shown,) = relaxations({"layer.deviation": deviation}, (6, 5))
    assert abs(np.corrcoef(shown.map.ravel(), pattern.ravel())[0, 1]) == pytest.approx(1)
    assert shown.explained == pytest.approx(0.9)
    weights = deviation + 0.5
    assert shown.size == pytest.approx(float((deviation.square().mean() / weights.square().mean()).sqrt()))
    assert share_of_relaxation([shown, shown]) == pytest.approx(shown.size)


def test_a_layer_that_declares_its_weights_is_not_recognised_by_name():
    model = nn.Sequential(Declaring(), RelaxedConv2d((6, 5), 1, 1, 2, 3, "circular"))
    names = [one.layer for one in relaxations_of(model, (6, 5))]
    assert names[0] == "0"
    assert len(names) == 2
    assert names[1].startswith("1")
    model[0].relaxed_weight = lambda: torch.ones(6, 5)
    with pytest.raises(ValueError, match=r"relaxed_weight of 0 is \(6, 5\), expected \(X, Y, numbers\)"):
        relaxations_of(model, (6, 5))


class Declaring(nn.Module):
    """Layer whose weights have the name of another one's."""

    def __init__(self) -> None:
        super().__init__()
        self.deviation = nn.Parameter(torch.randn(6, 5))

    def relaxed_weight(self) -> torch.Tensor:
        return (1 + self.deviation)[..., None]


def test_smoke_that_rises_faster_in_one_half_is_broken_there(tmp_path: Path, monkeypatch):
    """In a network of ours and in a plug-in that declares its weights; the report has the buoyancy beside them."""
    monkeypatch.chdir(tmp_path)
    Path("halves.yaml").write_text(SUITE)
    Path("toy.py").write_text(f"{RELAXED}\n    def relaxed_weight(self):\n        return (1 + self.w)[..., None]\n")
    store = Store(tmp_path / "runs")
    symbench("data", "prepare", "halves.yaml", store=store)
    symbench("run", "halves.yaml", store=store)
    layers = {}
    for path in tmp_path.glob("runs/cells/*/predictions.h5"):
        with h5py.File(path) as file:
            layers |= {one.layer: one for one in read_relaxations(file)}
    html = tmp_path / "board.html"
    symbench("leaderboard", "halves.yaml", "--html", html, store=store)
    assert html.read_text().count(">known</text>") == 2
    toy = layers.pop("Toy")
    half = np.repeat([[0.0], [1.0]], SIZE // 2, axis=0).repeat(SIZE, axis=1)
    correlations = [abs(spearmanr(layer.map.ravel(), half.ravel()).statistic) for layer in layers.values()]
    assert f">r {abs(spearmanr(toy.map.ravel(), half.ravel()).statistic):.2f}</text>" in html.read_text()
    assert np.median(correlations) > 0.3, "at level 0, 0.04 to 0.2; docs/relaxation.md has both"
