"""Classes of failures: why a cell has no result, and how often it is sent again."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from benchmark.errors import MachineError, UserError, error_location
from benchmark.files import write_json
from benchmark.training import gpu
from benchmark.training.distributed import CPU, World, is_communication_error

ERROR_FILE_SECONDS = 3.0
"""Time for which rank 0, after a communication error, waits for another rank's error."""


@dataclass(frozen=True)
class Policy:
    """Handling of one class of failure."""

    meaning: str
    retries: int
    """How often the cell is sent again automatically."""
    halve: bool = False
    """Whether each retry halves the micro-batch."""


POLICIES: Final[Mapping[str, Policy]] = {
    "hang": Policy("the job reached its time limit without another epoch", retries=1),
    "preempted": Policy("the scheduler took the node for another job", retries=20),
    "time_limit": Policy("the job reached its time limit", retries=20),
    "node_failure": Policy("the node died or was cut off", retries=5),
    "communication": Policy("the ranks lost their connection", retries=3),
    "killed": Policy("the process died without an error message", retries=2),
    "not_begun": Policy("its job ended during an earlier cell", retries=1000),
    "no_start": Policy("its job ended before the first cell", retries=3),
    "gpu_out_of_memory": Policy("the model did not fit on the GPU", retries=3, halve=True),
    "host_out_of_memory": Policy("the job needed more memory than it had", retries=2, halve=True),
    "machine": Policy("a file or a device is missing or full", retries=1),
    "input": Policy("the suite asks for something impossible", retries=0),
    "code_error": Policy("the model or symbench raised an error", retries=0),
    "cancelled": Policy("a user cancelled it", retries=0),
}
"""Class of failure -> policy. A diverged cell is a result, not a failure.

`not_begun` needs no real limit: each time, an earlier cell of the job has finished or used up one of its own retries.
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


def classify_exception(error: BaseException, device: torch.device = CPU) -> str:
    """Class of an error raised while a cell runs on `device`."""
    if isinstance(error, UserError):
        return "input"
    if isinstance(error, MachineError) or not gpu.works(device):
        return "machine"
    if gpu.is_out_of_memory(error):
        return "gpu_out_of_memory"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return "host_out_of_memory"
    if is_communication_error(error):
        return "communication"
    return "code_error"


def classify_job_state(state: str, otherwise: str = "killed") -> str:
    """Class of a cell that ran when its job ended in `state` of sacct; `otherwise` if the state gives no reason."""
    return _SLURM.get(state.split()[0] if state else "", otherwise)


def describe(error: BaseException) -> str:
    """Message of an error in one line, for the status of a cell."""
    if isinstance(error, SystemExit):
        return f"the model ended the process: {type(error).__name__}({error.code!r})"
    return " ".join(str(error).split()) if isinstance(error, UserError | MachineError) else error_location(error)


def classify_on_rank(failure: str, error: BaseException, world: World, folder: Path) -> tuple[str, str]:
    """Class and message of `error`, of class `failure`, on this rank of a cell.

    If rank 0 only lost the connection to another rank, it takes that rank's error, which the rank writes to `folder`.
    """
    message = describe(error)
    lost = failure == "communication"
    if not world.is_main and not lost:
        folder.mkdir(exist_ok=True)
        document = {"failure": failure, "message": f"rank {world.rank}: {message}"}
        write_json(folder / f"error-{world.rank}.json", document)
    deadline = time.monotonic() + ERROR_FILE_SECONDS
    while world.is_main and world.size > 1 and lost and time.monotonic() < deadline:
        for path in sorted(folder.glob("error-*.json")):
            document = json.loads(path.read_text(encoding="utf-8"))
            return document["failure"], document["message"]
        time.sleep(0.1)
    return failure, message
