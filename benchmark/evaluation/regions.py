"""Regions of the box in which an equivariance error is measured, and the reach of a network.

Shape letters are those of baseline.py; E group elements, R regions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from benchmark.groups import Element
from benchmark.models.baseline import Baseline
from benchmark.models.layers.group_draws import regions

PROBES = 16
"""Windows of noise whose gradients show the reach of a network."""


def defined(group: Sequence[Element], height: int, width: int) -> Tensor:
    """One region: the cells that the element does not bring in from outside the box, (E, 1, H, W)."""
    return regions(group, height, width)[:, None]


def middle(elements: int, height: int, width: int) -> Tensor:
    """One region, the same for all elements: the middle half of the box along each axis, (E, 1, H, W)."""
    mask = torch.zeros(elements, 1, height, width)
    mask[..., height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    return mask


def by_walls(group: Sequence[Element], height: int, width: int, distance: int) -> Tensor:
    """Two regions of `defined`: cells nearer than `distance` to a wall, and the others, (E, 2, H, W).

    Walls are those of the box and those that the element has moved into it. A cell at the wall has distance 0.
    """
    everything = defined(group, height, width)
    outside = pad(1 - everything, 4 * [distance], value=1.0)
    near = max_pool2d(outside, 2 * distance + 1, stride=1) * everything
    return torch.cat((near, everything - near), dim=1)


def reach(model: Baseline) -> int | None:
    """Largest distance, in cells along an axis, between a cell of the forecast and an input cell that it depends on.

    Taken from the gradient of the forecast at the centre of the box with respect to PROBES windows of noise. None if
    the support of the gradient ends at a side of the box: then every cell may depend on the walls.
    """
    task = model.task
    sizes = task.height, task.width
    row, column = center = task.height // 2, task.width // 2
    device = next(model.parameters(), torch.empty(0)).device
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(PROBES, task.input_frames, task.channels, *sizes, generator=draws)
    weight = torch.randn(PROBES, task.channels, generator=draws)
    x = noise.to(device).requires_grad_()
    model.eval()
    with torch.enable_grad():
        response = (weight.to(device) * model.next_frame(x)[..., row, column]).sum()
        (slope,) = torch.autograd.grad(response, x)
    size = slope.abs().amax((0, 1, 2))
    support = (size > torch.finfo(size.dtype).eps * size.max()).nonzero()
    farthest = (support - torch.tensor(center, device=device)).abs().amax(0).tolist()
    covered = any(far >= side - 1 - middle for far, side, middle in zip(farthest, sizes, center, strict=True))
    return None if covered else max(farthest)
