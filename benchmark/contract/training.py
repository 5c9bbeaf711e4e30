"""Checks of training: gradients, random numbers, exact resume, two ranks."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from benchmark.cell import Training
from benchmark.contract.candidate import UNTRAINED, Candidate, loss, noise, require, targets, uniform_draws
from benchmark.contract.ranks import two_ranks_equal_one, two_ranks_equal_one_with_batch_norm
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.models.baseline import Baseline
from benchmark.training.loop import TrainingData, TrainingOutput, fit
from benchmark.training.randomness import deterministic
from benchmark.training.recorder import Epoch


class _InterruptedError(Exception):
    pass


OFF_THE_START = 0.1
"""Size of the deviations with which the weights that multiply them must have a gradient."""


def every_parameter_gets_a_gradient(candidate: Candidate) -> str | None:
    """The loss of training reaches every parameter; a baseline without parameters declares `trained = False`.

    A weight that multiplies deviations has no gradient where these are zero, and one elsewhere.
    """
    task, trained = candidate.task(), candidate.baseline.trained
    model = candidate.build(task)
    count = sum(parameter.numel() for parameter in model.parameters())
    require((count > 0) == trained, f"trained is {trained}, and it has {count} parameters")
    if not trained:
        return None
    loss(model, noise(task), targets(task)).backward()
    for key, parameter in model.named_parameters():
        require(parameter.grad is not None, f"{key} gets no gradient")
        assert parameter.grad is not None
        require(bool(parameter.grad.isfinite().all()), f"the gradient of {key} is not finite")
    deviations = {id(parameter) for parameter in model.deviations()}
    idle = [(key, parameter) for key, parameter in model.named_parameters() if not _moves(parameter)]
    if idle and deviations.isdisjoint(id(parameter) for _, parameter in idle):
        with torch.no_grad():
            for deviation in model.deviations():
                deviation.add_(OFF_THE_START * torch.randn(deviation.shape, generator=torch.Generator().manual_seed(0)))
        loss(model, noise(task), targets(task)).backward()
    for key, parameter in idle:
        require(_moves(parameter), f"the gradient of {key} is zero everywhere")
    model.before_step(0.0)
    for key, parameter in model.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        require(finite, f"before_step makes the gradient of {key} infinite or NaN")
    return None


def _moves(parameter: torch.nn.Parameter) -> bool:
    """Whether it has a gradient other than zero."""
    return parameter.grad is not None and bool(parameter.grad.any())


def chance_comes_from_the_draws(candidate: Candidate) -> str | None:
    """`augment` keeps shapes and its arguments; the loss depends on the draws and not on torch's random seed.

    Torch's random numbers differ between ranks; the draws of a window do not.
    """
    if not candidate.baseline.trained:
        return UNTRAINED
    task = candidate.task()
    model, x, y = candidate.build(task), noise(task), targets(task)
    augmented = model.augment(x, y, uniform_draws(len(x)))
    shapes = tuple(tuple(field.shape) for field in augmented)
    expected = (tuple(x.shape), tuple(y.shape))
    require(shapes == expected, f"augment gives shapes {shapes}, expected {expected}")
    require(torch.equal(x, noise(task)) and torch.equal(y, targets(task)), "augment changes its arguments in place")
    shape = tuple(model.regularization(x, uniform_draws(len(x))).shape)
    require(not shape, f"regularization has shape {shape}, expected a scalar")
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.append(loss(model, x, y).item())
    require(values[0] == values[1], f"the loss of the same windows and draws is {values[0]:.6g} and {values[1]:.6g}")
    return None


def resume_equals_no_interruption(candidate: Candidate) -> str | None:
    """Training that is interrupted after an epoch and resumed by another process gives the same bits."""
    if not candidate.baseline.trained:
        return UNTRAINED
    task = candidate.task()
    field = noise(task, windows=1).repeat_interleave(-(-12 // task.input_frames), dim=1)
    field *= (0.9 ** torch.arange(field.shape[1])).reshape(-1, *[1] * len(task.shape))
    windows = Windows.of(field, Split((0,), tuple(range(8)), 1), task.input_frames)
    settings = Training(epochs=3, batch_size=4, early_stop_after=None)

    def train(checkpoint: Path, epochs: int = settings.epochs) -> Baseline:
        def interrupt(history: Sequence[Epoch]) -> None:
            if len(history) == epochs < settings.epochs:
                raise _InterruptedError

        with deterministic(0), suppress(_InterruptedError):
            model = candidate.build(task)
            fit(model, TrainingData(windows, windows), settings, 0, TrainingOutput(checkpoint, interrupt))
        return model

    with tempfile.TemporaryDirectory() as folder:
        expected = train(Path(folder, "uninterrupted.pt"))
        train(Path(folder, "interrupted.pt"), 1)
        resumed = train(Path(folder, "interrupted.pt")).state_dict()
    differing = [key for key, value in expected.state_dict().items() if not torch.equal(value, resumed[key])]
    require(not differing, f"resumed after the first of three epochs, values differ in {', '.join(differing)}")
    return None


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {
    check.__name__: check
    for check in (
        every_parameter_gets_a_gradient,
        chance_comes_from_the_draws,
        resume_equals_no_interruption,
        two_ranks_equal_one,
        two_ranks_equal_one_with_batch_norm,
    )
}
