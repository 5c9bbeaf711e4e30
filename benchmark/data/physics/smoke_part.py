"""Part of a smoke dataset: plumes that are simulated in one batch, by the solver of `smoke` or by PhiFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.dataset import Part, Progress
from benchmark.data.physics import smoke_phiflow
from benchmark.data.physics.smoke import SMOKE_TIME_STEP, Box, Plume, frames_of
from benchmark.errors import UserError

Solver = Literal["cosine", "phiflow"]
PUBLISHED_SMOKE = (
    "the authors generate them with data_gen.ipynb of github.com/Rose-STL-Lab/Approximately-Equivariant-Nets"
)
"""Where a person gets the published smoke files."""


@dataclass(frozen=True)
class SmokePart(Part):
    """Plumes that are simulated in one batch; the first `dropped` of `steps` frames are not kept."""

    box: Box
    plumes: tuple[Plume, ...]
    steps: int
    dropped: int = 0
    solver: Solver = "cosine"

    @property
    def parameters(self) -> dict[str, Any]:
        """What its runs have in common, JSON-like."""
        common = asdict(self)
        del common["plumes"], common["solver"]
        return common | {"smoke_time_step": SMOKE_TIME_STEP}

    @property
    def work(self) -> int:
        """Cells times steps."""
        return len(self.plumes) * self.box.cells**2 * self.steps

    def solved_by(self, solver: str) -> SmokePart:
        """The same with `phiflow` in place of `cosine`. UserError for any other. MachineError: PhiFlow is missing."""
        if solver not in get_args(Solver):
            raise UserError(f"--solver {solver}: smoke is solved by {' or '.join(get_args(Solver))}")
        if solver == "phiflow":
            smoke_phiflow.require_installed()
        return replace(self, solver=cast(Solver, solver))

    def simulate(self, progress: Progress) -> NDArray[np.float32]:
        """The velocity after each kept step: (run, time, 2, X, Y)."""
        return self.collect(self.frames(), progress)

    def frames(self) -> Iterator[Tensor]:
        """The velocity after each step, (run, 2, X, Y) float64."""
        if self.solver == "phiflow":
            return smoke_phiflow.frames(self.box, self.plumes, self.steps)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return frames_of(self.box, self.plumes, self.steps, device)

    def collect(self, frames: Iterator[Tensor], progress: Progress) -> NDArray[np.float32]:
        """Put the kept `frames`, (run, 2, X, Y) each, into one array."""
        kept: NDArray[np.float32] | None = None
        for step, frame in enumerate(frames):
            if kept is None:
                kept = np.empty((len(frame), self.steps - self.dropped, *frame.shape[1:]), np.float32)
            if step >= self.dropped:
                kept[:, step - self.dropped] = frame.cpu().numpy()
            progress(self.work // self.steps)
        assert kept is not None
        return kept


def by_plume(parts: Sequence[SmokePart], fields: Sequence[NDArray[np.float32]]) -> dict[Plume, NDArray[np.float32]]:
    """The trajectory of each plume of `parts`: (time, 2, X, Y)."""
    return {
        plume: run
        for part, field in zip(parts, fields, strict=True)
        for plume, run in zip(part.plumes, field, strict=True)
    }
