"""Wrappers that change training: augmentation and REMUL, each against its equation."""

from dataclasses import replace
from typing import Any

import model_support
import pytest
import torch
from model_support import frames
from torch import Tensor

from benchmark.cell import Training
from benchmark.groups import Grid, rotate
from benchmark.models.augmentation import Augmentation
from benchmark.models.baseline import Baseline, Task
from benchmark.models.frame_averaging import FrameAveraging
from benchmark.models.layers.group_draws import choose, other_draws, regions, rotations, task_elements, transformed
from benchmark.models.layers.wrapper import Wrapper
from benchmark.models.per import PER
from benchmark.models.projection_penalty import ProjectionPenalty
from benchmark.models.remul import Remul
from benchmark.models.task import AnyTask, ParticleTask
from benchmark.training.loss import RolledOutLoss

TASK = Task("made_up", 2, 8, 8)
WIDE, PERIODIC = replace(TASK, height=6, width=9), replace(TASK, periodic=True)
CONVNET = {"convnet": {"hidden": 8, "layers": 3}}
IONS = ParticleTask("ions", 2, 3, 0.15)
SIX = torch.arange(6) / 6 + 0.01
WRAPPERS: list[type[Wrapper]] = [Augmentation, Remul, ProjectionPenalty, PER, FrameAveraging]


def build(model: type[Any], on: AnyTask = TASK, **config: Any) -> Any:
    return model_support.build(model, on, **{"network": CONVNET, **config})


class Given(Baseline):
    """Network that is a function of the last frame."""

    def __init__(self, function: Any, on: AnyTask = TASK) -> None:
        super().__init__(None, on)
        self.function = function

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return self.function(x_BTCHW[:, -1])


def wind(v: Tensor) -> Tensor:
    """Constant forecast along x, whose error under k quarter turns is |e_0 - R^k e_0|."""
    return torch.tensor([1.0, 0.0])[:, None, None].expand_as(v)


class Watched(Given):
    """Network that overrides every method of the contract."""

    def penalty(self) -> Tensor:
        return torch.tensor(3.0)

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        return draws_B.sum()

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x_BTCHW, 3 * y_BSCHW

    def before_step(self, progress: float) -> None:
        self.seen = progress


@pytest.mark.parametrize("model", WRAPPERS)
@pytest.mark.parametrize("on", [TASK, WIDE], ids=["square", "wide"])
def test_the_network_keeps_what_is_its_own(model: type[Wrapper], on: Task) -> None:
    wrapper = build(model, on)
    before = wrapper.penalty() - wrapper.network.penalty()
    wrapper.network = Watched(lambda v: v, on)  # the layers of a projection stay those of the old network
    x, draws = frames(on), torch.tensor([0.5, 0.999])  # the last element of an augmentation is the identity
    torch.testing.assert_close(wrapper.penalty(), 3 + before)
    torch.testing.assert_close(wrapper.regularization(x, draws), draws.sum())  # REMUL: the identity is equivariant
    augmented = wrapper.augment(x, x, torch.full((2,), 0.999))
    assert torch.equal(augmented[0], 2 * x)
    assert torch.equal(augmented[1], 3 * x)
    wrapper.before_step(0.25)
    assert wrapper.network.seen == 0.25


@pytest.mark.parametrize("model", WRAPPERS)
def test_windows_may_be_rounded_to_bf16(model: type[Wrapper]) -> None:
    settings = Training(precision="bf16")
    loss = RolledOutLoss(build(model), settings, torch.device("cpu"), cache_filters=True)
    total, _ = loss(frames(TASK, 6), torch.randn(6, 2, 2, 8, 8), SIX)
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()


# Random elements


@pytest.mark.parametrize("many", [1, 3, 4, 7])
def test_draws_pick_all_alike(many: int) -> None:
    draws = torch.arange(8400) / 8400
    for which in (choose(draws, many), choose(other_draws(torch.arange(2**13) / 2**24), many)):
        counts = which.bincount() / len(which)
        torch.testing.assert_close(counts, torch.full((many,), 1 / many), rtol=2e-3, atol=0)
    assert choose(torch.tensor([1 - 2**-24]), many) == many - 1


def test_other_draws_are_independent() -> None:
    draws = torch.rand(60000)
    pairs = choose(draws, 4) * 3 + choose(other_draws(draws), 3)
    torch.testing.assert_close(pairs.bincount() / 60000, torch.full((12,), 1 / 12), rtol=0.06, atol=0)


@pytest.mark.parametrize("group", ["C4", "translation", "scale"])
@pytest.mark.parametrize("grid", ["centered", "staggered"])
def test_each_window_is_transformed_by_its_own_element(group: Any, grid: Grid) -> None:
    on = replace(PERIODIC, grid=grid)
    elements, x = task_elements(group, on), frames(on, 4)
    result = transformed(x, elements, torch.tensor([2, 0, 3, 1]))
    for window, index in ((0, 2), (1, 0), (3, 1)):
        assert torch.equal(result[window], elements[index].act(x[window]))
        assert not torch.equal(result[window], x[window])
    assert torch.equal(result[2], x[2])


def test_regions_leave_out_what_comes_from_outside() -> None:
    masks = regions(task_elements("translation", TASK), 8, 8)
    assert [int(mask.sum()) for mask in masks] == [7 * 8, 8 * 7, 6 * 6]
    assert masks[0, 0].sum() == masks[1, :, 0].sum() == masks[2, 1].sum() == 0
    assert regions(task_elements("translation", PERIODIC), 8, 8).all()


# Augmentation


@pytest.mark.parametrize("group", ["C4", "translation", "scale"])
def test_augmentation_keeps_pairs(group: Any) -> None:
    """Truth of the windows, here twice their last frame, is one of the transformed. Every element and none is used."""
    on = PERIODIC
    model, x = build(Augmentation, on, group=group), frames(on, 4)
    draws = torch.tensor([0.1, 0.3, 0.6, 0.9])
    new_x, new_y = model.augment(x, 2 * x[:, -1:].repeat(1, 3, 1, 1, 1), draws)
    torch.testing.assert_close(new_y, 2 * new_x[:, -1:].repeat(1, 3, 1, 1, 1))
    for window, element in enumerate(task_elements(group, on)):
        assert torch.equal(new_x[window], element.act(x[window]))
    assert torch.equal(new_x[3], x[3])


def test_augmentation_of_a_wide_grid_keeps_its_shape() -> None:
    x = frames(WIDE)
    turned, _ = build(Augmentation, WIDE).augment(x, x, torch.tensor([0.1, 0.6]))
    assert torch.equal(turned[0], rotate(x[0], 2, "centered"))
    assert torch.equal(turned[1], x[1])


def test_shifts_need_a_periodic_box() -> None:
    config = Augmentation.Config(group="translation")
    assert "walls" in (Augmentation.refusal(config, TASK) or "")
    assert Augmentation.refusal(config, PERIODIC) is None
    for model in WRAPPERS:
        convection = replace(TASK, components=("vector", "scalar"))
        on_a_velocity = model.Config.model_validate({"network": "sesn"})
        assert "acts on one velocity, made_up has vector, scalar" in (model.refusal(on_a_velocity, convection) or "")


def test_a_flux_needs_a_velocity() -> None:
    reaction = replace(TASK, components=("scalar",))
    assert "needs a velocity" in (FrameAveraging.refusal(FrameAveraging.Config(), reaction) or "")
    assert FrameAveraging.refusal(FrameAveraging.Config(frame="group"), reaction) is None


def test_an_augmentation_of_an_augmentation_is_refused() -> None:
    """Both would pick by the same draws."""
    config = Augmentation.Config.model_validate({"network": "augmentation"})
    assert "the same numbers" in (Augmentation.refusal(config, TASK) or "")


# REMUL


def test_remul_is_zero_for_an_equivariant_network() -> None:
    x = frames(TASK, 6)
    for network in ({"e2cnn": {"hidden": 2, "layers": 3}}, {"convnet": {"hidden": 4, "layers": 3}}):
        model = build(Remul, network=network)
        loss, size = model.regularization(x, SIX).item(), model(x).square().mean().item()
        assert loss < 1e-10 * size if "e2cnn" in network else loss > 1e-2 * size


def test_remul_of_a_wind() -> None:
    """|e_0 - R^k e_0|^2 over the two components: 1 for a quarter turn, either way, and 2 for a half turn."""
    model = build(Remul, penalty=0.5)
    model.network = Given(wind)
    x = frames(TASK, 600)
    draws = torch.rand(600)
    for window, which in enumerate(choose(other_draws(draws), 3)[:20]):
        loss = model.regularization(x[window : window + 1], draws[window : window + 1])
        assert loss == 0.5 * (2.0 if which == 1 else 1.0)
    assert model.regularization(x, draws).item() == pytest.approx(0.5 * 4 / 3, rel=0.1)
    halves = [model.regularization(x[part], draws[part]) for part in (slice(0, 300), slice(300, 600))]
    torch.testing.assert_close(torch.stack(halves).mean(), model.regularization(x, draws))


def test_remul_looks_at_defined_cells_alone() -> None:
    """The forecast 1 everywhere is equivariant under shifts but for the cells that come from outside the box."""
    model = build(Remul, group="translation")
    model.network = Given(torch.ones_like)
    assert model.regularization(frames(TASK, 6), SIX) == 0
    model.network = Given(lambda v: torch.arange(8.0)[:, None].expand_as(v))  # the x of the cell: off by the shift
    losses = [model.regularization(frames(TASK, 1), draw[None]).item() for draw in torch.rand(40)]
    assert {round(loss, 4) for loss in losses} == {1.0, 0.0, 4.0}


def test_remul_teaches_the_symmetry() -> None:
    model, x = build(Remul), frames(TASK, 6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    before = model.regularization(x, SIX).item()
    for _ in range(10):
        optimizer.zero_grad()
        model.regularization(x, SIX).backward()
        optimizer.step()
    assert model.regularization(x, SIX).item() < 0.5 * before
    assert build(Remul, penalty=0.0).regularization(x, SIX) == 0


def test_remul_and_augmentation_together() -> None:
    model = build(Remul, network={"augmentation": {"network": CONVNET}})
    x = frames(TASK, 6)
    assert not torch.equal(model.augment(x, x, SIX)[0], x)
    loss = RolledOutLoss(model, Training(), torch.device("cpu"), cache_filters=True)
    total, error = loss(x, x[:, :1], SIX)
    assert total > error


# Particles


def states(windows: int, frames: int = 2) -> Tensor:
    return torch.randn(windows, frames, 3, 6)


def test_rotations_are_uniform_and_those_of_two_methods_independent() -> None:
    """Means of entries and of their products over SO(3): 0, and 1/3 for an entry with itself, else 0."""
    draws = torch.rand(60000)
    one, other = rotations(draws), rotations(other_draws(draws))
    torch.testing.assert_close(one @ one.mT, torch.eye(3).expand_as(one), atol=1e-5, rtol=0)
    assert (torch.linalg.det(one) > 0).all()
    for turns in (one, other):
        entries = turns.flatten(1)
        assert entries.mean(0).abs().max() < 0.01
        torch.testing.assert_close(entries.T @ entries / len(draws), torch.eye(9) / 3, atol=0.01, rtol=0)
    assert (one.flatten(1).T @ other.flatten(1) / len(draws)).abs().max() < 0.01


def test_augmentation_rotates_positions_and_velocities_of_a_window_and_its_targets_alike() -> None:
    model, x = build(Augmentation, IONS, network="gnn"), states(4)
    new_x, new_y = model.augment(x, 2 * x[:, -1:], SIX[:4])
    torch.testing.assert_close(new_y, 2 * new_x[:, -1:])
    for window, turn in enumerate(rotations(SIX[:4])):
        for half in (slice(0, 3), slice(3, 6)):
            torch.testing.assert_close(new_x[window, ..., half], x[window, ..., half] @ turn.T)


def test_remul_on_particles_is_zero_for_an_equivariant_network() -> None:
    x = states(6)
    for network in ("egnn", "gnn"):
        model = build(Remul, IONS, network=network)
        share = (model.regularization(x, SIX) / model(x).square().mean()).item()
        assert share < 1e-10 if network == "egnn" else share > 1e-2


def test_autocast_does_not_round_rotations() -> None:
    model, x = build(Remul, IONS, network="gnn"), states(6)
    model.network = Given(lambda last: 2 * last, IONS)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.regularization(x, SIX) < 1e-10


def test_remul_of_a_wind_on_particles() -> None:
    """|e - R e|^2 is 2 in the mean over rotations R, and one of six components is a third of it."""
    model = build(Remul, IONS, network="gnn", penalty=0.5)
    model.network = Given(lambda last: torch.eye(6)[3].expand_as(last), IONS)
    assert model.regularization(states(4000), torch.rand(4000)).item() == pytest.approx(0.5 * 2 / 6, rel=0.05)


@pytest.mark.parametrize("model", [Augmentation, Remul])
def test_the_group_is_one_of_the_states_of_the_network(model: Any) -> None:
    assert model.Config().group == "C4"
    assert model.Config.model_validate({"network": "gnn"}).group == "SO3"
    nested = model.Config.model_validate({"network": {"augmentation": {"network": "gnn"}}})
    assert nested.group == "SO3"
    for wrong in ({"network": "gnn", "group": "C4"}, {"group": "SO3"}):
        with pytest.raises(ValueError, match=f"{wrong['group']} does not act on the states of"):
            model.Config.model_validate(wrong)
    assert model.cannot_run(model.Config(), IONS) == (
        "its network convnet takes fields, ions has particles: try `network: gnn`"
    )
