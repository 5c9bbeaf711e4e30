"""The smoke simulation against what physics says: walls, symmetries, no divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.data import smoke
from benchmark.data.smoke import BOX, Plume, project, simulate
from benchmark.errors import MachineError
from benchmark.groups import divergence, rotate

CELLS, STEPS, STRENGTH = 16, 14, 0.1
PLUMES = {
    "south": Plume((32, 5), (0, STRENGTH)),
    "east": Plume((59, 32), (-STRENGTH, 0)),
    "north": Plume((32, 59), (0, -STRENGTH)),
    "west": Plume((5, 32), (STRENGTH, 0)),
    "left": Plume((24, 5), (0, STRENGTH)),
    "right": Plume((40, 5), (0, STRENGTH)),
    "still": Plume((32, 5), (0, 0)),
}
Runs = dict[str, NDArray[np.float32]]


def no_progress(done: int, total: int) -> None:
    pass


def mirrored(run: NDArray[np.float32]) -> NDArray[np.float32]:
    """The reflection x -> 64 - x of a staggered run (time, 2, X, Y)."""
    result = run[:, :, ::-1].copy()
    result[:, 0] = -np.roll(result[:, 0], 1, axis=1)
    return result


@pytest.fixture(scope="module")
def runs() -> Runs:
    fields = simulate(list(PLUMES.values()), CELLS, STEPS, 0.5, no_progress)
    return dict(zip(PLUMES, fields, strict=True))


def test_shape_and_type(runs: Runs) -> None:
    assert runs["south"].shape == (STEPS, 2, CELLS, CELLS)
    assert runs["south"].dtype == np.float32


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
    np.testing.assert_allclose(mirrored(runs["south"]), runs["south"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(mirrored(runs["left"]), runs["right"], rtol=0, atol=1e-5)
    assert np.abs(mirrored(runs["left"]) - runs["left"]).max() > 0.1


def test_nothing_flows_through_the_walls(runs: Runs) -> None:
    for run in runs.values():
        assert not run[:, 0, 0, :].any()
        assert not run[:, 1, :, 0].any()


def test_no_divergence(runs: Runs) -> None:
    """What is left is the rounding to float32."""
    for run in runs.values():
        assert divergence(torch.from_numpy(run).double(), BOX / CELLS).abs().max() < 1e-6


def test_a_run_does_not_depend_on_its_neighbours_in_the_batch(runs: Runs) -> None:
    alone = simulate([PLUMES["left"]], CELLS, 4, 0.5, no_progress)[0]
    np.testing.assert_allclose(alone, runs["left"][:4], rtol=0, atol=1e-6)


def test_projection_removes_a_gradient_and_keeps_a_swirl() -> None:
    generator = np.random.default_rng(0)
    stream = np.pad(generator.standard_normal((7, 4)), 1)
    swirl = np.stack((np.diff(stream, axis=1)[:-1], -np.diff(stream, axis=0)[:, :-1])) / 0.5
    pressure = generator.standard_normal((8, 5))
    gradient = np.zeros((2, 8, 5))
    gradient[0, 1:] = np.diff(pressure, axis=0) / 0.5
    gradient[1, :, 1:] = np.diff(pressure, axis=1) / 0.5
    np.testing.assert_allclose(project(swirl + gradient, 0.5), swirl, rtol=0, atol=1e-12)
    np.testing.assert_allclose(project(swirl, 0.5), swirl, rtol=0, atol=1e-12)


def test_a_step_that_leaves_divergence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "project", lambda faces, spacing: faces)
    with pytest.raises(MachineError, match="step 1 leaves a divergence"):
        simulate([PLUMES["south"]], 8, 1, 0.5, no_progress)
    monkeypatch.setattr(smoke, "project", lambda faces, spacing: np.full_like(faces, np.nan))
    with pytest.raises(MachineError, match="divergence of nan"):
        simulate([PLUMES["south"]], 8, 1, 0.5, no_progress)


def test_progress_counts_the_steps() -> None:
    seen: list[tuple[int, int]] = []
    simulate([PLUMES["south"]], 8, 2, 0.5, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
