"""Errors of a cell: the class of failure that each belongs to, and its message."""

import json
import time
from pathlib import Path

import torch

from benchmark.errors import MachineError, UserError, error_location
from benchmark.files import write_json
from benchmark.training import gpu
from benchmark.training.distributed import CPU, World, is_communication_error

ERROR_FILE_SECONDS = 3.0
"""Time for which rank 0, after a communication error, waits for another rank's error."""


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
