"""Constrained locally connected network: filters for each pixel, and the penalty on their differences."""

from __future__ import annotations

from typing import Any

import model_support
import pytest
import torch
from model_support import frames, layers_of

from benchmark.models.baseline import Task
from benchmark.models.clcnn import CLCNN, LocallyConnected2d
from benchmark.models.convnet import ConvNet

TASK = Task("made_up", 2, 2, 10, 10)
PERIODIC = Task("made_up", 2, 2, 7, 9, periodic=True)


def build(model: type[Any], on: Task = TASK, **config: Any) -> Any:
    return model_support.build(model, on, **{"hidden": 4, **config})


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("on", [TASK, PERIODIC], ids=["closed", "periodic"])
def test_clcnn_with_equal_filters_is_the_convnet(kernel_size: int, on: Task) -> None:
    clcnn, convnet = (build(model, on, kernel_size=kernel_size) for model in (CLCNN, ConvNet))
    x = frames(on)
    with torch.no_grad():
        torch.testing.assert_close(clcnn(x), convnet(x))  # it starts so, from the same random numbers
    assert clcnn.penalty() == 0


def test_each_pixel_has_filters_of_its_own() -> None:
    layer = LocallyConnected2d((6, 5), 3, 2, 3)
    x = torch.randn(2, 3, 6, 5)
    with torch.no_grad():
        layer.weight.normal_()
        patch = torch.nn.functional.pad(x, [1] * 4)[:, :, 4 : 4 + 3, 2 : 2 + 3]  # around the pixel (4, 2)
        filters = layer.weight[4, 2].unflatten(-1, (3, 3, 3))  # (O, K, K, I)
        expected = torch.einsum("bixy,oxyi->bo", patch, filters) + layer.bias
        torch.testing.assert_close(layer(x)[:, :, 4, 2], expected)


def test_penalty_of_clcnn() -> None:
    """W(x) = 3 x_0 + x_1: differences 3 and 1 along the axes, mean 2, in each of 5 layers; in a periodic box of n cells
    an axis has n - 1 of them and the way back, (n - 1) times as long.
    """
    closed, periodic = 2.0, 0.5 * (2 * 3 * 6 / 7 + 2 * 1 * 8 / 9)
    for on, mean in ((TASK, closed), (PERIODIC, periodic)):
        model = build(CLCNN, on, penalty=0.1)
        ramp = 3 * torch.arange(float(on.height))[:, None] + torch.arange(float(on.width))
        for layer in layers_of(LocallyConnected2d, model):
            with torch.no_grad():
                layer.weight[2, 3, 0, 0] += 0.5
                assert model.penalty() > 0
                layer.weight.copy_(ramp[:, :, None, None].expand_as(layer.weight))
        assert model.penalty().item() == pytest.approx(0.1 * mean * 5)


def test_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="each pixel of a 10 x 10 grid; the field is 10 x 9"):
        build(CLCNN)(torch.randn(1, 2, 2, 10, 9))
