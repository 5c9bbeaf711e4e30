"""Turbulence datasets: runs from random initial states of the solver in `spectral`, in a periodic box."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.cell import Level
from benchmark.data.dataset import TINY, Dataset, Part, Preset, Simulation
from benchmark.data.equivariance import Pair, measure
from benchmark.data.physics.spectral import Fluid, Solver, Start, initial_vorticity
from benchmark.data.strict_floor import FLOOR_RUNS, FLOOR_STEPS, FLOOR_TIMES, deviation, floor_frames
from benchmark.groups import SHIFTS, elements, rotate

ISOTROPIC = Fluid((0.015, 0.015), growth=0.8, drag=0.2)
"""Level 0 of the turbulence datasets; the rms speed stays about 1."""
FRAME_INTERVAL = 0.075
"""Time between frames, which differ by about a tenth."""
RUNS_IN_PART = 7
ERROR_RUNS, ERROR_FRAMES = 4, 40
Move = tuple[int, tuple[int, int]]


@dataclass(frozen=True)
class Turbulence(Part):
    """Runs from the initial states `starts`, simulated on 2 `cells` points a side and kept on `cells` x `cells`.

    `frame_interval` is the time between frames, and takes `steps_in_frame` time steps.
    """

    fluid: Fluid
    cells: int
    frames: int
    frame_interval: float
    steps_in_frame: int
    starts: tuple[Start, ...] = ()

    @property
    def work(self) -> int:
        """Runs times steps times points."""
        return self.frames * len(self.starts) * self.steps_in_frame * (2 * self.cells) ** 2

    def simulate(self) -> NDArray[np.float32]:
        """Velocity at the cell centres (run, time, 2, H, W), from the initial state on; on the GPU if there is one.

        MachineError: the flow is too fast for the time step.
        """
        solver, w = self.begin()
        field = np.empty((len(self.starts), self.frames, 2, self.cells, self.cells), np.float32)
        for frame in range(self.frames):
            for _ in range(self.steps_in_frame if frame > 0 else 0):
                w = solver.step(w)
            velocity = solver.velocity(w, self.cells)
            solver.require_stable(velocity, frame)
            field[:, frame] = velocity.cpu().numpy()
        return field

    def begin(self) -> tuple[Solver, Tensor]:
        """Solver and coefficients of the initial states, on the GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        solver = Solver(2 * self.cells, self.frame_interval / self.steps_in_frame, self.fluid, device)
        return solver, torch.stack([initial_vorticity(start, self.cells) for start in self.starts]).to(device)


@dataclass(frozen=True)
class TurbulenceFloor(Turbulence):
    """Strict floor of the states of `starts` at frame `first`, over `frames` frames and the group of `moves`.

    A move is a number of quarter turns and a shift in cells of the kept grid; the first one is the identity.
    """

    first: int = 0
    moves: tuple[Move, ...] = ()

    @property
    def work(self) -> int:
        """Runs times steps times points."""
        steps = (self.first + self.frames * len(self.moves)) * self.steps_in_frame
        return len(self.starts) * steps * (2 * self.cells) ** 2

    def simulate(self) -> NDArray[np.float32]:
        """F(x) - (P F)(x) after each frame: (state, time, 2, H, W)."""
        solver, w = self.begin()
        for _ in range(self.first * self.steps_in_frame):
            w = solver.step(w)
        field = np.empty((len(self.starts), self.frames, 2, self.cells, self.cells), np.float32)
        for frame, forecasts in enumerate(forecasts_of(solver, w, self)):
            field[:, frame] = deviation(forecasts).float().cpu().numpy()
        return field


def forecasts_of(solver: Solver, w: Tensor, floor: TurbulenceFloor) -> Iterator[Tensor]:
    """g^-1 F(g x) at the cell centres after each frame, for the states `w` (run, N, K + 1): (move, run, 2, H, W)."""
    moved = torch.cat([solver.moved(w, turns, (2 * x, 2 * y)) for turns, (x, y) in floor.moves])
    for frame in range(floor.frames):
        for _ in range(floor.steps_in_frame):
            moved = solver.step(moved)
        velocity = solver.velocity(moved, floor.cells)
        solver.require_stable(velocity, floor.first + frame)
        yield torch.stack(
            [
                rotate(one.roll((-x, -y), (-2, -1)), -turns, "centered")
                for one, (turns, (x, y)) in zip(velocity.split(len(w)), floor.moves, strict=True)
            ]
        )


class TurbulenceDataset(Dataset):
    """35 runs from random initial states; run i has seed i. A subclass says which fluid a level has.

    The data equivariance error is the mean over runs 0 to 3, started from the transformed initial states, and the first
    40 frames, about a roll-out with its input. Later the flow is chaotic, and any difference grows to the size of the
    flow. Runs: 25 for training and 10 unseen ones.

    Velocities lie at the cell centres. They are divergence-free as Fourier series, not on the staggered stencil.
    """

    periodic = True
    levels: ClassVar[tuple[Level, ...]] = (0, 0.2, 0.4, 0.6, 0.8)
    presets: ClassVar[Mapping[str, Preset]] = {"small": Preset(32, 32, 64), "tiny": TINY, "full": Preset(64, 64, 310)}
    training_runs, unseen_runs = range(25), range(25, 35)
    test_runs = "sampled"
    source = "symbench; method: Canuto, Hussaini, Quarteroni, Zang, Spectral Methods in Fluid Dynamics, 1988"

    @abstractmethod
    def fluid(self, level: Level) -> Fluid:
        """Parameters of the equation at a level."""

    def parts(self, level: Level, preset: str) -> list[Turbulence]:
        """Five parts of seven runs, then one part for each measured group element."""
        flow = self._flow(level, preset)
        starts = [Start(seed) for seed in (*self.training_runs, *self.unseen_runs)]
        batches = [tuple(starts[i : i + RUNS_IN_PART]) for i in range(0, len(starts), RUNS_IN_PART)]
        measured = replace(flow, frames=min(flow.frames, ERROR_FRAMES))
        transformed = self._transformed(flow.cells).values()
        return [replace(flow, starts=batch) for batch in batches] + [replace(measured, starts=s) for s in transformed]

    def floor_parts(self, level: Level, preset: str) -> list[TurbulenceFloor]:
        """One part for each time; quarter turns, or the shifts by half a box."""
        flow = self._flow(level, preset)
        half = flow.cells // 2
        turns: tuple[Move, ...] = tuple((turns, (0, 0)) for turns in range(4))
        shifts: tuple[Move, ...] = tuple((0, (x, y)) for x in (0, half) for y in (0, half))
        runs = [Start(seed) for seed in self.training_runs[:FLOOR_RUNS]]
        return [
            TurbulenceFloor(
                **vars(flow) | {"frames": FLOOR_STEPS, "starts": tuple(runs[i::FLOOR_TIMES])},
                first=first,
                moves=shifts if self.group == "translation" else turns,
            )
            for i, first in enumerate(floor_frames(flow.frames))
        ]

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> Simulation:
        """All runs in the order of their seeds."""
        flow = self._flow(level, preset)
        transformed = self._transformed(flow.cells)
        field = np.concatenate(fields[: -len(transformed)])

        def pairs(starts: Sequence[Start], others: NDArray[np.float32]) -> Iterator[Pair]:
            for start, other in zip(starts, others, strict=True):
                yield field[start.seed, :ERROR_FRAMES], start.undo(other)

        return Simulation(
            field=field,
            grid="centered",
            divergence_free=False,
            spacing=2 * math.pi / flow.cells,
            time_step=flow.frame_interval,
            parameters={name: value for name, value in asdict(flow).items() if name != "starts"},
            run_parameters=[{"seed": seed} for seed in range(len(field))],
            equivariance_errors=[
                measure(name, pairs(starts, others))
                for (name, starts), others in zip(transformed.items(), fields[-len(transformed) :], strict=True)
            ],
        )

    def _flow(self, level: Level, preset: str) -> Turbulence:
        """The flow of a level, without initial states. The time step follows the width of a cell."""
        size = self.presets[preset]
        assert size.height == size.width
        return Turbulence(self.fluid(level), size.height, size.frames, FRAME_INTERVAL, size.height // 8 + 1)

    def _transformed(self, cells: int) -> dict[str, tuple[Start, ...]]:
        """Initial states that are measured, for each group element by its name."""
        moves: list[tuple[int, tuple[int, int]]] = [(turns, (0, 0)) for turns in (1, 2, 3)]
        if self.group == "translation":
            moves = [(0, shift) for shift in dict.fromkeys((i * cells // 8, j * cells // 8) for i, j in SHIFTS)]
        names = [element.name for element in elements(self.group, "centered", True, cells, cells)]
        return {
            name: tuple(Start(seed, *move) for seed in range(ERROR_RUNS))
            for name, move in zip(names, moves, strict=True)
        }
