"""Group-matrix convolutions: the layer against its definition, its displacement, gradients, memory and penalty."""

import itertools
from typing import Any

import model_support
import pytest
import torch
import torch.nn.functional as F
from model_support import frames, parameter_count, train
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmark.models.baseline import Baseline, Task
from benchmark.models.convnet import ConvNet
from benchmark.models.gm_cnn import GMCNN, AddDiagonal, GroupMatrixConv2d, Shift, neighborhood

TASK = Task("made_up", 2, 8, 8, periodic=True)
SMALL = {"hidden": 3, "layers": 3}
GRID = (4, 3)


def build(baseline: type[Baseline], **config: Any) -> Any:
    return model_support.build(baseline, TASK, **{**SMALL, **config})


def group_diagonals(layer: GroupMatrixConv2d, grid: tuple[int, int]) -> Tensor:
    """F of the layer's matrix, (O, I, pixels, positions): one gradient for each output, read along the shifts."""
    height, width = grid
    channels_out, channels_in = layer.convolution.weight.shape[:2]
    zero = torch.zeros(1, channels_in, *grid)
    matrix = torch.autograd.functional.jacobian(lambda f: layer(f), zero).reshape(
        channels_out, height * width, channels_in, height * width
    )
    pixels = torch.arange(height * width).reshape(grid)
    columns = [pixels.roll((1 - i, 1 - j), (0, 1)).flatten() for i, j in neighborhood(3)]
    rows = torch.arange(height * width)
    return torch.stack([matrix[:, rows, :, column] for column in columns], -1).permute(1, 2, 0, 3)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("rank", [0, 1, 3, 9])
def test_layer_is_its_definition(rank: int, mode: Any) -> None:
    """b + sum_y (1 + a_y(x)) k(y) f(x + y), pixel by pixel."""
    layer = GroupMatrixConv2d(GRID, rank, 2, 4, 3, mode)
    assert neighborhood(3)[:rank] == layer.perturbed
    if layer.a is not None:
        nn.init.normal_(layer.a)
    f = torch.randn(2, *GRID)
    around = F.pad(f[None], (1, 1, 1, 1), "circular" if mode == "circular" else "constant")[0]
    g = layer(f[None])[0]
    for i, j in itertools.product(*map(range, GRID)):
        expected = layer.convolution.get_parameter("bias").clone()
        for k, (p, q) in enumerate(neighborhood(3)):
            gain = 1 + layer.a[k, i, j] if layer.a is not None and k < rank else 1
            expected += gain * layer.convolution.weight[:, :, p, q] @ around[:, i + p, j + q]
        torch.testing.assert_close(g[:, i, j], expected)


@pytest.mark.parametrize("rank", [0, 1, 2, 5, 9])
def test_displacement_rank_is_that_of_the_config(rank: int) -> None:
    """The rank of F(x) - F(next x), pixels by positions of the kernel, for each pair of channels."""
    grid = (5, 4)
    layer = GroupMatrixConv2d(grid, rank, 2, 3, 3, "circular")
    for constant in (True, False):
        if layer.a is not None:
            with torch.no_grad():
                layer.a.copy_(torch.full_like(layer.a, 0.3) if constant else torch.randn_like(layer.a))
        diagonals = group_diagonals(layer, grid)
        displacement = diagonals - diagonals.roll(1, -2)
        ranks = torch.linalg.matrix_rank(displacement, atol=1e-4)
        assert torch.equal(ranks, torch.full((3, 2), 0 if constant else rank)), constant


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("by", [(0, 0), (1, 0), (-1, 2), (0, -1)])
def test_gradients_of_a_diagonal(by: tuple[int, int], periodic: bool) -> None:
    shapes = ((2, 3, 4, 5), (2, 2, 4, 5), (3, 2, 1, 1), (4, 5))
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *ours: AddDiagonal.apply(*ours, Shift(*by, periodic)), inputs)


def kept_for_gradients(model: Baseline) -> int:
    """Bytes of the input, the activations and the parameters that autograd keeps."""
    x = torch.randn(4, 2, 2, 8, 8)
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model(x)
    assert y.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("rank", [0, 1, 9])
def test_starts_as_the_convnet_and_keeps_no_more(rank: int) -> None:
    model, plain = build(GMCNN, rank=rank), build(ConvNet)
    x = frames(TASK)
    torch.testing.assert_close(model(x), plain(x))
    maps = 4 * rank * 8 * 8 * 3
    assert kept_for_gradients(model) <= kept_for_gradients(plain) + maps
    assert parameter_count(model) == parameter_count(plain) + maps // 4


def test_broken_data_move_the_diagonals() -> None:
    """The left half of the box has another wind than the right; a ConvNet cannot tell them apart."""
    model = build(GMCNN, rank=1)
    wind = torch.ones(4, 2, 8, 8)
    wind[..., :4] = -1
    train(model, torch.randn(4, 2, 2, 8, 8), wind, steps=3)
    model.coefficient = 1.0
    assert model.penalty() > 1e-5


def test_without_diagonals_it_is_the_convnet_on_any_grid() -> None:
    x = torch.randn(1, 2, 2, 6, 8)
    assert build(GMCNN, rank=0, penalty=2.0)(x).shape == (1, 2, 6, 8)
    assert build(GMCNN, rank=0, penalty=2.0).penalty() == 0


def test_no_more_diagonals_than_positions() -> None:
    assert GMCNN.Config(rank=9).rank == 9
    with pytest.raises(ValueError, match="rank is at most 9"):
        GMCNN.Config(rank=10)
