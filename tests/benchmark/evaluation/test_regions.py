"""Reach of networks, regions beside walls, and strict networks inside."""

import numpy as np
import pytest
import torch
from model_support import build, frames
from torch import Tensor

from benchmark.evaluation.metrics import ModelEquivarianceError
from benchmark.evaluation.regions import by_walls, defined, middle, reach
from benchmark.groups import elements
from benchmark.models.baseline import Task
from benchmark.models.convnet import ConvNet
from benchmark.models.e2cnn import E2CNN
from benchmark.models.fno import FNO
from benchmark.models.mlp import MLP
from benchmark.models.persistence import Persistence
from benchmark.models.sesn import SESN
from benchmark.models.unet import UNet

BOX = Task("made_up", 2, 32, 32, "change")


@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [
        (Persistence, {}, 0),
        (ConvNet, {"hidden": 4, "layers": 1}, 1),
        (ConvNet, {"hidden": 4, "layers": 5}, 5),
        (ConvNet, {"hidden": 4, "layers": 5, "kernel_size": 5}, 10),
        (E2CNN, {"hidden": 2, "layers": 3}, 3),
        (SESN, {"hidden": 2, "layers": 2, "kernel_size": 3, "scales": (1.0, 2.0)}, 6),
        (UNet, {"hidden": 4}, None),
        (FNO, {"hidden": 4}, None),
        (MLP, {"hidden": 4}, None),
    ],
)
@pytest.mark.parametrize("target", ["change", "frame"])
def test_reach_is_that_of_the_padding(
    model: type, config: dict[str, object], expected: int | None, target: str
) -> None:
    assert reach(build(model, Task("made_up", 2, 32, 32, target), **config)) == expected  # type: ignore[arg-type]


def test_reach_is_that_of_the_longest_side_that_is_not_covered() -> None:
    narrow = Task("made_up", 2, 32, 8)
    assert reach(build(ConvNet, narrow, hidden=4, layers=2)) == 2
    assert reach(build(ConvNet, narrow, hidden=4, layers=3)) is None, "all of the narrow side"


class InNumPy(Persistence):
    """A forecast without gradients, from the neighbours two cells below."""

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return torch.from_numpy(np.roll(x_BTCHW[:, -1].numpy(), 2, axis=-2))


class Silent(Persistence):
    """A forecast that no input changes."""

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return torch.zeros_like(x_BTCHW[:, -1])


def test_reach_needs_no_gradient() -> None:
    task = Task("made_up", 2, 16, 16)
    assert reach(InNumPy(InNumPy.Config(), task)) == 2
    assert reach(Silent(Silent.Config(), task)) == 0
    assert reach(Silent(Silent.Config(), Task("made_up", 2, 2, 1))) is None, "no cell is away from the walls"


def test_regions_of_a_shift() -> None:
    """3 cells of a row of 12 come from outside; 2 cells each beside both walls are near."""
    (element,) = [one for one in elements("translation", "centered", False, 24, 12) if one.name == "shift+3+0"]
    (cells,) = defined([element], 24, 12)[0]
    assert cells[:, 0].tolist() == [0.0] * 3 + [1.0] * 21
    near, inside = by_walls([element], 24, 12, 2)[0]
    assert inside[:, 6].tolist() == [0.0] * 5 + [1.0] * 17 + [0.0] * 2
    assert inside[10].tolist() == [0.0] * 2 + [1.0] * 8 + [0.0] * 2
    assert torch.equal(near + inside, cells)
    assert not by_walls([element], 24, 12, 0)[0, 0].any()
    assert middle(1, 8, 4)[0, 0].sum() == 4 * 2


@pytest.mark.parametrize("model", [ConvNet, E2CNN])
def test_a_strict_network_is_exact_beyond_its_reach_of_the_walls(model: type) -> None:
    """Shifts in a box with walls: 5 % and more of the change near the walls, round-off inside."""
    network = build(model, BOX, hidden=4)
    with torch.no_grad():
        for key, value in network.named_parameters():
            if key.endswith("bias"):
                value.normal_(0, 0.02)
    group = elements("translation", "centered", False, 32, 32)
    distance = reach(network)
    assert distance == 5
    error = ModelEquivarianceError.zero(by_walls(group, 32, 32, distance))

    def one_step(x: Tensor) -> Tensor:
        frame: Tensor = network.next_frame(x)[:, None]
        return frame

    with torch.no_grad():
        error.add(one_step, frames(BOX, 3), group)
    near, inside = error.changes.ratio(0), error.changes.ratio(1)
    assert near is not None
    assert inside is not None
    assert near > 0.05
    assert inside < 1e-5
    closer = ModelEquivarianceError.zero(by_walls(group, 32, 32, distance - 1))
    with torch.no_grad():
        closer.add(one_step, frames(BOX, 3), group)
    assert (closer.changes.ratio(1) or 0) > 1e-4, "the reach is not larger than need be"
