"""The actions of the groups against fields that are known in closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmark.cell import Grid, GroupName
from benchmark.groups import divergence, elements, mirror, rotate, shift, to_cell_centers, zoom

GRIDS: tuple[Grid, ...] = ("centered", "staggered")
SHAPES = [(6, 6), (5, 8), (8, 3)]
Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def with_walls(height: int, width: int) -> Tensor:
    """A random staggered field (2, H, W) in a closed box: no flow through the lower walls."""
    field = torch.randn(2, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field[0, 0] = 0
    field[1, :, 0] = 0
    return field


def swirl(height: int, width: int) -> Tensor:
    """A divergence-free staggered field in a closed box: the curl of a stream function at the corners."""
    stream = torch.zeros(height + 1, width + 1, dtype=torch.float64)
    inner = torch.randn(height - 1, width - 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stream[1:-1, 1:-1] = inner
    return torch.stack((stream.diff(dim=1)[:-1], -stream.diff(dim=0)[:, :-1]))


def sampled(formula: Formula, size: int, grid: Grid) -> Tensor:
    """The analytic field on [-1, 1]^2, at cell centres or on the lower faces."""
    faces = torch.linspace(-1, 1, size + 1, dtype=torch.float64)[:-1]
    centers = faces + 1 / size
    points_u = (faces, centers) if grid == "staggered" else (centers, centers)
    points_v = (centers, faces) if grid == "staggered" else (centers, centers)
    u, _ = formula(*torch.meshgrid(*points_u, indexing="ij"))
    _, v = formula(*torch.meshgrid(*points_v, indexing="ij"))
    return torch.stack((u, v))


def vortex(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """An off-centre flow, zero through the walls."""
    return (1 - x**2) * (0.3 + y + 0.5 * y**2 * x), (1 - y**2) * (0.7 * x**2 - x + 0.2 * y)


def turned(formula: Formula) -> Formula:
    """F'(p) = R F(R^-1 p), with R (x, y) = (-y, x)."""

    def result(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = formula(y, -x)
        return -v, u

    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", GRIDS)
def test_four_turns_are_none_and_one_swaps_the_sides(grid: Grid, shape: tuple[int, int]) -> None:
    field = with_walls(*shape)
    assert torch.equal(rotate(field, 4, grid), field)
    assert torch.equal(rotate(rotate(rotate(rotate(field, 1, grid), 1, grid), 1, grid), 1, grid), field)
    assert torch.equal(rotate(rotate(field, 3, grid), 1, grid), field)
    assert torch.equal(rotate(field, -1, grid), rotate(field, 3, grid))
    batch = field.expand(3, 4, -1, -1, -1)
    assert rotate(batch, 1, grid).shape == (3, 4, 2, shape[1], shape[0])


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_turning_commutes_with_centering_and_divergence(shape: tuple[int, int], quarter_turns: int) -> None:
    """The divergence of the turned field is the turned divergence, without a sign."""
    field, free = with_walls(*shape), swirl(*shape)
    first = rotate(to_cell_centers(field), quarter_turns, "centered")
    then = to_cell_centers(rotate(field, quarter_turns, "staggered"))
    torch.testing.assert_close(first, then, rtol=0, atol=1e-15)
    expected = torch.rot90(divergence(field, 2.0), quarter_turns, (-2, -1))
    torch.testing.assert_close(divergence(rotate(field, quarter_turns, "staggered"), 2.0), expected)
    assert free.abs().max() > 1
    assert divergence(free, 0.5).abs().max() < 1e-13
    assert divergence(rotate(free, quarter_turns, "staggered"), 0.5).abs().max() < 1e-13


@pytest.mark.parametrize("grid", GRIDS)
def test_an_analytic_field_turns_as_it_should(grid: Grid) -> None:
    formula: Formula = vortex
    for quarter_turns in range(1, 4):
        formula = turned(formula)
        expected = sampled(formula, 8, grid)
        torch.testing.assert_close(rotate(sampled(vortex, 8, grid), quarter_turns, grid), expected, rtol=0, atol=1e-14)


def test_an_analytic_field_is_mirrored_as_it_should() -> None:
    """F'(p) = M F(M p), M the mirror of one axis. With turns, M R M = R^-1."""

    def along_x(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = vortex(-x, y)
        return -u, v

    def along_y(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = vortex(x, -y)
        return u, -v

    field = sampled(vortex, 8, "centered")
    for axis, formula in enumerate((along_x, along_y)):
        expected = sampled(formula, 8, "centered")
        torch.testing.assert_close(mirror(field, axis), expected, rtol=0, atol=1e-14)
        back = mirror(rotate(mirror(field, axis), 1, "centered"), axis)
        assert torch.equal(back, rotate(field, 3, "centered"))


@pytest.mark.parametrize(
    "formula", [lambda x, y: (-y, x), lambda x, y: (x, y)], ids=["solid rotation", "gradient of |p|^2 / 2"]
)
@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_invariant_fields_stay(formula: Formula, quarter_turns: int) -> None:
    field = sampled(formula, 6, "centered")
    torch.testing.assert_close(rotate(field, quarter_turns, "centered"), field, rtol=0, atol=1e-15)


def test_turning_faces_as_if_they_were_centers_is_half_a_cell_off() -> None:
    field = with_walls(6, 6)
    assert (rotate(field, 1, "centered") - rotate(field, 1, "staggered")).abs().max() > 0.1


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("factor", [1.25, 2.0])
def test_zoom_enlarges_lengths_and_velocities(grid: Grid, factor: float) -> None:
    """F'(p) = s F(p / s) of a linear field, which bilinear interpolation keeps exactly."""

    def linear(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 1 + 2 * x - y, 3 - x + 0.5 * y

    def enlarged(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = linear(x / factor, y / factor)
        return factor * u, factor * v

    torch.testing.assert_close(zoom(sampled(linear, 12, grid), factor, grid), sampled(enlarged, 12, grid))


def test_shifts_move_whole_cells() -> None:
    field = torch.arange(12.0).reshape(3, 4)
    assert shift(field, 1, 2, periodic=False).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 4, 5]]
    assert torch.equal(shift(field, 1, 2, periodic=True), field.roll((1, 2), (0, 1)))


def test_shifted_swirl_stays_without_divergence_inside() -> None:
    """A shift by whole cells is exact on the staggered grid, too."""
    field = swirl(8, 8)
    moved = shift(field, 2, 1, periodic=False)
    torch.testing.assert_close(divergence(moved, 1.0)[2:-1, 1:-1], divergence(field, 1.0)[:-3, :-2])


@pytest.mark.parametrize("group", ["C4", "translation", "scale"])
def test_elements_are_named_and_honest_about_interpolation(group: GroupName) -> None:
    for height, width in ((16, 16), (16, 8)):
        group_elements = elements(group, "centered", periodic=True, height=height, width=width)
        assert len({element.name for element in group_elements}) == len(group_elements)
        assert len(group_elements) == (1 if group == "C4" and height != width else 3)
        assert {element.exact for element in group_elements} == {group != "scale"}
        field = torch.randn(5, 2, height, width)
        for element in group_elements:
            assert element.act(field).shape == field.shape
            assert not torch.equal(element.act(field), field)
            assert torch.equal(element.valid(field), field)
