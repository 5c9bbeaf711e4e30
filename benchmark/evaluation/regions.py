"""Regions of the box in which an equivariance error is measured, and the reach of a network.

Shape letters are those of baseline.py; E group elements, R regions.
"""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad
from torch.nn.utils import parametrize

from benchmark.groups import Element
from benchmark.models.baseline import Baseline
from benchmark.models.layers.group_draws import regions

PROBES = 8
"""Windows of noise that show the reach of a network."""
ROUND_OFF = 1e-5
"""Relative change of a forecast that does not count: convolutions on a GPU may round by tiles."""


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

    Measured at the centre of the box on PROBES windows of noise: cells farther than the reach may hold other noise
    without effect. None if the cells at a side of the box have an effect: then every cell may depend on the walls.
    """
    task = model.task
    row, column = task.height // 2, task.width // 2
    device = next(model.parameters(), torch.empty(0)).device
    draws = torch.Generator().manual_seed(0)
    shape = PROBES, task.input_frames, task.channels, task.height, task.width
    x, other = (torch.randn(shape, generator=draws).to(device) for _ in range(2))
    away = [(torch.arange(size, device=device) - at).abs() for size, at in ((task.height, row), (task.width, column))]
    distance = torch.maximum(away[0][:, None], away[1])

    def center(window: Tensor) -> Tensor:
        return model.next_frame(window)[..., row, column].double()

    def depends_beyond(cells: int) -> bool:
        change = (center(torch.where(distance > cells, other, x)) - expected).abs().max()
        return float(change) > ROUND_OFF * float(expected.abs().max())

    model.eval()
    with torch.inference_mode(), parametrize.cached():
        expected = center(x)
        farthest = min(task.height - 1 - row, task.width - 1 - column) - 1
        if farthest < 0 or depends_beyond(farthest):
            return None
        return bisect_left(range(farthest), True, key=lambda cells: not depends_beyond(cells))
