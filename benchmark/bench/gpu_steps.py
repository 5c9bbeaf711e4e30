"""Steps of `make gpu-check`. Each returns what it saw, or raises."""

import contextlib
import itertools
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.bench.harness import DEVICE, ON_GPU
from benchmark.cell import Training
from benchmark.contract.candidate import Candidate, noise, require, targets, uniform_draws
from benchmark.data import dataset_registry
from benchmark.data.dataset import Split, SplitName
from benchmark.data.windows import Windows
from benchmark.errors import MachineError
from benchmark.evaluation.energy import EnergyMeter
from benchmark.evaluation.symmetry import ERROR, symmetry_metrics
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline
from benchmark.training import gpu
from benchmark.training.distributed import World, join
from benchmark.training.loop import Execution, StoppedError, TrainingData, TrainingOutput, fit
from benchmark.training.loss import RolledOutLoss, compiled
from benchmark.training.randomness import deterministic

CPU = torch.device("cpu")


Run = Callable[[], str]


@dataclass(frozen=True)
class Step:
    """One check, with its time limit in seconds."""

    name: str
    expected: str
    limit_s: float
    needs_gpu: bool
    run: Run


STEPS: dict[str, Step] = {}


def step(expected: str, limit_s: float = 60, needs_gpu: bool = True) -> Callable[[Run], Run]:
    """Register a function as a step under its name."""

    def register(run: Run) -> Run:
        name = run.__name__.replace("_", " ")
        STEPS[name] = Step(name, expected, limit_s, needs_gpu, run)
        return run

    return register


@step("one GPU or none", needs_gpu=False)
def versions() -> str:
    """Versions of torch and of the libraries below it, and the GPU."""
    if not ON_GPU:
        return f"torch {torch.__version__}, no GPU"
    properties = torch.cuda.get_device_properties(DEVICE)
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    return (
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, NCCL {nccl};"
        f" {torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB,"
        f" capability {properties.major}.{properties.minor}"
    )


@step("finite loss, gradients and weights of all baselines, in fp32 and bf16", 180, needs_gpu=False)
def baselines() -> str:
    """A training step of each baseline in both precisions."""
    for name, model in _models():
        for precision in ("fp32", "bf16"):
            optimizer = torch.optim.Adam(model.parameters(), fused=not _complex(model) and ON_GPU)
            _loss(model, DEVICE, precision).backward()
            model.before_step(0.0)
            optimizer.step()
            for key, weight in model.named_parameters():
                finite = bool(weight.isfinite().all()) and (weight.grad is None or bool(weight.grad.isfinite().all()))
                require(finite, f"{name}, {precision}: {key} is not finite")
    return "all of them"


@step("loss within 1e-5 and gradients within 1e-4 of the CPU, relative", 120)
def same_as_on_the_cpu() -> str:
    """Loss and gradients of each baseline on both devices, in fp32."""
    worst_loss = worst_gradient = 0.0
    for name, model in _models():
        here = _loss(model, DEVICE)
        here.backward()
        gradients = {key: weight.grad.cpu() for key, weight in model.named_parameters() if weight.grad is not None}
        model.zero_grad()
        there = _loss(model.cpu(), CPU)
        there.backward()
        error = float((here.cpu() - there).abs() / there.abs())
        worst_loss = max(worst_loss, error)
        require(error < 1e-5, f"{name}: loss {float(here)}, and {float(there)} on the CPU")
        scale = max(float(weight.grad.abs().max()) for weight in model.parameters() if weight.grad is not None)
        for key, weight in model.named_parameters():
            if weight.grad is not None:
                error = float((gradients[key] - weight.grad).abs().max()) / scale
                worst_gradient = max(worst_gradient, error)
                require(error < 1e-4, f"{name}: the gradient of {key} differs by {error:.1e}")
    return f"loss {worst_loss:.1e}, gradients {worst_gradient:.1e}"


@step("a positive energy, or that it is not measured")
def energy() -> str:
    """Joules of two hundred large matrix products, by NVML."""
    matrix = torch.randn(4096, 4096, device=DEVICE) / 64  # products keep their size
    meter = EnergyMeter(World(device=DEVICE))
    for _ in range(200):
        matrix = matrix @ matrix / matrix.norm() * 64
    torch.cuda.synchronize()
    joules = meter.lap()
    if math.isnan(joules):
        return "not measured: no counter (a MIG slice, before Volta), or others use the GPU"
    require(joules > 0, f"{joules} J")
    return f"{joules:.0f} J"


@step("float32 below 1e-5, tf32 between 1e-5 and 1e-2")
def precision_flags() -> str:
    """Error of a matrix product and of a convolution against float64, with the flags of both precisions."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 512, 512, device=DEVICE, dtype=torch.float64).unbind()
    x = torch.randn(4, 32, 32, 32, device=DEVICE, dtype=torch.float64)
    w = torch.randn(32, 32, 3, 3, device=DEVICE, dtype=torch.float64)
    exact = a @ b, torch.conv2d(x, w)
    errors = {}
    for precision in ("fp32", "tf32"):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        single = a.float() @ b.float(), torch.conv2d(x.float(), w.float())
        errors[precision] = [float((s - e).abs().max() / e.abs().max()) for s, e in zip(single, exact, strict=True)]
    require(max(errors["fp32"]) < 1e-5, f"float32: {errors}")
    require(all(1e-5 < error < 1e-2 for error in errors["tf32"]), f"tf32: {errors}")
    return ", ".join(f"{name}: product {one:.0e}, convolution {two:.0e}" for name, (one, two) in errors.items())


@step("error of e2cnn below 1e-5 after a training in tf32", needs_gpu=False)
def equivariance_after_tf32() -> str:
    """Equivariance error of a strict network while the flags of tf32 are set."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    candidate = Candidate.named("e2cnn")
    task = candidate.task([(12, 12)])
    windows = _windows(noise(task, 1, seed=3).repeat_interleave(4, dim=1).to(DEVICE), task.input_frames)
    splits: dict[SplitName, Windows] = {"validation": windows, "future": windows}
    dataset = dataset_registry.dataset("smoke_rotation_levels")
    metrics = symmetry_metrics(candidate.build(task).to(DEVICE), dataset, splits, World(device=DEVICE))
    error = metrics[f"{ERROR}_relative"]
    require(error is not None and error < 1e-5, f"the error is {error}")
    return f"{error:.1e}"


@step("no step waits for the GPU", 120)
def steps_do_not_wait() -> str:
    """A training step of each baseline under torch's synchronisation check, after one that fills caches."""
    for name, model in _models():
        optimizer = torch.optim.Adam(model.parameters(), fused=not _complex(model))
        for mode in ("default", "error"):
            windows = _on(model, DEVICE)
            loss = RolledOutLoss(model, Training(), DEVICE, cache_filters=True)
            try:
                torch.cuda.set_sync_debug_mode(mode)
                loss(*windows)[0].backward()
                model.before_step(0.0)
                optimizer.step()
            except RuntimeError as error:
                raise RuntimeError(f"{name}: {error}") from error
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return "all of them"


@step("ten graphs", 240)
def ten_widths_compiled() -> str:
    """Ten architectures in one process, each compiled as in training."""
    torch._dynamo.utils.counters.clear()
    for width in range(2, 12):
        candidate = Candidate.named("convnet")
        model = candidate.build(candidate.task(), hidden=width).to(DEVICE)
        compiled(RolledOutLoss(model, Training(), DEVICE, cache_filters=False), DEVICE)(*_on(model, DEVICE))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    require(graphs >= 10, f"{graphs} graphs")
    return f"{graphs} graphs"


@step("at most a quarter of the plain loop's time", 180)
def time_of_an_epoch() -> str:
    """Epoch of a ConvNet against the plain loop, as `make bench` measures it."""
    command = [sys.executable, "-m", "benchmark.bench.epoch", "quickstart", "--models", "convnet", "--rounds", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr.split("    ")[-1].strip()
    require(float(printed.split()[0]) <= 0.25, printed)
    return printed


@step("the bits of an uninterrupted training; going on on a CPU, within 1e-3", 120, needs_gpu=False)
def stop_and_go_on() -> str:
    """A training that is stopped between steps goes on, here and then on the CPU."""
    settings = Training(epochs=2, batch_size=4, early_stop_after=None)
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = _fit(Path(folder, "uninterrupted"), settings, DEVICE)
        paths = [Path(folder, "here"), Path(folder, "on the CPU")]
        for path in paths:
            with contextlib.suppress(StoppedError):
                _fit(path, settings, DEVICE, steps=3)
        here, there = _fit(paths[0], settings, DEVICE), _fit(paths[1], settings, CPU)
    require(all(torch.equal(uninterrupted[key], here[key]) for key in uninterrupted), "resumed weights differ")
    error = max(float((uninterrupted[key].cpu() - there[key]).abs().max()) for key in uninterrupted)
    require(error < 1e-3, f"on the CPU weights differ by {error:.1e}")
    return f"equal here; {error:.0e} on the CPU"


@step("the bits of a training whose field is on the GPU")
def field_on_the_host() -> str:
    """A field without room on the GPU stays on the host, and its batches are copied."""
    settings = Training(epochs=2, batch_size=4, early_stop_after=None)
    with tempfile.TemporaryDirectory() as folder:
        there, here = (_fit(Path(folder, f"{on}"), settings, DEVICE, on_host=on) for on in (False, True))
    require(all(torch.equal(there[key], here[key]) for key in there), "the weights differ")
    return "equal"


@step("weights of two ranks within 1e-5 of one", 120, needs_gpu=False)
def two_ranks_on_one_device() -> str:
    """Data parallelism of two ranks over gloo, which may share a GPU, against one rank."""
    with tempfile.TemporaryDirectory() as folder, _processes(2) as pool:
        rendezvous = Path(folder, "rendezvous")
        alone = _rank(0, 1, rendezvous)
        jobs = [pool.submit(_rank, rank, 2, rendezvous) for rank in range(2)]
        errors = [float((job.result() - alone).abs().max()) for job in jobs]
    require(max(errors) < 1e-5, f"{errors}")
    return f"{max(errors):.0e}"


@step("the sum over one rank", 60)
def nccl_with_one_rank() -> str:
    """NCCL starts and adds."""
    code = (
        "import sys, torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl', init_method='file://' + sys.argv[1], rank=0, world_size=1)\n"
        "value = torch.ones(1, device='cuda'); dist.all_reduce(value); print(float(value))\n"
        "dist.destroy_process_group()"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, str(Path(folder, "store"))]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    require(printed == "1.0", printed)
    return printed


@step("both ranks refuse within a minute", 60)
def two_nccl_ranks_on_one_gpu() -> str:
    """Ranks that share a GPU end with a MachineError, and do not hang."""
    with tempfile.TemporaryDirectory() as folder, _processes(2) as pool:
        jobs = [pool.submit(_joined, rank, Path(folder, "rendezvous")) for rank in range(2)]
        messages = {job.result() for job in jobs}
    require(len(messages) == 1 and "each needs one of its own" in "".join(messages), f"{messages}")
    return messages.pop()


@step("out of memory, and then a step that fits")
def out_of_memory() -> str:
    """Lack of memory is named as such, and the process trains on."""
    try:
        torch.empty(2**44, device=DEVICE)
    except RuntimeError as error:
        require(gpu.is_out_of_memory(error), f"not seen as lack of memory: {error}")
    require(gpu.works(DEVICE), "the GPU works no more")
    model = next(model for name, model in _models() if name == "convnet")
    _loss(model, DEVICE).backward()
    return "it trains on"


@step("the GPU works no more in the process, and works in a new one")
def device_assert() -> str:
    """A fault on the GPU is noticed, so that the job ends, and a new process computes again."""
    code = (
        "import torch; from benchmark.training import gpu\n"
        "device = torch.device('cuda')\n"
        "try: print(float(torch.zeros(2, device=device)[torch.tensor([7], device=device)]))\n"
        "except RuntimeError as error: print(gpu.is_gpu_error(error), gpu.works(device))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.split()
    require(printed == ["True", "False"], f"is an error of the GPU, and it works: {printed}")
    require(gpu.works(DEVICE), "a new process cannot use the GPU")
    return "noticed; a new process computes"


@step("each lane its own peak memory")
def two_lanes() -> str:
    """Two processes that see the GPU by its UUID, side by side, each with the memory that it took."""
    uuid = f"GPU-{torch.cuda.get_device_properties(DEVICE).uuid}"
    code = (
        "import sys, torch; x = torch.ones(int(sys.argv[1]) * 2**18, device='cuda');"
        "print(torch.cuda.max_memory_allocated() // 2**20)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid}
    lanes = [
        subprocess.Popen([sys.executable, "-c", code, str(size)], stdout=subprocess.PIPE, text=True, env=environment)
        for size in (64, 256)
    ]
    peaks = [lane.communicate()[0].strip() for lane in lanes]
    require(peaks == ["64", "256"], f"{peaks} MiB")
    return f"{' and '.join(peaks)} MiB on {uuid}"


def _models() -> Iterator[tuple[str, Baseline]]:
    """Narrow copy of each trained baseline, on the device."""
    for name in model_registry.model_names():
        candidate = Candidate.named(name)
        if candidate.baseline.trained:
            yield name, candidate.build(candidate.task()).to(DEVICE)


def _complex(model: Baseline) -> bool:
    return any(weight.is_complex() for weight in model.parameters())


def _on(model: Baseline, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Windows, targets and draws."""
    return noise(model.task).to(device), targets(model.task).to(device), uniform_draws(2).to(device)


def _loss(model: Baseline, device: torch.device, precision: str = "fp32") -> Tensor:
    settings = Training.model_validate({"precision": precision})
    loss: Tensor = RolledOutLoss(model, settings, device, cache_filters=True)(*_on(model, device))[0]
    return loss


def _windows(field: Tensor, input_frames: int, device: torch.device | None = None) -> Windows:
    return Windows.of(field, Split((0,), tuple(range(8)), 1), input_frames, device)


def _fit(
    path: Path, settings: Training, device: torch.device, steps: int | None = None, on_host: bool = False
) -> dict[str, Tensor]:
    """Weights of a ConvNet after training on a decaying field. Raises StoppedError after `steps`, if given."""
    calls = itertools.count()
    candidate = Candidate.named("convnet")
    task = candidate.task()
    field = noise(task, windows=1).repeat_interleave(4, dim=1) * 0.9 ** torch.arange(12)[:, None, None, None]
    windows = _windows(field if on_host else field.to(device), task.input_frames, device)
    with deterministic(0):
        model = candidate.build(task).to(device)
        execution = Execution(World(device=device), lambda: next(calls) == steps)
        fit(model, TrainingData(windows, windows), settings, 0, TrainingOutput(path), execution)
    return model.state_dict()


def _processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def _rank(rank: int, size: int, rendezvous: Path) -> Tensor:
    """Weights of a ConvNet after two steps on a batch of four, of which each rank has a share."""
    candidate = Candidate.named("convnet")
    task = candidate.task()
    model = candidate.build(task).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    mine = slice(rank * 4 // size, (rank + 1) * 4 // size)
    batch = noise(task, 4).to(DEVICE), targets(task, 4).to(DEVICE), uniform_draws(4).to(DEVICE)
    with join(rank, size, DEVICE, rendezvous, backend="gloo") as world:
        loss = world.wrap(RolledOutLoss(model, Training(), DEVICE, cache_filters=True))
        for _ in range(2):
            optimizer.zero_grad()
            loss(*(part[mine] for part in batch))[0].backward()
            optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]).cpu()


def _joined(rank: int, rendezvous: Path) -> str:
    try:
        with join(rank, 2, torch.device("cuda", 0), rendezvous):
            return "it was accepted"
    except MachineError as error:
        return str(error)
