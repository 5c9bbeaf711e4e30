"""Random numbers of a training. Each step has a seed of its own, so that a resumed run draws the same numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seed torch and disable cuDNN's choice of algorithm: the same seed on the same machine gives the same numbers."""
    torch.manual_seed(seed)
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Seed of one step. Step 0 also shuffles the windows of its epoch."""
    return (seed * 1_000_003 + epoch * 1009 + step * 7_368_787) % 2**31


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the CPU and this GPU. torch.manual_seed is slower: without a GPU it formats a traceback in each call."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def shuffled_batches(windows: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Window numbers in full batches, and a random number in [0, 1) for each: both (batches, batch_size).

    Windows that do not fill a last batch are left out of the epoch, since they would weigh as much as a full batch.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(windows, generator=generator)
    batches = order[: windows // batch_size * batch_size].view(-1, batch_size)
    return batches, torch.rand(batches.shape, generator=generator)
