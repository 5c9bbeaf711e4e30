"""Tuning on this machine, with a private Ray cluster for as long as the search runs."""

import os
from collections.abc import Sequence

from benchmark import discovery
from benchmark.data.layout import require_data
from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.suite.study import Study
from benchmark.suite.suite import Suite
from benchmark.training.machine import available_cpus, gpu_count, mig_slices
from cluster.jobs.capacity import local_shape
from cluster.jobs.job import job_folder
from cluster.jobs.packing import require_precision
from cluster.jobs.signals import caught_interrupts
from cluster.tuning.job import TuneJob
from cluster.tuning.plan import first_cells, open_studies
from cluster.tuning.supervise import run_studies
from results.store import lease
from results.store.store import Store
from results.store.studies import Effort, StudyFolder

CTRL_C_PATIENCE_SECONDS = 10.0
"""Time for trials to save: a step and a little more."""


def tune_locally(suite: Suite, chosen: Sequence[Study], effort: Effort, store: Store, trials_per_gpu: int = 1) -> int:
    """Search the `chosen` studies of `suite` and return 0, or 1 if a study failed.

    Ctrl-C raises KeyboardInterrupt after all running trials have saved. Raises MachineError if a study is being tuned
    by another process, or if data or devices are missing.
    """
    studies = open_studies(chosen, effort, store)
    if not studies:
        return 0
    for study in studies:
        if holder := lease.live_holder(StudyFolder(store.root, study).root):
            raise MachineError(f"{study}: is being tuned by {holder}; wait for it")
    cells = first_cells(studies)
    require_data(store.data_folder, cells)
    placement = local_shape(suite.resources, [study.train.batch_size for study in chosen])
    require_precision(cells, placement.device)
    on_gpu = placement.device == "cuda"
    cpus = available_cpus()
    gpus = gpu_count() if on_gpu else 0
    if on_gpu and (slices := mig_slices()):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slices)  # Ray gives each trial one of these
    job = TuneJob(
        store=store.root.resolve(),
        studies=tuple(studies),
        effort=effort,
        plugins=discovery.plugin_paths(),
        device=placement.device,
        ranks=placement.ranks,
        threads=max(1, cpus // (gpus * trials_per_gpu)) if on_gpu else 1,
        gpu_share=1.0 / trials_per_gpu if placement.ranks == 1 else 1.0,
        node_cpus=max(cpus, placement.ranks),
        node_gpus=gpus,
    )
    job_file = job_folder(store.root) / "job.json"
    write_text(job_file, job.model_dump_json(indent=1))
    with caught_interrupts() as interrupted:
        status = run_studies(job, job_file, interrupted.is_set, CTRL_C_PATIENCE_SECONDS)
        if interrupted.is_set():
            raise KeyboardInterrupt
    return status
