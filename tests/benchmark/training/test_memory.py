"""Memory that malloc keeps between training steps, and the peak memory of a cell."""

import gc
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from benchmark.training.environment import keep_freed_memory, peak_memory_bytes, reset_peak_memory

MIB = 2**20
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this malloc")


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("cycle", [False, True])
def test_memory_of_an_earlier_cell_is_not_in_the_peak_of_the_next(cycle: bool) -> None:
    """Even if the blocks refer to each other in a circle, as parametrised layers do."""
    keep_freed_memory()
    reset_peak_memory(CPU)
    alone = peak_memory_bytes(CPU)
    blocks: list[object] = [torch.ones(MIB // 4) for _ in range(300)]
    if cycle:
        blocks.append(blocks)
    assert peak_memory_bytes(CPU) - alone > 250 * MIB
    del blocks
    assert peak_memory_bytes(CPU) - alone > 250 * MIB, "a peak is kept"
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) - alone < 50 * MIB


STEPS = """
import resource, torch
from benchmark.training.environment import keep_freed_memory
def step():
    layers = [torch.ones(2**17) for _ in range(16)]
def new_pages():
    for _ in range(10): step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(new_pages(), keep_freed_memory() or new_pages())
"""


def test_steps_need_no_new_pages() -> None:
    """16 layers of half a mebibyte, freed after each of 10 steps: 20,480 pages of 4 KiB."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    plain, keeping = map(int, done.stdout.split())
    assert keeping < min(100, plain + 1)
