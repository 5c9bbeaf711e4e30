"""Training loop on a small field: learning, exact resume, best weights, divergence."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.cell import Frozen, Training
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.errors import MachineError, UserError
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.training.checkpoint import Progress
from benchmark.training.loop import DivergedError, Execution, StoppedError, TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic, seed_device

TASK = Task("toy", input_frames=2, channels=2, height=6, width=5)


class Linear(Baseline):
    """Pixelwise linear map with dropout, so that the random state matters."""

    class Config(Frozen):
        penalty: float = 0.0

    family = "cnn"
    symmetries = ()
    source = "test"

    def __init__(self, config: Any, task: Task) -> None:
        super().__init__(config, task)
        self.mix = nn.Conv2d(task.input_frames * task.channels, task.channels, 1)
        self.drop = nn.Dropout(0.1)
        self.config = config

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return self.mix(self.drop(x_BTCHW.flatten(1, 2)))

    def penalty(self) -> Tensor:
        return self.config.penalty * self.mix.weight.abs().mean()


def field() -> Tensor:
    """Field (3, 30, 2, 6, 5) that decays by 0.9 each frame, so that a linear map can predict it."""
    start = torch.randn(3, 1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    return start * 0.9 ** torch.arange(30)[None, :, None, None, None]


def data(steps: int = 3) -> TrainingData:
    train = Split((0, 1, 2), tuple(range(12)), steps)
    validation = Split((0, 1, 2), tuple(range(18, 22)), steps)
    return TrainingData(Windows.of(field(), train, 2), Windows.of(field(), validation, 2))


def train(
    path: Path, settings: Training, seed: int = 0, config: Linear.Config | None = None
) -> tuple[Linear, Progress]:
    with deterministic(seed):
        model = Linear(config or Linear.Config(), TASK)
        progress = fit(model, data(), settings, seed, TrainingOutput(path))
    return model, progress


SETTINGS = Training(epochs=6, batch_size=5, learning_rate=1e-2, early_stop_after=None)


def same(first: Linear, second: Linear) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_it_learns(tmp_path: Path) -> None:
    _, progress = train(tmp_path / "c.pt", SETTINGS.model_copy(update={"epochs": 40}))
    assert progress.best_rmse < 0.5 * progress.history[0].validation_rmse


def test_same_seed_same_bits_other_seed_other_bits(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "a.pt", SETTINGS)
    again, _ = train(tmp_path / "b.pt", SETTINGS)
    other, _ = train(tmp_path / "c.pt", SETTINGS, seed=1)
    assert same(first, again)
    assert not same(first, other)


def assert_resumed_exactly(checkpoint: Path) -> None:
    """The training that continues from `checkpoint` ends as one that was never interrupted."""
    (expected, history), (resumed, parts) = (
        train(path, SETTINGS) for path in (checkpoint.with_name("c.pt"), checkpoint)
    )
    assert same(expected, resumed)
    assert [replace(e, seconds=0) for e in parts.history] == [replace(e, seconds=0) for e in history.history]
    assert parts.best_epoch == history.best_epoch


def test_resume_equals_uninterrupted(tmp_path: Path) -> None:
    def kill_after_three(epochs: Any) -> None:
        if len(epochs) == 3:
            raise KeyboardInterrupt

    with deterministic(0), pytest.raises(KeyboardInterrupt):
        fit(Linear(Linear.Config(), TASK), data(), SETTINGS, 0, TrainingOutput(tmp_path / "parts.pt", kill_after_three))
    assert_resumed_exactly(tmp_path / "parts.pt")


def test_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    # With a learning rate this large, the last epoch is not the best.
    settings = SETTINGS.model_copy(update={"epochs": 15, "learning_rate": 0.3, "learning_rate_decay": 1.0})
    model, progress = train(tmp_path / "c.pt", settings)
    assert progress.best_epoch < len(progress.history)
    assert progress.best_rmse == min(epoch.validation_rmse for epoch in progress.history)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert torch.equal(model.mix.weight, state["best_model"]["mix.weight"])
    assert not torch.equal(model.mix.weight, state["model"]["mix.weight"])


def test_schedule_and_early_stopping(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 200, "learning_rate_decay": 0.5, "early_stop_after": 12})
    _, progress = train(tmp_path / "c.pt", settings)
    rates = [epoch.learning_rate for epoch in progress.history]
    assert rates[:3] == pytest.approx([1e-2, 5e-3, 2.5e-3])
    assert 12 <= len(rates) < 200
    rmse = [epoch.validation_rmse for epoch in progress.history]
    assert sum(rmse[-5:]) >= sum(rmse[-10:-5])


def test_penalty_enters_the_gradient_linearly(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "a.pt", SETTINGS)
    penalised, _ = train(tmp_path / "b.pt", SETTINGS, config=Linear.Config(penalty=10.0))
    assert penalised.mix.weight.abs().mean() < plain.mix.weight.abs().mean()


def test_clipping_and_bf16_run(tmp_path: Path) -> None:
    clipped, _ = train(tmp_path / "a.pt", SETTINGS.model_copy(update={"gradient_clip": 1e-6}))
    assert not same(clipped, train(tmp_path / "b.pt", SETTINGS)[0])
    _, progress = train(tmp_path / "c.pt", SETTINGS.model_copy(update={"precision": "bf16", "channels_last": True}))
    assert math.isfinite(progress.best_rmse)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own
def test_compiled_is_the_same_training(tmp_path: Path) -> None:
    class Plain(Linear):
        def forward(self, x_BTCHW: Tensor) -> Tensor:
            return self.mix(x_BTCHW.flatten(1, 2))

        def penalty(self) -> Tensor:
            return torch.zeros(())  # no gradient, as in most baselines

    best = []
    for compiled in (False, True):
        with deterministic(0):
            model = Plain(Plain.Config(), TASK)
            settings = SETTINGS.model_copy(update={"compile": compiled, "epochs": 2})
            progress = fit(model, data(), settings, 0, TrainingOutput(tmp_path / f"{compiled}.pt"))
        best.append(progress.best_rmse)
    assert best[1] == pytest.approx(best[0], rel=1e-5)


@pytest.mark.parametrize("name", ["convnet", "relaxed_steerable_rotation"])
def test_channels_last_is_the_same_training(tmp_path: Path, name: str) -> None:
    """Weights with four axes and with five."""
    best = []
    for channels_last in (False, True):
        with deterministic(0):
            model = model_registry.model(name)(model_registry.model(name).Config.model_validate({"hidden": 4}), TASK)
            settings = SETTINGS.model_copy(update={"channels_last": channels_last, "epochs": 2})
            output = TrainingOutput(tmp_path / f"{channels_last}.pt")
            best.append(fit(model, data(), settings, 0, output).best_rmse)
    assert best[1] == pytest.approx(best[0], rel=1e-5)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30, "epochs": 5})
    with pytest.raises(DivergedError, match="not finite"):
        train(tmp_path / "c.pt", settings)


def test_invalid_batch_size_and_damaged_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than the 36 training windows"):
        train(tmp_path / "c.pt", SETTINGS.model_copy(update={"batch_size": 64}))
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(MachineError, match=r"broken\.pt: not a readable checkpoint"):
        train(tmp_path / "broken.pt", SETTINGS)


@pytest.mark.parametrize("stops", [(0,), (1,), (7,), (14, 15, 40)], ids=str)
def test_a_training_stopped_between_steps_resumes_exactly(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """36 windows in batches of 5 make 7 steps an epoch: stops at the beginning, within an epoch and at its end."""
    calls = itertools.count()
    output, execution = TrainingOutput(tmp_path / "parts.pt"), Execution(should_stop=lambda: next(calls) in stops)
    for _ in stops:
        with deterministic(0), pytest.raises(StoppedError):
            fit(Linear(Linear.Config(), TASK), data(), SETTINGS, 0, output, execution)
    assert_resumed_exactly(tmp_path / "parts.pt")


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_sum_up_to_the_batch(tmp_path: Path, micro_batch: int) -> None:
    """The gradient is summed in parts, the last one smaller: the loss of a part is weighted by its windows."""
    best = []
    for execution in (Execution(), Execution(micro_batch=micro_batch)):
        with deterministic(0):
            baseline = model_registry.model("rpp_rotation")  # its penalty is smooth
            model = baseline(baseline.Config.model_validate({"hidden": 2}), TASK)
            settings = SETTINGS.model_copy(update={"epochs": 2})
            output = TrainingOutput(tmp_path / f"{execution.micro_batch}.pt")
            progress = fit(model, data(), settings, 0, output, execution)
        best += [progress.history[0].train_loss, progress.history[0].validation_rmse]
    assert best[2:] == pytest.approx(best[:2], rel=1e-4)


def test_a_step_is_seeded_as_torch_seeds_it() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_device(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
