"""Check of a training step on a GPU, without one: on fake tensors of a device that only records what is asked of it."""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import discovery
from benchmark.cell import Training
from benchmark.contract.candidate import CPU, Candidate, Violation, noise, targets, uniform_draws
from benchmark.discovery import ROOT
from benchmark.errors import CHOOSES_A_DEVICE, error_location
from benchmark.models.task import Task
from benchmark.training.loss import RolledOutLoss

NAME = "fake_gpu"
WAITS = "the CPU waits for the GPU"


def keeps_to_its_device(candidate: Candidate) -> str | None:
    """On a GPU, a training step keeps to that device, and the CPU never waits for it.

    It waits for `.item()`, `float(x)`, `if x > 0`, and for copies between devices, also those of lists and numbers.
    """
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return "this version of torch cannot imitate a GPU"
    try:
        problem, is_fault = (
            _process().submit(_problem, candidate.name, candidate.kind.name, discovery.plugin_paths()).result()
        )
    except BrokenProcessPool:
        _process.cache_clear()  # the next baseline gets a new process
        problem, is_fault = "the process died without an error message", True
    if is_fault:
        raise Violation(problem)
    return problem or None


@contextmanager
def fake_gpu(model: nn.Module) -> Iterator[list[str]]:
    """Replace weights and buffers of `model` by fake ones on the device NAME; new tensors are fake, too.

    Gives the copies between devices: shape, from where, to where, and the line. Other tensors of `model` stay on the
    CPU, as with `Module.to`, and reading a number raises DataDependentOutputException. Only for a process that makes no
    real backward pass: torch's autograd would crash in it.
    """
    _register()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _Copies() as mode:
            model._apply(lambda tensor: empty(*tensor.shape, dtype=tensor.dtype))
            yield mode.copies
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Fake tensor on the device; within `fake_gpu` only."""
    return torch.empty(shape, dtype=dtype, device=NAME)


@cache
def _process() -> ProcessPoolExecutor:
    """One process for all checks, since it takes seconds to import torch."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _problem(name: str, kind: str, plugins: Sequence[Path]) -> tuple[str, bool]:
    """Problem of a training step on a GPU, or an empty text, and whether it is a fault.

    A library that asks for a number, as e2cnn's own R2Conv does, is none: it costs time, and the author cannot mend it.
    """
    discovery.replace_plugins(plugins)
    candidate = Candidate.named(name, kind)
    task = candidate.task()
    model = candidate.build(task)
    loss = RolledOutLoss(model, Training(), CPU, cache_filters=True)
    with fake_gpu(model) as copies:
        x, y, draws = empty(2, task.input_frames, *task.shape), empty(2, 2, *task.shape), empty(2)
        try:
            value, _ = loss(x, y, draws)
            if candidate.baseline.trained and not copies:
                value.backward()
            model.before_step(0.0)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            where = error_location(error, candidate.file)
            asks = f"a step asks for a number or a shape that is on the GPU, and {WAITS}: {where}"
            return asks, not _is_of_a_library(error, candidate.file)
        except Exception as error:  # noqa: BLE001 - the author's code may raise anything
            if _fails_on_the_cpu(candidate, task):
                return "a step fails on any device", False
            where = error_location(error, candidate.file)
            if isinstance(error, NotImplementedError):  # of torch, which has no such copy to the imitated GPU
                return f"a step copies a list or a number to the GPU, and {WAITS}: {where}", True
            return where if CHOOSES_A_DEVICE in where else f"{where}: {CHOOSES_A_DEVICE}", True
    if copies:
        return f"a step copies {copies[0]}, and {WAITS}; register constants as buffers", True
    return "", False


def _fails_on_the_cpu(candidate: Candidate, task: Task) -> bool:
    """Whether the forward pass alone raises on the CPU, too."""
    with unset_fake_temporarily(), torch.no_grad():
        try:
            loss = RolledOutLoss(candidate.build(task), Training(), CPU, cache_filters=True)
            loss(noise(task), targets(task), uniform_draws(2))
        except Exception:  # noqa: BLE001 - the author's code may raise anything
            return True
    return False


def _is_of_a_library(error: BaseException, own: str | None) -> bool:
    """Whether the code that asked torch is neither in the file `own` nor in symbench."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    asking = next(file for file in reversed(files) if "torch" not in file.parts and file != Path(__file__))
    return asking != Path(own or "") and not asking.is_relative_to(ROOT / "benchmark")


class _Copies(TorchDispatchMode):
    """Record of the copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[func.overloadpacket is torch.ops.aten.copy_]
            if source.device.type != result.device.type:
                stack = (frame for frame in reversed(traceback.extract_stack()) if frame.filename != __file__)
                place = next(frame for frame in stack if "torch" not in Path(frame.filename).parts)
                self.copies.append(
                    f"a tensor of shape {tuple(source.shape)} from {source.device.type} to {result.device.type}"
                    f" ({Path(place.filename).name}, line {place.lineno})"
                )
        return result


@cache
def _register() -> None:
    """Make torch know the device. Before the first backward pass, which fixes the devices that autograd knows."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {keeps_to_its_device.__name__: keeps_to_its_device}
