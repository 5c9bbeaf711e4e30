"""Several seeds trained at once: what each comes to is what it comes to alone."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.baseline import Baseline, Task
from benchmark.cell import Frozen, Training
from benchmark.checkpoint import Progress
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.distributed import single
from benchmark.gradients import Asking, Stack, Step, seed_device, together
from benchmark.training import Control, DivergedError, StoppedError, deterministic, fit, training

TASK = Task("noise", input_frames=2, channels=2, height=12, width=12)
SETTINGS = Training(epochs=4, batch_size=4, learning_rate=1e-3, gradient_clip=1.0, early_stop_after=None)
SEEDS = (0, 1, 2)
NOT_STACKED = {"gm_cnn": "torch.func cannot stack the network: RuntimeError"}
"""Its autograd function has no rule for torch.func."""


def windows() -> tuple[Windows, Windows]:
    field = torch.randn(2, 24, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    train, validation = (Split((0, 1), tuple(range(start, start + 9)), 2) for start in (0, 12))
    return Windows.of(field, train, 2), Windows.of(field, validation, 2)


def network(name: str, seed: int, **config: Any) -> Baseline:
    baseline = registry.model(name)
    torch.manual_seed(seed)
    hidden = {"hidden": 4} if "hidden" in baseline.Config.model_fields else {}
    return baseline(baseline.Config.model_validate({**hidden, **config}), TASK)


def asking(model: Baseline, seed: int, folder: Path, settings: Training = SETTINGS, **control: Any) -> Asking[Progress]:
    path = folder / f"{seed}.pt"
    return training(model, *windows(), settings, seed, single(), path, lambda history: None, Control(**control))


def weights(model: Baseline) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def assert_alike(found: Progress, expected: Progress) -> None:
    assert [e.epoch for e in found.history] == [e.epoch for e in expected.history]
    for key in ("train_loss", "validation_rmse", "learning_rate"):
        ours, theirs = ([getattr(e, key) for e in progress.history] for progress in (found, expected))
        assert ours == pytest.approx(theirs, rel=1e-4)


def alone(name: str, folder: Path, seed: int, settings: Training = SETTINGS, **config: Any) -> tuple[Tensor, Progress]:
    model = network(name, seed, **config)
    with deterministic(seed):
        progress = fit(model, *windows(), settings, seed, single(), folder / f"{seed}.pt", lambda history: None)
    return weights(model), progress


@pytest.mark.parametrize("name", [name for name in registry.model_names() if registry.model(name).trained])
def test_the_gradients_of_stacked_seeds_are_those_of_each(name: str) -> None:
    """Of every baseline, its penalties and extra losses included, or it says why not."""
    penalties = {"penalty": 0.1} if "penalty" in registry.model(name).Config.model_fields else {}
    models = [network(name, seed, **penalties) for seed in SEEDS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.gradients.TOLERANCE", {"fp32": 2e-5})
        steps = [next(asking(model, seed, Path("none"))) for seed, model in zip(SEEDS, models, strict=True)]
        reason = Stack(steps[0]).refusal(steps)
    assert reason is None if name not in NOT_STACKED else (reason or "").startswith(NOT_STACKED[name])
    assert all(p.grad is None for model in models for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "config"),
    [("convnet", {}), ("relaxed_steerable_rotation", {"penalty": 1e-2}), ("augmentation", {})],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_trained_together_as_trained_alone(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    expected = [alone(name, tmp_path / "alone", seed, **config) for seed in SEEDS]
    models = [network(name, seed, **config) for seed in SEEDS]
    told: list[str] = []
    started = time.perf_counter()
    found = together([asking(m, s, tmp_path / "together") for s, m in zip(SEEDS, models, strict=True)], told.append)
    elapsed = time.perf_counter() - started
    assert told == []
    for model, progress, (of_alone, history) in zip(models, found, expected, strict=True):
        assert_alike(progress, history)
        assert torch.linalg.vector_norm(weights(model) - of_alone) < 1e-3 * torch.linalg.vector_norm(of_alone)
    assert sum(progress.seconds for progress in found) <= elapsed  # the time is shared out, not counted three times


def test_stopped_in_mid_epoch_each_goes_on_alone_or_together_from_where_it_was(tmp_path: Path) -> None:
    """The checkpoints are those of single trainings; here one seed is also two epochs ahead."""
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    expected = [alone("convnet", tmp_path / "alone", seed)[1] for seed in SEEDS]
    alone("convnet", tmp_path / "together", 1, SETTINGS.model_copy(update={"epochs": 2}))
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 6  # two steps of each

    def stopped(seed: int) -> Asking[str]:
        try:
            yield from asking(network("convnet", seed), seed, tmp_path / "together", stop=stop)
        except StoppedError:
            return "saved"
        return "done"

    assert together([stopped(seed) for seed in SEEDS]) == ["saved"] * 3
    last = alone("convnet", tmp_path / "together", 2)[1]
    rest = together([asking(network("convnet", seed), seed, tmp_path / "together") for seed in (0, 1)])
    for found, whole in zip((*rest, last), expected, strict=True):
        assert_alike(found, whole)


class Dropping(Baseline):
    """A pixelwise map with dropout, whose random numbers would not be those of each seed."""

    family = "cnn"
    symmetries = ()
    source = "test"

    def __init__(self, config: Frozen, task: Task) -> None:
        super().__init__(config, task)
        self.mix = nn.Conv2d(task.input_frames * task.channels, task.channels, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return self.mix(self.drop(x_BTCHW.flatten(1, 2)))


class Counting(Dropping):
    """One that counts its forward passes."""

    def __init__(self, config: Frozen, task: Task) -> None:
        super().__init__(config, task)
        self.drop = nn.Identity()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        if self.training:
            self.passes.add_(1)
        return super().forward(x_BTCHW) * (1 + self.passes / 100)


class Keeping(Dropping):
    """One that keeps what differs between seeds where nobody looks."""

    def __init__(self, config: Frozen, task: Task) -> None:
        super().__init__(config, task)
        self.drop = nn.Identity()
        self.scale = [float(torch.rand(()))]

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return super().forward(x_BTCHW) * self.scale[0]


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        (Dropping, "torch.func cannot stack the network: RuntimeError: vmap: called random operation"),
        (Counting, "a forward pass changes the network's buffers"),
        (Keeping, "stacked, the gradients of a first step are"),
    ],
)
def test_what_cannot_be_stacked_is_trained_as_if_alone(baseline: type[Baseline], reason: str, tmp_path: Path) -> None:
    def build(seed: int) -> Baseline:
        torch.manual_seed(seed)
        return baseline(Frozen(), TASK)

    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    told: list[tuple[str, float]] = []
    models = [build(seed) for seed in SEEDS]
    with deterministic(0):
        found = together(
            [asking(m, s, tmp_path / "together", micro_batch=3) for s, m in zip(SEEDS, models, strict=True)],
            lambda line: told.append((line, time.perf_counter())),
        )
    ((line, begun),) = told
    assert line.startswith(f"trained one after another: {reason}")
    # Each counts its own time, and not that it waited: all together, hardly more than went by.
    assert sum(progress.seconds for progress in found) < 2 * (time.perf_counter() - begun)
    for seed, model in zip(SEEDS, models, strict=True):
        one = build(seed)
        with deterministic(seed):
            path, control = tmp_path / "alone" / f"{seed}.pt", Control(micro_batch=3)
            fit(one, *windows(), SETTINGS, seed, single(), path, lambda history: None, control)
        assert torch.equal(weights(model), weights(one))


def test_one_that_ends_first_leaves_the_others_in_train_mode(tmp_path: Path) -> None:
    """It is evaluated while they go on; this network has a branch that is there in training only."""
    name, shorter = "constraint_relaxation", SETTINGS.model_copy(update={"epochs": 2})
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    settings = (shorter, SETTINGS, SETTINGS)
    found = together(
        [asking(network(name, seed), seed, tmp_path / "together", settings[seed]) for seed in SEEDS],
    )
    for seed in SEEDS[1:]:
        assert_alike(found[seed], alone(name, tmp_path / "alone", seed)[1])


def test_one_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    models = [network("convnet", seed) for seed in SEEDS]
    asked = 0

    def spoil() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            next(models[1].parameters()).data.fill_(math.nan)
        return False

    def caught(seed: int) -> Asking[Progress | None]:
        control = {"stop": spoil} if seed == 1 else {}
        try:
            return (yield from asking(models[seed], seed, tmp_path, **control))
        except DivergedError:
            return None

    found = together([caught(seed) for seed in SEEDS])
    assert found[1] is None
    (tmp_path / "alone").mkdir()
    for which in (0, 2):
        progress = found[which]
        assert progress is not None
        assert_alike(progress, alone("convnet", tmp_path / "alone", which)[1])


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_an_error_reaches_each_of_them(kind: type[BaseException]) -> None:
    """In the computing of all, or in one of them: each may save and record, and it is raised in the end."""
    recorded = []

    class Failing(nn.Module):
        def forward(self, *windows: Tensor) -> tuple[Tensor, Tensor]:
            raise kind("no more")

    def one(seed: int) -> Asking[None]:
        loss = Failing()
        try:
            yield Step(loss, loss, (torch.zeros(1),) * 3, 1.0, seed, "fp32", Control().part)
        except BaseException as error:
            recorded.append((seed, type(error)))
            if isinstance(error, KeyboardInterrupt):
                raise

    if kind is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            together([one(seed) for seed in SEEDS])
    else:
        together([one(seed) for seed in SEEDS], lambda line: None)
    assert sorted(recorded) == [(seed, kind) for seed in SEEDS]


def test_micro_batches_are_stacked_too(tmp_path: Path) -> None:
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = together([asking(network("convnet", seed), seed, tmp_path / "whole") for seed in SEEDS])
    parts = together([asking(network("convnet", seed), seed, tmp_path / "parts", micro_batch=3) for seed in SEEDS])
    for found, expected in zip(parts, whole, strict=True):
        assert_alike(found, expected)


def test_a_step_is_seeded_as_torch_seeds_it() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_device(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
