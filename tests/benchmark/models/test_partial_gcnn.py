"""Partial group convolutional network against its definition."""

import model_support
import pytest
import torch
from model_support import frames, layers_of, rotation_error
from torch import Tensor

from benchmark.models.baseline import Task
from benchmark.models.layers.fields import field_network
from benchmark.models.layers.group_rotation import RotationGroupConv2d
from benchmark.models.partial_gcnn import PartialGCNN

TASK = Task("made_up", 2, 6, 8)
LOGITS = "parametrizations.deviation.original"
BIAS = "parametrizations.bias.original"


def build(layers: int = 5, penalty: float = 0.0) -> PartialGCNN:
    model: PartialGCNN = model_support.build(PartialGCNN, TASK, hidden=4, layers=layers, penalty=penalty)
    return model


def give_densities(model: PartialGCNN) -> list[Tensor]:
    """Set random logits; returns their densities."""
    with torch.no_grad():
        for layer in layers_of(RotationGroupConv2d, model)[1:]:
            layer.expansion.get_parameter(LOGITS).normal_()
        return [p.clone() for p in model.densities()]


def test_partial_is_its_definition() -> None:
    """The strict layers, each output multiplied by p of its turn."""
    model, x = build(), frames(TASK)
    strict = field_network(TASK, 4, 5, lambda *fields: RotationGroupConv2d(*fields, 3, 1, relaxed=False))
    with torch.no_grad():
        for ours, theirs in zip(*(layers_of(RotationGroupConv2d, one) for one in (model, strict)), strict=True):
            theirs.coefficients.copy_(ours.coefficients)
            if theirs.bias is not None:
                theirs.get_parameter(BIAS).copy_(ours.get_parameter(BIAS).normal_())
        torch.testing.assert_close(model(x), strict(x.flatten(1, 2)))
        assert all(torch.equal(p, torch.ones(1, 4)) for p in model.densities())
        f, kept = x.flatten(1, 2), give_densities(model)
        assert len(kept) == 4
        for layer, p in zip(layers_of(RotationGroupConv2d, strict), [*kept, None], strict=True):
            f = layer(f)
            f = f if p is None else (f.relu().unflatten(1, (-1, 4)) * p[0, :, None, None]).flatten(1, 2)
        torch.testing.assert_close(model(x), f)
    assert rotation_error(model, x) > 1e-3


def test_densities_are_those_of_a_distribution() -> None:
    for p in give_densities(build()):
        assert p.shape == (1, 4)
        assert p.mean().item() == pytest.approx(1)
        assert 0 < p.min() < 1 < p.max()


def test_a_turn_that_is_dropped_is_not_seen() -> None:
    """The densities of the turns 1 to 3 are nearly 0: what they hold does not reach the forecast."""
    model, x = build(layers=2), frames(TASK)
    first, last = layers_of(RotationGroupConv2d, model)
    with torch.no_grad():
        last.expansion.get_parameter(LOGITS)[0, 1:] = -50.0
        f = first(x.flatten(1, 2)).relu()
        others = torch.ones(4)
        others[1:] = 7.0
        changed = (f.unflatten(1, (-1, 4)) * others[:, None, None]).flatten(1, 2)
        assert torch.equal(last(changed), last(f))
        assert last(f).abs().max() > 0


def test_penalty_of_turns_that_come_back() -> None:
    """Turn 1 has 0.5, 1, 0.4, 0.7 in four layers and rises by 0.5 and 0.3; turn 2, with the rest of 2, rises by 0.6."""
    model = build(penalty=0.1)
    assert model.penalty() == 0
    with torch.no_grad():
        for layer, p in zip(layers_of(RotationGroupConv2d, model)[1:], (0.5, 1.0, 0.4, 0.7), strict=True):
            density = torch.tensor([[1.0, p, 2.0 - p, 1.0]])
            layer.expansion.get_parameter(LOGITS).copy_(density.log())
    assert model.penalty().item() == pytest.approx(0.1 * (0.5 + 0.3 + 0.6))
    assert build().penalty() == 0
