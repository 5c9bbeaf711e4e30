"""The training loop on a GPU that only records what is asked of it (benchmark/contract/device.py)."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from benchmark.cell import Training
from benchmark.contract.candidate import Candidate
from benchmark.contract.device import NAME, empty, fake_gpu
from benchmark.data.windows import Windows
from benchmark.models.task import Task
from benchmark.training.distributed import World
from benchmark.training.loop import Execution, TrainingData, _Trainer


def epoch(batches: int) -> tuple[list[str], int]:
    """Copies between devices, and steps, until rank 0 of two asks for the mean loss in the last step of an epoch."""
    task = Task("toy", input_frames=2, channels=2, height=6, width=5)
    model = Candidate.named("convnet").build(task)
    progress: list[float] = []
    model.before_step = progress.append
    other_rank = patch.multiple(
        World,
        any=lambda self, flag: flag,
        wrap=lambda self, module: module,
        gather=lambda self, value: [value] * 2,
    )
    with fake_gpu(model) as copies, other_rank:
        field, index = empty(1, 4 * batches + 4, 2, 6, 5), empty(4 * batches, 2, dtype=torch.long)
        windows = Windows(field, index, task.input_frames, steps=2)
        settings = Training(batch_size=4, gradient_clip=1.0)
        execution = Execution(World(0, 2, torch.device(NAME)))
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
