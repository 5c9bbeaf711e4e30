"""Roughness and penalty of all relaxed layers: zero only for constant weights, and the closed form for a ramp."""

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from model_support import build, deviation, frames, layers_of, rotation_error
from torch import Tensor, nn

from benchmark.cell import RELAXATION_RATE, Training
from benchmark.models.baseline import Task
from benchmark.models.clcnn import CLCNN, LocallyConnected2d
from benchmark.models.e2cnn import E2CNN
from benchmark.models.gm_cnn import GMCNN, GroupMatrixConv2d
from benchmark.models.layers.group_rotation import RotationGroupConv2d
from benchmark.models.layers.group_scale import ScaleGroupConv2d
from benchmark.models.layers.relaxation import KernelDeviation
from benchmark.models.layers.scale import ScaleConv2d
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.relaxed_group_rotation import RelaxedGroupRotation
from benchmark.models.relaxed_group_scale import RelaxedGroupScale
from benchmark.models.relaxed_group_translation import RelaxedConv2d, RelaxedGroupTranslation
from benchmark.models.relaxed_group_translation_rotation import RelaxedGroupConv2d, RelaxedGroupTranslationRotation
from benchmark.models.relaxed_group_translation_scale import PixelwiseScaleGroupConv2d, RelaxedGroupTranslationScale
from benchmark.models.relaxed_steerable_rotation import RelaxedSteerableRotation
from benchmark.models.relaxed_steerable_scale import RelaxedSteerableScale
from benchmark.models.rpp_rotation import RPPRotation
from benchmark.models.sesn import SESN
from benchmark.training.loop import parameter_groups

GRID = (8, 6)
TURNS = (1 + 1 + 1 + 3) / 4
"""Mean difference of the ramp 0, 1, 2, 3 over cyclic turns."""


class Case(NamedTuple):
    """Relaxed model, and the slopes of a ramp along the relaxed axes of its deviation."""

    model: type[Any]
    layer: type[nn.Module]
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
    Case(RelaxedGroupRotation, RotationGroupConv2d, 1, (1,), (TURNS,)),
    Case(RelaxedGroupScale, ScaleGroupConv2d, 1, (6,), (6,)),
    Case(RelaxedGroupTranslation, RelaxedConv2d, 1, (3, 1), (3, 1), pixelwise=True),
    Case(RelaxedGroupTranslationRotation, RelaxedGroupConv2d, 1, (5, 3, 1), (5 * TURNS, 3, 1), pixelwise=True),
    Case(RelaxedGroupTranslationScale, PixelwiseScaleGroupConv2d, 1, (6, 3, 1), (6, 3, 1), pixelwise=True),
    Case(CLCNN, LocallyConnected2d, 0, (3, 1), (3, 1), pixelwise=True),
    Case(GMCNN, GroupMatrixConv2d, 1, (3, 1), (3, 1), pixelwise=True),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.model.__name__)
boxes = pytest.mark.parametrize("periodic", [False, True], ids=["closed", "periodic"])


def relaxed(case: Case, periodic: bool, penalty: float) -> tuple[Any, list[Tensor]]:
    model = build(case.model, Task("made_up", 2, *GRID, periodic=periodic), hidden=2, layers=3, penalty=penalty)
    return model, [deviation(layer) for layer in layers_of(case.layer, model)]


@every_case
@boxes
def test_penalty_of_a_ramp(case: Case, periodic: bool) -> None:
    """alpha x the sum over three layers of the mean difference, averaged over the axes, over the size of the layer."""
    for alpha in (0.0, 0.1, 0.2):
        model, tensors = relaxed(case, periodic, alpha)
        assert model.penalty() == 0
        for w in tensors:
            sizes = w.shape[case.first_axis : case.first_axis + len(case.slopes)]
            axes = torch.meshgrid(*(torch.arange(float(n)) for n in sizes), indexing="ij")
            ramp = torch.stack([slope * axis for slope, axis in zip(case.slopes, axes, strict=True)]).sum(0)
            with torch.no_grad():
                w.copy_(ramp.view(*sizes, *[1] * (w.ndim - case.first_axis - ramp.ndim)).expand_as(w))
        relative = sum(
            case.expected(periodic) / torch.as_tensor(layer.size()).item() for layer in layers_of(case.layer, model)
        )
        assert model.penalty().item() == pytest.approx(alpha * relative)


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


@pytest.mark.parametrize("model", [RelaxedSteerableRotation, RelaxedSteerableScale, CLCNN])
def test_penalty_is_relative_to_the_symmetric_part(model: Any) -> None:
    """Weights of any size pay the same, and the penalty has no gradient that would let the symmetric part grow."""
    network = build(model, Task("made_up", 2, *GRID), hidden=2, layers=3, penalty=1.0)
    deviations = {id(parameter) for parameter in network.deviations()}
    with torch.no_grad():
        for parameter in network.deviations():
            parameter.normal_()
        penalty = network.penalty()
        for parameter in network.parameters():
            parameter.mul_(3.0)
    torch.testing.assert_close(network.penalty(), penalty)
    network.penalty().backward()
    assert {id(parameter) for parameter in network.parameters() if parameter.grad is not None} == deviations


def test_filter_banks_are_measured_by_their_constant() -> None:
    model = build(RelaxedGroupRotation, Task("made_up", 2, *GRID), hidden=2, banks=4)
    assert [layer.size() for layer in layers_of(RotationGroupConv2d, model)] == [0.25] * 5


SUPPORTS = {
    "everywhere": ("111 111 111", 12, 2.0),
    "around the centre": ("111 101 111", 14, (4 * 3 + 4 * 1 + 2 * (3 + 1) + 2 * 6 / 2 + 2 * 2 / 2 + 2 * (3 - 1)) / 14),
    "edges": ("010 101 010", 6, (2 * (3 + 1) + 2 * (3 - 1) + 6 + 2) / 6),
    "corners": ("101 000 101", 6, (2 * 6 + 2 * 2 + 8 + 4) / 6),
}
"""Support of a basis kernel, its pairs of neighbours, and the mean difference of the ramp 3 i + j over them."""


@pytest.mark.parametrize("name", SUPPORTS)
def test_kernel_deviation_is_where_the_basis_is(name: str) -> None:
    """Beside kernels at the centre and nowhere else, which have no deviation. Gaps join what lies around them."""
    text, pairs, expected = SUPPORTS[name]
    support = torch.tensor([[float(digit) for digit in row] for row in text.split()])
    center = torch.zeros(3, 3)
    center[1, 1] = 1.0
    module = KernelDeviation(torch.stack((center, support, 1e-6 * center + support), -1), 2, 5)
    assert module.deviation.shape == (2, 5, 2 * int(support.sum()))
    assert len(module.first) == 2 * pairs
    w = torch.randn(2, 5, 3)
    assert torch.equal(module(w), w[:, :, None, None].expand(2, 5, 3, 3, 3))
    with torch.no_grad():
        ramp = (3.0 * torch.arange(3)[:, None] + torch.arange(3))[..., None].expand(3, 3, 3).flatten()
        module.deviation.copy_(ramp[module.places].expand_as(module.deviation))
    assert module.roughness().item() == pytest.approx(expected)
    moved = module(w) - w[:, :, None, None]
    assert torch.equal(moved[0, 0, ..., 1], support * ramp.view(3, 3, 3)[..., 0])
    assert not moved[..., 0].any()


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(
    ("model", "strict", "layer"),
    [(RelaxedSteerableRotation, E2CNN, SteerableConv2d), (RelaxedSteerableScale, SESN, ScaleConv2d)],
)
def test_constant_coefficients_give_the_strict_network(model: Any, strict: Any, layer: Any, kernel_size: int) -> None:
    """Also with a deviation that is constant over the positions; and every deviation reaches the output."""
    task = Task("made_up", 2, *GRID)
    ours, theirs = (build(one, task, hidden=3, layers=3, kernel_size=kernel_size) for one in (model, strict))
    x = frames(task)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward()
    assert all((parameter.grad.abs() > 0).all() for parameter in ours.deviations())
    with torch.no_grad():
        for relaxed_layer, strict_layer in zip(layers_of(layer, ours), layers_of(layer, theirs), strict=True):
            strict_layer.coefficients.add_(0.1)
            alone = strict_layer.coefficients.clone()
            several = relaxed_layer.expansion.relaxation.places % alone.shape[2]
            deviation(relaxed_layer).fill_(0.1)
            relaxed_layer.coefficients.copy_(alone)
            relaxed_layer.coefficients[..., several.unique()] -= 0.1
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)
        assert ours.penalty() < 1e-9


@pytest.mark.parametrize("model", [RelaxedSteerableRotation, RelaxedGroupRotation, RPPRotation])
def test_a_relaxed_network_stays_symmetric_on_symmetric_data(model: Any) -> None:
    """After 200 steps on what an equivariant map makes of noise, four windows at a time, the error is 5 % at most.

    Deviations that learn as fast as all other weights walk away from the symmetry, though nothing pulls them.
    """
    task = Task("made_up", 1, 8, 8)
    teacher = build(E2CNN, task, hidden=3, layers=2)
    errors = {}
    for rate in (1.0, RELAXATION_RATE):
        network = build(model, task, hidden=3, layers=3)
        settings = Training(learning_rate=3e-3, relaxation_rate=rate)
        optimizer = torch.optim.Adam(parameter_groups(network, settings), 3e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(200):
            x = torch.randn(4, 1, 2, 8, 8, generator=generator)
            optimizer.zero_grad()
            with torch.no_grad():
                y = 20 * teacher(x)
            ((network(x) - y).square().mean() + network.penalty()).backward()
            optimizer.step()
        errors[rate] = rotation_error(network, torch.randn(8, 1, 2, 8, 8, generator=generator))
    assert errors[RELAXATION_RATE] < 0.05
    assert errors[1.0] > 2 * errors[RELAXATION_RATE]
