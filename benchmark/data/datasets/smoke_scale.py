"""One smoke plume in boxes of 38 sizes, resampled to one size (Wang, Walters, Yu 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from benchmark.cell import Level
from benchmark.data.dataset import PAPER, Dataset, Preset, PublishedFiles, Simulation
from benchmark.data.equivariance import measure
from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume
from benchmark.data.physics.smoke_part import PUBLISHED_SMOKE, SmokePart, smoke_presets

SIZE = 64.0
FACTORS = tuple(float(factor) for factor in np.linspace(1, 5, 41)[:38])
BUOYANCY = 0.1
UNSEEN = (5, 30, 16, 23, 33, 6, 17, 22, 21, 32)
ERROR_FRAMES = slice(0, 50)


@dataclass(frozen=True)
class ScaledSmokePart(SmokePart):
    """A plume in a box `factor` times as large as the first one, resampled to `cells` cells a side.

    `published` selects the resampling of the published code.
    """

    factor: float = 1.0
    cells: int = 64
    published: bool = False

    def simulate(self) -> NDArray[np.float32]:
        """Velocity after each kept step, resampled and divided by the factor: (1, time, 2, X, Y)."""
        shrink = _resample if self.published else restrict
        return self.collect(shrink(frame, self.cells) / self.factor for frame in self.frames())


class SmokeScale(Dataset):
    """Run i has the factor f = 1 + i / 10: a box of size 64 f, and the buoyancy 0.1 f^(1 + e) with the level e.

    Time is unchanged, so lengths, velocities and accelerations scale with f, and level 0 has exactly the physics of the
    smallest box. Cells are about equally wide in all boxes. At level 0 only the resolution breaks the symmetry: a finer
    grid blurs less. All runs are resampled to 64 x 64 and divided by f, so that a model sees one plume.

    Numbered levels have an even number of cells a side, because a plume with a cell on its axis becomes twice as fast.
    They are resampled through the stream function at the corners of the coarse cells, which adds no divergence and
    leaves every face in place. `paper` is as published: int(64 f) cells in a box of that size, resampled with aligned
    corners, which moves faces by up to half a cell and leaves divergence.

    The data equivariance error compares each run with that of the smallest box over the first 50 frames; all group
    elements are interpolated. Runs: 28 for training and 10 unseen ones, as published.
    """

    group = "scale"
    levels = (0, PAPER, 0.25, 0.5, 1)
    level_meaning = "the power of the box size by which the buoyancy exceeds exact scaling"
    presets: ClassVar[Mapping[str, Preset]] = smoke_presets(309)
    published_files = PublishedFiles(tuple(f"raw_data_{i}.pt" for i in range(len(FACTORS))), PAPER, PUBLISHED_SMOKE)
    unseen_runs = UNSEEN
    training_runs = tuple(run for run in range(len(FACTORS)) if run not in UNSEEN)
    no_floor = "a change of scale interpolates the state, so that its future cannot be simulated exactly"
    test_runs = "designed"
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def level_value(self, level: Level) -> float:
        """Excess power e; the published setting has none."""
        return 0.0 if level == PAPER else float(level)

    def parts(self, level: Level, preset: str) -> list[ScaledSmokePart]:
        """One part for each factor."""
        cells, steps, published = self.presets[preset].height, self.presets[preset].frames + 1, level == PAPER
        parts = []
        for factor in FACTORS:
            length = float(int(SIZE * factor)) if published else SIZE * factor
            fine = int(cells * factor) if published else 2 * int(cells / 2 * factor)
            box = Box(length, fine, inflow_radius=5 * factor, velocity_time_step=0.5)
            plume = Plume((32 * factor, 5 * factor), (0.0, BUOYANCY * factor ** (1 + self.level_value(level))))
            parts.append(
                ScaledSmokePart(box, (plume,), steps, dropped=1, factor=factor, cells=cells, published=published)
            )
        return parts

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """All runs, the smallest box first."""
        parts = self.parts(level, preset)
        field = np.concatenate(fields)
        return Simulation(
            field=field,
            grid="staggered",
            divergence_free=level != PAPER,
            spacing=SIZE / self.presets[preset].height,
            time_step=SMOKE_TIME_STEP,
            parameters={"resampling": "published" if level == PAPER else "stream function"},
            run_parameters=[part.parameters | asdict(part.plumes[0]) for part in parts],
            equivariance_errors=[
                measure(f"scale{factor:.1f}", [(field[0, ERROR_FRAMES], run[ERROR_FRAMES])], exact=False)
                for factor, run in zip(FACTORS[1:], field[1:], strict=True)
            ],
        )


def restrict(faces: Tensor, cells: int) -> Tensor:
    """Resample a divergence-free staggered velocity (run, 2, N, N) to `cells` <= N a side, again divergence-free.

    The flux through a coarse face is the difference of the stream function at its ends. The stream function is
    interpolated bilinearly between the corners of the fine cells and is zero on the walls.
    """
    fine = faces.shape[-1]
    stream = pad(faces[:, 0], (0, 0, 0, 1)).cumsum(-1)  # flux through the x faces from y = 0 up, in fine faces
    corners = pad(stream, (1, 0))
    coarse = interpolate(corners[:, None], size=(cells + 1, cells + 1), mode="bilinear", align_corners=True)[:, 0]
    flux = torch.stack((coarse[:, :-1].diff(dim=-1), -coarse[:, :, :-1].diff(dim=-2)), dim=1)
    return flux * (cells / fine)


def _resample(faces: Tensor, cells: int) -> Tensor:
    """Published resampling: the faces with their upper walls, bilinear with aligned corners, cut to `cells`."""
    walled = pad(faces, (0, 1, 0, 1))
    size = int(walled.shape[-1] * cells / faces.shape[-1])
    return interpolate(walled, size=(size, size), mode="bilinear", align_corners=True)[..., :cells, :cells]
