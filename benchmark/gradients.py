"""Who computes the gradients that a training asks for: each by itself, or several of one configuration at once.

A training is a generator: it yields a `Step`, and goes on when the gradients are in its weights. `by_itself` serves
one training. `together` serves several that differ in their seed: their weights are stacked and torch.func maps the
loss over them, so that a GPU runs one large kernel in place of several small ones. Windows, optimiser, schedule, best
weights and checkpoint are each training's own, and none knows of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

TOLERANCE = {"fp32": 1e-3, "tf32": 3e-2, "bf16": 1e-1}
"""How far stacked gradients may lie from those computed alone, relative to their length; in fp32 less than 2e-5
is found (tests/unit/test_gradients.py)."""


@dataclass(frozen=True)
class Step:
    """The gradients of `weight` x `loss(*windows)` are wanted, added to what is there.

    `loss` gives the loss and the forecast's part of it; it may be compiled, or average over ranks; `bare` is the same
    function of the same weights without that. With a `seed` torch's random numbers begin there. `part` is told what
    is being done.
    """

    loss: nn.Module
    bare: nn.Module
    windows: tuple[Tensor, Tensor, Tensor]
    weight: float
    seed: int | None
    precision: str
    part: Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Computed:
    """The forecast's part of the loss, and a training's share of the seconds that the gradients took."""

    error: Tensor
    seconds: float


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Asking = Generator[Step, Computed, Result]
"""A training, or what has one within."""


def by_itself(training: Callable[Arguments, Asking[Result]]) -> Callable[Arguments, Result]:
    """`training` as a function that computes its own gradients and returns what it comes to."""

    def run(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        return together([training(*arguments, **options)])[0]

    return run


def together(trainings: Sequence[Asking[Result]], tell: Callable[[str], None] = print) -> list[Result]:
    """What each of `trainings` comes to; their gradients are computed at once.

    A first step is computed both ways, and thrown away. Where the model cannot be stacked, or gives something else
    then, that is told, and the trainings follow one after another. What one of them raises is raised here, and in the
    others, which may save and record.
    """
    members = _Members(trainings)
    try:
        members.start()
        first = list(members.waiting.values())
        stack = Stack(first[0]) if len(first) > 1 else None
        if stack is not None and (reason := stack.refusal(first)):
            tell(f"trained one after another: {reason}")
            stack = None
        while members.waiting:
            if stack is None:
                members.serve([min(members.waiting)], lambda steps: [_own(step) for step in steps])
            else:
                for alike in members.of_one_shape():
                    members.serve(alike, stack)
    except BaseException as error:
        members.end(error)
        raise
    return [members.results[which] for which in range(len(trainings))]


class _Members(Generic[Result]):
    """Trainings by number: which step each waits for, or what it came to."""

    def __init__(self, trainings: Sequence[Asking[Result]]) -> None:
        self.trainings = trainings
        self.waiting: dict[int, Step] = {}
        self.results: dict[int, Result] = {}

    def start(self) -> None:
        for which, training in enumerate(self.trainings):
            self._advance(which, training.__next__)

    def of_one_shape(self) -> list[list[int]]:
        """The numbers of those that wait, by the shape of their windows."""
        groups: dict[torch.Size, list[int]] = {}
        for which, step in self.waiting.items():
            groups.setdefault(step.windows[0].shape, []).append(which)
        return list(groups.values())

    def serve(self, chosen: Sequence[int], compute: Callable[[Sequence[Step]], Sequence[Tensor]]) -> None:
        """Let them go on, also with the error that came of their steps."""
        started = time.perf_counter()
        try:
            errors = compute([self.waiting[which] for which in chosen])
            seconds = (time.perf_counter() - started) / len(chosen)
        except BaseException as error:  # noqa: BLE001 - raised again by a training that does not record it
            for which in chosen:
                self._advance(which, partial(self.trainings[which].throw, error))
        else:
            for which, one in zip(chosen, errors, strict=True):
                self._advance(which, partial(self.trainings[which].send, Computed(one, seconds)))

    def _advance(self, which: int, go: Callable[[], Step]) -> None:
        self.waiting.pop(which, None)
        try:
            self.waiting[which] = go()
        except StopIteration as end:
            self.results[which] = end.value

    def end(self, error: BaseException) -> None:
        """Raise `error` in all that wait; what each makes of it does not keep the others from hearing of it."""
        while self.waiting:
            which, _ = self.waiting.popitem()
            with suppress(Exception, type(error)):
                self.trainings[which].throw(error)


class Stack:
    """Computes steps of trainings whose networks are built as that of `first`, which stays as it is."""

    def __init__(self, first: Step) -> None:
        self.skeleton = skeleton = first.bare

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], *windows: Tensor) -> tuple[Tensor, Tensor]:
            loss: tuple[Tensor, Tensor] = functional_call(skeleton, (weights, buffers), windows)
            return loss

        self.plain = vmap(one)
        self.fast = self.plain if first.loss is skeleton else torch.compile(self.plain)

    def __call__(self, steps: Sequence[Step]) -> list[Tensor]:
        """One of many may be left: it is computed as it would be alone."""
        if len(steps) == 1:
            return [_own(steps[0])]
        self.skeleton.train()  # whose it is may have ended, and been evaluated
        mapped = self.plain if steps[0].loss is steps[0].bare else self.fast
        with steps[0].part("forward"):
            losses, errors = mapped(
                _stacked([dict(step.bare.named_parameters()) for step in steps]),
                _stacked([dict(step.bare.named_buffers()) for step in steps]),
                *(torch.stack(alike) for alike in zip(*(step.windows for step in steps), strict=True)),
            )
        with steps[0].part("backward"):
            (losses * losses.new_tensor([step.weight for step in steps])).sum().backward()
        if losses.is_cuda:  # else the first to go on would wait for all, and the time would be its own
            torch.cuda.synchronize(losses.device)
        return list(errors.detach())

    def refusal(self, steps: Sequence[Step]) -> str | None:
        """Why these steps cannot be computed at once; None where they can. Leaves nothing behind."""
        if len({step.windows[0].shape for step in steps}) > 1:
            return "their batches are not of one size"
        plain = [replace(step, loss=step.bare, part=lambda name: nullcontext()) for step in steps]
        before = [{key: value.clone() for key, value in step.bare.named_buffers()} for step in plain]
        try:
            expected = _gradients(plain, lambda: [_own(step) for step in plain])
            for step, buffers in zip(plain, before, strict=True):
                if not all(torch.equal(value, buffers[key]) for key, value in step.bare.named_buffers()):
                    return "a forward pass changes the network's buffers"
            found = _gradients(plain, lambda: self(plain))
        except Exception as error:  # noqa: BLE001 - torch.func has many; what is not its own comes again, alone
            words = str(error).strip().splitlines()
            return f"torch.func cannot stack the network: {type(error).__name__}{f': {words[0]}' if words else ''}"
        finally:
            for step, buffers in zip(plain, before, strict=True):
                step.bare.zero_grad(set_to_none=True)
                for key, value in step.bare.named_buffers():
                    value.copy_(buffers[key])
        off = float(torch.stack([(a - b).norm() / b.norm() for a, b in zip(found, expected, strict=True)]).max())
        if not off <= TOLERANCE[steps[0].precision]:
            return f"stacked, the gradients of a first step are {off:.1g} away from those computed alone"
        return None


def _own(step: Step) -> Tensor:
    if step.seed is not None:
        seed_device(step.seed, step.windows[0].device)
    with step.part("forward"):
        value, error = step.loss(*step.windows)
    with step.part("backward"):
        (value if step.weight == 1.0 else value * step.weight).backward()
    return error.detach()


def seed_device(seed: int, device: torch.device) -> None:
    """As torch.manual_seed for the CPU and this GPU; where there is none, that formats a traceback each time."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _stacked(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Gradients of what is stacked reach each of `states`."""
    return {key: torch.stack([state[key] for state in states]) for key in states[0]}


def _gradients(steps: Sequence[Step], compute: Callable[[], object]) -> list[Tensor]:
    """All gradients of each step in one row."""
    for step in steps:
        step.bare.zero_grad(set_to_none=True)
    compute()
    return [
        torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in step.bare.parameters()])
        for step in steps
    ]
