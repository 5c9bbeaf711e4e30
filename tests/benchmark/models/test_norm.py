"""Batch normalisation of fields: torch's own for one component, equivariant for several, no part of old identities."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_support import build, frames, rotation_error
from torch import nn

from benchmark.cell import Training
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.errors import UserError
from benchmark.models import model_registry
from benchmark.models.baseline import Task
from benchmark.models.convnet import ConvNet
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.norm import BatchNorm
from benchmark.models.relaxed_group_rotation import RelaxedGroupRotation
from benchmark.training.loop import Execution, TrainingData, TrainingOutput, fit

TASK = Task("made_up", 2, 12, 12, periodic=True)
NORMED = [name for name in model_registry.model_names() if "norm" in model_registry.model(name).Config.model_fields]


def test_with_one_component_it_is_that_of_torch() -> None:
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for step in range(3):
        x = 5 + 2 * torch.randn(4, 3, 6, 5)
        torch.testing.assert_close(ours(x), theirs(x))
        gradients = []
        for layer in (ours, theirs):
            leaf = x.clone().requires_grad_()
            layer(leaf).pow(3).sum().backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.mean, theirs.running_mean, msg=f"step {step}")
        torch.testing.assert_close(ours.variance, theirs.running_var, msg=f"step {step}")
    x = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("model", [E2CNN, RelaxedGroupRotation])
@pytest.mark.parametrize("training", [True, False])
def test_it_commutes_with_turns(model: type[E2CNN] | type[RelaxedGroupRotation], training: bool) -> None:
    """The components of a regular field share their statistics; a turned batch has the same ones."""
    network, x = build(model, TASK, hidden=3, norm="batch"), frames(TASK)
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            nn.init.normal_(layer.gain)
            nn.init.normal_(layer.offset)
    network(x)
    assert rotation_error(network.train(training), x) < 1e-4


@pytest.mark.parametrize("name", NORMED)
def test_the_default_is_no_part_of_an_identity(name: str) -> None:
    config = model_registry.model(name).Config
    assert "norm" not in config().model_dump()
    assert config.model_validate({"norm": "batch"}).model_dump()["norm"] == "batch"


@pytest.mark.parametrize("name", NORMED)
def test_it_stands_before_every_relu_of_the_network(name: str) -> None:
    network = build(model_registry.model(name), replace(TASK, height=8, width=8), hidden=4, norm="batch")
    assert sum(isinstance(module, BatchNorm) for module in network.modules()) == (2 if name == "mlp" else 4)
    assert network(frames(network.task)).isfinite().all()


def test_micro_batches_are_refused(tmp_path: Path) -> None:
    field = torch.randn(2, 12, 2, 12, 12)
    windows = Windows.of(field, Split((0, 1), (0, 1, 2), 2), 2)
    data, settings = TrainingData(windows, windows), Training(epochs=1, batch_size=4, early_stop_after=None)
    for norm, refused in (("none", False), ("batch", True)):
        model = build(ConvNet, TASK, hidden=4, norm=norm)
        arguments = (model, data, settings, 0, TrainingOutput(tmp_path / norm), Execution(micro_batch=2))
        if refused:
            with pytest.raises(UserError, match="statistics are those of the whole batch"):
                fit(*arguments)
        else:
            fit(*arguments)
