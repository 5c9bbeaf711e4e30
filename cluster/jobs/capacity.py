"""Cells that this machine can run at a time: device, ranks, lanes, threads and GPUs."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from math import prod

from benchmark.cell import Cell
from benchmark.data.paths import field_path
from benchmark.errors import MachineError
from benchmark.suite.facts import is_trained, task_of
from benchmark.suite.suite import Resources, Suite
from benchmark.training.machine import EXCLUSIVE, available_cpus, compute_modes, gpu_count, memory_bytes, mig_slices
from cluster.jobs.packing import Shape
from results.store.store import Store

RANK_BYTES = 1e9
"""Memory of a rank without data. Measured: torch 0.25 GB, a network of 5.6 M parameters with its gradients 0.3 GB."""
FIELD_COPIES = 3
"""The field as stored, the field at cell centres, and a temporary copy."""
POINT_BYTES = 12e3
"""Activations for each grid point of a rolled-out batch. Measured on a CPU with batch 16 and 6 steps of 64 x 64: peaks
of 3.3 GB (relaxed steerable), 3.7 GB (ConvNet) and 4.6 GB (relaxed group)."""


def local_shape(resources: Resources, batch_sizes: Sequence[int]) -> Shape:
    """Device and ranks of a cell on this machine. Raises MachineError if it has too few GPUs.

    Without `resources.gpus`: as many GPUs as possible, up to `resources.ranks`, that divide every batch size.
    """
    available = gpu_count()
    if available and mig_slices():
        available = 1  # NCCL connects no two slices of a GPU
        if (resources.gpus or 0) > 1:
            raise MachineError(f"resources.gpus: {resources.gpus}, but a cell has one MIG slice; use `gpus: 1`")
    if resources.gpus is not None and resources.gpus > available:
        raise MachineError(f"resources.gpus: the suite needs {resources.gpus}, this machine has {available}")
    gpus = resources.gpus
    if gpus is None:
        usable = range(1, min(resources.ranks, available) + 1)
        gpus = max((n for n in usable if not any(size % n for size in batch_sizes)), default=0)
    return Shape("cuda" if gpus else "cpu", gpus or resources.ranks)


def shapes_here(suite: Suite, store: Store, parallel: int | None = None) -> dict[Resources, Shape]:
    """Shapes of the parts of a suite that `by_resources` gives, which run one after another."""
    return {resources: shape_here(part, store, parallel) for resources, part in suite.by_resources().items()}


def shape_here(suite: Suite, store: Store, parallel: int | None = None) -> Shape:
    """Device, ranks and lanes of a suite of equal resources here. Raises MachineError if this machine has too few GPUs.

    By default there are as many lanes as GPUs (or cores) and memory allow, at most one for each trained cell. `suite`
    must have all cells of its file, finished ones, too: the number of lanes decides the threads of a rank, and another
    number of threads changes the last digits of a result. For the same reason free memory does not count.
    """
    trained = [cell for cell in suite.cells if is_trained(cell)]
    shape = local_shape(suite.resources, [cell.train.batch_size for cell in trained])
    if parallel is None:
        ranks = gpu_count() if shape.device == "cuda" else available_cpus()
        kinds = {(cell.dataset, cell.train.batch_size, cell.rollout_steps): cell for cell in trained}
        rank_bytes = max((_rank_bytes(cell, store, shape) for cell in kinds.values()), default=RANK_BYTES)
        parallel = min(ranks, int(memory_bytes() / rank_bytes)) // shape.ranks
    lanes = max(1, min(parallel, len(trained)))
    if shape.device == "cuda" and lanes * shape.ranks > gpu_count() and EXCLUSIVE in compute_modes():
        raise MachineError(f"--parallel {lanes}: a GPU here takes one process ({EXCLUSIVE}); use fewer")
    return replace(shape, lanes=lanes)


def threads_of(shape: Shape) -> int:
    """CPU threads of each rank: an equal share of the CPUs, or what OMP_NUM_THREADS says if that is less."""
    share = available_cpus() // (shape.ranks * shape.lanes)
    limit = re.match(r"\d+", os.environ.get("OMP_NUM_THREADS", ""))
    return max(1, min(share, int(limit[0]) if limit else share))


def _rank_bytes(cell: Cell, store: Store, shape: Shape) -> float:
    path = field_path(store.data_folder, cell.dataset)
    field = path.stat().st_size if path.exists() else 0
    task = task_of(cell.dataset, cell.protocol)
    points = cell.train.batch_size / shape.ranks * cell.rollout_steps * prod(task.shape[-2:])
    return RANK_BYTES + FIELD_COPIES * field + (POINT_BYTES * points if shape.device == "cpu" else 0.0)


def visible_gpus() -> list[str]:
    """GPUs or MIG slices of this process, as CUDA_VISIBLE_DEVICES names them."""
    if slices := mig_slices():
        return slices
    count = gpu_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if chosen is None else chosen.split(",")[:count]
