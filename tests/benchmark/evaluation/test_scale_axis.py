"""Strict and free networks under zooms: the range of scales, the floor, and the table of docs/scale.md."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from model_support import build, frames
from torch import Tensor

import benchmark
from benchmark.cell import Grid
from benchmark.data.datasets.smoke_scale import SmokeScale
from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import equivariance_error
from benchmark.evaluation.regions import middle
from benchmark.evaluation.scale_axis import (
    advection,
    factors_in_range,
    floor,
    partners,
    range_error,
)
from benchmark.groups import elements, to_cell_centers, zoom
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.models.group_scale import GroupScale
from benchmark.models.layers.scale import ScaleNetwork
from benchmark.models.sesn import SESN

SIZE = 64
SMOKE = Task("smoke_scale", 2, SIZE, SIZE, "change")
SEEDS = range(3)
TABLE = Path(benchmark.__file__).parents[1] / "docs" / "scale.md"
ROW = re.compile(r"\| `(\w+)`([^|]*)\|[^|]*\| ([\d.]+) \| ([\d.]+) \|")


class OneProcess:
    """All windows on one CPU."""

    rank, size, device = 0, 1, torch.device("cpu")

    def sum(self, values: Tensor) -> Tensor:
        return values


@cache
def smoke() -> Windows:
    """A window of the plume of the smallest box, 64 x 64 cells."""
    (part, *_) = SmokeScale().parts(0, "paper")
    field = torch.from_numpy(replace(part, steps=46).simulate())
    return Windows(to_cell_centers(field), torch.tensor([(0, 42)]), 2, 1)


@cache
def errors(name: str, **config: Any) -> tuple[float, float]:
    """Error over the change of untrained networks, whole and within the range of scales; mean over SEEDS."""
    group = elements("scale", "centered", False, SIZE, SIZE)
    entire, within = 0.0, 0.0
    for seed in SEEDS:
        torch.manual_seed(seed)
        baseline = model_registry.model(name)
        model = baseline(baseline.Config.model_validate(config), SMOKE)
        regions = middle(len(group), SIZE, SIZE)
        entire += equivariance_error(model, smoke(), group, regions, OneProcess()).changes.ratio() or 0.0
        within += range_error(model, smoke(), OneProcess(), "centered").ratio() or 0.0
    return entire / len(SEEDS), within / len(SEEDS)


def test_partners_are_the_scales_that_a_zoom_maps_to_one_another() -> None:
    assert partners((1.0, 1.5, 2.0, 2.5), 1.25) == [(2, 3)]
    assert partners((1.0, 1.414, 2.0, 2.828), 2.0) == [(0, 2), (1, 3)]
    assert partners((1.0, 1.414, 2.0, 2.828), 1.5) == []
    assert factors_in_range(build(SESN, SMOKE, hidden=2)) == [1.25, 1.5, 2.0]
    assert factors_in_range(build(GroupScale, SMOKE, hidden=2)) == [2**0.5, 2.0]
    assert factors_in_range(build(SESN, SMOKE, hidden=2, scales=(1.0, 1.1))) == []


@pytest.mark.parametrize(("model", "config"), [(SESN, {}), (GroupScale, {"scale_extent": 2})])
@pytest.mark.parametrize("projection", ["max", "mean"])
def test_kept_scales_are_a_network_of_these_scales_alone(model: type, config: dict[str, Any], projection: str) -> None:
    task, scales = Task("made_up", 2, 16, 16), (1.0, 1.5, 2.25)
    sizes = {"hidden": 2, "layers": 3, "kernel_size": 3, "projection": projection, **config}
    network = build(model, task, scales=scales, **sizes)
    x = frames(task)
    before = network(x)
    for kept in ((0, 1), (1, 2)):
        alone = build(model, task, scales=tuple(scales[index] for index in kept), **sizes)
        for name, value in alone.named_parameters():
            value.data.copy_(network.get_parameter(name))
        (on_scales,) = (module for module in network.modules() if isinstance(module, ScaleNetwork))
        with on_scales.keeping(kept):
            torch.testing.assert_close(network(x), alone(x))
    assert torch.equal(network(x), before), "all scales again"


@pytest.mark.parametrize("grid", ["centered", "staggered"])
def test_the_floor_is_zero_where_the_grid_is_exact(grid: Grid) -> None:
    """Bilinear interpolation and central differences are exact on u = A p, and -(u . grad) u = -A A p."""
    size = 16
    faces = torch.arange(size, dtype=torch.float64) - size / 2
    centers = faces + 0.5
    places = ((faces, centers), (centers, faces)) if grid == "staggered" else ((centers, centers),) * 2
    matrix = torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64)

    def linear(a: Tensor) -> Tensor:
        points = [torch.stack(torch.meshgrid(*axes, indexing="ij")) for axes in places]
        return torch.stack([torch.einsum("j,jxy->xy", row, p) for row, p in zip(a, points, strict=True)])

    field = linear(matrix)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(advection(field, grid)[inner], linear(-matrix @ matrix)[inner])
    commuted = zoom(advection(field, grid), 1.5, grid)[..., 6:-6, 6:-6]
    torch.testing.assert_close(advection(zoom(field, 1.5, grid), grid)[..., 6:-6, 6:-6], commuted)


def test_the_axis_tells_strict_from_free() -> None:
    """Within the range of scales; by the whole network an untrained ConvNet would look stricter than `sesn`."""
    convnet, sesn, group = (
        errors("convnet", hidden=32, kernel_size=5),
        errors("sesn", hidden=8),
        errors("group_scale", hidden=8),
    )
    assert sesn[0] > convnet[0]
    assert max(sesn[1], group[1]) < 0.5 * convnet[1]
    assert (floor(smoke(), OneProcess(), "centered").ratio() or 0) < min(sesn[1], group[1])


def rows_of_table() -> Iterator[tuple[str, dict[str, Any], float, float]]:
    """Network, settings and both errors of each line of the table."""
    for name, settings, entire, within in ROW.findall(TABLE.read_text(encoding="utf-8")):
        pairs = re.findall(r"(\w+) (\d+)", settings)
        yield name, {key: int(value) for key, value in pairs}, float(entire), float(within)


def test_the_table_of_the_page_is_measured() -> None:
    lines = list(rows_of_table())
    networks = [name for name in model_registry.model_names() if _on_scales(model_registry.model(name))]
    assert {name for name, *_ in lines} == {"convnet", *networks}
    changed = []
    for name, settings, entire, within in lines:
        measured = errors(name, hidden=32 if name == "convnet" else 8, **settings)
        if measured != pytest.approx((entire, within), rel=0.05):
            changed.append(f"{name} {settings}: {measured[0]:.3f} | {measured[1]:.3f}")
    assert not changed, f"docs/scale.md: {'; '.join(changed)}"


def test_the_floor_of_the_page_is_measured() -> None:
    (quoted,) = re.findall(r"floor of this field is (\d\.\d+)", TABLE.read_text(encoding="utf-8"))
    assert floor(smoke(), OneProcess(), "centered").ratio() == pytest.approx(float(quoted), rel=0.02)


def _on_scales(baseline: type[Baseline]) -> bool:
    return "scale" in baseline.symmetries and "scales" in baseline.Config.model_fields
