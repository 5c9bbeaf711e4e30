"""Group actions on two-dimensional fields, exact wherever the grid allows it.

A field is (..., C, H, W). Its components are vectors of two numbers, the first along x (axis H), the second along y
(axis W), and scalars of one; usually it is one velocity, (..., 2, H, W). A quarter turn is counter-clockwise in (x, y),
F'(p) = R F(R^-1 p) for a vector and F(R^-1 p) for a scalar, and takes an (H, W) grid to (W, H).

Centered grid: both components lie at the cell centres, and a quarter turn is a permutation with signs. Staggered grid:
component 0 lies on the lower x face of its cell, component 1 on the lower y face. The upper faces of the box are walls
with zero normal velocity and are not stored. The turn of a velocity adds the missing wall, turns, and cuts it off
again, which is exact if the lower wall faces are zero, too; the turn of cell centres would be half a cell off. Scalars
lie at the cell centres on both grids. A shift by whole cells is the same on both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from benchmark.cell import SIZES, VELOCITY, Components, Grid, GroupName

Transform = Callable[[Tensor], Tensor]

SHIFTS = ((1, 0), (0, 1), (2, 2))
"""Translations in eighths of the grid along x and y."""
SCALES = (1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Element:
    """A group element: `act` transforms a field; `valid` cuts the result to the part from inside the box.

    `exact` is false if `act` interpolates.
    """

    name: str
    act: Transform
    exact: bool = True
    valid: Transform = lambda field: field


def elements(
    group: GroupName, grid: Grid, periodic: bool, height: int, width: int, components: Components = VELOCITY
) -> tuple[Element, ...]:
    """Non-trivial elements that the equivariance error of a model is averaged over, for fields (..., C, H, W).

    They keep the shape of the grid, because a network may have weights for each pixel: a grid with H != W has only the
    half turn. So all models of a board are compared over the same elements.
    """
    if group == "C4":
        turns = (1, 2, 3) if height == width else (2,)
        act = partial(rotate, grid=grid, components=components)
        return tuple(Element(f"rot{90 * k}", partial(act, quarter_turns=k)) for k in turns)
    if group == "scale":
        enlarge = partial(zoom, grid=grid, components=components)
        return tuple(Element(f"scale{s:g}", partial(enlarge, factor=s), exact=False) for s in SCALES)
    shifts = []
    for x, y in dict.fromkeys((i * height // 8, j * width // 8) for i, j in SHIFTS):
        inside = (..., slice(0 if periodic else x, None), slice(0 if periodic else y, None))
        act = partial(shift, x=x, y=y, periodic=periodic)
        shifts.append(Element(f"shift{x:+d}{y:+d}", act, valid=itemgetter(inside)))
    return tuple(shifts)


def parts(field: Tensor, components: Components) -> tuple[Tensor, ...]:
    """Components of a field (..., C, H, W), each (..., 2, H, W) or (..., 1, H, W)."""
    return field.split([SIZES[component] for component in components], dim=-3)


def rotate(field: Tensor, quarter_turns: int, grid: Grid, components: Components = VELOCITY) -> Tensor:
    """Turn a field (..., C, H, W) counter-clockwise by `quarter_turns` x 90 degrees.

    >>> import torch
    >>> u = torch.zeros(2, 1, 3); u[0, 0, 2] = 1.0            # points along x, sits at the upper end of y
    >>> rotate(u, 1, "centered")[:, :, 0].tolist()            # points along y, sits at the lower end of x
    [[-0.0, -0.0, -0.0], [1.0, 0.0, 0.0]]
    """
    if components != VELOCITY:
        scalar = partial(torch.rot90, k=quarter_turns % 4, dims=(-2, -1))
        return _each(field, components, partial(rotate, quarter_turns=quarter_turns, grid=grid), scalar)
    for _ in range(quarter_turns % 4):
        field = _quarter_turn(field, grid)
    return field


def _each(field: Tensor, components: Components, vector: Transform, scalar: Transform) -> Tensor:
    """Field of the transformed components."""
    act = {"vector": vector, "scalar": scalar}
    done = [act[one](part) for one, part in zip(components, parts(field, components), strict=True)]
    return torch.cat(done, dim=-3)


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


def mirror(field: Tensor, axis: int, components: Components = VELOCITY) -> Tensor:
    """Mirror a field (..., C, H, W) at cell centres about the centre of the box, along x (`axis` 0) or y (1).

    >>> import torch
    >>> u = torch.zeros(2, 2, 1); u[:, 0, 0] = 1.0            # points along x and y, sits at the lower end of x
    >>> mirror(u, 0)[:, 1, 0].tolist()                        # points against x, sits at the upper end
    [-1.0, 1.0]
    """
    of_vector = [1 - 2 * (axis == direction) for direction in (0, 1)]
    signs = field.new_tensor([sign for one in components for sign in (of_vector if one == "vector" else [1])])
    return field.flip(axis - 2) * signs[:, None, None]


def shift(field: Tensor, x: int, y: int, periodic: bool) -> Tensor:
    """Move a field (..., H, W) by `x` and `y` >= 0 whole cells; zeros enter a box that is not periodic.

    >>> import torch
    >>> shift(torch.tensor([[1.0, 2.0, 3.0]]), 0, 1, periodic=False).tolist()
    [[0.0, 1.0, 2.0]]
    """
    if periodic:
        return field.roll((x, y), (-2, -1))
    height, width = field.shape[-2:]
    return pad(field[..., : height - x, : width - y], (y, 0, x, 0))


def zoom(field: Tensor, factor: float, grid: Grid, components: Components = VELOCITY) -> Tensor:
    """Enlarge a field (..., C, H, W) about the centre of the box, and its velocities with it.

    F'(p) = factor F(p / factor) for a vector and F(p / factor) for a scalar, with p from the centre and `factor` >= 1,
    so that nothing enters from outside the box. Time is unchanged, so velocities scale as lengths do. Bilinear, each
    component at its own position.
    """
    center = 0.5, 0.5
    if components != VELOCITY:
        scalar = partial(_enlarged, factor=factor, offset=center)
        return _each(field, components, partial(zoom, factor=factor, grid=grid), scalar)
    offsets = ((0.0, 0.5), (0.5, 0.0)) if grid == "staggered" else (center, center)
    planes = [_enlarged(field[..., index, :, :], factor, offset) for index, offset in enumerate(offsets)]
    return factor * torch.stack(planes, dim=-3)


def _enlarged(planes: Tensor, factor: float, offset: tuple[float, float]) -> Tensor:
    """F(p / factor) of planes (..., H, W) whose values are at `offset` in their cells."""
    height, width = planes.shape[-2:]
    axes = []
    for size, start in zip((height, width), offset, strict=True):
        position = torch.arange(size, device=planes.device, dtype=planes.dtype) + start
        source = size / 2 + (position - size / 2) / factor - start  # index
        axes.append(2 * source / max(size - 1, 1) - 1)
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    flat = planes.reshape(1, -1, height, width)
    sampled = grid_sample(flat, points[None], mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.reshape(planes.shape)


def to_cell_centers(field: Tensor, components: Components = VELOCITY) -> Tensor:
    """Average a staggered field (..., C, H, W) to the cell centres; the unstored upper wall faces are zero.

    Commutes with `rotate`.
    """
    if components != VELOCITY:
        return _each(field, components, to_cell_centers, lambda scalar: scalar)
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
