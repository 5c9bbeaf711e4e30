"""Actions of the groups on two-dimensional vector fields, exact wherever the grid allows it.

A field is (..., 2, H, W): component 0 along x, which is the axis H, component 1 along y, the axis W. A quarter
turn is counter-clockwise in (x, y): F'(p) = R F(R^-1 p), and takes an (H, W) grid to (W, H).

On a centered grid both components sit at cell centres and the turn is a permutation with signs. On a staggered
grid component 0 sits on the lower x face of its cell and component 1 on the lower y face; the upper faces of the
box are walls, where the normal velocity is zero, and are not stored. Turning the cell-centre way would be half a
cell off; here the missing wall is put back, turned, and cut off again, which is exact as long as the lower wall
faces are zero, too. A shift by whole cells moves both grids alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from benchmark.cell import Grid, GroupName

Transform = Callable[[Tensor], Tensor]

SHIFTS = ((1, 0), (0, 1), (2, 2))
"""Translations, in eighths of the grid along x and y."""
SCALES = (1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Element:
    """One group element: what it does to a field, and where the result is defined.

    `valid` cuts a transformed field to the part that does not come from outside the box.
    """

    name: str
    act: Transform
    valid: Transform
    exact: bool


def elements(group: GroupName, grid: Grid, periodic: bool, height: int, width: int) -> tuple[Element, ...]:
    """The non-trivial elements over which a model's equivariance error is the mean, for fields (..., 2, H, W).

    They keep the shape of the grid: of the quarter turns a wide grid has the half turn alone, for a network may have
    weights for each pixel, and all on a board are to be compared over the same elements.
    """
    if group == "C4":
        turns = (1, 2, 3) if height == width else (2,)
        return tuple(Element(f"rot{90 * k}", partial(rotate, quarter_turns=k, grid=grid), _all, True) for k in turns)
    if group == "scale":
        return tuple(
            Element(f"scale{factor:g}", partial(zoom, factor=factor, grid=grid), _all, False) for factor in SCALES
        )
    shifts = dict.fromkeys((i * height // 8, j * width // 8) for i, j in SHIFTS)
    return tuple(
        Element(
            f"shift{x:+d}{y:+d}",
            partial(shift, x=x, y=y, periodic=periodic),
            _all if periodic else partial(_beyond, x=x, y=y),
            True,
        )
        for x, y in shifts
    )


def rotate(field: Tensor, quarter_turns: int, grid: Grid) -> Tensor:
    """Turn a vector field counter-clockwise by `quarter_turns` x 90 degrees: (..., 2, H, W).

    >>> import torch
    >>> u = torch.zeros(2, 1, 3); u[0, 0, 2] = 1.0            # points along x, sits at the upper end of y
    >>> rotate(u, 1, "centered")[:, :, 0].tolist()            # points along y, sits at the lower end of x
    [[-0.0, -0.0, -0.0], [1.0, 0.0, 0.0]]
    """
    for _ in range(quarter_turns % 4):
        field = _quarter_turn(field, grid)
    return field


def _quarter_turn(field: Tensor, grid: Grid) -> Tensor:
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    if grid == "centered":
        return torch.stack((-torch.rot90(v, 1, (-2, -1)), torch.rot90(u, 1, (-2, -1))), dim=-3)
    height, width = u.shape[-2:]
    u_with_wall = pad(u, (0, 0, 0, 1))
    v_with_wall = pad(v, (0, 1))
    new_u = -torch.rot90(v_with_wall, 1, (-2, -1))[..., :width, :]
    new_v = torch.rot90(u_with_wall, 1, (-2, -1))[..., :height]
    return torch.stack((new_u, new_v), dim=-3)


def shift(field: Tensor, x: int, y: int, periodic: bool) -> Tensor:
    """Move a field (..., H, W) by `x` and `y` >= 0 whole cells; without a periodic box, zeros come in.

    >>> import torch
    >>> shift(torch.tensor([[1.0, 2.0, 3.0]]), 0, 1, periodic=False).tolist()
    [[0.0, 1.0, 2.0]]
    """
    if periodic:
        return field.roll((x, y), (-2, -1))
    height, width = field.shape[-2:]
    return pad(field[..., : height - x, : width - y], (y, 0, x, 0))


def zoom(field: Tensor, factor: float, grid: Grid) -> Tensor:
    """Enlarge a vector field (..., 2, H, W) about the centre of the box, and its velocities with it.

    F'(p) = factor F(p / factor) with p from the centre; `factor` >= 1, so that nothing is needed from outside the
    box. Time stays as it is, so velocities scale as lengths do. Bilinear, each component at its own place.
    """
    components = []
    height, width = field.shape[-2:]
    for component, offset in enumerate(((0.0, 0.5), (0.5, 0.0)) if grid == "staggered" else ((0.5, 0.5),) * 2):
        axes = []
        for size, start in zip((height, width), offset, strict=True):
            place = torch.arange(size, device=field.device, dtype=field.dtype) + start
            source = size / 2 + (place - size / 2) / factor - start  # as an index
            axes.append(2 * source / max(size - 1, 1) - 1)
        at = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
        planes = field[..., component, :, :].reshape(1, -1, height, width)
        sampled = grid_sample(planes, at[None], mode="bilinear", padding_mode="border", align_corners=True)
        components.append(sampled.reshape(field[..., component, :, :].shape))
    return factor * torch.stack(components, dim=-3)


def _all(field: Tensor) -> Tensor:
    return field


def _beyond(field: Tensor, x: int, y: int) -> Tensor:
    return field[..., x:, y:]


def to_cell_centers(field: Tensor) -> Tensor:
    """Average a staggered field (..., 2, H, W) to the cell centres; the unstored upper wall faces are zero.

    Commutes with `rotate`: centering and then turning is turning and then centering.
    """
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    u_center = 0.5 * (u + pad(u, (0, 0, 0, 1))[..., 1:, :])
    v_center = 0.5 * (v + pad(v, (0, 1))[..., 1:])
    return torch.stack((u_center, v_center), dim=-3)


def divergence(field: Tensor, spacing: float) -> Tensor:
    """Divergence on the staggered stencil, at cell centres: (..., 2, H, W) -> (..., H, W), in 1 / time."""
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    u_outflow = pad(u, (0, 0, 0, 1))[..., 1:, :] - u
    v_outflow = pad(v, (0, 1))[..., 1:] - v
    return (u_outflow + v_outflow) / spacing
