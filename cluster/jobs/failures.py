"""Why a cell did not become a result, and what is done about it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from benchmark.errors import MachineError, UserError
from benchmark.files import write_json
from benchmark.training.distributed import World, is_communication_error

WORD_SECONDS = 3.0
"""How long rank 0 waits to hear from another rank why it was left alone."""


@dataclass(frozen=True)
class Policy:
    """`retries` is how often a cell is sent again by itself; `halve` makes its micro-batch smaller each time."""

    meaning: str
    retries: int
    halve: bool = False


POLICIES: Final[Mapping[str, Policy]] = {
    "preempted": Policy("the scheduler took the node for another job", retries=20),
    "time_limit": Policy("the job's time was up", retries=20),
    "node_failure": Policy("the node died or was cut off", retries=5),
    "communication": Policy("ranks lost each other", retries=3),
    "killed": Policy("the process died without a word", retries=2),
    "not_begun": Policy("its job ended with another cell, before it was its turn", retries=1000),
    "no_start": Policy("its job ended before any of its cells began", retries=3),
    "gpu_out_of_memory": Policy("the model did not fit on the GPU", retries=3, halve=True),
    "host_out_of_memory": Policy("the job needed more memory than it had", retries=2, halve=True),
    "machine": Policy("a file or a device is missing or full", retries=1),
    "input": Policy("the suite asks for something that cannot be", retries=0),
    "code_error": Policy("the model or symbench raised an error", retries=0),
    "cancelled": Policy("somebody cancelled it", retries=0),
}
"""What can happen to a cell. A diverged one is a result and does not stand here.

`not_begun` needs no limit of its own: each time, a cell before it in the job has become a result or was counted.
"""

_SLURM: Final[Mapping[str, str]] = {
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "REVOKED": "node_failure",
    "OUT_OF_MEMORY": "host_out_of_memory",
    "CANCELLED": "cancelled",
}


def classify_exception(error: BaseException) -> str:
    """The class of what was raised within a cell."""
    if isinstance(error, KeyboardInterrupt):
        return "cancelled"
    if isinstance(error, UserError):
        return "input"
    if isinstance(error, MachineError):
        return "machine"
    if isinstance(error, torch.OutOfMemoryError):
        return "gpu_out_of_memory"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return "host_out_of_memory"
    if is_communication_error(error):
        return "communication"
    return "code_error"


def classify_job_state(state: str, otherwise: str = "killed") -> str:
    """The class of a cell that was running when SLURM ended its job in `state`, as sacct writes it.

    `otherwise` is for states that do not say why.
    """
    return _SLURM.get(state.split()[0] if state else "", otherwise)


def describe(error: BaseException) -> str:
    """One line for the status."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the next run goes on from the last finished epoch"
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | MachineError) else f"{type(error).__name__}: {text}"


def classify_on_rank(failure: str, error: BaseException, world: World, folder: Path) -> tuple[str, str]:
    """Class and message of a cell that several ranks train, where `error` of class `failure` was raised on this rank.

    The other ranks write their errors into `folder`. Rank 0 reads them if its own error says only that it lost them.
    """
    message = describe(error)
    lost = failure == "communication"
    if not world.is_main and not lost:
        folder.mkdir(exist_ok=True)
        said = {"failure": failure, "message": f"rank {world.rank}: {message}"}
        write_json(folder / f"error-{world.rank}.json", said)
    deadline = time.monotonic() + WORD_SECONDS
    while world.is_main and world.size > 1 and lost and time.monotonic() < deadline:
        for path in sorted(folder.glob("error-*.json")):
            said = json.loads(path.read_text(encoding="utf-8"))
            return said["failure"], said["message"]
        time.sleep(0.1)
    return failure, message
