"""Models of particles: their symmetries under all of O(3), and what relaxed ones learn."""

import copy
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.cube import turns
from benchmark.data.physics.trapped_ions import AXIS, FRAME_INTERVAL, Trap, thermal_states, trajectory
from benchmark.models import model_registry
from benchmark.models.baseline import ParticleBaseline
from benchmark.models.layers.particles.tensor_fields import SelfInteraction
from benchmark.models.layers.particles.vector_outputs import BreakingVectors
from benchmark.models.task import ParticleTask

STRICT, RELAXED = ("mean_velocity", "egnn", "tfn"), ("relaxed_egnn", "relaxed_tfn")
NETWORKS = ("particle_mlp", "gnn", "egnn", "tfn", *RELAXED)
ROUND_OFF = 1e-5
FIELD = tuple(0.5 * axis for axis in AXIS)


def task(frames: int = 1, target: str = "change") -> ParticleTask:
    return ParticleTask("trapped_ions", frames, 5, FRAME_INTERVAL, target)  # type: ignore[arg-type]


def built(name: str, frames: int = 1, **config: object) -> ParticleBaseline:
    baseline = model_registry.model(name)
    settings = {} if name == "mean_velocity" else {"hidden": 8} | config
    torch.manual_seed(0)
    return baseline(baseline.Config.model_validate(settings), task(frames))  # type: ignore[arg-type, return-value]


def series(trap: Trap, frames: int, runs: int = 6) -> Tensor:
    """(run, time, N, 6)."""
    states = islice(trajectory(trap, thermal_states(range(runs), 5), FRAME_INTERVAL, 2), frames)
    return torch.from_numpy(np.stack(list(states), axis=1)).float()


def turned(states: Tensor, turn: Tensor) -> Tensor:
    return (states.unflatten(-1, (2, 3)) @ turn.T).flatten(-2)


def orthogonal() -> Iterator[Tensor]:
    """Turns of the cube, the inversion, and 20 random matrices of O(3), about half of them with a reflection."""
    for turn in (*turns().values(), -np.eye(3)):
        yield torch.from_numpy(turn).float()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        yield torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0].float()


def error(model: ParticleBaseline, x: Tensor, turn: Tensor) -> float:
    with torch.no_grad():
        expected = turned(model(x), turn)
        return float((model(turned(x, turn)) - expected).norm() / expected.norm())


def trained(name: str, trap: Trap, steps: int, **config: object) -> ParticleBaseline:
    """After some steps on one frame, at a learning rate that is as large for the deviations."""
    model, data = built(name, **config), series(trap, 8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        change = model(data[:, :-1].flatten(0, 1)[:, None])
        optimizer.zero_grad()
        (change - data.diff(dim=1).flatten(0, 1)).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("name", STRICT + RELAXED)
def test_strict_models_and_relaxed_ones_at_the_start_commute_with_all_rotations_and_reflections(
    name: str, frames: int
) -> None:
    model, x = built(name, frames), series(Trap(FIELD), frames)
    assert max(error(model, x, turn) for turn in orthogonal()) <= ROUND_OFF


@pytest.mark.parametrize("name", ["particle_mlp", "gnn"])
def test_other_networks_do_not(name: str) -> None:
    model, x = built(name), series(Trap(), 1)
    assert min(error(model, x, turn) for turn in islice(orthogonal(), 1, None)) > 1e-2


@pytest.mark.parametrize("name", ["mean_velocity", *NETWORKS])
def test_permutations_are_kept_where_they_are_declared(name: str) -> None:
    model, x, order = built(name), series(Trap(), 1), [3, 0, 4, 1, 2]
    with torch.no_grad():
        expected = model(x)[:, order]
        kept = float((model(x[:, :, order]) - expected).norm() / expected.norm()) <= ROUND_OFF
    assert kept == ("permutation" in model.symmetries) == (name != "particle_mlp")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_sees_every_particle_and_frame(name: str) -> None:
    x = series(Trap(), 2).requires_grad_()
    built(name, 2)(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax((0, 3)) > 0).all()


@pytest.mark.parametrize("name", RELAXED)
def test_a_relaxed_model_leaves_the_symmetry_in_a_field_alone(name: str) -> None:
    model = trained(name, Trap(FIELD), 30)
    assert max(error(model, series(Trap(), 1), turn) for turn in orthogonal()) > 1e-2
    assert all(parameter.abs().max() > 0 for parameter in model.deviations())
    strict = trained(name, Trap(FIELD), 0)
    assert all(parameter.abs().max() == 0 for parameter in strict.deviations())


@pytest.mark.parametrize("name", RELAXED)
def test_the_orders_of_the_learned_tensors(name: str) -> None:
    vectors, tensors = (built(name, order=order) for order in (1, 2))
    layers = 1 if name == "relaxed_egnn" else 3
    sizes = [sum(parameter.numel() for parameter in model.deviations()) for model in (vectors, tensors)]
    assert sizes == [6 * layers, 11 * layers]


@pytest.mark.parametrize("name", RELAXED)
def test_an_axial_vector_keeps_the_inversion_and_turns_about_itself(name: str) -> None:
    """A polar one keeps the mirrors that contain it, and breaks the inversion."""
    x, axis = series(Trap(), 1), torch.tensor(AXIS)
    inversion, half_turn = -torch.eye(3), 2 * torch.outer(axis, axis) - torch.eye(3)
    across = torch.linalg.cross(axis, torch.tensor([0.0, 0, 1]))
    mirror = torch.eye(3) - 2 * torch.outer(across, across) / (across @ across)
    for first, kept, broken in ((0, (inversion, half_turn), (mirror,)), (3, (mirror, half_turn), (inversion,))):
        model = built(name, order=1)
        for module in model.modules():
            with torch.no_grad():
                if isinstance(module, BreakingVectors):
                    (module.axial if first == 0 else module.polar).copy_(axis)
                elif isinstance(module, SelfInteraction):
                    module.theta[first : first + 3] = axis
        assert max(error(model, x, turn) for turn in kept) <= ROUND_OFF
        assert min(error(model, x, turn) for turn in broken) > 1e-3


def test_the_vectors_that_break_the_symmetry() -> None:
    breaking, a = BreakingVectors(order=2), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        breaking.axial.copy_(torch.tensor([0.0, 0, 2]))
        breaking.polar.copy_(torch.tensor([1.0, 2, 3]))
        breaking.tensor.copy_(torch.tensor([1.0, 2, 3, 4, 5]))
    out = breaking(a).detach()
    assert out.shape[1] == breaking.number(4) == 9
    assert torch.allclose(out[:, :4], 2 * torch.stack((a[..., 1], -a[..., 0], 0 * a[..., 2]), -1))
    assert torch.equal(out[:, 4], torch.tensor([[1.0, 2, 3]] * 2))
    matrix = torch.linalg.lstsq(a.flatten(0, 1), out[:, 5:].flatten(0, 1)).solution
    assert torch.allclose(matrix, matrix.T, atol=1e-5)
    assert float(matrix.trace()) == pytest.approx(0, abs=1e-5)
    assert float(matrix.square().sum()) == pytest.approx(2 * (1 + 4 + 9 + 16 + 25), rel=1e-5)


@pytest.mark.parametrize("name", RELAXED)
def test_the_penalty_is_the_mean_size_of_the_learned_tensors(name: str) -> None:
    model = built(name, penalty=0.5)
    assert float(model.penalty().detach()) == 0
    with torch.no_grad():
        for parameter in model.deviations():
            parameter.fill_(-0.3)
    layers = 1 if name == "relaxed_egnn" else 3
    assert float(model.penalty().detach()) == pytest.approx(0.5 * 0.3 * layers)


def test_mean_velocity_moves_in_a_straight_line() -> None:
    x = series(Trap(), 3)
    change = built("mean_velocity", 3)(x)
    assert torch.allclose(change[..., :3], FRAME_INTERVAL * x[..., 3:].mean(1))
    assert change[..., 3:].abs().max() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_rollout_before_training_stays_finite(name: str) -> None:
    model = built(name, hidden=32)
    x = 3 * series(Trap(), 1)
    with torch.no_grad():
        for _ in range(20):
            x = model.next_frame(x)[:, None]
    assert x.isfinite().all()


@pytest.mark.parametrize("name", ["tfn", "relaxed_tfn"])
def test_e3nn_runs_in_float32_under_autocast_and_its_weights_can_be_copied(name: str) -> None:
    model, x = built(name), series(Trap(), 1)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, model(x))
    assert torch.equal(copy.deepcopy(model)(x), y)
    other = built(name)
    other.load_state_dict({key: torch.zeros_like(value) for key, value in model.state_dict().items()}, strict=True)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), y)
