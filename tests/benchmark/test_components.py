"""Fields of several components: group actions, layers, metrics and pictures against closed forms."""

from dataclasses import replace
from pathlib import Path

import model_support
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.cell import Components
from benchmark.data.dataset import Preset, Simulation
from benchmark.data.layout import on_grid, read, write
from benchmark.data.show.planes import Planes
from benchmark.data.strict_floor import measure
from benchmark.evaluation.flow import Box, FlowError
from benchmark.evaluation.metrics import ComponentErrors, Together
from benchmark.groups import elements, mirror, rotate, to_cell_centers, zoom
from benchmark.kinds.field import MIXED, rotation_error
from benchmark.kinds.panels import PANELS
from benchmark.models.constraint_relaxation import ConstraintRelaxation
from benchmark.models.e2cnn import E2CNN
from benchmark.models.layers.fields import by_kind
from benchmark.models.recm import RECM
from benchmark.models.relaxed_group_rotation import RelaxedGroupRotation
from benchmark.models.rpp_rotation import RPPRotation

CONVECTION: Components = ("scalar", "vector")
CPU = torch.device("cpu")


def flow(components: Components = CONVECTION, size: int = 8, turned: bool = False) -> Tensor:
    """Temperature x^2 y and velocity (y, x y) on [-1, 1]^2, or both after a quarter turn (x, y) -> (-y, x)."""
    at = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    x, y = torch.meshgrid(at, at, indexing="ij")
    if turned:  # F'(p) = R F(R^-1 p)
        from_x, from_y = y, -x
        parts = {"scalar": [from_x**2 * from_y], "vector": [-(from_x * from_y), from_y]}
    else:
        parts = {"scalar": [x**2 * y], "vector": [y, x * y]}
    return torch.stack([plane for component in components for plane in parts[component]])


@pytest.mark.parametrize("components", [CONVECTION, ("vector", "scalar"), ("scalar",), ("vector",)])
def test_a_scalar_moves_and_a_vector_also_turns(components: Components) -> None:
    field = flow(components)
    assert torch.allclose(rotate(field, 1, "centered", components), flow(components, turned=True))
    assert torch.equal(rotate(rotate(field, 3, "centered", components), 1, "centered", components), field)


def test_a_mirror_leaves_the_sign_of_a_scalar() -> None:
    mirrored = mirror(flow(), 0, CONVECTION)  # x^2 y is even in x; (y, x y) becomes (-y, -x y)
    assert torch.allclose(mirrored, flow() * torch.tensor([1.0, -1.0, -1.0])[:, None, None])


def test_a_zoom_multiplies_velocities_alone() -> None:
    at = torch.linspace(-0.9, 0.9, 10, dtype=torch.float64)
    x, y = torch.meshgrid(at, at, indexing="ij")
    linear = torch.stack((x - y, x + 2 * y, x))
    assert torch.allclose(zoom(linear, 1.5, "centered", ("vector", "scalar"))[:2], linear[:2])
    assert torch.allclose(zoom(linear, 1.5, "centered", ("vector", "scalar"))[2], linear[2] / 1.5)


def test_a_scalar_stays_at_the_cell_centres_of_a_staggered_grid() -> None:
    field = flow()
    assert torch.equal(to_cell_centers(field, CONVECTION)[0], field[0])
    assert torch.equal(to_cell_centers(field, CONVECTION)[1:], to_cell_centers(field[1:]))
    turned = rotate(field, 1, "staggered", CONVECTION)
    assert torch.equal(turned[1:], rotate(field[1:], 1, "staggered"))
    floor = measure([field[None, None].numpy()], "staggered", "", CONVECTION)
    centered = to_cell_centers(field, CONVECTION).float().double()
    assert floor.over(1, "centered") == pytest.approx(float(centered.square().mean().sqrt()), rel=1e-6)


def test_all_groups_act_on_several_components() -> None:
    field = torch.cat((flow(), flow(("scalar",)))) + torch.rand(4, 8, 8, dtype=torch.float64)
    for group in ("C4", "translation", "scale"):
        for element in elements(group, "centered", True, 8, 8, (*CONVECTION, "scalar")):  # type: ignore[arg-type]
            assert element.act(field).shape == field.shape


@pytest.mark.parametrize("model", [E2CNN, RelaxedGroupRotation, RPPRotation, RECM, ConstraintRelaxation])
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("task", MIXED, ids=lambda task: task.dataset)
def test_networks_start_equivariant_with_scalars(model: type, task: object, layers: int) -> None:
    network = model_support.build(model, task, hidden=3, layers=layers).eval()  # type: ignore[arg-type]
    x = torch.randn(2, task.input_frames, *task.shape)  # type: ignore[attr-defined]
    assert rotation_error(network, x) < 1e-5
    assert network(x).std() > 0


def test_the_first_layer_has_the_variance_of_one_that_reads_a_single_kind() -> None:
    """Without scaled coefficients it would be twice as large for two kinds, each of which fills its own fan-in."""
    one, mixed = (
        model_support.build(E2CNN, replace(MIXED[0], components=components), hidden=64).network[0]
        for components in (("vector", "vector"), ("vector", "scalar", "scalar"))
    )
    torch.manual_seed(0)
    x = torch.randn(4, 12, 16, 16)
    with torch.no_grad():
        one, mixed = one(x), mixed(x)
    assert 0.7 < float(mixed.std() / one.std()) < 1.4


def test_kinds_are_brought_together_in_the_order_of_frames() -> None:
    fields, channels = by_kind(("scalar", "vector", "scalar"), 2)
    assert fields == [("vector", 2), ("scalar", 4)]
    assert channels == [1, 2, 5, 6, 0, 3, 4, 7]


def test_each_component_has_its_error_and_the_velocity_its_spectrum() -> None:
    truth = torch.stack([flow(size=16)] * 3)[None].repeat(2, 1, 1, 1, 1)  # (B, S, C, H, W)
    prediction = truth + torch.tensor([0.5, 0.1, 0.1])[:, None, None]
    box = Box("centered", 1.0, True)
    together = Together(
        [FlowError.zero(box, 16, 16, CPU, slice(1, 3)), ComponentErrors.zero({"temperature": 1, "velocity": 2}, CPU)]
    )
    together.add(prediction, truth)
    metrics = together.metrics("future")
    assert metrics["rmse_future_of_temperature"] == pytest.approx(0.5)
    assert metrics["rmse_future_of_velocity"] == pytest.approx(0.1)
    alone = FlowError.zero(box, 16, 16, CPU)
    alone.add(prediction[:, :, 1:], truth[:, :, 1:])
    assert metrics["spectrum_future"] == alone.metrics("future")["spectrum_future"]
    assert len(together.sums()) == 5


def test_a_data_file_names_its_components(tmp_path: Path) -> None:
    field = flow()[None, None].float().numpy()
    mixed = Preset(8, 8, 1, {"temperature": "scalar", "velocity": "vector"})
    assert mixed.shape == (3, 8, 8)
    simulation = Simulation(field, 1.0, {}, [{}], [], components=mixed.components, grid="staggered")
    write(tmp_path / "a.h5", "convection", "small", 0, simulation)
    stored = read(tmp_path / "a.h5")
    assert stored.components == mixed.components
    assert torch.equal(on_grid(stored, "centered").field[0, 0, 0], stored.field[0, 0, 0])
    write(tmp_path / "b.h5", "flow", "small", 0, Simulation(field[:, :, 1:], 1.0, {}, [{}], []))
    assert read(tmp_path / "b.h5").components == Preset(8, 8, 1).components == {"velocity": "vector"}


def test_pictures_show_the_velocity_or_else_the_first_scalar(tmp_path: Path) -> None:
    field = flow()[None, None].float().numpy()
    for components, quantity in (({"t": "scalar", "u": "vector"}, "vorticity"), ({"t": "scalar"}, "t")):
        simulation = Simulation(field[:, :, : 1 + 2 * (len(components) - 1)], 1.0, {}, [{}], [], components=components)  # type: ignore[arg-type]
        write(tmp_path / "a.h5", "convection", "small", 0, simulation)
        planes = Planes.of(read(tmp_path / "a.h5"), [0], [0])
        assert planes.quantity == quantity
    assert np.array_equal(planes.values[0, 0], field[0, 0, 0])
    speed, _, error = PANELS["field"].planes(field[0], 0 * field[0], ("scalar", "vector"))
    assert np.allclose(speed, np.hypot(field[0, :, 1], field[0, :, 2]))
    assert np.allclose(error, speed)
    assert "scalar" in PANELS["field"].caption(("scalar",))
