"""Particles: positions and velocities in three dimensions, (N, 6), about the centre of a trap."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.cube import turns
from benchmark.data.dataset import Dataset, SplitName
from benchmark.data.layout import StoredField
from benchmark.data.physics.ion_dataset import IonDataset
from benchmark.evaluation.evaluate import Ranks
from benchmark.evaluation.relaxation import Relaxation
from benchmark.evaluation.symmetry import full_float32, step_and_rollout
from benchmark.evaluation.symmetry_discovery import discovery_metrics
from benchmark.groups import Element
from benchmark.kinds.kind import Action, Kind, SplitWindows, relative_error
from benchmark.models.baseline import Baseline
from benchmark.models.task import ParticleTask

RANDOM_ROTATIONS = 20
"""Rotations beside the turns of the cube, which alone cannot tell all tensors apart and are exact even in bf16."""
SHIFT = 0.5
"""Length by which positions are shifted along each axis."""
IONS = ParticleTask("made_up", 2, 5, 0.15)
ONE_FRAME = ParticleTask("made_up", 1, 5, 0.15)


class NoMeasures:
    """No metrics besides the RMSE."""

    def add(self, prediction: Tensor, truth: Tensor) -> None: ...

    def sums(self) -> tuple[Tensor, ...]:
        """No sums."""
        return ()

    def metrics(self, split: SplitName) -> dict[str, Any]:
        """No metrics."""
        return {}


def turn(states: Tensor, rows: tuple[tuple[int, int], ...]) -> Tensor:
    """States (..., 6) after a turn of the cube, exactly: axis i becomes the old axis and sign of `rows[i]`."""
    axes, signs = zip(*rows, strict=True)
    return states[..., [*axes, *(axis + 3 for axis in axes)]] * states.new_tensor([*signs, *signs])


@cache
def cube() -> tuple[Element, ...]:
    """Turns of the cube, the identity first."""
    members = []
    for name, matrix in turns().items():
        rows = tuple((int(abs(row).argmax()), int(row.sum())) for row in matrix)
        members.append(Element(name, partial(turn, rows=rows)))
    return tuple(members)


@cache
def random_rotations() -> tuple[Element, ...]:
    """RANDOM_ROTATIONS rotations, uniform over SO(3)."""
    normal = torch.randn(RANDOM_ROTATIONS, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices, triangular = torch.linalg.qr(normal)
    matrices = matrices * triangular.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    matrices = matrices * torch.linalg.det(matrices)[:, None, None]  # -R is a rotation where R is none
    return tuple(Element(f"random{i}", partial(_rotated, matrix=matrix)) for i, matrix in enumerate(matrices))


def _rotated(states: Tensor, matrix: Tensor) -> Tensor:
    pairs = states.double().unflatten(-1, (2, 3)) @ matrix.to(states.device).mT
    return pairs.flatten(-2).to(states.dtype)


def _rotation_error(model: Baseline, x: Tensor) -> float:
    return _largest_error(model, x, (*cube()[1:], *random_rotations()))


def _reflection_error(model: Baseline, x: Tensor) -> float:
    return _largest_error(model, x, [Element("inversion", torch.neg)])


def _permutation_error(model: Baseline, x: Tensor) -> float:
    order = torch.randperm(x.shape[-2], generator=torch.Generator().manual_seed(0)).roll(1)
    return _largest_error(model, x, [Element("permutation", partial(torch.index_select, dim=-2, index=order))])


def _largest_error(model: Baseline, x: Tensor, elements: Any) -> float:
    with torch.no_grad():
        y = model(x)
        pairs = [(model(element.act(x)), element.act(y)) for element in elements]
    return max(relative_error(actual - expected, expected) for actual, expected in pairs)


def _translation_error(model: Baseline, x: Tensor) -> float:
    """The forecast of a change does not move with the particles, and that of the next state does."""
    with torch.no_grad():
        expected = model.next_frame(x)
        return relative_error(model.next_frame(_shifted(x)) - _shifted(expected), expected)


def _shifted(states: Tensor, by: float = SHIFT) -> Tensor:
    return states + states.new_tensor([by, by, by, 0, 0, 0])


class Particles(Kind):
    """Positions and velocities (N, 6): turns of the cube and random rotations, inversion, permutations, shifts."""

    name = "particles"
    space = (-2,)
    tasks = (IONS, ONE_FRAME)
    actions: ClassVar[Mapping[Any, Action]] = {
        "rotation": Action(tasks, _rotation_error, lambda x: torch.cat([element.act(x) for element in cube()])),
        "reflection": Action(tasks, _reflection_error, lambda x: torch.cat((x, -x))),
        "permutation": Action(
            tasks, _permutation_error, lambda x: torch.cat([x.roll(i, -2) for i in range(x.shape[-2])])
        ),
        "translation": Action(
            tasks, _translation_error, lambda x: torch.cat([_shifted(x, by) for by in (-SHIFT, 0.0, SHIFT)])
        ),
    }

    symmetries = ("translation", "rotation", "reflection", "permutation")

    def measures(self, stored: StoredField, dataset: Dataset, device: torch.device) -> NoMeasures:
        """No metrics besides the RMSE."""
        return NoMeasures()

    @full_float32()
    def symmetry_metrics(
        self, model: Baseline, dataset: Dataset, windows: SplitWindows, world: Ranks
    ) -> dict[str, Any]:
        """Errors over the turns of the cube, each of which is exact, and the breaking that the model has learned."""
        group = cube()[1:]
        everything = torch.ones(len(group), 1, *windows["validation"].field.shape[-2:])
        metrics: dict[str, Any] = step_and_rollout(model, windows, group, everything, world)[0]
        if isinstance(dataset, IonDataset):
            metrics |= discovery_metrics(model, dataset.trap(1), windows["validation"])
        return metrics

    def relaxations(self, model: Baseline, task: ParticleTask) -> list[Relaxation]:
        """None: no weight of a model of particles belongs to a place."""
        return []
