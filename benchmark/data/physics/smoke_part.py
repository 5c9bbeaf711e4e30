"""Simulation part of the smoke datasets: a batch of plumes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.dataset import IMPORTED, TINY, Part, Preset
from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume, frames_of
from benchmark.groups import rotate

PUBLISHED_SMOKE = (
    "the authors generate them with data_gen.ipynb of github.com/Rose-STL-Lab/Approximately-Equivariant-Nets"
)
"""Source of the published smoke files, for messages to the user."""


def smoke_presets(frames: int) -> dict[str, Preset]:
    """Presets of a published smoke set whose runs have `frames` frames."""
    published = Preset(64, 64, frames)
    return {"small": Preset(32, 32, 64), "tiny": TINY, "paper": published, IMPORTED: published}


@dataclass(frozen=True)
class SmokePart(Part):
    """Plumes that are simulated in one batch; the first `dropped` of `steps` frames are not kept."""

    box: Box
    plumes: tuple[Plume, ...]
    steps: int
    dropped: int = 0
    solver: str = "cosine"
    """Cosine transform for the pressure; named in the key of the part, which files are found by."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that the runs share (JSON)."""
        common = asdict(self)
        del common["plumes"], common["solver"]
        return common | {"smoke_time_step": SMOKE_TIME_STEP}

    @property
    def work(self) -> int:
        """Cells times steps."""
        return len(self.plumes) * self.box.cells**2 * self.steps

    def simulate(self) -> NDArray[np.float32]:
        """Velocity after each kept step: (run, time, 2, X, Y) float32."""
        return self.collect(self.frames())

    def frames(self) -> Iterator[Tensor]:
        """Velocity after each step: (run, 2, X, Y) float64."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return frames_of(self.box, self.plumes, self.steps, device)

    def collect(self, frames: Iterator[Tensor]) -> NDArray[np.float32]:
        """Array (run, time, 2, X, Y) of the kept `frames`, each (run, 2, X, Y)."""
        kept = itertools.islice(frames, self.dropped, None)
        return np.stack([frame.float().cpu().numpy() for frame in kept], axis=1)


def by_plume(parts: Sequence[SmokePart], fields: Sequence[NDArray[np.float32]]) -> dict[Plume, NDArray[np.float32]]:
    """Trajectory (time, 2, X, Y) of each plume of `parts`."""
    return {
        plume: run
        for part, field in zip(parts, fields, strict=True)
        for plume, run in zip(part.plumes, field, strict=True)
    }


def turned(run: NDArray[np.float32], quarter_turns: int) -> NDArray[np.float32]:
    """A staggered trajectory (time, 2, X, Y), turned counter-clockwise."""
    return rotate(torch.from_numpy(run), quarter_turns, "staggered").numpy()
