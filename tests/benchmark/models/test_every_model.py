"""Properties of many models beyond the contract: gradients and translation in a periodic box, caching of filters."""

from typing import Any

import pytest
import torch
from model_support import parameter_count
from torch.nn.utils import parametrize

from benchmark.contract.candidate import Candidate, noise
from benchmark.kinds.field import velocity_task
from benchmark.models import model_registry
from benchmark.models.baseline import Task

PERIODIC = velocity_task((8, 9), periodic=True)
SMOKE = Task("smoke", 10, 64, 64)
CONVOLUTIONAL = (
    *("combo_rotation", "combo_scale", "rpp_rotation", "rpp_scale"),
    *("nonstationary_filters", "partial_gcnn", "relaxed_group_rotation", "group_scale", "relaxed_group_scale"),
)
"""Models that keep translation for any weights."""
EXPANDED = {
    *(
        "e2cnn",
        "sesn",
        "group_scale",
        "relaxed_group_rotation",
        "relaxed_group_scale",
        "relaxed_group_translation_scale",
    ),
    *("relaxed_steerable_rotation", "relaxed_steerable_scale", "relaxed_group_translation_rotation"),
    *("nonstationary_filters", "partial_gcnn"),
}
"""Models whose filters are expanded from coefficients, at least."""

ONE_GRID = (
    *("clcnn", "gm_cnn", "rpp_translation"),
    *("relaxed_group_translation", "relaxed_group_translation_rotation", "relaxed_group_translation_scale"),
)
"""Models with weights for each pixel."""
PAIRS = 20 * 64 + 3 * 64**2 + 64 * 2  # of channels in five layers with 64 channels
GROUP_PAIRS = 20 * 64 + 2 * 3 * 64**2 + 2 * 64 * 2  # a velocity reads one scale, and a function two
SIZES = {
    "sesn": 25 * PAIRS + 4 * 64,
    "relaxed_steerable_scale": (25 + 529) * PAIRS
    + 4 * 64,  # 529 of 25 x 25 numbers multiply a function that is not zero there
    "rpp_scale": (25 + 25 + 81 + 121 + 169) * PAIRS + 4 * 64 + 4 * (4 * 64 + 2),  # free filters and biases a scale
    "group_scale": 9 * GROUP_PAIRS + 4 * 64,
    "relaxed_group_scale": 2 * 9 * GROUP_PAIRS + 4 * 64 + 5 * 2 * 4,  # two banks with a w for each scale
    "relaxed_group_translation_scale": 2 * 9 * GROUP_PAIRS + 4 * 64 + 5 * 2 * 4 * 64**2,
    "relaxed_group_translation": 2 * 9 * (20 * 128 + 3 * 128**2 + 128 * 2) + 4 * 128 + 2 + 5 * 2 * 64**2,
    # r H W (I + O) + H W O for the free path, beside the ConvNet
    "rpp_translation": 64**2 * (32 * (20 + 8 * 32 + 2) + 4 * 32 + 2) + 9 * (20 * 32 + 3 * 32**2 + 32 * 2) + 4 * 32 + 2,
}
"""Parameters of the defaults on SMOKE."""
WIDTHS_AT_5_6_M = {  # test_budget.py has those of the published comparison
    "relaxed_group_translation_rotation": 157,
    "nonstationary_filters": 240,
    "partial_gcnn": 226,
}


def size(name: str, **config: int) -> int:
    """Parameters on SMOKE."""
    baseline = model_registry.model(name)
    return parameter_count(baseline(baseline.Config.model_validate(config), SMOKE))


@pytest.mark.parametrize("name", SIZES)
def test_size_of_the_default(name: str) -> None:
    assert size(name) == SIZES[name]


@pytest.mark.parametrize("name", WIDTHS_AT_5_6_M)
def test_width_with_5_6_million_parameters(name: str) -> None:
    assert size(name, hidden=WIDTHS_AT_5_6_M[name]) == pytest.approx(5.6e6, rel=0.01)


@pytest.mark.parametrize("grid", [(9, 8), (8, 10), (1, 1)], ids=str)
@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *ONE_GRID])
def test_weights_for_pixels_refuse_another_grid(name: str, grid: tuple[int, int]) -> None:
    model, x = Candidate.named(name).build(velocity_task((8, 9))), noise(velocity_task(grid))
    if name in CONVOLUTIONAL:
        assert model(x).shape == (2, 2, *grid)
    else:
        with pytest.raises(ValueError, match=rf"8 x 9 grid; the field is {grid[0]} x {grid[1]}"):
            model(x)


@pytest.mark.parametrize("name", sorted(EXPANDED))
def test_autocast_does_not_round_the_filters(name: str) -> None:
    """A relaxation below the precision of bf16 would be lost."""
    candidate = Candidate.named(name)
    model = candidate.build(candidate.task())
    layers: list[Any] = [layer for layer in model.modules() if parametrize.is_parametrized(layer, "weight")]
    assert layers
    for layer in layers:
        exact = layer.weight
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer.weight, exact)


@pytest.mark.parametrize("name", model_registry.model_names())
def test_every_parameter_gets_a_gradient_in_a_periodic_box(name: str) -> None:
    candidate = Candidate.named(name)
    if candidate.refusal(PERIODIC) is None:
        model = candidate.build(PERIODIC)
        forecast_error = (model(noise(PERIODIC)) - 1).square().mean()
        (forecast_error + model.penalty()).backward() if candidate.baseline.trained else None
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "clcnn", "relaxed_group_translation_rotation"])
def test_a_periodic_box_has_no_seam(name: str) -> None:
    model, x = Candidate.named(name).build(PERIODIC).double(), noise(PERIODIC).double()
    with torch.no_grad():
        if name in CONVOLUTIONAL:
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        expected = model(x).roll((2, 3), (-2, -1))
        error = (model(x.roll((2, 3), (-2, -1))) - expected).abs().max()
        assert error < 1e-12 * expected.abs().max()


def test_filters_are_expanded_once_in_a_roll_out() -> None:
    expanded = set()
    for name in model_registry.model_names():
        candidate = Candidate.named(name)
        task = candidate.task()
        model, calls = candidate.build(task).eval(), []
        for module in model.modules():
            if parametrize.is_parametrized(module):
                for expansion in module.parametrizations.values():
                    calls.append([])
                    expansion.register_forward_hook(lambda *_, count=calls[-1]: count.append(1))
        with torch.no_grad(), parametrize.cached():
            for _ in range(3):
                model(noise(task))
        assert all(len(count) == 1 for count in calls), name
        expanded |= {name} if calls else set()
    assert expanded > EXPANDED
