"""Tuning on this machine: a Ray of our own for as long as it takes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch

from benchmark.data.layout import require_data
from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.models import model_registry
from benchmark.suite.study import Study
from benchmark.suite.suite import Suite
from benchmark.training.environment import available_cpus
from cluster.jobs.launch import job_folder, local_shape
from cluster.jobs.packing import require_precision
from cluster.tuning.job import TuneJob
from cluster.tuning.plan import first_cells, open_studies
from cluster.tuning.ray_cluster.ray_node import LOOPBACK, write_token
from cluster.tuning.supervise import run_studies
from results.store import lease
from results.store.store import Store
from results.store.studies import Effort, StudyFolder

CTRL_C_PATIENCE_SECONDS = 10.0
"""How long trials may take to save where they are; a step and a little more."""


def tune_here(suite: Suite, chosen: Sequence[Study], effort: Effort, store: Store, trials_per_gpu: int = 1) -> int:
    """0, or 1 where a study came to nothing. KeyboardInterrupt after Ctrl-C, when all that ran has saved."""
    left = open_studies(chosen, effort, store)
    if not left:
        return 0
    for study in left:
        if holder := lease.live_holder(StudyFolder(store.root, study).root):
            raise MachineError(f"{study}: is being tuned by {holder}; wait for it")
    cells = first_cells(left)
    require_data(store.data_folder, cells)
    placement = local_shape(suite.resources, [study.train.batch_size for study in chosen])
    require_precision(cells, placement.device)
    gpus = placement.device == "cuda"
    cpus = available_cpus()
    folder = job_folder(store.root)
    there = torch.cuda.device_count() if gpus else 0
    job = TuneJob(
        store=store.root.resolve(),
        studies=tuple(left),
        effort=effort,
        plugins=model_registry.plugin_paths(),
        device=placement.device,
        ranks=placement.ranks,
        threads=max(1, cpus // (there * trials_per_gpu)) if gpus else 1,
        gpu_share=1.0 / trials_per_gpu if placement.ranks == 1 else 1.0,
        node_cpus=max(cpus, placement.ranks),
        node_gpus=there,
    )
    job_file = folder / "job.json"
    write_text(job_file, job.model_dump_json(indent=1))
    with _asking() as interrupted:
        status = run_studies(job, job_file, write_token(folder), LOOPBACK, interrupted.is_set, CTRL_C_PATIENCE_SECONDS)
        if interrupted.is_set():
            raise KeyboardInterrupt
    return status


@contextmanager
def _asking() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of what they do."""
    event = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
