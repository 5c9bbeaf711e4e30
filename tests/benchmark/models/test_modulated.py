"""Free branches whose strength is scheduled or follows from the gradients, and group matrices with free diagonals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmark.groups import rotate
from benchmark.models.baseline import Baseline, Task
from benchmark.models.constraint_relaxation import ConstraintRelaxation, theta
from benchmark.models.convnet import ConvNet
from benchmark.models.e2cnn import E2CNN
from benchmark.models.gm_cnn import GMCNN, AddDiagonal, GroupMatrixConv2d, Shift, neighborhood
from benchmark.models.layers.fields import Fields
from benchmark.models.layers.free_branch import (
    FreeBranch,
    add_free_branches,
    asymmetric_part,
    equivariant_filters,
    free_branch,
    quarter_turn,
    steerable_layers,
)
from benchmark.models.layers.steerable import SteerableConv2d
from benchmark.models.recm import RECM, Modulation

TASK = Task("made_up", 2, 2, 8, 8, periodic=True)
SMALL = {"hidden": 3, "layers": 3}
LAYERS: list[tuple[Fields, Fields]] = [
    (("vector", 2), ("regular", 3)),
    (("regular", 3), ("regular", 2)),
    (("regular", 3), ("vector", 1)),
    (("vector", 2), ("vector", 1)),
]
GRID = (4, 3)

# e2cnn builds its masks so, whichever test comes first
pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8:UserWarning")


def build(baseline: type[Baseline], **config: Any) -> Any:
    torch.manual_seed(0)
    return baseline(baseline.Config.model_validate({**SMALL, **config}), TASK)


def branches_of(model: nn.Module) -> list[FreeBranch]:
    return [free_branch(layer) for layer in steerable_layers(model)]


def strengths(model: nn.Module) -> list[float]:
    return [branch.strength.item() for branch in branches_of(model)]


def strict_twin(model: Baseline) -> E2CNN:
    """`e2cnn` with the coefficients and biases of `model`."""
    twin = E2CNN(E2CNN.Config.model_validate(SMALL), TASK)
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if key in twin.state_dict()})
    return twin


def equivariance_error(model: Baseline) -> float:
    """max |f(g x) - g f(x)| / max |f(x)| over the quarter turns."""
    x = torch.randn(2, 2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x)
        errors = [(model(rotate(x, k, "centered")) - rotate(y, k, "centered")).abs().max() for k in (1, 2, 3)]
    return float(max(errors) / y.abs().max())


def orbits(field: Tensor) -> Tensor:
    """The windows in all four turns."""
    return torch.cat([rotate(field, turns, "centered") for turns in range(4)])


def train(model: Baseline, x: Tensor, y: Tensor, steps: int, learning_rate: float = 0.05) -> None:
    """Gradient descent, each step after the model's own rule, as in the training loop."""
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        ((model(x) - y).square().mean() + model.penalty()).backward()
        model.before_step(step / steps)
        optimizer.step()


# Free branches


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("order", [4, 8])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("fields", LAYERS)
def test_steerable_filters_are_those_that_a_turn_leaves_alone(order: Any, kernel_size: int, fields: Any) -> None:
    torch.manual_seed(0)
    before, after = fields
    layer = SteerableConv2d(order, before, after, kernel_size)
    (branch,) = add_free_branches(layer, 0.5, in_evaluation=True)
    steerable, free = equivariant_filters(layer).detach(), torch.randn_like(branch.filters)
    torch.testing.assert_close(quarter_turn(steerable, branch.fields), steerable)
    torch.testing.assert_close(asymmetric_part(steerable, branch.fields), torch.zeros_like(steerable))
    turns = [free]
    for _ in range(4):
        turns.append(quarter_turn(turns[-1], branch.fields))
    assert (turns[1] - free).norm() > 0.3 * free.norm()
    torch.testing.assert_close(turns[4], free)
    asymmetric = asymmetric_part(free, branch.fields)
    torch.testing.assert_close(asymmetric, free - torch.stack(turns[:4]).mean(0))
    torch.testing.assert_close(asymmetric_part(asymmetric, branch.fields), asymmetric)


def test_turned_filters_give_the_turned_field() -> None:
    """(g W) * (g f) = g (W * f), for vectors in and out."""
    filters, f = torch.randn(2, 4, 3, 3), torch.randn(1, 2, 2, 7, 7)
    found = F.conv2d(rotate(f, 1, "centered").flatten(1, 2), quarter_turn(filters, (2, 2)), padding=1)
    torch.testing.assert_close(found, rotate(F.conv2d(f.flatten(1, 2), filters, padding=1), 1, "centered"))


@pytest.mark.parametrize(("in_evaluation", "training"), list(itertools.product((True, False), repeat=2)))
def test_both_paths_are_one_convolution(in_evaluation: bool, training: bool) -> None:
    layer = SteerableConv2d(4, ("vector", 2), ("regular", 3), 3)
    x = torch.randn(2, 4, 6, 5)
    strict = layer(x)
    (branch,) = add_free_branches(layer, 0.25, in_evaluation)
    torch.testing.assert_close(layer(x), strict)
    nn.init.normal_(branch.filters)
    there = 0.25 if training or in_evaluation else 0.0
    expected = strict + there * F.conv2d(x, branch.filters, padding=1)
    torch.testing.assert_close(layer.train(training)(x), expected)


# Constraint relaxation


def test_theta_rises_over_the_first_half_and_falls_over_the_second() -> None:
    expected = {0.0: 0.0, 0.25: 0.5, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0}
    model = build(ConstraintRelaxation)
    assert strengths(model) == [0, 0, 0]
    for progress, value in expected.items():
        assert theta(progress) == pytest.approx(value)
        model.before_step(progress)
        assert strengths(model) == pytest.approx(3 * [value])


def test_relaxed_in_training_and_strict_in_evaluation() -> None:
    model = build(ConstraintRelaxation)
    x = torch.randn(2, 2, 2, 8, 8)
    torch.testing.assert_close(model(x), strict_twin(model)(x), rtol=0, atol=0)
    train(model, x, torch.ones(2, 2, 8, 8), steps=6)  # a wind along the diagonal
    model.before_step(0.5)
    assert equivariance_error(model) > 0.1
    assert equivariance_error(model.eval()) < 1e-5
    torch.testing.assert_close(model(x), strict_twin(model)(x), rtol=0, atol=0)


def test_theta_stands_in_checkpoints() -> None:
    model, other = build(ConstraintRelaxation), build(ConstraintRelaxation)
    model.before_step(0.4)
    other.load_state_dict(model.state_dict())
    assert strengths(other) == pytest.approx([0.8, 0.8, 0.8])


def test_penalty_of_the_free_filters() -> None:
    """|W| + |W - g W|: the second is zero for an equivariant W, and 2 |W| for one that a turn gives the other sign."""
    for alpha, sign in itertools.product((0.1, 0.2), (1, -1)):
        model = build(ConstraintRelaxation, penalty=alpha)
        total = 0.0
        for branch in branches_of(model):
            with torch.no_grad():
                part = torch.randn_like(branch.filters)
                for _ in range(2):  # twice the projection on filters with g W = sign W
                    turn = quarter_turn(part, branch.fields)
                    half = part + quarter_turn(turn, branch.fields)
                    part = (half + sign * quarter_turn(half, branch.fields)) / 4
                branch.filters.copy_(part)
                total += part.norm().item() * (1 if sign == 1 else 3)
        assert model.penalty().item() == pytest.approx(alpha * total, rel=1e-5)
    assert build(ConstraintRelaxation, penalty=0.0).penalty() == 0


def test_free_filters_are_trained_from_the_first_step_on() -> None:
    """By the penalty where theta is zero, and by the loss once it is not."""
    for alpha, progress in ((1e-2, 0.0), (0.0, 0.1)):
        model = build(ConstraintRelaxation, penalty=alpha)
        model.before_step(progress)
        (model(torch.randn(2, 2, 2, 8, 8)).square().mean() + model.penalty()).backward()
        assert all(gradient_of(branch.filters).abs().max() > 0 for branch in branches_of(model))


# Recurrent modulation


def test_recm_starts_as_the_strict_network() -> None:
    model, x = build(RECM), torch.randn(2, 2, 2, 8, 8)
    assert strengths(model) == [1, 1, 1]
    torch.testing.assert_close(model(x), strict_twin(model)(x))
    assert equivariance_error(model) < 1e-5


def test_state_follows_its_equations() -> None:
    """Three steps, in double precision, with the gradient of the filter taken by autograd itself."""
    torch.manual_seed(0)
    rate, strength = 0.3, torch.tensor(0.7, dtype=torch.double)
    layer = SteerableConv2d(4, ("vector", 2), ("vector", 1), 3).double()
    (branch,) = add_free_branches(layer, strength.item(), in_evaluation=True)
    branch.double()
    nn.init.normal_(branch.filters)
    modulation = Modulation(branch.filters, rate).double()
    mean, square, norm = torch.zeros_like(branch.filters), torch.zeros(()), torch.zeros(())
    for _ in range(3):
        x, y = torch.randn(2, 4, 5, 5).double(), torch.randn(2, 2, 5, 5).double()
        equivariant, before = equivariant_filters(layer).detach(), branch.filters.detach().clone()
        filters = (equivariant + strength * before).requires_grad_()
        (F.conv2d(x, filters, padding=1) - y).square().mean().backward()
        gradient = gradient_of(filters)
        layer.zero_grad()
        (layer(x) - y).square().mean().backward()
        modulation.update(branch, equivariant)

        norm = (1 - rate) * norm + rate * gradient.norm()
        target = filters.detach() / filters.detach().norm() - gradient / max(norm, gradient.norm())
        d = asymmetric_part(target, (2, 2))
        mean, square = (1 - rate) * mean + rate * d, (1 - rate) * square + rate * d.norm() ** 2
        gap = (mean.norm() - (square * rate / (2 - rate)).sqrt()).clamp(0, 1)
        strength = (1 - rate) * strength + rate * gap
        torch.testing.assert_close(branch.strength, strength)
        torch.testing.assert_close(modulation.mean, mean)
        shrink = min(1.0, (equivariant.norm() / before.norm()).item())
        torch.testing.assert_close(branch.filters.detach(), shrink * before)


def test_noise_has_no_gap() -> None:
    """Gradients without a mean leave |h| at the length that is subtracted; with one, its share remains."""
    torch.manual_seed(0)
    layer = SteerableConv2d(4, ("regular", 4), ("regular", 4), 3)
    drift = torch.randn_like(layer.weight).detach()
    found = []
    for mean in (0.0, 1.0):
        (branch,) = add_free_branches(SteerableConv2d(4, ("regular", 4), ("regular", 4), 3), 1.0, in_evaluation=True)
        modulation = Modulation(branch.filters, 0.1)
        for _ in range(150):
            branch.filters.grad = branch.strength * (torch.randn_like(drift) + mean * drift)
            modulation.update(branch, layer.weight.detach())
        found.append(branch.strength.item())
    assert found[0] < 0.02
    assert found[1] > 0.3


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_one_layer_finds_the_share_that_breaks_the_symmetry(is_symmetric: bool) -> None:
    """y = T * x and noise for x: W starts free; lambda falls to zero where T is equivariant, and otherwise not below
    |N(T)| / |K|, what it takes with |W| <= |K|.
    """
    model = build(RECM, layers=1, rate=0.05)
    (layer,), (branch,) = steerable_layers(model), branches_of(model)
    torch.manual_seed(1)
    nn.init.normal_(branch.filters, std=0.2)
    target = SteerableConv2d(4, ("vector", 2), ("vector", 1), 3).weight.detach()
    broken = asymmetric_part(torch.randn_like(target), branch.fields)
    if not is_symmetric:
        target = target + 0.3 * target.norm() / broken.norm() * broken
    for _ in range(400):
        x = torch.randn(8, 2, 2, 8, 8)
        y = F.conv2d(F.pad(x.flatten(1, 2), (1, 1, 1, 1), "circular"), target)
        train(model, x, y, steps=1, learning_rate=0.2)
        assert branch.filters.norm() <= 1.1 * equivariant_filters(layer).norm()
    torch.testing.assert_close(layer.weight, target, rtol=0, atol=0.02)
    needed = asymmetric_part(target, branch.fields).norm() / equivariant_filters(layer).norm()
    assert 0.95 * needed <= branch.strength <= 1.5 * needed + 0.01


def test_symmetric_data_recover_equivariance_and_broken_data_do_not() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(4, 2, 2, 8, 8), torch.randn(4, 2, 8, 8)
    symmetric, broken = build(RECM, rate=0.05), build(RECM, rate=0.05)
    train(symmetric, orbits(x), orbits(y), steps=80)
    train(broken, x, torch.ones_like(y), steps=80)
    assert max(strengths(symmetric)) < 0.05
    assert equivariance_error(symmetric.eval()) < 1e-4
    assert min(strengths(broken)) > 0.1
    assert equivariance_error(broken.eval()) > 0.1


def test_gradients_of_zero_are_no_signal() -> None:
    model = build(RECM)
    (0 * model(torch.randn(1, 2, 2, 8, 8))).sum().backward()
    model.before_step(0.0)
    assert strengths(model) == pytest.approx([0.99, 0.99, 0.99])
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_modulation_stays_readable_when_lambda_is_gone() -> None:
    """At its least lambda adds nothing to the filter, and it comes back when the gradients ask for it."""
    layer = SteerableConv2d(4, ("vector", 1), ("vector", 1), 3)
    (branch,) = add_free_branches(layer, 1e-12, in_evaluation=True)
    modulation = Modulation(branch.filters, 0.5)
    equivariant = equivariant_filters(layer).detach()
    for wanted in (0.0, 1.0):
        for _ in range(20):
            layer.zero_grad()
            (layer.weight * wanted * torch.eye(3)).sum().backward()
            modulation.update(branch, equivariant)
        if not wanted:
            assert branch.strength.item() == pytest.approx(1e-12, rel=1e-3, abs=0)
            assert torch.equal(layer.weight, equivariant)
    assert branch.strength > 0.2


# Group matrices


def group_diagonals(layer: GroupMatrixConv2d, grid: tuple[int, int]) -> Tensor:
    """F of the layer's matrix, (O, I, pixels, positions): one gradient for each output, read along the shifts."""
    height, width = grid
    channels_out, channels_in = layer.convolution.weight.shape[:2]
    zero = torch.zeros(1, channels_in, *grid)
    matrix = torch.autograd.functional.jacobian(lambda f: layer(f), zero).reshape(
        channels_out, height * width, channels_in, height * width
    )
    pixels = torch.arange(height * width).reshape(grid)
    columns = [pixels.roll((1 - i, 1 - j), (0, 1)).flatten() for i, j in neighborhood(3)]
    rows = torch.arange(height * width)
    return torch.stack([matrix[:, rows, :, column] for column in columns], -1).permute(1, 2, 0, 3)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("rank", [0, 1, 3, 9])
def test_layer_is_its_definition(rank: int, mode: Any) -> None:
    """b + sum_y (1 + a_y(x)) k(y) f(x + y), pixel by pixel."""
    torch.manual_seed(0)
    layer = GroupMatrixConv2d(GRID, rank, 2, 4, 3, mode)
    assert neighborhood(3)[:rank] == layer.perturbed
    if layer.a is not None:
        nn.init.normal_(layer.a)
    f = torch.randn(2, *GRID)
    around = F.pad(f[None], (1, 1, 1, 1), "circular" if mode == "circular" else "constant")[0]
    found = layer(f[None])[0]
    for i, j in itertools.product(*map(range, GRID)):
        expected = layer.convolution.get_parameter("bias").clone()
        for k, (p, q) in enumerate(neighborhood(3)):
            gain = 1 + layer.a[k, i, j] if layer.a is not None and k < rank else 1
            expected += gain * layer.convolution.weight[:, :, p, q] @ around[:, i + p, j + q]
        torch.testing.assert_close(found[:, i, j], expected)


def test_layer_is_a_sum_of_group_diagonals() -> None:
    """M = sum_y diag(F_y) B_y, B_y the Kronecker product of cyclic shifts along the axes."""
    torch.manual_seed(0)
    (height, width), rank = (5, 4), 4
    layer = GroupMatrixConv2d((height, width), rank, 1, 1, 3, "circular")
    assert layer.a is not None
    nn.init.normal_(layer.a)
    matrix = torch.zeros(height * width, height * width)
    for k, (i, j) in enumerate(neighborhood(3)):
        shift = torch.kron(torch.eye(height).roll(i - 1, 1), torch.eye(width).roll(j - 1, 1))
        assert torch.equal(shift @ shift.T, torch.eye(height * width))
        free = layer.a[k].flatten() if k < rank else torch.zeros(height * width)
        matrix += torch.diag((1 + free) * layer.convolution.weight[0, 0, i, j]) @ shift
    f = torch.randn(1, 1, height, width)
    found = layer(f).flatten() - layer.convolution.bias
    torch.testing.assert_close(found, matrix @ f.flatten())


@pytest.mark.parametrize("rank", [0, 1, 2, 5, 9])
def test_displacement_rank_is_that_of_the_config(rank: int) -> None:
    """The rank of F(x) - F(next x), pixels by positions of the kernel, for each pair of channels."""
    torch.manual_seed(0)
    grid = (5, 4)
    layer = GroupMatrixConv2d(grid, rank, 2, 3, 3, "circular")
    for constant in (True, False):
        if layer.a is not None:
            with torch.no_grad():
                layer.a.copy_(torch.full_like(layer.a, 0.3) if constant else torch.randn_like(layer.a))
        diagonals = group_diagonals(layer, grid)
        displacement = diagonals - diagonals.roll(1, -2)
        found = torch.linalg.matrix_rank(displacement, atol=1e-4)
        assert torch.equal(found, torch.full((3, 2), 0 if constant else rank)), constant


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("by", [(0, 0), (1, 0), (-1, 2), (0, -1)])
def test_gradients_of_a_diagonal(by: tuple[int, int], periodic: bool) -> None:
    torch.manual_seed(0)
    shapes = ((2, 3, 4, 5), (2, 2, 4, 5), (3, 2, 1, 1), (4, 5))
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *ours: AddDiagonal.apply(*ours, Shift(*by, periodic)), inputs)


def kept_for_gradients(model: Baseline) -> int:
    """Bytes of the input, the activations and the parameters that autograd keeps."""
    x = torch.randn(4, 2, 2, 8, 8)
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model(x)
    assert y.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("rank", [0, 1, 9])
def test_starts_as_the_convnet_and_keeps_no_more(rank: int) -> None:
    model, plain = build(GMCNN, rank=rank), build(ConvNet)
    x = torch.randn(2, 2, 2, 8, 8)
    torch.testing.assert_close(model(x), plain(x))
    maps = 4 * rank * 8 * 8 * 3
    assert kept_for_gradients(model) <= kept_for_gradients(plain) + maps
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters()) + maps // 4


def test_penalty_is_zero_only_without_a_displacement() -> None:
    model = build(GMCNN, rank=2, penalty=2.0)
    assert model.penalty() == 0
    layers = [layer for layer in model.modules() if isinstance(layer, GroupMatrixConv2d)]
    with torch.no_grad():
        for layer, k in itertools.product(layers, range(2)):
            assert layer.a is not None
            layer.a[k] += 0.5  # each diagonal may have its own constant
            assert model.penalty() == 0
        for layer in layers:
            assert layer.a is not None
            layer.a[1, -1, 0] += 0.5
            assert model.penalty() > 0
            layer.a[1, -1, 0] -= 0.5
    assert model.penalty() == 0
    assert build(GMCNN, rank=0, penalty=2.0).penalty() == 0


def test_broken_data_move_the_diagonals() -> None:
    """The left half of the box has another wind than the right; a ConvNet cannot tell them apart."""
    model = build(GMCNN, rank=1)
    wind = torch.ones(4, 2, 8, 8)
    wind[..., :4] = -1
    train(model, torch.randn(4, 2, 2, 8, 8), wind, steps=3)
    model.coefficient = 1.0
    assert model.penalty() > 1e-5


def test_diagonals_belong_to_one_grid() -> None:
    x = torch.randn(1, 2, 2, 6, 8)
    assert build(GMCNN, rank=0)(x).shape == (1, 2, 6, 8)
    with pytest.raises(ValueError, match="8 x 8 grid; the field is 6 x 8"):
        build(GMCNN)(x)


def test_no_more_diagonals_than_positions() -> None:
    assert GMCNN.Config(rank=9).rank == 9
    with pytest.raises(ValueError, match="rank is at most 9"):
        GMCNN.Config(rank=10)
