"""Frame averaging against its sum and its symmetry."""

from dataclasses import replace
from typing import Any

import model_support
import pytest
import torch
from model_support import frames
from torch import Tensor

from benchmark.cell import Training
from benchmark.groups import Grid, rotate
from benchmark.models.baseline import Task
from benchmark.models.frame_averaging import FrameAveraging, quarter
from benchmark.training.loss import RolledOutLoss

TASK = Task("made_up", 2, 8, 8)
WIDE, TALL = replace(TASK, height=6, width=9), replace(TASK, height=9, width=6)
CONVNET = {"convnet": {"hidden": 8, "layers": 3}}
SIX = torch.arange(6) / 6 + 0.01


def build(on: Task = TASK, **config: Any) -> Any:
    return model_support.build(FrameAveraging, on, **{"network": CONVNET, **config})


def walls(x: Tensor, on: Task) -> Tensor:
    if on.grid == "staggered":
        x[..., 0, 0, :] = 0
        x[..., 1, :, 0] = 0
    return x


@pytest.mark.parametrize("frame", ["group", "flux"])
@pytest.mark.parametrize("grid", ["centered", "staggered"])
@pytest.mark.parametrize("shape", [(8, 8), (6, 9), (9, 6)], ids=str)
@pytest.mark.parametrize("network", [CONVNET, "clcnn"], ids=["convnet", "clcnn"])
def test_frame_averages_are_equivariant(frame: str, grid: Grid, shape: tuple[int, int], network: Any) -> None:
    on = replace(TASK, height=shape[0], width=shape[1], grid=grid)
    on_turned = replace(on, height=shape[1], width=shape[0])
    model, turned = (build(one, frame=frame, network=network) for one in (on, on_turned))
    turned.load_state_dict(model.state_dict())
    x = walls(frames(on, 12), on)
    with torch.no_grad():
        y = model(x)
        for turns in (1, 2, 3):
            other = turned if turns % 2 else model
            expected = rotate(y, turns, grid)
            torch.testing.assert_close(other(rotate(x, turns, grid)), expected, rtol=1e-5, atol=1e-6)
        plain = model.network
        if shape[0] >= shape[1]:
            assert (plain(rotate(x, 2, grid)) - rotate(plain(x), 2, grid)).abs().max() > 1e-2


def test_group_average_is_its_sum() -> None:
    model, x = build(frame="group"), frames(TASK)
    terms = [rotate(model.network(rotate(x, -k, "centered")), k, "centered") for k in range(4)]
    torch.testing.assert_close(model(x), sum(terms) / 4)


def stream(angle: float, on: Task = TASK, side: float = 0.0) -> Tensor:
    """A jet at this angle in degrees, and a little of something else."""
    direction = torch.tensor([angle]).deg2rad()
    jet = torch.stack((direction.cos(), direction.sin()))[:, 0, None, None]
    return jet + side * torch.randn(1, TASK.input_frames, 2, on.height, on.width)


@pytest.mark.parametrize(
    ("angle", "turns"), [(0, 0), (44, 0), (46, 1), (90, 1), (180, 2), (-134, 3), (-90, 3), (-46, 3)]
)
def test_the_flux_picks_the_turn(angle: float, turns: int) -> None:
    model, x = build(), stream(angle, side=0.01)
    expected = rotate(model.network(rotate(x, -turns, "centered")), turns, "centered")
    torch.testing.assert_close(model(x), expected)
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    model(torch.cat([stream(a) for a in (0, 90, 180, 270)]))
    assert len(calls) == 1


def test_sectors_have_one_owner_on_their_borders() -> None:
    steps = torch.tensor(
        [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0], [-1.0, 0.0], [-1.0, -1.0], [0.0, -1.0], [1.0, -1.0]]
    )
    assert quarter(steps).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    vectors = torch.cat((steps, torch.randn(100, 2)))
    turned = torch.stack((-vectors[:, 1], vectors[:, 0]), 1)
    assert torch.equal(quarter(turned), (quarter(vectors) + 1) % 4)


@pytest.mark.parametrize("target", ["frame", "change"])
def test_where_nothing_has_a_direction_nothing_changes(target: Any) -> None:
    """At rest, and in a vortex around the centre, which every quarter turn leaves alone."""
    model = build(replace(TASK, target=target))
    x_place, y_place = torch.meshgrid(*2 * [torch.arange(8.0) - 3.5], indexing="ij")
    vortex = torch.stack((-y_place, x_place)).expand(1, TASK.input_frames, -1, -1, -1)
    jet = stream(0.0)
    x = torch.cat((vortex, torch.zeros_like(vortex), jet))
    with torch.no_grad():
        assert torch.equal(model.next_frame(x)[:2], x[:2, -1])
        torch.testing.assert_close(model(x)[2:], model.network(jet))
        assert torch.equal(model(rotate(x, 1, "centered"))[:2], rotate(model(x), 1, "centered")[:2])


def test_frame_averages_of_wide_grids_call_the_network_upright() -> None:
    model = build(WIDE, network={"remul": {"network": "mlp"}})
    x = frames(WIDE, 6)
    assert model.network.task == TALL
    assert model(x).shape == (6, 2, 6, 9)
    loss = RolledOutLoss(model, Training(), torch.device("cpu"), cache_filters=True)
    total, error_of_forecast = loss(x, x[:, :1], SIX)
    assert total > error_of_forecast
