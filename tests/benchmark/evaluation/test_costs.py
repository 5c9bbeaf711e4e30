"""Counts with closed-form truth: parameters, and the floating-point operations of a step."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.cell import DatasetChoice, Frozen, Protocol
from benchmark.evaluation.costs import Work, built, flops, parameters, work
from benchmark.models.baseline import Baseline, Task
from benchmark.models.convnet import ConvNet
from benchmark.models.fno import FNO
from benchmark.models.persistence import Persistence
from benchmark.training.experiment import task_of

TASK = Task("made_up", 2, 32, 16)
CELLS = 32 * 16


class Toy(Baseline):
    """One step of whatever a test asks for."""

    family = "reference"
    symmetries = ()
    source = "none"

    def __init__(self, config: Frozen, task: Task) -> None:
        super().__init__(config, task)
        self.weight = nn.Parameter(torch.eye(4))
        self.seen: list[bool] = []

    def step(self, x: Tensor) -> None:
        raise NotImplementedError

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        self.seen.append(self.training)
        torch.rand(3)
        self.step(x_BTCHW)
        return x_BTCHW[:, -1]


class Transforms(Toy):
    def step(self, x: Tensor) -> None:
        torch.fft.irfft2(torch.fft.rfft2(x))
        torch.fft.fft(torch.complex(x, x), dim=-2)


class ComplexProduct(Toy):
    def step(self, x: Tensor) -> None:
        matrix = torch.complex(self.weight, self.weight)
        matrix @ matrix


class Expanded(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight @ weight @ weight


class Parametrized(Toy):
    def __init__(self, config: Frozen, task: Task) -> None:
        super().__init__(config, task)
        parametrize.register_parametrization(self, "weight", Expanded())

    def step(self, x: Tensor) -> None:
        self.weight @ x.new_zeros(4, 5)
        self.weight @ x.new_zeros(4, 6)


def test_a_convolution_costs_two_operations_for_each_weight_and_cell() -> None:
    hidden, kernel = 8, 9
    weights = kernel * (4 * hidden + 3 * hidden * hidden + hidden * 2)
    model = built(ConvNet, ConvNet.Config(hidden=hidden), TASK)
    assert flops(model) == 2 * weights * CELLS
    assert parameters(model) == weights + 4 * hidden + 2
    strided = nn.Conv2d(2, 6, 3, stride=2, groups=2)
    model.network = nn.Sequential(nn.Conv2d(4, 2, 1), strided, nn.ConvTranspose2d(6, 2, 4, stride=2))
    assert model.network(torch.zeros(1, 4, 32, 16)).shape == (1, 2, 32, 16)
    small = 15 * 7
    assert flops(model) == 2 * (8 * CELLS + 6 * 9 * small + 6 * 2 * 16 * small)


def test_transforms_cost_five_n_log_n_and_half_of_it_for_real_numbers() -> None:
    fields, count = 4, 2 * 4 * 2.5 * CELLS * math.log2(CELLS)
    assert flops(built(Transforms, Frozen(), TASK)) == count + fields * 5 * CELLS * math.log2(32)


def test_a_complex_product_costs_four_real_ones() -> None:
    assert flops(built(ComplexProduct, Frozen(), TASK)) == 4 * 2 * 4**3


def test_weights_are_expanded_beforehand() -> None:
    assert flops(built(Parametrized, Frozen(), TASK)) == 2 * 4 * 4 * (5 + 6)


def test_a_model_without_weights_costs_nothing() -> None:
    model = built(Persistence, Persistence.Config(), TASK)
    assert (parameters(model), flops(model)) == (0, 0)


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_no_trace(training: bool) -> None:
    model = built(Transforms, Frozen(), TASK).train(training)
    state, weights = torch.random.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}
    flops(model)
    built(ConvNet, ConvNet.Config(), TASK)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert model.training == training
    assert model.seen == [False], "counted as it forecasts"


def test_a_spectral_network_is_counted_with_its_transforms() -> None:
    config = FNO.Config(hidden=4, layers=1, modes=3, domain_padding=0.0)
    pointwise = 2 * CELLS * (4 * 4 + 4 * 4 + 4 * 16 + 16 * 2)
    mixed = 4 * 2 * 4 * 4 * (2 * 3 - 1) * 3
    along_y, along_x = 2.5 * 4 * CELLS * 4, 5 * 4 * 32 * 3 * 5  # log2 of 16 and of 32; three columns along x
    assert flops(built(FNO, config, TASK)) == pointwise + mixed + 2 * (along_y + along_x)


def test_the_task_of_a_preset_is_that_of_its_data() -> None:
    dataset = DatasetChoice(name="smoke_rotation", level=0, preset="paper", grid="staggered")
    protocol = Protocol(input_frames=3, target="change")
    task = Task("smoke_rotation", 3, 64, 64, "change", periodic=False, grid="staggered")
    assert task_of(dataset, protocol) == task


class Sums(Toy):
    def step(self, x: Tensor) -> None:
        x.flatten(1) + 1  # a view, and an operation on each window
        self.weight + 1
        self.weight @ self.weight


def test_work_tells_what_grows_with_the_batch_from_what_does_not() -> None:
    """A window has its copy and the sum, a batch also the random numbers and the operations on weights."""
    model = Sums(Frozen(), TASK)
    numbers = 2 * (TASK.input_frames * 2 * CELLS)
    assert work(model) == Work(flops=2 * 4**3, numbers=numbers, operations=5)
    assert flops(model) == 2 * 4**3
