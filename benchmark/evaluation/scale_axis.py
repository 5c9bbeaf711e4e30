"""Equivariance error under zooms: within the range of a network's scales, and of a map that commutes with them.

A zoom moves features to larger scales. A network that has the scales s = 1, 1.5, 2, 2.5 answers at 1.5 to a field that
is enlarged by 1.5 as at 1 to the field itself; its answer at 2.5 has no counterpart, because 2.5 / 1.5 is not among
them. The range of scales has ends as the box has walls, and what leaves it is left out as cells are that come from
outside.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from benchmark.cell import Grid
from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import Ranks, add_up, roll_out, share
from benchmark.evaluation.metrics import ChangeError
from benchmark.evaluation.regions import middle
from benchmark.groups import zoom
from benchmark.models.baseline import Baseline
from benchmark.models.layers.scale import ScaleNetwork

FACTORS = (1.25, 2**0.5, 1.5, 2.0)
"""Zooms that are tried: ratios of the scales of the networks' defaults."""
SAME_SCALE = 0.011
"""Relative difference below which two scales are one: 1.4 and 1.414 are the square root of 2."""


def partners(scales: Sequence[float], factor: float) -> list[tuple[int, int]]:
    """Indices of the pairs of scales (s, factor s) within the range.

    >>> partners((1.0, 1.5, 2.0, 2.5), 2.0)
    [(0, 2)]
    """
    return [
        (index, other)
        for index, small in enumerate(scales)
        for other, large in enumerate(scales)
        if abs(large / (factor * small) - 1) < SAME_SCALE
    ]


def factors_in_range(model: Baseline) -> list[float]:
    """The FACTORS for which each network on scales in `model` has partners; all if it has no such network."""
    return [factor for factor in FACTORS if all(partners(one.scales, factor) for one in _networks(model))]


def range_error(model: Baseline, windows: Windows, world: Ranks, grid: Grid) -> ChangeError:
    """Error over the change in the middle half of the box, for each of `factors_in_range`, over all windows.

    f(x) uses the scales s that have a partner factor x s, f(g x) these partners; a model without scales is compared as
    it is. Equal on all ranks.
    """
    factors = factors_in_range(model)
    height, width = windows.field.shape[-2:]
    error = ChangeError.zero(middle(len(factors), height, width).to(world.device))
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for numbers in share(windows, world):
            x, _ = windows.batch(numbers)
            for index, factor in enumerate(factors):
                act = partial(zoom, factor=factor, grid=grid, components=model.task.components)
                with _keeping(model, factor, 0):
                    expected = act(roll_out(model, x, 1, world.device.type, bf16=False).double())
                with _keeping(model, factor, 1):
                    actual = roll_out(model, act(x), 1, world.device.type, bf16=False).double()
                error.add(index, actual - expected, expected - act(x[:, -1:].double()))
    add_up(world, error.difference, error.change)
    return error


def floor(windows: Windows, world: Ranks, grid: Grid) -> ChangeError:
    """Error of a map that commutes with every zoom in the continuum: x_last - (u . grad) u, on the last frames.

    The interpolation of the zoom and the differences of the grid are all that it shows. Regions and factors are those
    of `range_error` for a model without scales.
    """
    height, width = windows.field.shape[-2:]
    error = ChangeError.zero(middle(len(FACTORS), height, width).to(world.device))
    for numbers in share(windows, world):
        last = windows.batch(numbers)[0][:, -1].double()
        for index, factor in enumerate(FACTORS):
            change = zoom(advection(last, grid), factor, grid)
            error.add(index, advection(zoom(last, factor, grid), grid) - change, change)
    add_up(world, error.difference, error.change)
    return error


def advection(field: Tensor, grid: Grid) -> Tensor:
    """-(u . grad) u by central differences, per cell: (..., 2, H, W) -> the same; periodic at the sides.

    On a staggered grid, the other component is averaged to the face.
    """
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    v_at_u, u_at_v = v, u
    if grid == "staggered":
        v_at_u = (v + v.roll(1, -2) + v.roll(-1, -1) + v.roll((1, -1), (-2, -1))) / 4
        u_at_v = (u + u.roll(-1, -2) + u.roll(1, -1) + u.roll((-1, 1), (-2, -1))) / 4
    along_x, along_y = ((field.roll(-1, axis) - field.roll(1, axis)) / 2 for axis in (-2, -1))
    return -(torch.stack((u, u_at_v), -3) * along_x + torch.stack((v_at_u, v), -3) * along_y)


def _networks(model: Baseline) -> list[ScaleNetwork]:
    return [module for module in model.modules() if isinstance(module, ScaleNetwork)]


@contextmanager
def _keeping(model: Baseline, factor: float, end: int) -> Iterator[None]:
    """Restrict the networks in `model` to the smaller (`end` 0) or the larger (1) scales of their partners."""
    with ExitStack() as stack:
        for network in _networks(model):
            stack.enter_context(network.keeping([pair[end] for pair in partners(network.scales, factor)]))
        yield
