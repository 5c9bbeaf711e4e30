"""Symmetry discovery: the fields that a model of particles has learned, read from the derivatives of its forecast.

Let dv_i be the change of the velocity of particle i over one frame, h the time between frames, and a bar the mean over
particles, states and the turns of the cube of each state. In a trap with squared frequencies K and a magnetic field B,

    B_eff = vee(antisymmetric part of the mean of d(dv_i)/dv_i) / h   ->  B
    K_eff = -(traceless symmetric part of the mean of d(dv_i)/dx_i) / h   ->  K - tr(K) / 3

up to O(h^2). vee takes the matrix of v -> v x B to B. A strictly equivariant model has J(g x) = g J(x) g^-1, the mean
of which over the turns is a multiple of 1: both are zero. The learned vectors of a relaxed model are no such measure,
as weights multiply them: their sign and length are not identifiable.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmark.cube import turns
from benchmark.data.physics.trapped_ions import Trap
from benchmark.data.windows import Windows
from benchmark.evaluation.symmetry import full_float32
from benchmark.models.baseline import Baseline
from benchmark.models.task import ParticleTask

STATES = 16
"""States that the means go over, times the turns of the cube."""
NOTHING = 1e-4
"""A field below this, over the true one at level 1, is round-off and has no direction."""


@dataclass(frozen=True)
class LearnedFields:
    """Magnetic field B_eff (3,) and anisotropy of the trap K_eff (3, 3)."""

    magnetic_field: Tensor
    anisotropy: Tensor

    def beside(self, unit: Trap) -> dict[str, Any]:
        """Metrics, beside the trap `unit` of level 1: the level that a field of this length has, and its angle.

        The angle, in degrees, is that between vectors, or between matrices as vectors of nine numbers. A magnetic field
        is also kept as a vector, beside the true one of level 1, both over the length of the latter.
        """
        learned, true = self.magnetic_field, torch.tensor(unit.magnetic_field, dtype=torch.float64)
        magnetic = any(unit.magnetic_field)
        if not magnetic:
            learned = self.anisotropy.flatten()
            true = traceless(torch.diag(torch.tensor(unit.squared_frequencies, dtype=torch.float64))).flatten()
        level = float(learned.norm() / true.norm())
        metrics = {"learned_level": level, "learned_angle": angle(learned, true) if level > NOTHING else None}
        if not magnetic:
            return metrics
        vectors = {"learned_field": learned, "true_field": true}
        return metrics | {name: (vector / true.norm()).tolist() for name, vector in vectors.items()}


def angle(one: Tensor, other: Tensor) -> float:
    """Angle between two vectors in degrees, exact also if it is small."""
    one, other = one / one.norm(), other / other.norm()
    return math.degrees(2 * math.atan2(float((one - other).norm()), float((one + other).norm())))


def discovery_metrics(model: Baseline, unit: Trap, windows: Windows) -> dict[str, Any]:
    """Breaking that `model` has learned, from STATES of `windows`; `unit` is the trap of level 1."""
    few = torch.linspace(0, len(windows) - 1, min(STATES, len(windows))).round().long()
    return learned_fields(model, windows.batch(few)[0]).beside(unit)


def traceless(matrix: Tensor) -> Tensor:
    """Traceless symmetric part of a matrix (3, 3)."""
    symmetric = (matrix + matrix.T) / 2
    return symmetric - symmetric.trace() / 3 * torch.eye(3, dtype=matrix.dtype)


@full_float32()
@torch.inference_mode(False)
@torch.enable_grad()
def learned_fields(model: Baseline, x_BTN6: Tensor) -> LearnedFields:
    """Fields that `model` has learned, by derivatives at the windows `x` and their turns.

    With several input frames, a derivative by the velocity is that for a particle that was faster in all of them, and
    came here in a straight line.
    """
    h, frames = cast(ParticleTask, model.task).time_step, x_BTN6.shape[1]
    x_BTN6 = x_BTN6.clone()  # no inference tensor
    group = torch.from_numpy(np.stack(list(turns().values()))).to(x_BTN6)
    windows = torch.einsum("gij,btnsj->gbtnsi", group, x_BTN6.unflatten(-1, (2, 3))).flatten(0, 1).flatten(-2)
    ages = h * torch.arange(1 - frames, 1, dtype=x_BTN6.dtype, device=x_BTN6.device)[:, None, None]
    ones = torch.ones_like(ages)
    by_velocity = torch.cat((ages.expand(-1, -1, 3), ones.expand(-1, -1, 3)), -1)
    by_position = torch.cat((ones.expand(-1, -1, 3), 0 * ones.expand(-1, -1, 3)), -1)
    rate, stiffness = (_mean_jacobian(model, windows, direction) / h for direction in (by_velocity, by_position))
    field = torch.stack((rate[1, 2] - rate[2, 1], rate[2, 0] - rate[0, 2], rate[0, 1] - rate[1, 0])) / 2
    return LearnedFields(field, -traceless(stiffness))


def _mean_jacobian(model: Baseline, windows: Tensor, direction_T16: Tensor) -> Tensor:
    """Mean of d v_i / d s_i, (3, 3) on the CPU in float64, for windows x + direction s of particle i at s = 0."""
    s_BN3 = torch.zeros_like(windows[:, 0, :, :3]).requires_grad_()
    v_BN3 = model.next_frame(windows + direction_T16 * s_BN3.repeat(1, 1, 2)[:, None])[..., 3:]
    rows = []
    for component in range(3):
        by_particle = [
            torch.autograd.grad(v_BN3[:, i, component].sum(), s_BN3, retain_graph=True)[0][:, i]
            for i in range(v_BN3.shape[1])
        ]
        rows.append(torch.stack(by_particle).double().mean((0, 1)))
    return torch.stack(rows).cpu()
