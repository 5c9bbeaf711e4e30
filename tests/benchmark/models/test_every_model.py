"""Properties of many models beyond the contract: gradients and translation in a periodic box, caching of filters."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrize

from benchmark.contract import Candidate
from benchmark.contract.candidate import noise, velocity_task
from benchmark.models import model_registry

PERIODIC = velocity_task((8, 9), periodic=True)
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
