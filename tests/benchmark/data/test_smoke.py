"""The smoke simulation against PhiFlow, and against physics: walls, symmetries, no divergence."""

from collections.abc import Iterator

import numpy as np
import phiflow_smoke
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.datasets.smoke_rotation_levels import SmokeRotationLevels
from benchmark.data.datasets.smoke_scale import restrict
from benchmark.data.datasets.smoke_translation import SmokeTranslation
from benchmark.data.physics import smoke
from benchmark.data.physics.smoke import Box, Plume, frames_of, project
from benchmark.data.physics.smoke_part import SmokePart
from benchmark.errors import MachineError
from benchmark.groups import divergence, rotate

CELLS, STEPS, STRENGTH = 16, 14, 0.1
BOX = Box(64.0, CELLS, inflow_radius=5.0, velocity_time_step=0.5)
PLUMES = {
    "south": Plume((32, 5), (0, STRENGTH)),
    "east": Plume((59, 32), (-STRENGTH, 0)),
    "north": Plume((32, 59), (0, -STRENGTH)),
    "west": Plume((5, 32), (STRENGTH, 0)),
    "left": Plume((24, 5), (0, STRENGTH)),
    "right": Plume((40, 5), (0, STRENGTH)),
    "halves": Plume((32, 5), (0, STRENGTH), (0, 2 * STRENGTH)),
    "halves mirrored": Plume((32, 5), (0, 2 * STRENGTH), (0, STRENGTH)),
    "still": Plume((32, 5), (0, 0)),
}
CPU = torch.device("cpu")
Runs = dict[str, NDArray[np.float32]]


def simulate(box: Box, plumes: tuple[Plume, ...], steps: int) -> NDArray[np.float32]:
    return SmokePart(box, plumes, steps).simulate()


def by_phiflow(box: Box, plumes: tuple[Plume, ...], steps: int) -> Iterator[Tensor]:
    return phiflow_smoke.frames(box, plumes, steps, ("scipy-direct",))


def mirrored(run: NDArray[np.float32]) -> NDArray[np.float32]:
    """The reflection x -> 64 - x of a staggered run (time, 2, X, Y)."""
    result = run[:, :, ::-1].copy()
    result[:, 0] = -np.roll(result[:, 0], 1, axis=1)
    return result


@pytest.fixture(scope="module")
def runs() -> Runs:
    return dict(zip(PLUMES, simulate(BOX, tuple(PLUMES.values()), STEPS), strict=True))


@pytest.mark.parametrize("cells", [12, 13])
def test_every_step_is_phiflows(cells: int) -> None:
    """Advection, inflow, buoyancy and pressure, from all sides, with halves that differ; even and odd grids."""
    box = Box(70.0, cells, inflow_radius=9.0, velocity_time_step=0.7)
    plumes = (*PLUMES.values(), Plume((10, 60), (0.2, -0.1), (-0.1, -0.2)))
    ours, theirs = frames_of(box, plumes, 10, CPU), by_phiflow(box, plumes, 10)
    for step, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        difference = float((mine - other).abs().max())
        assert difference < 1e-11 * float(other.abs().max()), f"step {step}: {difference}"


def test_a_level_is_phiflows_over_the_whole_trajectory() -> None:
    """The published size, 60 steps, the weakest and the strongest plume of the ten levels."""
    parts = SmokeRotationLevels().parts(9, "paper")
    plumes = (parts[0].plumes[0], parts[-1].plumes[0])
    worst = 0.0
    for mine, other in zip(
        frames_of(parts[0].box, plumes, parts[0].steps, CPU),
        by_phiflow(parts[0].box, plumes, parts[0].steps),
        strict=True,
    ):
        worst = max(worst, float((mine - other).abs().max()))
    assert worst < 1e-5


def test_the_published_solver_is_less_exact() -> None:
    part = SmokeTranslation().parts("paper", "small")[0]
    box, plumes = part.box, part.plumes[:2]
    pairs = zip(phiflow_smoke.frames(box, plumes, 2), frames_of(box, plumes, 2, CPU), strict=True)
    errors = [float((published - exact).abs().max() / exact.abs().max()) for published, exact in pairs]
    assert len(errors) == 2
    assert 0 < max(errors) < 1e-3  # it iterates, to 1e-5


def test_smoke_rises_along_its_buoyancy(runs: Runs) -> None:
    above_the_inflow = runs["south"][:, 1, CELLS // 2 - 1 : CELLS // 2 + 1, 1:3].mean(axis=(1, 2))
    assert (np.diff(above_the_inflow[:5]) > 0).all()
    assert np.abs(runs["south"]).max() > 1
    assert not runs["still"].any()


@pytest.mark.parametrize(("quarter_turns", "side"), [(1, "east"), (2, "north"), (3, "west")])
def test_a_turned_set_up_makes_the_turned_flow(runs: Runs, quarter_turns: int, side: str) -> None:
    turned = rotate(torch.from_numpy(runs["south"]), quarter_turns, "staggered").numpy()
    np.testing.assert_allclose(runs[side], turned, rtol=0, atol=1e-5)


def test_mirror_images(runs: Runs) -> None:
    np.testing.assert_allclose(mirrored(runs["halves"]), runs["halves mirrored"], rtol=0, atol=1e-5)
    assert np.abs(mirrored(runs["halves"]) - runs["halves"]).max() > 0.1
    np.testing.assert_allclose(mirrored(runs["south"]), runs["south"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(mirrored(runs["left"]), runs["right"], rtol=0, atol=1e-5)
    assert np.abs(mirrored(runs["left"]) - runs["left"]).max() > 0.1


def test_velocities_have_no_divergence_and_no_flow_through_the_walls(runs: Runs) -> None:
    """Up to the rounding to float32."""
    for run in runs.values():
        assert (run.shape, run.dtype) == ((STEPS, 2, CELLS, CELLS), np.float32)
        assert divergence(torch.from_numpy(run).double(), BOX.spacing).abs().max() < 1e-6
        assert not run[:, 0, 0, :].any()
        assert not run[:, 1, :, 0].any()


def test_a_run_does_not_depend_on_its_neighbours_in_the_batch(runs: Runs) -> None:
    alone = simulate(BOX, (PLUMES["left"],), 4)[0]
    np.testing.assert_allclose(alone, runs["left"][:4], rtol=0, atol=1e-6)


def test_projection_removes_a_gradient_and_keeps_a_swirl() -> None:
    generator = torch.Generator().manual_seed(0)
    stream = torch.nn.functional.pad(torch.randn(7, 4, generator=generator, dtype=torch.float64), (1, 1, 1, 1))
    swirl = torch.stack((stream.diff(dim=1)[:-1], -stream.diff(dim=0)[:, :-1])) / 0.5
    pressure = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    gradient = torch.zeros(2, 8, 5, dtype=torch.float64)
    gradient[0, 1:] = pressure.diff(dim=0) / 0.5
    gradient[1, :, 1:] = pressure.diff(dim=1) / 0.5
    torch.testing.assert_close(project(swirl + gradient, 0.5), swirl, rtol=0, atol=1e-12)
    torch.testing.assert_close(project(swirl, 0.5), swirl, rtol=0, atol=1e-12)


def test_a_step_that_leaves_divergence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "project", lambda faces, spacing: faces)
    with pytest.raises(MachineError, match="step 1 leaves a divergence"):
        simulate(BOX, (PLUMES["south"],), 1)
    monkeypatch.setattr(smoke, "project", lambda faces, spacing: torch.full_like(faces, torch.nan))
    with pytest.raises(MachineError, match="divergence of nan"):
        simulate(BOX, (PLUMES["south"],), 1)


def smooth_swirl(cells: int) -> Tensor:
    """A velocity on the faces of [0, 64]^2 from a stream function that is zero on the walls."""
    corner = torch.arange(cells + 1, dtype=torch.float64) / cells
    stream = 64 * (torch.pi * corner).sin()[:, None] ** 2 * (2 * torch.pi * corner).sin()
    faces = torch.stack((stream.diff(dim=1)[:-1], -stream.diff(dim=0)[:, :-1]))
    return faces[None] * cells / 64


@pytest.mark.parametrize("fine", [16, 22, 32, 75])
def test_restriction_keeps_place_size_and_divergence(fine: int) -> None:
    coarse = restrict(smooth_swirl(fine), 16)
    assert divergence(coarse, 4.0).abs().max() < 1e-13
    error = (coarse - smooth_swirl(16)).abs().max() / coarse.abs().max()
    assert error < (1e-14 if fine % 16 == 0 else 0.02)  # corners that coincide are exact


def test_a_larger_box_with_as_many_cells_makes_the_same_flow() -> None:
    """Lengths, velocities and buoyancy scale alike: the symmetry that smoke_scale is about."""
    large = Box(2 * BOX.size, CELLS, 2 * BOX.inflow_radius, BOX.velocity_time_step)
    one = simulate(BOX, (Plume((32, 5), (0, 0.1)),), STEPS)
    two = simulate(large, (Plume((64, 10), (0, 0.2)),), STEPS)
    np.testing.assert_allclose(two / 2, one, rtol=0, atol=1e-6)
