"""Classes of failures: why a cell has no result, and how often it is sent again. `symbench status` needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Policy:
    """Handling of one class of failure."""

    meaning: str
    retries: int
    """How often the cell is sent again automatically."""
    halve: bool = False
    """Whether each retry halves the micro-batch, except the first of a cell that had neighbours in other lanes."""


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


def classify_job_state(state: str, otherwise: str = "killed") -> str:
    """Class of a cell that ran when its job ended in `state` of sacct; `otherwise` if the state gives no reason."""
    return _SLURM.get(state.split()[0] if state else "", otherwise)
