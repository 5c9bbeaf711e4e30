"""Exact actions of C4 on two-dimensional vector fields.

A field is (..., 2, H, W): component 0 along x, which is the axis H, component 1 along y, the axis W. A quarter
turn is counter-clockwise in (x, y): F'(p) = R F(R^-1 p), and takes an (H, W) grid to (W, H).

On a centered grid both components sit at cell centres and the turn is a permutation with signs. On a staggered
grid component 0 sits on the lower x face of its cell and component 1 on the lower y face; the upper faces of the
box are walls, where the normal velocity is zero, and are not stored. Turning the cell-centre way would be half a
cell off; here the missing wall is put back, turned, and cut off again, which is exact as long as the lower wall
faces are zero, too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Grid = Literal["centered", "staggered"]


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
