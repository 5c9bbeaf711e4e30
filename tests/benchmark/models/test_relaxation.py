"""Roughness and penalty of all relaxed layers: zero only for constant weights, and the closed form for a ramp."""

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from model_support import build, frames, layers_of
from torch import Tensor, nn

from benchmark.models.baseline import Task
from benchmark.models.clcnn import CLCNN, LocallyConnected2d
from benchmark.models.e2cnn import E2CNN
from benchmark.models.gm_cnn import GMCNN, GroupMatrixConv2d
from benchmark.models.layers.group_rotation import RotationGroupConv2d
from benchmark.models.layers.group_scale import ScaleGroupConv2d
from benchmark.models.layers.scale import ScaleConv2d
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.relaxed_group_rotation import RelaxedGroupRotation
from benchmark.models.relaxed_group_scale import RelaxedGroupScale
from benchmark.models.relaxed_group_translation import RelaxedConv2d, RelaxedGroupTranslation
from benchmark.models.relaxed_group_translation_rotation import RelaxedGroupConv2d, RelaxedGroupTranslationRotation
from benchmark.models.relaxed_group_translation_scale import PixelwiseScaleGroupConv2d, RelaxedGroupTranslationScale
from benchmark.models.relaxed_steerable_rotation import RelaxedSteerableRotation
from benchmark.models.relaxed_steerable_scale import RelaxedSteerableScale
from benchmark.models.sesn import SESN

GRID = (8, 6)
TURNS = (1 + 1 + 1 + 3) / 4
"""Mean difference of the ramp 0, 1, 2, 3 over cyclic turns."""


class Case(NamedTuple):
    """Relaxed model with the tensor that its penalty measures, and the slopes of a ramp along the relaxed axes."""

    model: type[Any]
    layer: type[nn.Module]
    tensor: str
    first_axis: int
    slopes: tuple[int, ...]
    roughness: tuple[float, ...]
    """Mean differences along the axes; along the last two of a pixelwise tensor, without the seam of a periodic box."""
    pixelwise: bool = False

    def expected(self, periodic: bool) -> float:
        means = list(self.roughness)
        if self.pixelwise and periodic:  # the way back over the seam is n - 1 times as long as one difference
            means[-2:] = [(2 - 2 / n) * mean for n, mean in zip(GRID, means[-2:], strict=True)]
        return sum(means) / len(means)


CASES = [
    Case(RelaxedSteerableRotation, SteerableConv2d, "coefficients", 0, (3, 1), (3, 1)),
    Case(RelaxedSteerableScale, ScaleConv2d, "coefficients", 0, (3, 1), (3, 1)),
    Case(RelaxedGroupRotation, RotationGroupConv2d, "w", 1, (1,), (TURNS,)),
    Case(RelaxedGroupScale, ScaleGroupConv2d, "w", 1, (6,), (6,)),
    Case(RelaxedGroupTranslation, RelaxedConv2d, "w", 1, (3, 1), (3, 1), pixelwise=True),
    Case(RelaxedGroupTranslationRotation, RelaxedGroupConv2d, "w", 1, (5, 3, 1), (5 * TURNS, 3, 1), pixelwise=True),
    Case(RelaxedGroupTranslationScale, PixelwiseScaleGroupConv2d, "w", 1, (6, 3, 1), (6, 3, 1), pixelwise=True),
    Case(CLCNN, LocallyConnected2d, "weight", 0, (3, 1), (3, 1), pixelwise=True),
    Case(GMCNN, GroupMatrixConv2d, "a", 1, (3, 1), (3, 1), pixelwise=True),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.model.__name__)
boxes = pytest.mark.parametrize("periodic", [False, True], ids=["closed", "periodic"])


def relaxed(case: Case, periodic: bool, penalty: float) -> tuple[Any, list[Tensor]]:
    model = build(case.model, Task("made_up", 2, 2, *GRID, periodic=periodic), hidden=2, layers=3, penalty=penalty)
    return model, [getattr(layer, case.tensor) for layer in layers_of(case.layer, model)]


@every_case
@boxes
def test_penalty_of_a_ramp(case: Case, periodic: bool) -> None:
    """alpha x the sum over three layers of the mean difference, averaged over the axes; alpha is linear."""
    for alpha in (0.0, 0.1, 0.2):
        model, tensors = relaxed(case, periodic, alpha)
        assert model.penalty() == 0
        for w in tensors:
            sizes = w.shape[case.first_axis : case.first_axis + len(case.slopes)]
            axes = torch.meshgrid(*(torch.arange(float(n)) for n in sizes), indexing="ij")
            ramp = torch.stack([slope * axis for slope, axis in zip(case.slopes, axes, strict=True)]).sum(0)
            with torch.no_grad():
                w.copy_(ramp.view(*sizes, *[1] * (w.ndim - case.first_axis - ramp.ndim)).expand_as(w))
        assert model.penalty().item() == pytest.approx(alpha * case.expected(periodic) * 3)


@every_case
@boxes
def test_penalty_is_zero_only_for_constant_weights(case: Case, periodic: bool) -> None:
    model, tensors = relaxed(case, periodic, 2.0)
    relaxed_axes = range(case.first_axis, case.first_axis + len(case.slopes))
    with torch.no_grad():
        for w in tensors:  # each bank or channel may have its own constant
            w.add_(torch.randn([1 if axis in relaxed_axes else size for axis, size in enumerate(w.shape)]))
        assert model.penalty() == 0
        w, layer = tensors[1], layers_of(case.layer, model)[1]
        others = [(math.ceil(size / 2) - 1,) for size in w.shape]
        for place in itertools.product(*(range(n) if i in relaxed_axes else others[i] for i, n in enumerate(w.shape))):
            w[place] += 0.5
            assert layer.roughness() > 0
            w[place] -= 0.5
        w[place] += 0.5
        assert model.penalty() > 0


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(
    ("model", "strict", "layer"),
    [(RelaxedSteerableRotation, E2CNN, SteerableConv2d), (RelaxedSteerableScale, SESN, ScaleConv2d)],
)
def test_constant_coefficients_give_the_strict_network(model: Any, strict: Any, layer: Any, kernel_size: int) -> None:
    task = Task("made_up", 2, 2, *GRID)
    ours, theirs = (build(one, task, hidden=3, layers=3, kernel_size=kernel_size) for one in (model, strict))
    with torch.no_grad():
        for relaxed_layer, strict_layer in zip(layers_of(layer, ours), layers_of(layer, theirs), strict=True):
            strict_layer.coefficients.add_(0.1)
            relaxed_layer.coefficients.copy_(strict_layer.coefficients)
        x = frames(task)
        torch.testing.assert_close(ours(x), theirs(x))
