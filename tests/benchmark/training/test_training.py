"""Training loop on a small field: learning, exact resume, best weights, divergence, precision."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from swirls import swirls
from torch import Tensor, nn

from benchmark.cell import RELAXATION_RATE, Frozen, Training
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.errors import MachineError, UserError
from benchmark.evaluation import energy
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.models.convnet import ConvNet
from benchmark.training.checkpoint import Progress
from benchmark.training.loop import (
    DivergedError,
    Execution,
    StoppedError,
    TrainingData,
    TrainingOutput,
    fit,
    parameter_groups,
)
from benchmark.training.pull import measure
from benchmark.training.randomness import deterministic, seed_device

TASK = Task("toy", input_frames=2, height=6, width=5)


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


def data() -> TrainingData:
    splits = [Split((0, 1, 2), tuple(starts), 3) for starts in (range(12), range(18, 22))]
    return TrainingData(*(Windows.of(field(), split, 2) for split in splits))


def linear() -> Linear:
    return Linear(Linear.Config(), TASK)


def registered(name: str, hidden: int) -> Callable[[], Baseline]:
    baseline = model_registry.model(name)
    return lambda: baseline(baseline.Config.model_validate({"hidden": hidden}), TASK)


def train(path: Path, settings: Training, seed: int = 0, build: Any = linear, **execution: Any) -> tuple[Any, Progress]:
    with deterministic(seed):
        model = build()
        return model, fit(model, data(), settings, seed, TrainingOutput(path), Execution(**execution))


SETTINGS = Training(epochs=6, batch_size=5, learning_rate=1e-2, early_stop_after=None)


def updated(**settings: Any) -> Training:
    return SETTINGS.model_copy(update=settings)


def same(first: Linear, second: Linear) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_it_learns(tmp_path: Path) -> None:
    _, progress = train(tmp_path / "c.pt", updated(epochs=40))
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
        fit(linear(), data(), SETTINGS, 0, TrainingOutput(tmp_path / "parts.pt", kill_after_three))
    assert_resumed_exactly(tmp_path / "parts.pt")


@pytest.mark.parametrize(
    ("saved", "refusal"),
    [
        ({"data_checksum": "a", "model_digest": "b"}, ""),
        ({"data_checksum": "c", "model_digest": "b"}, "the data checksum of the checkpoint is c, and now a"),
        ({"data_checksum": "a", "model_digest": "d"}, "the model digest of the checkpoint is d, and now b"),
        ({"data_checksum": "a", "model_digest": None}, ""),
        ({}, ""),
    ],
)
def test_a_checkpoint_of_other_data_or_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], saved: dict[str, str], refusal: str
) -> None:
    """Older checkpoints do not say: that counts as unknown, not as different."""
    path, begun = tmp_path / "c.pt", []
    fit(linear(), data(), updated(epochs=2), 0, TrainingOutput(path, provenance=saved))
    now = TrainingOutput(path, lambda history: begun.append(len(history)), {"data_checksum": "a", "model_digest": "b"})
    fit(linear(), data(), updated(epochs=3), 0, now)
    assert begun == ([0, 1, 2, 3] if refusal else [2, 3])
    assert capsys.readouterr().out == (f"{path}: {refusal}; the training begins anew\n" if refusal else "")
    assert torch.load(path, weights_only=True)["provenance"] == now.provenance


def test_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    # With a learning rate this large, the last epoch is not the best.
    settings = updated(epochs=15, learning_rate=0.3, learning_rate_decay=1.0)
    model, progress = train(tmp_path / "c.pt", settings)
    assert progress.best_epoch < len(progress.history)
    assert progress.best_rmse == min(epoch.validation_rmse for epoch in progress.history)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert torch.equal(model.mix.weight, state["best_model"]["mix.weight"])
    assert not torch.equal(model.mix.weight, state["model"]["mix.weight"])


def test_schedule_and_early_stopping(tmp_path: Path) -> None:
    settings = updated(epochs=200, learning_rate_decay=0.5, early_stop_after=12)
    _, progress = train(tmp_path / "c.pt", settings)
    rates = [epoch.learning_rate for epoch in progress.history]
    assert rates[:3] == pytest.approx([1e-2, 5e-3, 2.5e-3])
    assert 12 <= len(rates) < 200
    rmse = [epoch.validation_rmse for epoch in progress.history]
    assert sum(rmse[-5:]) >= sum(rmse[-10:-5])


def test_deviations_learn_at_the_relaxation_rate(tmp_path: Path) -> None:
    """The first step of Adam is the learning rate, times the sign of the gradient, and the schedule keeps the ratio."""
    for written, rate in ((0.25, 0.25), (None, RELAXATION_RATE)):
        model = registered("gm_cnn", 4)()
        optimizer = torch.optim.Adam(parameter_groups(model, updated(relaxation_rate=written)), 1e-2)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        (model(torch.ones(2, 2, 2, 6, 5)).square().sum() + sum(p.sum() for p in model.parameters())).backward()
        optimizer.step()
        schedule.step()
        deviations = {id(parameter) for parameter in model.deviations()}
        for parameter, old in zip(model.parameters(), before, strict=True):
            expected = 1e-2 * (rate if id(parameter) in deviations else 1.0)
            torch.testing.assert_close((parameter - old).abs(), torch.full_like(old, expected), rtol=1e-3, atol=0)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-3, 5e-3 * rate])
    strict = linear()
    (group,) = parameter_groups(strict, SETTINGS)
    assert all(ours is theirs for ours, theirs in zip(group["params"], strict.parameters(), strict=True))


def test_penalty_enters_the_gradient_linearly(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "a.pt", SETTINGS)
    penalised, _ = train(tmp_path / "b.pt", SETTINGS, build=lambda: Linear(Linear.Config(penalty=10.0), TASK))
    assert penalised.mix.weight.abs().mean() < plain.mix.weight.abs().mean()


def test_the_pull_of_a_penalty_is_recorded_for_each_epoch(tmp_path: Path) -> None:
    """Twice the coefficient is twice the pull on the same weights, since it is too small to move them."""
    shares: dict[float, Any] = {}
    for penalty in (0.0, 1e-9, 2e-9):
        build = lambda penalty=penalty: Linear(Linear.Config(penalty=penalty), TASK)  # noqa: E731
        _, progress = train(tmp_path / f"{penalty}.pt", SETTINGS, build=build)
        shares[penalty] = [(epoch.penalty_share, epoch.penalty_gradient) for epoch in progress.history]
    assert shares[0.0] == [(0.0, 0.0)] * 6
    for once, twice in zip(shares[1e-9], shares[2e-9], strict=True):
        assert twice == pytest.approx([2 * value for value in once], rel=1e-3)
        assert 0 < once[0] < 1e-6


def test_the_pull_is_that_of_the_gradients() -> None:
    """The data pull every number by 4; the penalty, half the mean |w|, pulls each of the n numbers of w by 1 / 2n."""
    model = Linear(Linear.Config(penalty=0.5), TASK)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 4.0)
    model.penalty().backward()
    numbers, bias = model.mix.weight.numel(), model.mix.bias.numel()
    expected = math.sqrt(numbers) * 0.5 / numbers / (4.0 * math.sqrt(numbers + bias))
    pull = measure(model, 3.0)
    assert pull.gradient == pytest.approx(expected, rel=1e-5)
    assert pull.share == pytest.approx(model.penalty().item() / (model.penalty().item() + 3.0))


def test_clipping_and_bf16_run(tmp_path: Path) -> None:
    clipped, _ = train(tmp_path / "a.pt", updated(gradient_clip=1e-6))
    assert not same(clipped, train(tmp_path / "b.pt", SETTINGS)[0])
    _, progress = train(tmp_path / "c.pt", updated(precision="bf16", channels_last=True))
    assert math.isfinite(progress.best_rmse)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own
def test_compiled_is_the_same_training(tmp_path: Path) -> None:
    class Plain(Linear):
        def forward(self, x_BTCHW: Tensor) -> Tensor:
            return self.mix(x_BTCHW.flatten(1, 2))

        def penalty(self) -> Tensor:
            return torch.zeros(())  # no gradient, as in most baselines

    first, second = (
        train(tmp_path / f"{on}.pt", updated(compile=on, epochs=2), build=lambda: Plain(Plain.Config(), TASK))[1]
        for on in (False, True)
    )
    assert second.best_rmse == pytest.approx(first.best_rmse, rel=1e-5)


def test_the_ninth_architecture_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps eight graphs of one function, and would run further ones uncompiled."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, options: compile_with(module, backend=backend))
    for width in range(1, 10):
        before = len(graphs)
        train(tmp_path / f"{width}.pt", updated(compile=True, epochs=1), build=registered("convnet", width))
        assert len(graphs) > before


@pytest.mark.parametrize("name", ["convnet", "relaxed_steerable_rotation"])
def test_channels_last_is_the_same_training(tmp_path: Path, name: str) -> None:
    """Weights with four axes and with five."""
    first, second = (
        train(tmp_path / f"{on}.pt", updated(channels_last=on, epochs=2), build=registered(name, 4))[1]
        for on in (False, True)
    )
    assert second.best_rmse == pytest.approx(first.best_rmse, rel=1e-5)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    settings = updated(learning_rate=1e30, epochs=5)
    with pytest.raises(DivergedError, match="not finite"):
        train(tmp_path / "c.pt", settings)


def test_invalid_batch_size_and_damaged_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than the 36 training windows"):
        train(tmp_path / "c.pt", updated(batch_size=64))
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(MachineError, match=r"broken\.pt: not a readable checkpoint"):
        train(tmp_path / "broken.pt", SETTINGS)


@pytest.mark.parametrize("stops", [(0,), (1,), (7,), (14, 15, 40)], ids=str)
def test_a_training_stopped_between_steps_resumes_exactly(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """36 windows in batches of 5 make 7 steps an epoch: stops at the beginning, within an epoch and at its end."""
    calls = itertools.count()
    for _ in stops:
        with pytest.raises(StoppedError):
            train(tmp_path / "parts.pt", SETTINGS, should_stop=lambda: next(calls) in stops)
    assert_resumed_exactly(tmp_path / "parts.pt")


def test_energy_counts_before_and_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up counter of a joule a step: 7 steps an epoch, of which the first 3 before the training is stopped."""
    steps = 0

    def stop_at_the_fourth() -> bool:
        nonlocal steps
        steps += 1
        return steps == 4

    monkeypatch.setattr(energy, "OWN_SHARE", 0.0)
    monkeypatch.setattr(energy, "processor_counters", lambda: [energy.Counter(lambda: float(steps))])
    with pytest.raises(StoppedError):
        train(tmp_path / "parts.pt", updated(epochs=2), should_stop=stop_at_the_fourth)
    _, progress = train(tmp_path / "parts.pt", updated(epochs=2), should_stop=stop_at_the_fourth)
    assert [epoch.joules for epoch in progress.history] == [8, 7], "one step was asked for twice"


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_sum_up_to_the_batch(tmp_path: Path, micro_batch: int) -> None:
    """The gradient is summed in parts, the last one smaller: the loss of a part is weighted by its windows."""
    build = registered("rpp_rotation", 2)  # its penalty is smooth
    expected, epoch = (
        train(tmp_path / f"{size}.pt", updated(epochs=2), build=build, micro_batch=size)[1].history[0]
        for size in (None, micro_batch)
    )
    assert epoch.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
    assert epoch.validation_rmse == pytest.approx(expected.validation_rmse, rel=1e-4)


def test_a_step_is_seeded_as_torch_seeds_it() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_device(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def swirl_rmse(field: Tensor, precision: str, seed: int, checkpoint: Path) -> list[float]:
    """Validation RMSE of a ConvNet on `swirls` after each epoch."""
    settings = Training(epochs=4, batch_size=8, learning_rate=1e-2, weight_decay=0.0, precision=precision)
    splits = [Split((0, 1, 2, 3), tuple(range(start, start + 20)), 2) for start in (0, 30)]
    data = TrainingData(*(Windows.of(field, split, 1) for split in splits))
    with deterministic(seed):
        model = ConvNet(ConvNet.Config(hidden=8, layers=3), Task("swirls", 1, *field.shape[-2:], target="change"))
        progress = fit(model, data, settings, seed, TrainingOutput(checkpoint))
    return [epoch.validation_rmse for epoch in progress.history]


def test_bf16_lies_within_the_spread_of_seeds(tmp_path: Path) -> None:
    """Each seed in bf16 ends nearer to itself in fp32 than a fifth of the range over seeds."""
    field = torch.from_numpy(swirls())
    fp32, bf16 = (
        [swirl_rmse(field, precision, seed, tmp_path / f"{precision}{seed}.pt") for seed in range(3)]
        for precision in ("fp32", "bf16")
    )
    assert all(curve[-1] < 0.6 * curve[0] for curve in (*fp32, *bf16))
    ends = [curve[-1] for curve in fp32]
    for one, other in zip(fp32, bf16, strict=True):
        assert 0 < abs(one[-1] - other[-1]) < 0.2 * (max(ends) - min(ends))
