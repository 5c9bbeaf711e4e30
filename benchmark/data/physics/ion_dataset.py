"""Base class of the datasets of trapped ions: runs, and errors and strict floor over the turns of the cube."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.cube import turned, turns
from benchmark.data.dataset import Dataset, ParticlePreset, Simulation
from benchmark.data.equivariance import Pair, measure
from benchmark.data.physics.trapped_ions import FRAME_INTERVAL, TEMPERATURE, Ions, IonsFloor, Trap
from benchmark.data.strict_floor import FLOOR_RUNS, FLOOR_STEPS, FLOOR_TIMES, floor_frames

ERROR_RUNS, ERROR_FRAMES = 4, 40
"""Runs and first frames that the data equivariance error is measured on."""
RUNS_IN_PART = 7


class IonDataset(Dataset):
    """35 runs; run i starts from the thermal state of seed i in an isotropic trap without a magnetic field.

    The data equivariance error is the mean over runs 0 to 3, started from the turned states, and their first 40 frames.
    Later the motion is chaotic. Runs: 25 for training and 10 unseen ones.
    """

    group = "O"
    presets: ClassVar[Mapping[str, ParticlePreset]] = {
        "small": ParticlePreset(5, 200, FRAME_INTERVAL),
        "tiny": ParticlePreset(3, 24, FRAME_INTERVAL),
        "full": ParticlePreset(10, 640, FRAME_INTERVAL),
    }
    training_runs, unseen_runs = range(25), range(25, 35)
    test_runs = "sampled"

    @abstractmethod
    def trap(self, level: Level) -> Trap:
        """Parameters of the equation at a level."""

    def parts(self, level: Level, preset: str) -> list[Ions]:
        """Five parts of seven runs, then one part for each turn but the identity."""
        size = self.presets[preset]
        ions = Ions(self.trap(level), size.particles, size.frames, (*self.training_runs, *self.unseen_runs))
        batches = [ions.seeds[i : i + RUNS_IN_PART] for i in range(0, len(ions.seeds), RUNS_IN_PART)]
        measured = replace(ions, seeds=ions.seeds[:ERROR_RUNS], frames=min(size.frames, ERROR_FRAMES))
        return [replace(ions, seeds=batch) for batch in batches] + [replace(measured, turn=name) for name in _others()]

    def floor_parts(self, level: Level, preset: str) -> list[IonsFloor]:
        """One part for each time."""
        size, runs = self.presets[preset], self.training_runs[:FLOOR_RUNS]
        return [
            IonsFloor(self.trap(level), size.particles, FLOOR_STEPS, tuple(runs[i::FLOOR_TIMES]), first=first)
            for i, first in enumerate(floor_frames(size.frames))
        ]

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """All runs in the order of their seeds."""
        others = _others()
        states = np.concatenate(fields[: -len(others)])

        def pairs(name: str, runs: NDArray[np.float32]) -> Iterator[Pair]:
            for run, other in zip(states, turned(runs.astype(np.float64), turns()[name].T), strict=False):
                yield run[:ERROR_FRAMES], other.astype(np.float32)

        first, *_ = self.parts(level, preset)
        kept = {name: value for name, value in asdict(first).items() if name not in ("seeds", "turn")}
        return Simulation(
            field=states,
            time_step=FRAME_INTERVAL,
            parameters={**kept, "temperature": TEMPERATURE},
            run_parameters=[{"seed": seed} for seed in range(len(states))],
            equivariance_errors=[
                measure(name, pairs(name, runs)) for name, runs in zip(others, fields[-len(others) :], strict=True)
            ],
            kind="particles",
        )


def _others() -> list[str]:
    """Names of the turns without the identity."""
    return list(turns())[1:]


def along(axis: Sequence[float], length: float) -> tuple[Any, Any, Any]:
    """Vector of that length along the unit vector `axis`."""
    x, y, z = (length * component + 0.0 for component in axis)  # no -0.0, which is another recipe
    return x, y, z
