"""Demands of a training on GPUs, tested without one: no copies in its steps, a GPU for each rank, tf32."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from swirls import Swirls
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from benchmark.cell import Training
from benchmark.contract.candidate import Candidate
from benchmark.contract.device import NAME, empty, fake_gpu
from benchmark.data.dataset import SplitName
from benchmark.data.windows import Windows
from benchmark.errors import MachineError, UserError
from benchmark.evaluation.symmetry import symmetry_metrics
from benchmark.models.persistence import Persistence
from benchmark.models.task import Task
from benchmark.training import gpu
from benchmark.training.distributed import World, _require_own_gpus
from benchmark.training.loop import Execution, TrainingData, TrainingOutput, _Trainer, fit

TASK = Task("toy", input_frames=2, height=6, width=5)


def epoch(batches: int, on_host: bool = False) -> tuple[list[str], int]:
    """Copies between devices, and steps, until rank 0 of two asks for the mean loss in the last step of an epoch.

    The field is on the device, or `on_host`.
    """
    model = Candidate.named("convnet").build(TASK)
    progress: list[float] = []
    model.before_step = progress.append
    other_rank = patch.multiple(
        World,
        any=lambda self, flag: flag,
        wrap=lambda self, module: module,
        gather=lambda self, value: [value] * 2,
    )
    with fake_gpu(model) as copies, other_rank:
        device = torch.device(NAME)
        field, index = empty(1, 4 * batches + 4, 2, 6, 5), empty(4 * batches, 2, dtype=torch.long)
        if on_host:
            field, index = torch.zeros(field.shape), torch.zeros(index.shape, dtype=torch.long)
        windows = Windows(field, index, TASK.input_frames, 2, device)
        settings = Training(batch_size=4, gradient_clip=1.0)
        execution = Execution(World(0, 2, device))
        trainer = _Trainer(model, TrainingData(windows, windows), settings, 0, execution)
        with pytest.raises(DataDependentOutputException):
            trainer._train()
    return copies, len(progress)


def test_steps_copy_nothing() -> None:
    """The numbers of an epoch's windows and its draws go to the device once, however many batches it has."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        few, many = process.map(epoch, (2, 5))
    assert (len(few[0]), few[1]) == (2, 1)
    assert (len(many[0]), many[1]) == (2, 4)


def test_batches_of_a_field_on_the_host_are_the_only_copies() -> None:
    """One in each step, and the draws of the epoch; the numbers of the windows stay on the host."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        copies, _ = process.submit(epoch, 3, on_host=True).result()
    assert len(copies) == 1 + 3
    assert sum("windows.py" in copy and f"from cpu to {NAME}" in copy for copy in copies) == 3


def test_a_field_is_copied_to_a_gpu_that_has_room_beside_it() -> None:
    assert gpu.has_room(40 * 10**9, 80 * 10**9)
    assert not gpu.has_room(41 * 10**9, 80 * 10**9)


@pytest.mark.parametrize("gpus", [("a", "b"), ("a", "a")])
def test_ranks_that_share_a_gpu_are_refused(gpus: tuple[str, str]) -> None:
    """By all ranks, so that none waits for another."""
    store = dist.HashStore()

    def error(rank: int) -> str:
        try:
            _require_own_gpus(store, rank, 2, gpus[rank])
        except MachineError as refused:
            return str(refused)
        return ""

    with ThreadPoolExecutor(2) as threads:
        errors = list(threads.map(error, range(2)))
    expected = "2 ranks got 1 GPUs (a, a), and each needs one of its own" if gpus == ("a", "a") else ""
    assert errors == [expected, expected]


def test_tf32_needs_a_gpu_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    windows = Windows(torch.zeros(1, 9, 2, 6, 5), torch.zeros(4, 2, dtype=torch.long), 2, 2)
    settings = Training(batch_size=4, precision="tf32")
    execution = Execution(World(device=torch.device("cuda")))
    model = Candidate.named("convnet").build(TASK)
    with pytest.raises(UserError, match="tf32: Tesla V100 has none; use fp32"):
        fit(model, TrainingData(windows, windows), settings, 0, TrainingOutput(tmp_path / "c.pt"), execution)


def test_equivariance_is_measured_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a training in tf32, whose flags stay as they were."""
    flags = set()

    class Watched(Persistence):
        def forward(self, x: Tensor) -> Tensor:
            flags.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            return super().forward(x)

    task = Task("swirls", input_frames=2, height=6, width=6)
    windows = Windows(torch.rand(1, 9, 2, 6, 6), torch.zeros(4, 2, dtype=torch.long), 2, 2)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        splits: dict[SplitName, Windows] = {"validation": windows, "future": windows}
        symmetry_metrics(Watched(Watched.Config(), task), Swirls(), splits, World())
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert flags == {("highest", False)}
