"""Fields read from a model, against models whose fields are known in closed form."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.cell import Frozen
from benchmark.data.dataset import Split
from benchmark.data.physics.trapped_ions import AXIS, FRAME_INTERVAL, Trap, thermal_states, trajectory
from benchmark.data.windows import Windows
from benchmark.evaluation.symmetry_discovery import angle, discovery_metrics, learned_fields
from benchmark.models.baseline import ParticleBaseline
from benchmark.models.egnn import EGNN
from benchmark.models.task import ParticleTask

FIELD = tuple(0.5 * axis for axis in AXIS)
SQUARED_FREQUENCIES = (1.4, 1.0, 0.6)


class OneStep(ParticleBaseline):
    """v' = v + h (v x B - K x), with its velocities read from `lag` frames of positions if there are several frames."""

    class Config(Frozen):
        """No hyperparameters."""

    family, symmetries, source, trained = "reference", (), "test", False

    def __init__(self, config: Config, task: ParticleTask) -> None:
        super().__init__(config, task)

    def forward(self, x_BTN6: Tensor) -> Tensor:
        h, x, v = self.task.time_step, x_BTN6[:, -1, :, :3], x_BTN6[:, -1, :, 3:]
        if self.task.input_frames > 1:
            v = (x - x_BTN6[:, -2, :, :3]) / h
        turned = torch.linalg.cross(v, torch.tensor(FIELD).to(v).expand_as(v))
        change = torch.cat((h * v, h * (turned - torch.tensor(SQUARED_FREQUENCIES).to(v) * x)), -1)
        return change if self.task.target == "change" else x_BTN6[:, -1] + change


class Exact(OneStep):
    """The flow of trap and field over one frame, without the repulsion."""

    def forward(self, x_BTN6: Tensor) -> Tensor:
        trap = Trap(FIELD, SQUARED_FREQUENCIES)
        return x_BTN6[:, -1] @ torch.from_numpy(trap.flow(self.task.time_step).T).to(x_BTN6)


def task(frames: int = 1, target: str = "frame", time_step: float = FRAME_INTERVAL) -> ParticleTask:
    return ParticleTask("trapped_ions", frames, 5, time_step, target)  # type: ignore[arg-type]


def windows(frames: int) -> Tensor:
    states = islice(trajectory(Trap(FIELD), thermal_states(range(3), 5), FRAME_INTERVAL, 2), frames)
    return torch.from_numpy(np.stack(list(states), axis=1)).float()


def _found(level: float) -> dict[str, object]:
    return {"learned_level": pytest.approx(level, abs=1e-4), "learned_angle": pytest.approx(0, abs=0.05)}


@pytest.mark.parametrize("target", ["frame", "change"])
@pytest.mark.parametrize("frames", [1, 3])
def test_the_fields_of_a_linear_model_are_exact(frames: int, target: str) -> None:
    fields = learned_fields(OneStep(OneStep.Config(), task(frames, target)), windows(frames))
    assert fields.magnetic_field.tolist() == pytest.approx(FIELD, abs=1e-5)
    assert fields.anisotropy.flatten().tolist() == pytest.approx([0.4, 0, 0, 0, 0, 0, 0, 0, -0.4], abs=1e-4)
    vectors = {"learned_field": pytest.approx(FIELD, abs=1e-5), "true_field": pytest.approx(AXIS)}
    assert fields.beside(Trap(AXIS)) == {**_found(0.5), **vectors}
    assert fields.beside(Trap(squared_frequencies=(2, 1, 0))) == _found(0.4)


def test_the_error_of_one_frame_is_of_second_order() -> None:
    errors = []
    for time_step in (0.3, 0.15):
        fields = learned_fields(Exact(Exact.Config(), task(time_step=time_step)), windows(1).double())
        errors.append((fields.magnetic_field - torch.tensor(FIELD).double()).norm())
    assert 3.9 < float(errors[0] / errors[1]) < 4.1
    assert errors[1] < 0.02 * 0.5


def test_a_strict_model_has_no_fields() -> None:
    torch.manual_seed(0)
    fields = learned_fields(EGNN(EGNN.Config(hidden=8), task(target="change")), windows(1))
    assert fields.magnetic_field.abs().max() < 1e-5
    assert fields.anisotropy.abs().max() < 1e-4
    metrics = fields.beside(Trap(AXIS))
    assert metrics["learned_level"] == pytest.approx(0, abs=1e-4)
    assert metrics["learned_angle"] is None
    assert metrics["learned_field"] == pytest.approx([0, 0, 0], abs=1e-4)


@pytest.mark.parametrize("degrees", [0, 1e-6, 30, 90, 179, 180])
def test_the_angle_between_vectors(degrees: float) -> None:
    first, second = torch.tensor(AXIS).double(), torch.tensor([0.36, 0.48, 0]).double()
    second /= second.norm()
    turned = math.cos(math.radians(degrees)) * first + math.sin(math.radians(degrees)) * second
    assert angle(first, 3 * turned) == pytest.approx(degrees, abs=1e-5, rel=1e-6)


def test_the_metrics_come_from_some_of_the_windows() -> None:
    series = torch.cat([windows(1)] * 9, dim=1)
    some = Windows.of(series, Split((0, 1, 2), tuple(range(8)), 1), 1)
    metrics = discovery_metrics(OneStep(OneStep.Config(), task()), Trap(AXIS), some)
    assert {name: metrics[name] for name in _found(0.5)} == _found(0.5)


def test_gradients_of_the_model_are_not_touched_even_without_grad_mode() -> None:
    model = EGNN(EGNN.Config(hidden=8), task())
    with torch.inference_mode():
        learned_fields(model, windows(1))
    assert all(parameter.grad is None for parameter in model.parameters())
