"""The same smoke plume in boxes of 38 sizes, brought to one size (Wang, Walters, Yu 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from benchmark.cell import Level, Protocol
from benchmark.data.dataset import (
    IMPORTED,
    PAPER,
    Dataset,
    Preset,
    Progress,
    PublishedFiles,
    PublishedWindows,
    Simulation,
    Split,
    SplitName,
    divide,
)
from benchmark.data.equivariance import measure
from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume
from benchmark.data.physics.smoke_part import PUBLISHED_SMOKE, SmokePart

SIZE = 64.0
FACTORS = tuple(float(factor) for factor in np.linspace(1, 5, 41)[:38])
BUOYANCY = 0.1
UNSEEN_RUNS = (5, 30, 16, 23, 33, 6, 17, 22, 21, 32)
TRAINING_RUNS = tuple(run for run in range(len(FACTORS)) if run not in UNSEEN_RUNS)
ERROR_FRAMES = slice(0, 50)


@dataclass(frozen=True)
class ScaledSmokePart(SmokePart):
    """A plume in a box that is `factor` times as large as the array that it is brought to, `cells` wide.

    `published` resamples as the published code does.
    """

    factor: float = 1.0
    cells: int = 64
    published: bool = False

    def simulate(self, progress: Progress) -> NDArray[np.float32]:
        """The velocity after each kept step, on the small array and divided by the factor: (1, time, 2, X, Y)."""
        shrink = _resample if self.published else restrict
        return self.collect((shrink(frame, self.cells) / self.factor for frame in self.frames()), progress)


class SmokeScale(Dataset):
    """Run i has the factor f = 1 + i / 10: a box of 64 f, its inflow, and a buoyancy of 0.1 f^(1 + e), e the level.

    With time unchanged, lengths and velocities scale by f, and accelerations, too: at level 0 the physics is exactly
    that of the smallest box. Cells are about as wide in every box, and what breaks the symmetry at level 0 is that a
    finer grid blurs less. All runs are brought to 64 x 64 and divided by f, so that a model sees one plume.

    The levels in numbers have an even number of cells a side, for with a cell on its axis the plume becomes twice as
    fast, and are resampled through the stream function at the corners of the coarse cells, so that no divergence comes
    in and every face stays where it is. `paper` is as published: int(64 f) cells, the box cut to as much, and the faces
    resampled with aligned corners, which moves them by up to half a cell and leaves divergence.

    The error compares each run with that of the smallest box, over the first 50 frames; all elements are interpolated.
    """

    group = "scale"
    levels = (0, PAPER, 0.25, 0.5, 1)
    level_meaning = "the power of the box size by which the buoyancy exceeds the one that scales exactly"
    presets: ClassVar[Mapping[str, Preset]] = {
        "small": Preset(32, 32, 64),
        "paper": Preset(64, 64, 309),
        IMPORTED: Preset(64, 64, 309),
    }
    published_files = PublishedFiles(tuple(f"raw_data_{i}.pt" for i in range(len(FACTORS))), PAPER, PUBLISHED_SMOKE)
    source = "Wang, Walters, Yu, ICML 2022, section 5 (arXiv 2201.11969)"

    def level_value(self, level: Level) -> float:
        """The excess power; the published setting has none."""
        return 0.0 if level == PAPER else float(level)

    def parts(self, level: Level, preset: str) -> list[ScaledSmokePart]:
        """One for each factor."""
        size = self.presets[preset]
        return [self._part(level, factor, size) for factor in FACTORS]

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

    def splits(self, protocol: Protocol, preset: str) -> Mapping[SplitName, Split]:
        """28 runs to train on and 10 unseen ones, as published."""
        return divide(self.presets[preset], TRAINING_RUNS, UNSEEN_RUNS, protocol, PublishedWindows())

    def _part(self, level: Level, factor: float, size: Preset) -> ScaledSmokePart:
        published = level == PAPER
        length = float(int(SIZE * factor)) if published else SIZE * factor
        cells = int(size.height * factor) if published else 2 * int(size.height / 2 * factor)
        buoyancy = BUOYANCY * factor ** (1 + self.level_value(level))
        return ScaledSmokePart(
            Box(length, cells, inflow_radius=5 * factor, velocity_time_step=0.5),
            (Plume((32 * factor, 5 * factor), (0.0, buoyancy)),),
            steps=size.frames + 1,
            dropped=1,
            factor=factor,
            cells=size.height,
            published=published,
        )


def restrict(faces: Tensor, cells: int) -> Tensor:
    """A divergence-free staggered velocity (run, 2, N, N) on `cells` <= N a side, free of divergence again.

    The flux through a coarse face is the difference of the stream function at its ends; that is taken from the fine
    corners, bilinearly, and is zero on the walls. Values are those of the same places: the result is a mean over
    each face.
    """
    fine = faces.shape[-1]
    stream = pad(faces[:, 0], (0, 0, 0, 1)).cumsum(-1)  # through the x faces from y = 0 up, in units of a fine face
    corners = pad(stream, (1, 0))
    coarse = interpolate(corners[:, None], size=(cells + 1, cells + 1), mode="bilinear", align_corners=True)[:, 0]
    flux = torch.stack((coarse[:, :-1].diff(dim=-1), -coarse[:, :, :-1].diff(dim=-2)), dim=1)
    return flux * (cells / fine)


def _resample(faces: Tensor, cells: int) -> Tensor:
    """As published: the faces with their upper walls, bilinearly with aligned corners, cut to `cells`."""
    walled = pad(faces, (0, 1, 0, 1))
    size = int(walled.shape[-1] * cells / faces.shape[-1])
    return interpolate(walled, size=(size, size), mode="bilinear", align_corners=True)[..., :cells, :cells]
