"""Convolutions whose weights vary with the pixel: relaxed group convolutions and locally connected layers."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_support import build, deviation, frames, layers_of, train
from torch import nn

from benchmark.models.baseline import Task
from benchmark.models.clcnn import CLCNN, LocallyConnected2d
from benchmark.models.convnet import ConvNet
from benchmark.models.relaxed_group_translation import RelaxedConv2d, RelaxedGroupTranslation

GRID = (8, 6)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_layer_is_its_definition(mode: Any) -> None:
    """b + sum_l w_l(x) sum_y f(x + y) psi_l(y), pixel by pixel."""
    layer = RelaxedConv2d(GRID, 3, 2, 4, 3, mode)
    f = torch.randn(2, *GRID)
    with torch.no_grad():
        deviation(layer).normal_()
        layer.bias.normal_()
    around = F.pad(f[None], (1, 1, 1, 1), "circular" if mode == "circular" else "constant")[0]
    banks = layer.weight.reshape(3, 4, 2, 3, 3)
    g = layer(f[None])[0]
    for i, j in itertools.product(*map(range, GRID)):
        patches = torch.einsum("loixy,ixy->lo", banks, around[:, i : i + 3, j : j + 3])
        torch.testing.assert_close(g[:, i, j], layer.bias + layer.w[:, i, j] @ patches)


@pytest.mark.parametrize("banks", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_starts_as_a_plain_convolution(banks: int, mode: Any) -> None:
    layer = RelaxedConv2d(GRID, banks, 64, 64, 3, mode)
    plain = nn.Conv2d(64, 64, 3, padding=1, padding_mode=mode, bias=False)
    with torch.no_grad():
        plain.weight.copy_(layer.weight.unflatten(0, (banks, -1)).sum(0) / banks)
    x = torch.randn(2, 64, *GRID)
    torch.testing.assert_close(layer(x), plain(x))
    assert plain.weight.std().item() == pytest.approx((64 * 9) ** -0.5, rel=0.02)


def test_banks_differ_at_the_start_and_go_apart() -> None:
    task = Task("made_up", 2, *GRID)
    model = build(RelaxedGroupTranslation, task, hidden=3, layers=3, banks=2)
    for layer in layers_of(RelaxedConv2d, model):
        first, second = layer.weight.chunk(2)
        assert (first - second).abs().min() > 0
        assert torch.equal(*layer.w)
    train(model, frames(task, 4), torch.randn(4, 2, *GRID))
    for layer in layers_of(RelaxedConv2d, model):
        assert (layer.w[0] - layer.w[1]).abs().min() > 0


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("periodic", [False, True])
def test_clcnn_with_equal_filters_is_the_convnet(kernel_size: int, periodic: bool) -> None:
    task = Task("made_up", 2, 7, 9, periodic=periodic)
    clcnn, convnet = (build(model, task, hidden=4, kernel_size=kernel_size) for model in (CLCNN, ConvNet))
    x = frames(task)
    with torch.no_grad():
        torch.testing.assert_close(clcnn(x), convnet(x))  # it starts so, from the same random numbers
    assert clcnn.penalty() == 0


def test_each_pixel_has_filters_of_its_own() -> None:
    layer = LocallyConnected2d((6, 5), 3, 2, 3)
    x = torch.randn(2, 3, 6, 5)
    with torch.no_grad():
        layer.deviation.normal_()
        patch = torch.nn.functional.pad(x, [1] * 4)[:, :, 4 : 4 + 3, 2 : 2 + 3]  # around the pixel (4, 2)
        filters = (layer.weight + layer.deviation[4, 2]).unflatten(-1, (3, 3, 3))  # (O, K, K, I)
        expected = torch.einsum("bixy,oxyi->bo", patch, filters) + layer.bias
        torch.testing.assert_close(layer(x)[:, :, 4, 2], expected)
